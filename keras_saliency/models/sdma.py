"""Classifiers and forecasters made of SDMA blocks (G 6.4.4.2, 6.5.1)."""

from __future__ import annotations

from typing import Any

import keras

from keras_saliency import validation
from keras_saliency.layers.attention.saliency_series import SaliencySeries
from keras_saliency.layers.attention.sdma import SDMACrossAttention
from keras_saliency.typing import Activation, Shape

_STACKS = ("type1", "type2")
_SALIENCY = (
    "octaves",
    "scales",
    "sigma0",
    "contrast_threshold",
    "theta",
    "amplitude",
    "cut",
    "missing",
)


@validation.checked(
    num_classes=validation.whole(optional=True),
    depth=validation.whole(),
    units=validation.whole(optional=True),
    forecast=validation.whole(optional=True),
    residual=validation.one_of("last", None),
    highway=validation.boolean,
    stack=validation.one_of(*_STACKS),
    dropout=validation.share,
    classifier_activation=validation.activation,
    name=validation.text,
)
def SDMA(  # a function named like the model it makes, as in keras.applications
    input_shape: Shape,
    num_classes: int | None = None,
    depth: int = 2,
    stack: str = "type2",
    units: int | None = None,
    forecast: int | None = None,
    residual: str | None = "last",
    highway: bool = True,
    dropout: float = 0.0,
    classifier_activation: Activation = "softmax",
    name: str = "sdma",
    **kwargs: Any,
) -> keras.Model:
    """Build a network of mutually attending LSTMs on a series and its saliency (G 6.4, fig. 6.10).

    The saliency is computed once, inside the model. In a `"type1"` stack the attended series and
    the attended saliency of a block are the next block's inputs; in a `"type2"` stack every block
    reads the original saliency, besides the output of the block before. With `depth=1`, both are
    the paper's single layer. As in the paper, a fully connected layer classifies and a recurrent
    one forecasts (figure 6.4).

    SDMA is for classification. A forecaster needs the level of its series more than saliency: with
    `residual` and `highway`, which are ours, it beats the naive forecast, and so does an LSTM with
    them (`examples/forecasting.py`).

    Args:
        input_shape: `(time, variates)`; time may be `None`.
        num_classes: Number of classes, or `None` for a forecaster.
        depth: Number of blocks. The paper has 1 and 3.
        stack: `"type1"` or `"type2"`.
        units: Units of each branch of each block; twice the variates by default.
        forecast: Number of variates of the forecast, `(batch, forecast)`: what the series will be
            at the step that the targets stand for. Instead of `num_classes`.
        residual: Of a forecaster: with `"last"` the window minus its last step goes in, and what
            comes out is added to the last step, so that a new model repeats it. The forecast is
            then of the first `forecast` variates. `None`: the values themselves. Pad in front.
        highway: Of a forecaster: whether a linear map of the window, zero at first, is added. It
            is left out where the number of steps is open.
        dropout: Share of the inputs that each branch drops in training.
        classifier_activation: Of the last layer of a classifier; `None` returns logits.
        name: Name of the model.
        **kwargs: Further arguments of `SDMACrossAttention`: `mutual=False` is SDCA,
            `recurrent="gru"`; those of the saliency are `SaliencySeries`'s. `amplitude` and `cut`
            choose among the strategies of G table 6.3.

    Returns:
        A functional `keras.Model`, not compiled. The paper trains classifiers with RMSprop and
        categorical cross-entropy, forecasters on the mean absolute error.

    Raises:
        ValueError: If neither or both of `num_classes` and `forecast` are given, or an argument
            is out of range.

    Example:

    ```python
    from keras_saliency.models import SDMA

    model = SDMA((1000, 62), num_classes=8, depth=3, stack="type2")
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ```
    """
    input_shape = validation.shape("input_shape", input_shape, ("time", "variates"))
    if input_shape[1] is None:
        raise ValueError(
            "`input_shape` must be (time, variates) with a known number of variates. "
            f"Received: input_shape={input_shape}"
        )
    if (num_classes is None) == (forecast is None):
        raise ValueError(
            "Give `num_classes` for a classifier or `forecast` for a forecaster. "
            f"Received: num_classes={num_classes}, forecast={forecast}"
        )
    if forecast is not None and residual and forecast > input_shape[1]:
        raise ValueError(
            "`residual='last'` adds the forecast to the last step, so there are no more variates "
            f"to forecast than in the series. Received: forecast={forecast}, "
            f"input_shape={input_shape}. Pass residual=None to forecast other quantities."
        )
    taken = {"return_sequences", "return_branches"} & set(kwargs)
    if taken:
        raise ValueError(f"The model decides on {sorted(taken)} itself.")
    units = 2 * input_shape[1] if units is None else units
    saliency_arguments = {k: kwargs[k] for k in _SALIENCY if k in kwargs}

    inputs = window = keras.Input(input_shape, name="series")
    if forecast is not None and residual:
        level = inputs[:, -1:]
        window = inputs - level
    saliency = SaliencySeries(**saliency_arguments, name="saliency")(window)
    pair = [window, saliency]
    for number in range(1, depth + 1):
        last = number == depth
        block = SDMACrossAttention(
            units,
            return_sequences=not last or forecast is not None,
            return_branches=stack == "type1" and not last,
            dropout=dropout,
            name=f"block_{number}",
            **kwargs,
        )
        result = block(pair)
        if not last:
            pair = list(result[1:]) if stack == "type1" else [result, saliency]
    if forecast is None:
        head = keras.layers.Dense(num_classes, activation=classifier_activation, name="classes")
        outputs = head(result)
    else:
        recurrent = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
        # Linear at the end: a forecast is not confined to (-1, 1) as what an LSTM returns.
        state = recurrent[kwargs.get("recurrent", "lstm")](units, name="reader")(result)
        outputs = keras.layers.Dense(forecast, name="forecast")(state)
        if highway and input_shape[0] is not None:
            line = keras.layers.Dense(forecast, kernel_initializer="zeros", name="highway")
            outputs = outputs + line(keras.layers.Flatten(name="window")(window))
        if residual:
            outputs = outputs + level[:, 0, :forecast]
    return keras.Model(inputs, outputs, name=name)
