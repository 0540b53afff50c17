"""How large files are against how many weights are left: zeros, masks and `save_compressed`.

    KERAS_BACKEND=torch python benchmarks/shrink_files.py [--network ResNet50] [--small]

Sizes are shares of the dense network's `.keras` file. `plain` is the model with zeros in place,
`masked` the model of `sparsify` with its masks. `bound` is what the weights that are left take as
they are compressed in the dense network, and the best code for the places of the others.
"""

import os
import tempfile

import keras
import numpy as np
import pandas as pd
import runner

import keras_saliency

DENSITIES = (1.0, 0.5, 0.25, 0.1, 0.05)


def sizes(model):
    """Bytes of the file as Keras writes it, and of the compressed one."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        return os.path.getsize(path), keras_saliency.save_compressed(model, path)


def bound(density, compressed):
    share = np.array([density, 1 - density])
    places = -(share[share > 0] * np.log2(share[share > 0])).sum()
    return density * compressed + places / 32


def main():
    options = runner.arguments(__doc__.splitlines()[0], network="ResNet50")
    name = "MobileNetV2" if options.small else options.network
    model = getattr(keras.applications, name)(weights=None)
    base, dense = sizes(model)
    rows = []
    for density in DENSITIES[:2] if options.small else DENSITIES:
        row = {"weights left": density, "plain": 1.0, "plain, compressed": dense / base}
        if density < 1:
            masked = keras_saliency.sparsify(model, 1 - density, method="magnitude", masked=True)
            plain = keras_saliency.strip_masks(masked)
            row["plain"], row["plain, compressed"] = (size / base for size in sizes(plain))
            row["masked"], row["masked, compressed"] = (size / base for size in sizes(masked))
        row["bound"] = bound(density, dense / base)
        rows.append(row)
        print(row, flush=True)
    notes = f"{name}, {base / 1e6:.1f} MB, single weights of smallest magnitude set to zero."
    runner.write("shrink_files", pd.DataFrame(rows), notes, small=options.small)


if __name__ == "__main__":
    main()
