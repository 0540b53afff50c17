"""Which models of keras.applications take attention, at how many places, and at what price.

    KERAS_BACKEND=jax python benchmarks/applications_attention.py [--small] [--only NAME]

Each model is built without weights on a small image, attended by `add_attention` in both
placements, run on an image, and compared: the plain model must be unchanged, the outputs must
keep their shapes. Parameters are given as a multiple of the plain model's.
"""

import time

import keras
import numpy as np
import pandas as pd
from runner import arguments, write

from keras_saliency import add_attention

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
WAYS = {"SAN depthwise": ("san-depthwise", {}), "SE": ("se", {})}


def attend(name, size, placement, way):
    """Return a row: what happened to one model in one placement with one attention."""
    attention, kwargs = WAYS[way]
    keras.utils.clear_session()
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
    x = np.random.default_rng(0).uniform(size=(1, size, size, 3)).astype("float32")
    before = keras.ops.convert_to_numpy(model(x, training=False))
    row = {"model": name, "pixels": size, "placement": placement, "attention": way}
    start = time.perf_counter()
    try:
        attended = add_attention(model, attention, placement, **kwargs)
        row["seconds"] = time.perf_counter() - start
        after = keras.ops.convert_to_numpy(attended(x, training=False))
        good = after.shape == before.shape and np.isfinite(after).all()
        same = np.array_equal(before, keras.ops.convert_to_numpy(model(x, training=False)))
        report = attended.attention_report
        row["places"] = len(report.placed)
        row["failed"] = sum(x.failed for x in report.left_out)
        row["parameters"] = attended.count_params() / model.count_params()
        row["outcome"] = "ok" if good and same else "wrong"
        row["reasons"] = "; ".join(
            f"{x.layer}: {x.reason[:90]}" for x in report.left_out if x.failed
        )
    except ValueError as error:
        row["outcome"] = "refused"
        row["reasons"] = str(error)[:150]
    return row


def main():
    options = arguments(__doc__.splitlines()[0], only="")
    names = [options.only] if options.only else ["MobileNetV2"] if options.small else MODELS
    rows = [
        attend(name, MODELS[name], placement, way)
        for name in names
        for placement in ("bottleneck", "full")
        for way in WAYS
    ]
    notes = (
        "`failed`: places where attention could not be aligned, so that the layer goes without. "
        "`seconds`: time of `add_attention`. `parameters`: multiple of the plain model's."
    )
    write(
        "applications_attention",
        pd.DataFrame(rows).fillna({"reasons": ""}),
        notes,
        small=options.small or bool(options.only),
    )


if __name__ == "__main__":
    main()
