"""Which models of keras.applications take attention, at how many places, and at what price.

    KERAS_BACKEND=jax python benchmarks/applications_attention.py [--small] [--only NAME]

Each model is built for a small image and attended in both placements without values of weights,
which shows every place and every failure in seconds. `--execute 1` (one model at a time: add
`--only`) also initializes and runs it: the plain model must compute the same as before, and the
copy must give finite outputs of the same shape. Parameters are multiples of the plain model's.
"""

import time

import keras
import numpy as np
import pandas as pd
from runner import arguments, write

from keras_saliency import add_attention
from keras_saliency.models.attach import build_copy

MODELS = {
    "VGG16": 32,
    "VGG19": 32,
    "ResNet50": 64,
    "ResNet101": 64,
    "ResNet50V2": 64,
    "DenseNet121": 64,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "MobileNetV3Large": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "ConvNeXtTiny": 64,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "Xception": 71,
    "NASNetMobile": 64,
}
ATTENTION = ("san", "san-depthwise", "cbam", "se")


def build(name):
    size = MODELS[name]
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classes=10)


def attend(name, placement, attention):
    """Return a row: what happens to one model in one placement with one attention."""
    row = {"model": name, "pixels": MODELS[name], "placement": placement, "attention": attention}
    with keras.StatelessScope(initialize_variables=False):
        model = build(name)
        start = time.perf_counter()
        copy, surgery = build_copy(model, attention, placement, {})
        row["seconds"] = time.perf_counter() - start
    if copy.output_shape != model.output_shape:
        raise AssertionError(f"{name}: {model.output_shape} became {copy.output_shape}")
    row["places"] = len(surgery.placed)
    row["not a place"] = sum(not x.failed for x in surgery.left_out)
    row["failed"] = sum(x.failed for x in surgery.left_out)
    sizes = [sum(int(np.prod(v.shape)) for v in m.variables) for m in (copy, model)]
    row["parameters"] = sizes[0] / sizes[1]
    return row


def execute(name, placement, attention):
    """Return "ok" if the attended model runs and the plain one is as before."""
    model, size = build(name), MODELS[name]
    x = np.random.default_rng(0).uniform(size=(1, size, size, 3)).astype("float32")
    before = keras.ops.convert_to_numpy(model(x, training=False))
    after = keras.ops.convert_to_numpy(
        add_attention(model, attention, placement)(x, training=False)
    )
    same = np.array_equal(before, keras.ops.convert_to_numpy(model(x, training=False)))
    return "ok" if same and after.shape == before.shape and np.isfinite(after).all() else "wrong"


def main():
    options = arguments(__doc__.splitlines()[0], only="", execute=0)
    names = (
        options.only.split(",") if options.only else ["MobileNetV2"] if options.small else MODELS
    )
    rows, absent = [], []
    for name in names:
        try:
            build(name)
        except ValueError as error:
            if "not available with the" not in str(error):
                raise
            absent.append(name)  # Keras has no such model for this backend
            continue
        for placement in ("bottleneck", "full"):
            for attention in ATTENTION:
                row = attend(name, placement, attention)
                if options.execute:
                    row["runs"] = execute(name, placement, attention)
                rows.append(row)
                keras.utils.clear_session()
    notes = (
        "`failed`: places where attention was tried and could not be aligned. `not a place`: "
        "gates, predictions, maps of one position, input images. `seconds`: building the copy."
        + (f" Not made by Keras on this backend: {', '.join(absent)}." if absent else "")
    )
    partial = options.small or bool(options.only)
    write("applications_attention", pd.DataFrame(rows), notes, small=partial)


if __name__ == "__main__":
    main()
