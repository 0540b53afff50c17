"""Every model of keras.applications through `shrink` and `shrink_to`: does it come out right?

    KERAS_BACKEND=tensorflow python benchmarks/applications_shrink.py [--small] [--only NAME,NAME]

Each model is built with random weights on the smallest image that it takes; biases, norms and
scales are random too, so that channels whose kernels are masked are constants other than zero.
Half of every layer's channels are masked, `shrink` removes what is dead, and the shrunk model must
compute what the masked one computes. `shrink_to(channels=0.5)` then removes whole groups.

The norms' statistics are those of a batch, so that signals neither fade nor explode, changed at
random. On TensorFlow everything is computed in float64, where only mistakes remain (networks with
random weights multiply rounding errors by thousands); the other backends compute norms in float32,
and the difference is then one of rounding too. It is the largest difference of any output relative
to how much the outputs of the masked model change from image to image: a network whose outputs
hardly depend on its input cannot pass for right. `--only` replaces the rows of these models in the
table that is there.
"""

import gc
import logging
import time

import keras
import numpy as np
import pandas as pd
import runner
from keras import layers

import keras_saliency
from keras_saliency.sparsity import count_parameters

QUICK = ("MobileNetV2", "DenseNet121")
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71, "NASNetLarge": 331,
         "NASNetMobile": 224}  # fmt: skip
AGREE = 1e-8 if keras.backend.backend() == "tensorflow" else 1e-2


def randomised(model, seed=0):
    """Give biases, norms, scales and statistics values of their own."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if name in ("moving_mean", "mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.2, shape))
        elif len(shape) == 1:  # scales and variances, not always named
            variable.assign(rng.uniform(0.5, 1.5, shape))
    return model


def calibrated(model, x, seed=0):
    """Statistics of norms near those of a batch, so that the outputs depend on the inputs."""
    norms = [x for x in model._flatten_layers() if isinstance(x, layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    rng = np.random.default_rng(seed)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        # In float32 the variance of a constant may come out a little below 0.
        variance = np.maximum(keras.ops.convert_to_numpy(norm.moving_variance), 0)
        factor = rng.uniform(0.5, 1.5, variance.shape)
        norm.moving_variance.assign(factor * np.where(variance > 1e-6, variance, 1.0))
        mean = keras.ops.convert_to_numpy(norm.moving_mean)
        norm.moving_mean.assign(mean + rng.normal(0, 0.2, mean.shape) * np.sqrt(variance))
    return model


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def difference(model, other, x):
    """Largest difference of an output, relative to how the outputs vary from image to image."""
    expected, found = outputs(model, x), outputs(other, x)
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return np.inf
    return float(np.abs(expected - found).max() / np.ptp(expected, axis=0).max())


def shrunk(name):
    size = SIZES.get(name, 32)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    dense = count_parameters(model)
    x = (
        np.random.default_rng(1)
        .uniform(0, 255, size=(4, size, size, 3))
        .astype(keras.config.floatx())
    )
    randomised(model)
    row = {"model": name, "weights (millions)": round(dense / 1e6, 2)}
    sparse = keras_saliency.sparsify(
        model, 0.5, method="magnitude", granularity="channel", exclude=[model.layers[-1]]
    )
    calibrated(sparse, x)
    start = time.process_time()
    try:
        small = keras_saliency.shrink(sparse, verbose=False)
    except ValueError as error:
        row["outputs"] = f"refused: {error}"
    else:
        row["shrink CPU seconds"] = time.process_time() - start
        row["difference"] = difference(sparse, small, x)
        row["outputs"] = "agree" if row["difference"] <= AGREE else "DIFFER"
        row["parameters left by shrink"] = count_parameters(small) / dense
        del small
    del sparse
    gc.collect()
    start = time.process_time()
    try:
        small = keras_saliency.shrink_to(model, channels=0.5, method="magnitude", verbose=False)
    except ValueError as error:
        row["shrink_to"] = f"refused: {error}"
    else:
        row["shrink_to CPU seconds"] = time.process_time() - start
        row["parameters left by shrink_to"] = count_parameters(small) / dense
        sound = np.isfinite(outputs(small, x)).all() and small.output_shape == model.output_shape
        row["shrink_to"] = "runs" if sound else "BROKEN"
    return row


def main():
    options = runner.arguments(__doc__.splitlines()[0], only="")
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    if runner.backend() == "tensorflow":
        keras.config.set_floatx("float64")
    rows, absent = runner.applications(shrunk, options, QUICK)
    frame = pd.DataFrame(rows)
    if options.only:
        frame = runner.merged("applications_shrink", frame, ["model"]).sort_values("model")
    agree = int((frame["outputs"] == "agree").sum())
    runner.write(
        "applications_shrink",
        frame,
        f"{agree} of {len(frame)} models compute the same after `shrink`, in "
        f"{keras.config.floatx()}, to {AGREE:g} of how their outputs vary from image to image. "
        "Half of every layer's channels are masked, lowest magnitudes first, each layer by itself, "
        "which frees little where channels are tied together; `shrink_to(channels=0.5)` takes "
        "whole groups. Seconds are those of the processor."
        + (f" Not made by Keras on this backend: {', '.join(absent)}." if absent else ""),
        small=options.small,
    )


if __name__ == "__main__":
    main()
