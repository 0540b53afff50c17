"""SAN's accuracy: the ablation of G table 5.9, LeNet-5 of G table 5.4, and its peers.

    KERAS_BACKEND=tensorflow python benchmarks/san_accuracy.py
    KERAS_BACKEND=jax python benchmarks/san_accuracy.py --data fashion_mnist --images 15000

`--data` names scikit-learn's `digits` (8 x 8 pixels, offline), `fashion_mnist` (see
`benchmarks/networks.py`) or data sets of `keras.datasets`, `--images` how many of them train;
`--network` is `lenet5`, `vgg16` or `resnet18`, the latter two at `--width` of their width and in
the `--placement` given. `--variants` takes those whose name contains one of the given parts. Every
variant is trained from the same seeds, so that the difference to the plain network is taken seed by
seed; intervals are Student's, 95 %. Test images are also blurred (a Gaussian of one pixel) and
made noisy (0.2 of the range). Rows of other data, networks and sizes stay in the table.
"""

import functools

import keras
import numpy as np
import pandas as pd
from networks import fashion_mnist
from runner import arguments, interval, merged, write

from keras_saliency.models import VGG16, LeNet5, ResNet18


class Gate(keras.layers.Layer):
    """A plain gate of SAN's size, twice the sigmoid of a convolution that starts at zero."""

    def __init__(self, kernel_size=5, **kwargs):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size

    def build(self, input_shape):
        self.convolution = keras.layers.Conv2D(
            input_shape[-1],
            self.kernel_size,
            padding="same",
            kernel_initializer="zeros",
            activation="sigmoid",
        )
        self.convolution.build(input_shape)

    def call(self, x):
        return 2 * x * self.convolution(x)


SAN = {"kernel_size": 5}
IDENTITY = {"start": "identity"}
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
    "SAN-c, identity": ("san", {**SAN, **IDENTITY}),
    "SAN-c, identity, signed": ("san", {"absolute": False, **SAN, **IDENTITY}),
    "SAN-c, identity, signed, no extrema": (
        "san",
        {"absolute": False, "extrema": False, **SAN, **IDENTITY},
    ),
    "SAN-d, identity, signed": ("san-d", {"absolute": False, **SAN, **IDENTITY}),
    "plain gate, identity": (Gate, {}),
    "CBAM, identity": ("cbam", {"ratio": 4, **IDENTITY}),
    "BAM, identity": ("bam", {"ratio": 4, **IDENTITY}),
    "SE, identity": ("se", {"ratio": 4, **IDENTITY}),
    "ECA, identity": ("eca", IDENTITY),
    "SimAM, identity": ("simam", IDENTITY),
    "base, 1.5 times wider": (None, {"width_multiplier": 1.5}),
}
KEYS = ["data", "images", "network", "variant"]


def load(name, small, images=0):
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
    elif name == "fashion_mnist":
        (x, y), (x_test, y_test) = fashion_mnist()
    else:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        x, x_test = (a.astype("float32") / 255 for a in (x, x_test))
        if x.ndim == 3:
            x, x_test = x[..., None], x_test[..., None]
    n = 128 if small else None
    return (x[: n or images or None], y[: n or images or None].ravel()), (
        x_test[:n],
        y_test[:n].ravel(),
    )


def network(name, shape, classes, width):
    """Return a function (attention=, placement=, attention_kwargs=) -> model."""
    if name == "lenet5":
        padding = "valid" if min(shape[:2]) >= 12 else "same"
        return functools.partial(LeNet5, shape, classes, padding=padding)
    make = {"vgg16": VGG16, "resnet18": ResNet18}[name]
    return functools.partial(make, shape, classes, width_multiplier=width)


def runs(make, train, test, seeds, epochs):
    """Return the scores of every seed, in percent: top-1, top-5, and top-1 of blurred and of noisy
    images; the training step is compiled once."""
    from scipy import ndimage

    x, y = test
    noise = np.random.default_rng(0).normal(scale=0.2, size=x.shape)
    blurred = ndimage.gaussian_filter(x, (0, 1, 1, 0))
    noisy = np.clip(x + noise, 0, 1).astype("float32")
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
        _, *accuracy = model.evaluate(x, y, batch_size=256, verbose=0)
        for changed in (blurred, noisy):
            accuracy.append(model.evaluate(changed, y, batch_size=256, verbose=0)[1])
        scores.append(100 * np.array(accuracy))
    return np.array(scores), model.count_params()


def row(variant, scores, base, parameters):
    """The row of a variant: means and intervals over seeds, gains taken seed by seed."""
    cells = {"variant": variant}
    for index, name in ((0, ""), (2, " blurred"), (3, " noisy")):
        mean, half = interval(scores[:, index])
        gain, gain_half = interval(scores[:, index] - base[:, index])
        cells[f"top-1{name}"] = f"{mean:.2f} ± {half:.2f}"
        cells[f"gain{name}"] = "" if scores is base else f"{gain:+.2f} ± {gain_half:.2f}"
    return {**cells, "top-5": f"{scores[:, 1].mean():.2f}", "parameters": f"{parameters:,}"}


def built(make, attention, placement, kwargs):
    """A function that makes the network of a variant."""
    if attention is None:
        width = make.keywords.get("width_multiplier", 1.0) * kwargs.get("width_multiplier", 1.0)
        return functools.partial(make, width_multiplier=width)
    return functools.partial(
        make, attention=attention, placement=placement, attention_kwargs=kwargs or None
    )


def main():
    options = arguments(
        __doc__.splitlines()[0],
        data="digits",
        images=0,
        network="lenet5",
        placement="bottleneck",
        width=0.25,
        seeds=5,
        epochs=20,
        variants="",
    )
    seeds, epochs = (2, 1) if options.small else (options.seeds, options.epochs)
    wanted = ["base (", *options.variants.split(",")] if options.variants else [""]
    frame = pd.DataFrame()
    print("about two minutes a variant for 15 000 images of 28 x 28 on two cores", flush=True)
    for name in options.data.split(","):
        train, test = load(name, options.small, options.images)
        make = network(options.network, train[0].shape[1:], int(train[1].max()) + 1, options.width)
        base = None
        for variant, (attention, kwargs) in VARIANTS.items():
            if not any(part in variant for part in wanted):
                continue
            subject = {"data": name, "images": len(train[0]), "network": options.network}
            try:
                build = built(make, attention, options.placement, kwargs)
                scores, parameters = runs(build, train, test, seeds, epochs)
            except ValueError as error:
                if "align_channels" not in str(error):
                    raise
                # The paper's table has a dash there too: the channel counts differ.
                found = {"variant": variant, "top-1": "incompatible"}
            else:
                base = scores if base is None else base
                found = row(variant, scores, base, parameters)
            print({**subject, **found}, flush=True)
            frame = pd.concat([frame, pd.DataFrame([{**subject, **found}])], ignore_index=True)
            if not options.small:
                keep(merged("san_accuracy", frame, KEYS), seeds, epochs)
    if options.small:
        keep(frame, seeds, epochs, small=True)


def keep(frame, seeds, epochs, small=False):
    notes = (
        f"Last run: {seeds} seeds, {epochs} epochs of Adam, batches of 64; percent on held-out "
        "images, with 95 % intervals over seeds; gain: top-1 minus the plain network's, seed by "
        "seed."
    )
    write("san_accuracy", frame.fillna(""), notes, small=small)


if __name__ == "__main__":
    main()
