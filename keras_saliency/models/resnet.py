"""ResNet-18 and ResNet-50, G 5.5.2.3."""

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
    extents,
    finished,
    image_input,
    scaled,
)
from keras_saliency.models.attach import Placement
from keras_saliency.typing import Activation, Attention, Shape

_ARGUMENTS = """
    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR
    2016, table 1; G 5.5.2.3. Shortcuts that change the shape are convolutions of window 1.

    Args:
        input_shape: Shape of an image without the batch axis.
        num_classes: Number of outputs.
        attention: A layer class, a name or a callable, as in `add_attention`; None for none.
        placement: `"bottleneck"` or `"full"`.
        attention_kwargs: Dict of arguments of `attention`.
        width_multiplier: Positive number by which all widths are multiplied.
        stem: `"imagenet"`: a 7x7 convolution and max pooling, both of stride 2; `"small"`: a 3x3
            convolution of stride 1, for images such as CIFAR's; `None`: `"small"` if an extent is
            known to be below 64.
        include_top: Whether the average pooling and the output layer are included.
        pooling: Without the top: None for the feature map, `"avg"` or `"max"`.
        classifier_activation: Activation of the output.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.
"""


def _conv(x, filters, kernel_size, name, strides=1, activate=True, padding="same"):
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1
    x = layers.Conv2D(filters, kernel_size, strides, padding=padding, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(axis=axis, epsilon=1.001e-5, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x) if activate else x


def _basic_block(x, filters, strides, shortcut, name):
    rest = x
    if shortcut:
        rest = _conv(x, filters, 1, f"{name}_0", strides, activate=False)
    x = _conv(x, filters, 3, f"{name}_1", strides)
    x = _conv(x, filters, 3, f"{name}_2", activate=False)
    x = layers.Add(name=f"{name}_add")([rest, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _bottleneck_block(x, filters, strides, shortcut, name):
    rest = x
    if shortcut:
        rest = _conv(x, 4 * filters, 1, f"{name}_0", strides, activate=False)
    x = _conv(x, filters, 1, f"{name}_1", strides)
    x = _conv(x, filters, 3, f"{name}_2")
    x = _conv(x, 4 * filters, 1, f"{name}_3", activate=False)
    x = layers.Add(name=f"{name}_add")([rest, x])
    return layers.Activation("relu", name=f"{name}_out")(x)


def _resnet(
    block,
    depths,
    input_shape,
    num_classes,
    attention,
    placement,
    attention_kwargs,
    width_multiplier,
    stem,
    include_top,
    pooling,
    classifier_activation,
    name,
):
    inputs = x = image_input(input_shape, 8)
    if stem is None:
        stem = "small" if any(n is not None and n < 64 for n in extents(x)) else "imagenet"
    filters = scaled(64, width_multiplier)
    if stem == "imagenet":
        x = layers.ZeroPadding2D(3, name="conv1_pad")(x)
        x = _conv(x, filters, 7, "conv1", strides=2, padding="valid")
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    else:
        x = _conv(x, filters, 3, "conv1")
    for stage, depth in enumerate(depths, 2):
        filters = scaled(64 * 2 ** (stage - 2), width_multiplier)
        for i in range(1, depth + 1):
            strides = 2 if i == 1 and stage > 2 else 1
            shortcut = i == 1 and (stage > 2 or block is _bottleneck_block)
            x = block(x, filters, strides, shortcut, f"conv{stage}_block{i}")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = classifier(x, num_classes, classifier_activation)
    else:
        x = end_of_backbone(x, pooling)
    return finished(inputs, x, name, attention, placement, attention_kwargs)


@validation.checked(stem=validation.one_of("imagenet", "small", None), **TOP)
def ResNet18(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    attention: Attention | None = None,
    placement: Placement = "bottleneck",
    attention_kwargs: Mapping[str, Any] | None = None,
    width_multiplier: float = 1.0,
    stem: str | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: Activation = "softmax",
    name: str = "resnet18",
) -> keras.Model:
    """ResNet-18: eight residual blocks of two 3x3 convolutions.
    {arguments}
    Example:

    ```python
    from keras_saliency.models import ResNet18

    model = ResNet18((32, 32, 3), 10, attention="san-depthwise", width_multiplier=0.25)
    ```
    """
    return _resnet(
        _basic_block,
        (2, 2, 2, 2),
        input_shape,
        num_classes,
        attention,
        placement,
        attention_kwargs,
        width_multiplier,
        stem,
        include_top,
        pooling,
        classifier_activation,
        name,
    )


@validation.checked(stem=validation.one_of("imagenet", "small", None), **TOP)
def ResNet50(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    attention: Attention | None = None,
    placement: Placement = "bottleneck",
    attention_kwargs: Mapping[str, Any] | None = None,
    width_multiplier: float = 1.0,
    stem: str | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: Activation = "softmax",
    name: str = "resnet50",
) -> keras.Model:
    """ResNet-50: sixteen residual blocks of a 1x1, a 3x3 and a 1x1 convolution.

    The layers have the names, shapes and order of `keras.applications.ResNet50`, so that its
    weights can be set where the sizes agree.
    {arguments}
    Example:

    ```python
    from keras_saliency.models import ResNet50

    model = ResNet50((32, 32, 3), 10, attention="cbam", width_multiplier=0.125)
    ```
    """
    return _resnet(
        _bottleneck_block,
        (3, 4, 6, 3),
        input_shape,
        num_classes,
        attention,
        placement,
        attention_kwargs,
        width_multiplier,
        stem,
        include_top,
        pooling,
        classifier_activation,
        name,
    )


for _function in (ResNet18, ResNet50):
    # Python run with -OO has no docstrings.
    if _function.__doc__:
        _function.__doc__ = _function.__doc__.replace("    {arguments}\n", _ARGUMENTS)
