"""LeNet-5, G 5.5.2.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers

from keras_saliency import validation
from keras_saliency.models.assembly import (
    TOP,
    classifier,
    end_of_backbone,
    finished,
    image_input,
    scaled,
)
from keras_saliency.models.attach import Placement
from keras_saliency.typing import Activation, Attention, Shape


@validation.checked(padding=validation.one_of("valid", "same"), **TOP)
def LeNet5(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    attention: Attention | None = None,
    placement: Placement = "bottleneck",
    attention_kwargs: Mapping[str, Any] | None = None,
    width_multiplier: float = 1.0,
    padding: str = "valid",
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: Activation = "softmax",
    name: str = "lenet5",
) -> keras.Model:
    """LeNet-5: two convolutions, each followed by average pooling, and three dense layers.

    Every pooling follows a convolution, so that both placements of attention are the same.

    Source: Y. LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998;
    G 5.5.2.1. As is usual today, pooling has no weights, the second convolution reads all maps,
    and the output is a softmax. The first convolution pads, so that 28 pixels count as 32.

    Args:
        input_shape: Shape of an image without the batch axis.
        num_classes: Number of outputs.
        attention: A layer class, a name or a callable, as in `add_attention`; None for none.
        placement: `"bottleneck"` or `"full"`.
        attention_kwargs: Dict of arguments of `attention`.
        width_multiplier: Positive number by which the widths 6, 16, 120 and 84 are multiplied.
        padding: Of the second convolution; `"same"` takes images of 4 pixels and more,
            `"valid"`, the original, of 12.
        include_top: Whether the dense layers are included.
        pooling: Without the top: None for the feature map, `"avg"` or `"max"`.
        classifier_activation: Activation of the output.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.

    Example:

    ```python
    from keras_saliency.models import LeNet5

    model = LeNet5(attention="san", attention_kwargs={"kernel_size": 5})
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    ```
    """
    inputs = x = image_input(input_shape, 12 if padding == "valid" else 4)
    for i, (filters, border) in enumerate([(6, "same"), (16, padding)], 1):
        x = layers.Conv2D(
            scaled(filters, width_multiplier), 5, padding=border, activation="tanh", name=f"conv{i}"
        )(x)
        x = layers.AveragePooling2D(2, name=f"pool{i}")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for i, units in enumerate((120, 84), 1):
            x = layers.Dense(scaled(units, width_multiplier), activation="tanh", name=f"fc{i}")(x)
        x = classifier(x, num_classes, classifier_activation)
    else:
        x = end_of_backbone(x, pooling)
    return finished(inputs, x, name, attention, placement, attention_kwargs)
