"""What RACKNet's look at the images costs: seconds per step and peak memory (G table 3.8).

Digits of scikit-learn, moved, turned and scaled at random, stand in for MNIST, which cannot be
packed with the library. Each row is measured in a fresh process.
"""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import runner


def images(count, side=28, seed=0):
    """Return `count` uint8 images of distorted digits, (count, side, side), and their labels."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(data.images), size=count)
    x = np.empty((count, side, side), "uint8")
    for i, number in enumerate(chosen):
        angle, scale = rng.normal(0, 0.15), 8 / (0.72 * side) * rng.uniform(0.9, 1.15)
        matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([3.5, 3.5]) + rng.normal(0, 0.4, 2)
        offset = centre - matrix @ np.full(2, (side - 1) / 2)
        image = ndimage.affine_transform(data.images[number], matrix, offset, (side, side), order=1)
        x[i] = np.clip(np.round(image * (255 / 16)), 0, 255)
    return x, data.target[chosen]


def task(path, engine, workers, max_images):
    """Analyze the images at `path` and print what it took, as JSON."""
    import warnings

    import keras_saliency

    warnings.simplefilter("ignore")
    x = np.load(path, mmap_mode="r")
    start = time.perf_counter()
    settings = {} if max_images == "default" else {"max_images": max_images}
    statistics = keras_saliency.RACKNet.analyze(
        x, engine=engine, n_jobs=workers, verbose=0, **settings
    )
    seconds = time.perf_counter() - start
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    print(
        json.dumps(
            {
                **statistics.seconds,
                "total": seconds,
                "peak MiB": peak,
                "images": statistics.images,
                "keypoints per image": [
                    round(o.keypoints / statistics.images, 2) for o in statistics.octaves
                ],
                "design of 400": str(keras_saliency.RACKNet.allocate(statistics, 400)),
            }
        )
    )


def measured(*arguments):
    result = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def training(count, epochs=1):
    """Seconds per epoch of the resulting network on `count` images."""
    import keras

    import keras_saliency

    x, y = images(count)
    model = keras_saliency.RACKNet.build((x, y), 400, verbose=0)
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    model.fit(x[:256], y[:256], batch_size=128, verbose=0)
    start = time.perf_counter()
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return (time.perf_counter() - start) / epochs, keras.backend.backend()


def main(options):
    import tempfile
    from pathlib import Path

    # images in the set, side, max_images, engine, workers
    full = [
        (60_000, 28, "default", "opencv", 2),
        (60_000, 28, "default", "scikit-image", 2),
        (60_000, 28, 1_500, "opencv", 2),
        (60_000, 28, 15_000, "opencv", 1),
        (60_000, 28, 15_000, "opencv", 2),
        (60_000, 28, None, "opencv", 2),
        (2_000, 56, None, "opencv", 2),
        (500, 112, None, "opencv", 2),
    ]
    small = [(300, 28, None, "opencv", 2), (60, 28, None, "scikit-image", 1)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for count, side, analysed, engine, workers in small if options.small else full:
            if (count, side) not in paths:
                paths[count, side] = str(Path(folder) / f"{count}-{side}.npy")
                np.save(paths[count, side], images(count, side)[0])
            found = measured(paths[count, side], engine, workers, analysed)
            rows.append(
                {
                    "in the set": count,
                    "side": side,
                    "analysed": found.pop("images"),
                    "engine": engine,
                    "workers": workers,
                    **{k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()},
                }
            )
            print(rows[-1], flush=True)
    count = 200 if options.small else 6_000
    seconds, _ = training(count)
    runner.write(
        "racknet_cost",
        pd.DataFrame(rows),
        notes=(
            "Seconds; features and entropy are summed over the workers, total is the time on the "
            "clock. Peak MiB is of the whole process, Keras and its backend included (its "
            "workers, with scikit-image, come on top). Beside it, one epoch of the resulting "
            f"network of 400 kernels on {count} images of 28x28 takes {seconds:.1f} s here."
        ),
        small=options.small,
    )


if __name__ == "__main__":
    if "--task" in sys.argv:
        task(*json.loads(sys.argv[-1]))
    else:
        main(runner.arguments(__doc__.splitlines()[0]))
