"""SAN's accuracy: the ablation of G table 5.9 and LeNet-5 of G table 5.4.

    KERAS_BACKEND=tensorflow python benchmarks/san_accuracy.py
    KERAS_BACKEND=jax python benchmarks/san_accuracy.py --data mnist,fashion_mnist --epochs 10

`--data` names scikit-learn's `digits` (8 x 8 pixels, offline) or data sets of `keras.datasets`;
`--network` is `lenet5`, `vgg16` or `resnet18`, the latter two at `--width` of their width and in
the `--placement` given. Every variant is trained from the same seeds, so that the difference to
the plain network is taken seed by seed; intervals are Student's, 95 %.
"""

import functools

import keras
import numpy as np
import pandas as pd
from runner import arguments, interval, write

from keras_saliency.models import VGG16, LeNet5, ResNet18

SAN = {"kernel_size": 5}
OFF = {"smoothing": None, "extrema": False}
# Row of table 5.9 or name in table 5.4 -> attention and its arguments.
VARIANTS = {
    "base (5.9 #0)": (None, {}),
    "no abs, no CCA, no extrema, no smoothing (#1)": (
        "san",
        {"absolute": False, "align_channels": False, **OFF},
    ),
    "abs, no CCA, no extrema, no smoothing (#2)": ("san", {"align_channels": False, **OFF}),
    "abs, CCA, no extrema, no smoothing (#3)": ("san", OFF),
    "abs, CCA, extrema, no smoothing (#4)": ("san", {"smoothing": None}),
    "SAN-c: abs, CCA, extrema, smoothing (#5)": ("san", SAN),
    "SAN-c, signed": ("san", {"absolute": False, **SAN}),
    "SAN-c, no extrema": ("san", {"extrema": False, **SAN}),
    "SAN-d": ("san-d", SAN),
    "SAN depthwise": ("san-depthwise", SAN),
    "CBAM": ("cbam", {"ratio": 4}),
    "BAM": ("bam", {"ratio": 4}),
    "SE": ("se", {"ratio": 4}),
}


def load(name, small):
    """Return `(x_train, y_train), (x_test, y_test)`, images in [0, 1] with a channel axis."""
    if name == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        data = load_digits()
        images = data.images[..., None].astype("float32") / 16
        parts = train_test_split(
            images, data.target, test_size=0.3, stratify=data.target, random_state=0
        )
        (x, x_test, y, y_test) = parts
    else:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        x, x_test = (a.astype("float32") / 255 for a in (x, x_test))
        if x.ndim == 3:
            x, x_test = x[..., None], x_test[..., None]
    n = 128 if small else None
    return (x[:n], y[:n].ravel()), (x_test[:n], y_test[:n].ravel())


def network(name, shape, classes, width):
    """Return a function (attention=, placement=, attention_kwargs=) -> model."""
    if name == "lenet5":
        padding = "valid" if min(shape[:2]) >= 12 else "same"
        return functools.partial(LeNet5, shape, classes, padding=padding)
    make = {"vgg16": VGG16, "resnet18": ResNet18}[name]
    return functools.partial(make, shape, classes, width_multiplier=width)


def runs(make, train, test, seeds, epochs):
    """Return (top-1, top-5) in percent for every seed; the training step is compiled once."""
    top5 = keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5")
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy", top5])
    model.optimizer.build(model.trainable_variables)
    fresh = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    scores = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model.set_weights(make().get_weights())
        for variable, value in zip(model.optimizer.variables, fresh, strict=True):
            variable.assign(value)
        model.fit(*train, batch_size=64, epochs=epochs, verbose=0)
        _, *accuracy = model.evaluate(*test, batch_size=256, verbose=0)
        scores.append(100 * np.array(accuracy))
    return np.array(scores), model.count_params()


def main():
    options = arguments(
        __doc__.splitlines()[0],
        data="digits",
        network="lenet5",
        placement="bottleneck",
        width=0.25,
        seeds=5,
        epochs=20,
    )
    seeds, epochs = (2, 1) if options.small else (options.seeds, options.epochs)
    rows = []
    for name in options.data.split(","):
        train, test = load(name, options.small)
        make = network(options.network, train[0].shape[1:], int(train[1].max()) + 1, options.width)
        base = None
        for variant, (attention, kwargs) in VARIANTS.items():
            row = {"data": name, "network": options.network, "variant": variant}
            build = functools.partial(
                make,
                attention=attention,
                placement=options.placement,
                attention_kwargs=kwargs or None,
            )
            try:
                scores, parameters = runs(build, train, test, seeds, epochs)
            except ValueError as error:
                if "align_channels" not in str(error):
                    raise
                # The paper's table has a dash there too: the channel counts differ.
                rows.append({**row, "top-1": "incompatible"})
                continue
            base = scores if base is None else base
            mean, half = interval(scores[:, 0])
            gain, gain_half = interval(scores[:, 0] - base[:, 0])
            rows.append(
                {
                    **row,
                    "top-1": f"{mean:.2f} ± {half:.2f}",
                    "gain": "" if attention is None else f"{gain:+.2f} ± {gain_half:.2f}",
                    "top-5": f"{scores[:, 1].mean():.2f}",
                    "parameters": f"{parameters:,}",
                }
            )
            print(rows[-1], flush=True)
    notes = (
        f"{seeds} seeds, {epochs} epochs of Adam, batches of 64; top-1 and top-5 in percent on "
        "held-out images, with 95 % intervals over seeds; gain: top-1 minus the plain network's, "
        "seed by seed."
    )
    write("san_accuracy", pd.DataFrame(rows).fillna(""), notes, small=options.small)


if __name__ == "__main__":
    main()
