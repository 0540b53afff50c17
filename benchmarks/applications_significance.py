"""Every model of keras.applications through `edge_significance`: does it pass, and how fast?

    KERAS_BACKEND=jax python benchmarks/applications_significance.py [--small] [--only NAME,NAME]

Each model is built with random weights (`weights=None`) on the smallest image that it takes, with
10 classes. Reported are the maskable kernels found, the layers with weights that are skipped and
why, whether every kernel got finite scores that are not all zero, and the seconds of the walk.
`--only` replaces the rows of these models in the table that is there.
"""

import logging
import time
from collections import Counter

import keras
import numpy as np
import pandas as pd
import runner

from keras_saliency.sparsity import SignificanceWalk

QUICK = ("MobileNetV2", "ResNet50")
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71, "NASNetLarge": 331,
         "NASNetMobile": 224}  # fmt: skip


def walked(name):
    size = SIZES.get(name, 32)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
    start = time.perf_counter()
    walk = SignificanceWalk(model, scores="identity", order="backward")
    found = {kernel.key: edges.factor for kernel, edges in walk}
    seconds = time.perf_counter() - start
    sound = sum(bool(np.isfinite(f).all() and (f >= 0).all() and f.any()) for f in found.values())
    reasons = Counter(skipped.reason for skipped in walk.skipped)
    return {
        "model": name,
        "weights (millions)": round(model.count_params() / 1e6, 2),
        "maskable kernels": len(walk.kernels),
        "of these scored": sound,
        "edges / weights": sum(k.size for k in walk.kernels) / model.count_params(),
        "seconds": seconds,
        "stays dense": "; ".join(f"{count}: {reason}" for reason, count in reasons.items()),
    }


def main():
    options = runner.arguments(__doc__, only="")
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    rows, absent = runner.applications(walked, options, QUICK)
    frame = pd.DataFrame(rows)
    if options.only:
        frame = runner.merged("applications_significance", frame, ["model"]).sort_values("model")
    failed = frame[frame["maskable kernels"] != frame["of these scored"]]
    runner.write(
        "applications_significance",
        frame,
        f"{len(frame)} models, {len(failed)} of them with kernels that got no score. Seconds are "
        "those of the whole walk, all kernels' neuron scores included."
        + (f" Not made by Keras on this backend: {', '.join(absent)}." if absent else ""),
        small=options.small,
    )


if __name__ == "__main__":
    main()
