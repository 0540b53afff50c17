"""How the time of pruning grows with a model: over its layers, and at 138 million weights.

    KERAS_BACKEND=torch python benchmarks/pruning_scale.py [--part all] [--small]

The time of `sparsify` on a functional model of residual blocks and that of `shrink_to` on a
Sequential of convolutions, without data, for a doubling number of layers; the exponent is the
slope of a line through the logarithms. Then the whole `sparsify` of VGG-16 (G 4.6.2) with its 138
million weights: seconds, beside those of one copy of the weights, and what a fresh process takes at
its peak beyond the model alone. Last the memory of the refit: `sparsify` of MobileNetV2 with 128
pictures of 96 x 96, beside an inference of the model on one batch of them.
"""

import logging
import time

import keras
import numpy as np
import pandas as pd
import runner
from isparse_cost import MODEL, RUN, seconds

import keras_saliency

WHOLE = """
if sys.argv[2] == "sparsify":
    import keras_saliency
    sparse = keras_saliency.sparsify(model, 0.5, method="isparse", verbose=False)
"""

REFIT = """
import sys
import keras
import numpy as np
count, side = int(sys.argv[1]), int(sys.argv[2])
keras.utils.set_random_seed(0)
model = keras.applications.MobileNetV2((side, side, 3), weights=None, classes=10)
x = np.random.default_rng(0).uniform(size=(count, side, side, 3)).astype("float32")
model.predict(x[:32], verbose=0)
if sys.argv[3] == "sparsify":
    import keras_saliency
    keras_saliency.sparsify(model, 0.5, data=x, method="magnitude", gate=False)
"""


def residual(blocks):
    inputs = x = keras.Input((8, 8, 8))
    for _ in range(blocks):
        y = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        y = keras.layers.BatchNormalization()(y)
        y = keras.layers.Conv2D(8, 3, padding="same")(y)
        x = keras.layers.add([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def stack(count):
    convolutions = [keras.layers.Conv2D(32, 3, padding="same") for _ in range(count)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            *convolutions,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


def sparsify(model):
    keras_saliency.sparsify(model, 0.5, method="isparse", verbose=False)


def shrink(model):
    keras_saliency.shrink_to(model, flops=0.5, verbose=False)


TASKS = {
    "sparsify, residual blocks": (residual, sparsify),
    "shrink_to, Sequential": (stack, shrink),
}


def growth(sizes, repeats):
    rows = []
    for name, (make, task) in TASKS.items():
        task(make(2))  # imports and caches
        times = []
        for size in sizes:
            model = make(size)
            times.append(seconds(lambda m=model, t=task: t(m), repeats))
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        timed = {f"{size} (s)": value for size, value in zip(sizes, times, strict=True)}
        rows.append({"task": name, **timed, "exponent": float(slope)})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def whole(width):
    scope = {}
    exec(MODEL, scope)
    model = scope["vgg16"](width)
    weights = model.count_params()
    start = time.perf_counter()
    sparsify(model)
    taken = time.perf_counter() - start
    start = time.perf_counter()
    copies = model.get_weights()
    copying = time.perf_counter() - start
    del model, copies
    scope.clear()
    alone, peak = (
        runner.peak_memory(MODEL + RUN + WHOLE, width, what, "") for what in ("alone", "sparsify")
    )
    return pd.DataFrame(
        [
            {
                "weights (millions)": weights / 1e6,
                "sparsify (s)": taken,
                "get_weights (s)": copying,
                "extra memory (x weights)": (peak - alone) / (4 * weights),
            }
        ]
    )


def refit(count, side):
    start = time.perf_counter()
    peak = runner.peak_memory(REFIT, count, side, "sparsify")
    taken = time.perf_counter() - start
    alone = runner.peak_memory(REFIT, count, side, "alone")
    return pd.DataFrame(
        [
            {
                "pictures": count,
                "side": side,
                "extra memory (MiB)": (peak - alone) / 2**20,
                "process (s)": taken,
            }
        ]
    )


def main():
    options = runner.arguments(__doc__.splitlines()[0], part="all")
    small, part = options.small, options.part
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    print("about four minutes of two cores, and 3 GiB, for all parts")
    if part in ("all", "layers"):
        runner.write(
            "pruning_scale_layers",
            growth((4, 8) if small else (8, 16, 32, 64), 1 if small else 3),
            "Best of three. The goal is an exponent of at most 1.1.",
            small=small,
        )
    if part in ("all", "weights"):
        runner.write(
            "pruning_scale",
            whole(0.0625 if small else 1.0),
            "One run. The goals are 3 s and 2.3 x the weights, the sparse copy among them;"
            " `get_weights` is one copy of the weights, what memory costs on this machine.",
            small=small,
        )
    if part in ("all", "refit"):
        runner.write(
            "pruning_scale_refit",
            refit(*((16, 32) if small else (128, 96))),
            "One run. MobileNetV2, 50 % zeros by magnitude, refitted: what the process takes beyond"
            " one that runs the model, and its seconds, Python's start among them.",
            small=small,
        )


if __name__ == "__main__":
    main()
