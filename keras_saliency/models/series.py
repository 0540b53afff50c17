"""Deep and wide convolutional networks for time series, and what series models share."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.typing import Shape

TASKS = ("classification", "regression", "forecasting")
POOLINGS = ("average", "maximum")


def series_input(input_shape):
    """Return an `Input` for series, if `input_shape` is (time, variates)."""
    shape = validation.shape("input_shape", input_shape, ("time", "variates"))
    if shape[1] is None:
        raise ValueError(
            "`input_shape` must be (time, variates), time may be None. "
            f"Received: input_shape={input_shape}"
        )
    return keras.Input(shape, name="series")


def _highest(x, valid):
    """Return the maximum over time; of the steps that are `valid`, where that is not `None`."""
    if valid is not None:
        # Keras's layer knows no masks. The lowest of all steps is above no valid one.
        x = ops.where(valid, x, ops.min(x, axis=1, keepdims=True))
    return keras.layers.GlobalMaxPooling1D(name="maximum")(x)


def series_output(
    x, variates, task, num_outputs, horizon=None, dropout=0.0, pooling="average", valid=None
):
    """Return the output tensor of a task; it is float32 under mixed precision."""
    validation.choice("task", task, TASKS)
    dropout = validation.share("dropout", dropout)
    forecasting = task == "forecasting"
    if forecasting:
        horizon = validation.integer("horizon", horizon)
        if num_outputs is not None:
            raise ValueError(
                "`num_classes` has no meaning in forecasting: every variate is forecast. "
                f"Received: num_classes={num_outputs!r}"
            )
    else:
        num_outputs = validation.integer("num_classes", num_outputs)
        if horizon is not None:
            raise ValueError(
                '`horizon` needs `task="forecasting"`. '
                f"Received: horizon={horizon!r}, task={task!r}"
            )
    if pooling == "maximum":
        pooled = _highest(x, valid)
    else:
        pooled = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    if forecasting:
        name = "mean_and_last" if pooling == "average" else "maximum_and_last"
        pooled = keras.layers.Concatenate(name=name)([pooled, ops.take(x, -1, axis=1)])
    if dropout:
        pooled = keras.layers.Dropout(dropout, name="dropout")(pooled)
    output = keras.layers.Dense(
        horizon * variates if forecasting else num_outputs,
        "softmax" if task == "classification" else "linear",
        dtype="float32",
        name="predictions",
    )(pooled)
    if forecasting:
        output = keras.layers.Reshape((horizon, variates), dtype="float32", name="steps")(output)
    return output


@validation.checked(
    num_classes=validation.whole(),
    filters=validation.sizes,
    convolutions=validation.whole(),
    kernel_size=validation.whole(),
    batch_norm=validation.boolean,
    name=validation.text,
)
def DeepNet(
    input_shape: Shape,
    num_classes: int,
    filters: Sequence[int] = (64, 128, 256),
    convolutions: int = 2,
    kernel_size: int = 3,
    batch_norm: bool = True,
    dropout: float = 0.0,
    task: str = "classification",
    name: str = "deep_net",
) -> keras.Model:
    """A deep convolutional network for series in the style of VGG, G's baseline without attention.

    Stages of small convolutions with maximum pooling by 2 between them; depth gives scale.

    Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", ICLR 2015 (arXiv:1409.1556), in one dimension, as in G 7.6.2; the dense layers
    give way to a mean over time, so that any length fits.

    Args:
        input_shape: `(time, variates)`; time may be `None`.
        num_classes: Integer: classes, or with `task="regression"` the values to predict.
        filters: Integers, one per stage.
        convolutions: Integer, convolutions per stage.
        kernel_size: Integer, window of each, in steps.
        batch_norm: Whether each convolution is followed by batch normalization.
        dropout: Float in [0, 1), before the output.
        task: `"classification"` or `"regression"`.
        name: Name of the model.

    Returns:
        A functional `keras.Model`, not compiled.

    Example:

    ```python
    from keras_saliency.models import DeepNet

    model = DeepNet((100, 6), num_classes=4)
    ```
    """
    inputs = x = series_input(input_shape)
    for stage, width in enumerate(filters, start=1):
        if stage > 1:
            x = keras.layers.MaxPooling1D(2, padding="same", name=f"pool_{stage - 1}")(x)
        for i in range(1, convolutions + 1):
            x = _convolution(x, width, kernel_size, batch_norm, f"conv_{stage}_{i}")
    return keras.Model(inputs, _class_output(x, task, num_classes, dropout), name=name)


@validation.checked(
    num_classes=validation.whole(),
    filters=validation.whole(),
    kernel_sizes=validation.sizes,
    depth=validation.whole(),
    batch_norm=validation.boolean,
    name=validation.text,
)
def WideNet(
    input_shape: Shape,
    num_classes: int,
    filters: int = 32,
    kernel_sizes: Sequence[int] = (1, 3, 5),
    depth: int = 3,
    batch_norm: bool = True,
    dropout: float = 0.0,
    task: str = "classification",
    name: str = "wide_net",
) -> keras.Model:
    """A wide convolutional network for series in the style of Inception, G's second baseline.

    Each block looks through several windows at once, behind projections of window 1, and through
    a maximum pooling of 3; the branches are concatenated. Width gives scale.

    Source: C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (arXiv:1409.4842),
    figure 2(b), in one dimension, as in G 7.6.2.

    Args:
        input_shape: `(time, variates)`; time may be `None`.
        num_classes: Integer: classes, or with `task="regression"` the values to predict.
        filters: Integer, kernels of each branch.
        kernel_sizes: Integers, windows of the branches, in steps.
        depth: Integer, number of blocks; a maximum pooling by 2 stands between them.
        batch_norm: Whether each convolution is followed by batch normalization.
        dropout: Float in [0, 1), before the output.
        task: `"classification"` or `"regression"`.
        name: Name of the model.

    Returns:
        A functional `keras.Model`, not compiled.

    Example:

    ```python
    from keras_saliency.models import WideNet

    model = WideNet((100, 6), num_classes=4)
    ```
    """
    inputs = x = series_input(input_shape)
    for block in range(1, depth + 1):
        if block > 1:
            x = keras.layers.MaxPooling1D(2, padding="same", name=f"pool_{block - 1}")(x)
        branches = []
        for size in kernel_sizes:
            branch = x
            if size > 1:
                branch = _convolution(x, filters, 1, batch_norm, f"reduce_{block}_{size}")
            branches.append(_convolution(branch, filters, size, batch_norm, f"conv_{block}_{size}"))
        pooled = keras.layers.MaxPooling1D(3, 1, padding="same", name=f"branch_pool_{block}")(x)
        branches.append(_convolution(pooled, filters, 1, batch_norm, f"project_{block}"))
        x = keras.layers.Concatenate(name=f"concat_{block}")(branches)
    return keras.Model(inputs, _class_output(x, task, num_classes, dropout), name=name)


def _convolution(x, filters, size, batch_norm, name):
    x = keras.layers.Conv1D(filters, size, padding="same", use_bias=not batch_norm, name=name)(x)
    if batch_norm:
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _class_output(x, task, num_classes, dropout):
    validation.choice("task", task, ("classification", "regression"))
    return series_output(x, None, task, num_classes, dropout=dropout)
