"""How the time of pruning grows with a model: over its layers, and at 138 million weights.

    KERAS_BACKEND=torch python benchmarks/pruning_scale.py [--small]

The time of `sparsify` on a functional model of residual blocks and that of `shrink_to` on a
Sequential of convolutions, without data, for a doubling number of layers; the exponent is the
slope of a line through the logarithms. Then the whole `sparsify` of VGG-16 (G 4.6.2) with its 138
million weights: seconds, beside those of one copy of the weights, and what a fresh process takes at
its peak beyond the model alone.
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


def main():
    options = runner.arguments(__doc__.splitlines()[0])
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    print("about two minutes and 3 GiB")
    runner.write(
        "pruning_scale_layers",
        growth((4, 8) if options.small else (8, 16, 32, 64), 1 if options.small else 3),
        "Best of three. The goal is an exponent of at most 1.1.",
        small=options.small,
    )
    runner.write(
        "pruning_scale",
        whole(0.0625 if options.small else 1.0),
        "One run. The goals are 3 s and 2.3 x the weights, the sparse copy among them;"
        " `get_weights` is one copy of the weights, what memory costs on this machine.",
        small=options.small,
    )


if __name__ == "__main__":
    main()
