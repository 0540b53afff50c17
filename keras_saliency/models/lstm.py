"""LSTM-4, G 5.5.2.4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from keras_saliency import validation
from keras_saliency.models.assembly import TOP, classifier, finished, scaled
from keras_saliency.models.attach import Placement
from keras_saliency.typing import Activation, Attention, Shape


@validation.checked(units=validation.whole(), **TOP)
def LSTM4(
    input_shape: Shape,
    num_classes: int,
    attention: Attention | None = None,
    placement: Placement = "bottleneck",
    attention_kwargs: Mapping[str, Any] | None = None,
    width_multiplier: float = 1.0,
    units: int = 64,
    include_top: bool = True,
    classifier_activation: Activation = "softmax",
    name: str = "lstm4",
) -> keras.Model:
    """LSTM-4: four LSTM layers, average pooling after every two, and a dense output.

    The first pooling halves the steps; the second takes the mean over all of them, so that
    series of any length fit one network.

    Source: G 5.5.2.4.

    Args:
        input_shape: (steps, variates); steps may be None, and are at least 2.
        num_classes: Number of outputs: classes, or the values of a forecast.
        attention: A layer class, a name or a callable, as in `add_attention`; None for none.
        placement: `"bottleneck"` (before both poolings) or `"full"` (after all four layers).
        attention_kwargs: Dict of arguments of `attention`.
        width_multiplier: Positive number by which `units` is multiplied.
        units: Width of each LSTM.
        include_top: Whether the output layer is included; without it the model ends in the
            second pooling, (batch, units).
        classifier_activation: `"softmax"` to classify, `"linear"` to forecast.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.

    Example:

    ```python
    from keras_saliency.models import LSTM4

    classify = LSTM4((None, 62), 8, attention="san", placement="full")
    forecast = LSTM4((48, 7), 7, attention="ran", classifier_activation="linear")
    ```
    """
    shape = validation.shape("input_shape", input_shape, ("steps", "variates"))
    if shape[1] is None or (shape[0] is not None and shape[0] < 2):
        raise ValueError(
            "`input_shape` must be (steps, variates) with at least 2 steps. "
            f"Received: input_shape={input_shape}"
        )
    inputs = x = keras.Input(shape, name="series")
    for i in range(1, 5):
        x = layers.LSTM(scaled(units, width_multiplier), return_sequences=True, name=f"lstm{i}")(x)
        if i == 2:
            x = layers.AveragePooling1D(2, name="pool1")(x)
    x = layers.GlobalAveragePooling1D(name="pool2")(x)
    if include_top:
        x = classifier(x, num_classes, classifier_activation)
    return finished(inputs, x, name, attention, placement, attention_kwargs)
