"""Pixels that take a neighbor's value (Prakash (2019), section 4.5)."""

from __future__ import annotations

import numpy as np

from keras_saliency import validation
from keras_saliency.imaging import reading
from keras_saliency.typing import ArrayLike


def pixel_deflection(
    images: ArrayLike,
    maps: ArrayLike | None = None,
    deflections: int = 100,
    window: int = 10,
    seed: int | None = 0,
) -> np.ndarray:
    """Give some pixels of each image the value of a pixel near by.

    A classifier hardly sees the difference; noise that was made for it does. Positions are drawn
    with a probability in proportion to 1 - map, so that objects are left alone, and each takes the
    value that a pixel of the window around it has in the image as it was (Prakash (2019),
    algorithm 3 and section 4.8).

    Args:
        images: Array `(images, height, width, channels)` of any range.
        maps: Optional array `(images, height, width)` in [0, 1], resized to the images. An image
            whose map is 1 everywhere comes back as it is. By default every position counts alike.
        deflections: Int. How many pixels of each image are drawn; one may be drawn twice.
        window: Int. How far a neighbor may be along each axis, within the image.
        seed: Int, or `None` for another draw each time. What an image gets depends on it and on
            the image's position alone.

    Returns:
        An array of the images' shape and dtype.

    Raises:
        ValueError: If there is no image, if maps have other proportions, or values outside [0, 1].

    Example:

    ```python
    import numpy as np
    from keras_saliency import imaging

    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3))
    changed = imaging.pixel_deflection(images, deflections=10, window=3)
    assert (changed != images).any(axis=-1).sum() <= 20
    ```
    """
    images = reading.batch("images", images)
    deflections = validation.integer("deflections", deflections, 0)
    window = validation.integer("window", window)
    seed = validation.seed(seed)
    if seed is None:
        seed = int(np.random.default_rng().integers(2**32))
    if maps is not None:
        maps = reading.maps_of("maps", maps, images)
    result = images.copy()
    height, width = images.shape[1:3]
    for i, image in enumerate(images):
        random = np.random.default_rng([seed, i])
        weights = np.ones(height * width) if maps is None else 1 - maps[i].ravel()
        total = np.cumsum(weights)
        if total[-1] <= 0:
            continue
        drawn = random.uniform(0, total[-1], deflections)
        drawn = np.minimum(np.searchsorted(total, drawn, side="right"), height * width - 1)
        row, column = np.divmod(drawn, width)
        from_row = _near(random, row, window, height)
        from_column = _near(random, column, window, width)
        result[i, row, column] = image[from_row, from_column]
    return result


def _near(random, place, window, extent):
    """Uniform places within the window, as far as it lies in the image."""
    low = np.maximum(place - window, 0)
    return random.integers(low, np.minimum(place + window, extent - 1) + 1)
