"""A network that sees every object at once, P 2.3 and 2.5."""

from __future__ import annotations

import keras
from keras import layers

from keras_saliency import validation
from keras_saliency.layers.convolution.ms_roi import MSROI as MSROIHead
from keras_saliency.models.assembly import extents, image_input
from keras_saliency.typing import Shape, Size

# The smallest extent that pooling leaves, so that objects can be told apart.
_SMALLEST_MAP = 8
_WIDEST = 8  # times the filters of the first stage


@validation.checked(
    num_classes=validation.whole(),
    stages=validation.whole(1, 32),
    features=validation.whole(),
    batch_normalization=validation.boolean,
    name=validation.text,
)
def MSROI(
    input_shape: Shape,
    num_classes: int,
    stages: int = 5,
    filters: Size = 16,
    features: int = 4,
    batch_normalization: bool = True,
    name: str = "ms_roi",
) -> keras.Model:
    """A convolutional network that finds every object of an image in one pass.

        [[convolution, ReLU] twice, max pooling] * stages, MS-ROI

    It returns logits, one per class, that do not compete. Train it on several labels per image:
    `model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))`.

    Source: Prakash (2019), sections 2.3 and 2.5. A pooling halves the extent as long as 8 pixels
    are left along the shorter side; those behind have strides of 1, so that a map of a small image
    still tells where. Batch normalization is no part of the source's network; without it, training
    stays for long where every class is as likely as it is frequent.

    Args:
        input_shape: Shape of an image without the batch axis, in Keras's image data format.
        num_classes: Integer, the number of classes.
        stages: Integer, how many pairs of convolutions there are.
        filters: Integer, the filters of the first stage, twice as many after each pooling that
            halves the extent and at most eight times as many; or a list, one integer per stage.
        features: Integer, feature maps per class.
        batch_normalization: Whether every convolution is followed by it.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from images to logits `(images, num_classes)`.

    Raises:
        ValueError: If an argument is not of the kind above.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras_saliency.models.MSROI((32, 32, 3), 10, stages=2, filters=4)
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    scenes = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
    maps = keras_saliency.saliency_map(model, scenes, "ms_roi")
    assert maps.shape == (2, 32, 32)
    ```
    """
    width, widths = _widths(filters, stages)
    widest = _WIDEST * width
    inputs = x = image_input(input_shape, 1)
    for stage in range(1, stages + 1):
        width = widths[stage - 1] if widths else width
        for i in (1, 2):
            x = layers.Conv2D(
                width,
                3,
                padding="same",
                use_bias=not batch_normalization,
                kernel_initializer="he_normal",
                name=f"stage{stage}_conv{i}",
            )(x)
            if batch_normalization:
                axis = 1 if keras.config.image_data_format() == "channels_first" else -1
                x = layers.BatchNormalization(axis, momentum=0.9, name=f"stage{stage}_bn{i}")(x)
            x = layers.ReLU(name=f"stage{stage}_relu{i}")(x)
        halves = all(n is None or n >= 2 * _SMALLEST_MAP for n in extents(x))
        pool = layers.MaxPooling2D(
            2, strides=2 if halves else 1, padding="same", name=f"stage{stage}_pool"
        )
        x = pool(x)
        if not widths and halves:
            width = min(2 * width, widest)
    head = MSROIHead(num_classes, features, name="ms_roi")
    return keras.Model(inputs, head(x), name=name)


def _widths(filters, stages):
    """The first width, and one per stage, or `None` where they follow from the first."""
    if not isinstance(filters, list | tuple):
        return validation.integer("filters", filters), None
    widths = validation.sizes("filters", filters)
    if len(widths) != stages:
        raise ValueError(
            f"`filters` must be an integer or one per stage, {stages}. Received: {filters}"
        )
    return widths[0], widths
