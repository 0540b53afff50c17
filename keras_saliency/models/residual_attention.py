"""Residual attention networks."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers

from keras_saliency import validation
from keras_saliency.layers.attention.residual import ResidualAttention
from keras_saliency.models.assembly import (
    TOP,
    classifier,
    end_of_backbone,
    extents,
    image_input,
    scaled,
)
from keras_saliency.typing import Activation, Shape


def _activated(x, name):
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1
    x = layers.BatchNormalization(axis=axis, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _unit(x, filters, strides, name):
    """A pre-activated bottleneck; its shortcut is a convolution where the shape changes."""
    y, rest = _activated(x, f"{name}_0"), x
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1
    if strides > 1 or x.shape[axis] != filters:
        rest = layers.Conv2D(filters, 1, strides, use_bias=False, name=f"{name}_shortcut")(y)
    hidden = max(filters // 4, 1)
    y = layers.Conv2D(hidden, 1, use_bias=False, name=f"{name}_conv0")(y)
    y = layers.Conv2D(hidden, 3, strides, padding="same", use_bias=False, name=f"{name}_conv1")(
        _activated(y, f"{name}_1")
    )
    y = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_conv2")(_activated(y, f"{name}_2"))
    return layers.Add(name=f"{name}_add")([rest, y])


@validation.checked(stem=validation.one_of("imagenet", "small", None), **TOP)
def ResidualAttentionNetwork(
    input_shape: Shape = (224, 224, 3),
    num_classes: int = 1000,
    modules: Sequence[int] = (1, 1, 1),
    width_multiplier: float = 1.0,
    stem: str | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: Activation = "softmax",
    name: str = "residual_attention_network",
) -> keras.Model:
    """Residual attention network: three stages of attention modules, and one without.

    The mask branches pool three times in the first stage, twice in the second and once in the
    third, so that all of them end at the same extent.

    Source: F. Wang et al., "Residual Attention Network for Image Classification", CVPR 2017
    (arXiv:1704.06904), table 2; Kalhor (2023), section 3.1 (7).

    Args:
        input_shape: Shape of an image without the batch axis; each extent at least 8.
        num_classes: Number of outputs.
        modules: Three integers, the attention modules of the stages: (1, 1, 1) is Attention-56,
            (1, 2, 3) Attention-92.
        width_multiplier: Positive number by which the widths 64, 256, 512, 1024 and 2048 are
            multiplied.
        stem: `"imagenet"`: a 7x7 convolution and max pooling, both of stride 2; `"small"`: a 3x3
            convolution of stride 1; `None`: `"small"` if an extent is known to be below 64.
        include_top: Whether the average pooling and the output layer are included.
        pooling: Without the top: None for the feature map, `"avg"` or `"max"`.
        classifier_activation: Activation of the output.
        name: Name of the model.

    Returns:
        A functional `keras.Model`.

    Example:

    ```python
    from keras_saliency.models import ResidualAttentionNetwork

    model = ResidualAttentionNetwork((28, 28, 1), 10, width_multiplier=0.05)
    ```
    """
    modules = validation.sizes("modules", modules)
    if len(modules) != 3:
        raise validation.wrong("modules", "three integers >= 1, one per stage", modules)
    inputs = x = image_input(input_shape, 8)
    if stem is None:
        stem = "small" if any(n is not None and n < 64 for n in extents(x)) else "imagenet"
    big = stem == "imagenet"
    x = layers.Conv2D(
        scaled(64, width_multiplier),
        7 if big else 3,
        2 if big else 1,
        padding="same",
        use_bias=False,
        name="stem_conv",
    )(x)
    if big:
        x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(_activated(x, "stem"))
    for stage, (filters, number) in enumerate(zip((256, 512, 1024), modules, strict=True), 1):
        x = _unit(x, scaled(filters, width_multiplier), min(stage, 2), f"stage{stage}_unit")
        for i in range(1, number + 1):
            x = ResidualAttention(depth=4 - stage, name=f"stage{stage}_attention{i}")(x)
    for i in range(1, 4):
        x = _unit(x, scaled(2048, width_multiplier), 2 if i == 1 else 1, f"stage4_unit{i}")
    x = _activated(x, "end")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = classifier(x, num_classes, classifier_activation)
    else:
        x = end_of_backbone(x, pooling)
    return keras.Model(inputs, x, name=name)
