"""VGG-16 and VGG-19, G 5.5.2.2."""

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

_ARGUMENTS = """
    Source: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", ICLR 2015; G 5.5.2.2. All windows are 3x3 (the paper's configurations D and E);
    the 1x1 windows that G mentions belong to configuration C. The layers have the names, shapes
    and order of `keras.applications`, so that its weights can be set where the sizes agree.

    Args:
        input_shape: Shape of an image without the batch axis, 32 pixels at least.
        num_classes: Number of outputs.
        attention: A layer class, a name or a callable, as in `add_attention`; None for none.
        placement: `"bottleneck"` or `"full"`.
        attention_kwargs: Dict of arguments of `attention`.
        width_multiplier: Positive number by which all widths are multiplied.
        dense_units: Width of the two dense layers before the output.
        include_top: Whether the dense layers are included.
        pooling: Without the top: None for the feature map, `"avg"` or `"max"`.
        classifier_activation: Activation of the output.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.
"""


def _vgg(
    depths,
    input_shape,
    num_classes,
    attention,
    placement,
    attention_kwargs,
    width_multiplier,
    dense_units,
    include_top,
    pooling,
    classifier_activation,
    name,
):
    inputs = x = image_input(input_shape, 32)
    widths = (64, 128, 256, 512, 512)
    for block, (depth, filters) in enumerate(zip(depths, widths, strict=True), 1):
        for i in range(1, depth + 1):
            x = layers.Conv2D(
                scaled(filters, width_multiplier),
                3,
                padding="same",
                activation="relu",
                name=f"block{block}_conv{i}",
            )(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        units = scaled(dense_units, width_multiplier)
        for i in (1, 2):
            x = layers.Dense(units, activation="relu", name=f"fc{i}")(x)
        x = classifier(x, num_classes, classifier_activation)
    else:
        x = end_of_backbone(x, pooling)
    return finished(inputs, x, name, attention, placement, attention_kwargs)


@validation.checked(dense_units=validation.whole(), **TOP)
def VGG16(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    attention: Attention | None = None,
    placement: Placement = "bottleneck",
    attention_kwargs: Mapping[str, Any] | None = None,
    width_multiplier: float = 1.0,
    dense_units: int = 4096,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: Activation = "softmax",
    name: str = "vgg16",
) -> keras.Model:
    """VGG-16: 13 convolutions in five blocks, each followed by max pooling, and 3 dense layers.
    {arguments}
    Example:

    ```python
    from keras_saliency.models import VGG16

    model = VGG16((32, 32, 3), 10, attention="san-depthwise", width_multiplier=0.25)
    ```
    """
    return _vgg(
        (2, 2, 3, 3, 3),
        input_shape,
        num_classes,
        attention,
        placement,
        attention_kwargs,
        width_multiplier,
        dense_units,
        include_top,
        pooling,
        classifier_activation,
        name,
    )


@validation.checked(dense_units=validation.whole(), **TOP)
def VGG19(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    attention: Attention | None = None,
    placement: Placement = "bottleneck",
    attention_kwargs: Mapping[str, Any] | None = None,
    width_multiplier: float = 1.0,
    dense_units: int = 4096,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: Activation = "softmax",
    name: str = "vgg19",
) -> keras.Model:
    """VGG-19: 16 convolutions in five blocks, each followed by max pooling, and 3 dense layers.
    {arguments}
    Example:

    ```python
    from keras_saliency.models import VGG19

    model = VGG19((32, 32, 3), 10, attention="cbam", placement="full", width_multiplier=0.125)
    ```
    """
    return _vgg(
        (2, 2, 4, 4, 4),
        input_shape,
        num_classes,
        attention,
        placement,
        attention_kwargs,
        width_multiplier,
        dense_units,
        include_top,
        pooling,
        classifier_activation,
        name,
    )


for _function in (VGG16, VGG19):
    # Python run with -OO has no docstrings.
    if _function.__doc__:
        _function.__doc__ = _function.__doc__.replace("    {arguments}\n", _ARGUMENTS)
