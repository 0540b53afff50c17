"""What sparsification costs: time and memory of scores and masks against the size of the model.

    KERAS_BACKEND=jax python benchmarks/isparse_cost.py [--small] [--width 1.0]

VGG-16 (G 4.6.2) in several widths, up to its 138 million weights. Timed are the significance of
all edges (every block of scores computed once) and, on top of that, all masks at 50 %, beside
masks by magnitude. Memory is what a fresh process takes at its peak beyond the model alone, as a
multiple of the weights' bytes; the masks themselves take 0.25 of them.
"""

import logging
import time

import keras
import pandas as pd
import runner

from keras_saliency.sparsity import SignificanceWalk
from keras_saliency.sparsity.masking.masks import MaskMaker
from keras_saliency.sparsity.masking.options import MaskingOptions

MODEL = """
import sys
import keras
def vgg16(width):
    stack = [keras.Input((224, 224, 3))]
    for count, filters in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(count):
            stack.append(keras.layers.Conv2D(int(filters * width), 3, padding="same"))
        stack.append(keras.layers.MaxPooling2D())
    units = int(4096 * width)
    stack += [keras.layers.Flatten(), keras.layers.Dense(units), keras.layers.Dense(units)]
    return keras.Sequential([*stack, keras.layers.Dense(1000, activation="softmax")])
"""
# The peak counts from here on (Linux): making the initial weights took more than the model holds.
RUN = """
model = vgg16(float(sys.argv[1]))
for weight in model.weights:  # JAX may still be making them
    keras.ops.convert_to_numpy(weight)
try:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
except OSError:
    pass
if sys.argv[2] == "masks":
    from keras_saliency.sparsity.masking.masks import MaskMaker
    from keras_saliency.sparsity.masking.options import MaskingOptions
    options = MaskingOptions(method=sys.argv[3], scores="identity")
    masks = MaskMaker(model, 0.5, options=options).masks()
"""


def seconds(function, repeats=3):
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def score(model):
    for _, edges in SignificanceWalk(model, scores="identity", order="forward"):
        for _ in edges.blocks():
            pass


def measured(width, repeats):
    scope = {}
    exec(MODEL, scope)
    model = scope["vgg16"](width)
    weights = model.count_params()
    row = {"width": width, "weights (millions)": weights / 1e6}
    row["scores (s)"] = seconds(lambda: score(model), repeats)
    for method in ("isparse", "magnitude"):
        maker = MaskMaker(model, 0.5, options=MaskingOptions(method=method, scores="identity"))
        row[f"{method}, scores and masks (s)"] = seconds(maker.masks, repeats)
    row["ns per weight"] = 1e9 * row["isparse, scores and masks (s)"] / weights
    model = maker = None
    scope.clear()
    alone = runner.peak_memory(MODEL + RUN, width, "alone", "")
    for method in ("isparse", "magnitude"):
        peak = runner.peak_memory(MODEL + RUN, width, "masks", method)
        row[f"{method}, extra memory (x weights)"] = (peak - alone) / (4 * weights)
    return row


def main():
    options = runner.arguments(__doc__, width=0.0)
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    widths = (0.0625,) if options.small else (0.125, 0.25, 0.5, 1.0)
    widths = (options.width,) if options.width else widths
    rows = []
    for width in widths:
        keras.backend.clear_session()
        rows.append(measured(width, 1 if options.small else 2))
        print(rows[-1], flush=True)
    runner.write(
        "isparse_cost",
        pd.DataFrame(rows),
        "VGG-16 in several widths; 1.0 is the 138 million weights of the paper. Target there: "
        "at most 15 s and 2.5 x the weights' bytes. Best of two runs.",
        small=options.small or bool(options.width),
    )


if __name__ == "__main__":
    main()
