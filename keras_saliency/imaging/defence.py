"""Deflection and denoising around a classifier, and how well they undo an attack."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from keras_saliency import validation
from keras_saliency.attribution import saliency_map
from keras_saliency.attribution.judges import probabilities_of
from keras_saliency.imaging import reading
from keras_saliency.imaging.deflection import pixel_deflection
from keras_saliency.imaging.denoising import wavelet_denoise
from keras_saliency.typing import ArrayLike


def defend(
    model: keras.Model,
    images: ArrayLike,
    maps: str | ArrayLike | None = "robust_cam",
    deflections: int = 100,
    window: int = 10,
    sigma: float = 0.04,
    ensemble: int = 10,
    seed: int | None = 0,
    value_range: tuple[float, float] = (0, 1),
) -> tuple[np.ndarray, np.ndarray]:
    """Classify images after pixels were deflected and wavelets denoised, several times over.

    An attacker who knows of this defence gets through (Athalye and Carlini, 2018). It is for
    accidental and transferred noise, and for study. After Prakash (2019), section 4.8.

    Args:
        model: A built `keras.Model` from images to classes, probabilities or logits.
        images: Array `(images, height, width, channels)`.
        maps: Where objects are: a method of `saliency_map`, an array `(images, height, width)` in
            [0, 1], or `None` to deflect everywhere alike.
        deflections, window: Ints. As for `pixel_deflection`.
        sigma: Float. As for `wavelet_denoise`, on images scaled to [0, 1]; 0 leaves it out.
        ensemble: Int. How many times each image is changed and classified.
        seed: Int or `None`.
        value_range: Pair. The darkest and the brightest value that images may have.

    Returns:
        `(probabilities, labels)`: the mean of the probabilities `(images, classes)`, and the label
        that most of the runs have, on a tie the more probable one.

    Raises:
        ImportError: If PyWavelets is not installed and `sigma` is not 0.
        ValueError: If there is no image, or one outside `value_range`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import imaging

    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 1))
    probabilities, labels = imaging.defend(model, images, deflections=5, sigma=0)
    ```
    """
    images = reading.batch("images", images)
    sigma = validation.number("sigma", sigma, 0)
    ensemble = validation.integer("ensemble", ensemble)
    seed = validation.seed(seed)
    low, high = _limits(value_range, images)
    if isinstance(maps, str):
        maps = saliency_map(model, images, maps, seed=0 if seed is None else seed)
    if seed is None:
        seed = int(np.random.default_rng().integers(2**31))
    probabilities = probabilities_of(model, images.astype("float32"))
    total, votes = np.float64(0), np.float64(0)
    for run in range(ensemble):
        # A seed of its own for each run, so that runs of neighboring seeds do not meet.
        own = int(np.random.SeedSequence([seed, run]).generate_state(1)[0])
        changed = pixel_deflection(images, maps, deflections, window, own)
        if sigma:
            scaled = (changed.astype("float64") - low) / (high - low)
            changed = wavelet_denoise(np.clip(scaled, 0, 1), sigma) * (high - low) + low
        found = probabilities(changed.astype("float32"))
        total = total + found
        votes = votes + np.eye(found.shape[1])[found.argmax(axis=1)]
    mean = total / ensemble
    # Probabilities are below a vote, so they settle ties alone.
    return mean.astype("float32"), (votes + mean / 2).argmax(axis=1)


def _limits(value_range, images):
    found = validation.items("value_range", value_range)
    if len(found) != 2:
        raise validation.wrong("value_range", "a pair (lowest, highest)", value_range)
    low, high = (validation.number("value_range", x) for x in found)
    if not low < high:
        raise validation.wrong("value_range", "a pair (lowest, highest)", value_range)
    slack = 1e-6 * (high - low)
    if images.min() < low - slack or images.max() > high + slack:
        raise ValueError(
            f"`images` must lie in `value_range`, [{low:g}, {high:g}]. Received: values from "
            f"{images.min():.4g} to {images.max():.4g}"
        )
    return low, high


def destruction_rate(
    model: keras.Model,
    clean: ArrayLike,
    attacked: ArrayLike,
    labels: ArrayLike,
    transform: Callable[[np.ndarray], ArrayLike],
) -> float:
    """The share of successful attacks that a transformation undoes.

    Of the images that are classified rightly when clean and wrongly when attacked: how many are
    classified rightly after the transformation (Prakash (2019), section 3.5).

    Args:
        model: A built `keras.Model` from images to classes.
        clean, attacked: Arrays `(images, height, width, channels)`.
        labels: Integers `(images,)`, the true classes.
        transform: A function from images to images.

    Returns:
        A float in [0, 1]; NaN where no attack succeeded.

    Raises:
        ValueError: If shapes or the number of labels differ, or a label is no class.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import imaging

    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    clean, attacked = np.random.default_rng(0).uniform(size=(2, 8, 4, 4, 1))
    labels = model.predict(clean, verbose=0).argmax(axis=1)
    rate = imaging.destruction_rate(
        model, clean, attacked, labels, lambda x: imaging.pixel_deflection(x, deflections=2)
    )
    ```
    """
    clean, attacked = reading.batch("clean", clean), reading.batch("attacked", attacked)
    if clean.shape != attacked.shape:
        raise ValueError(
            f"`attacked` must have the shape of the clean images, {clean.shape}. Received: "
            f"{attacked.shape}"
        )
    labels = validation.array("labels", labels, ranks=(1,))
    if labels.dtype.kind not in "iu" or len(labels) != len(clean):
        raise ValueError(
            f"`labels` must be {len(clean)} integers, one per image. Received: {labels.dtype} of "
            f"shape {labels.shape}"
        )
    if not callable(transform):
        raise validation.wrong("transform", "a function from images to images", transform)
    probabilities = probabilities_of(model, clean)
    before = probabilities(clean)
    if labels.min() < 0 or labels.max() >= before.shape[1]:
        raise validation.wrong("labels", f"classes in 0 .. {before.shape[1] - 1}", labels)
    fooled = (before.argmax(axis=1) == labels) & (probabilities(attacked).argmax(axis=1) != labels)
    if not fooled.any():
        return float("nan")
    changed = reading.batch("transform(attacked)", transform(attacked))
    if changed.shape != attacked.shape:
        raise ValueError(
            f"`transform` must keep the shape {attacked.shape}. Received: {changed.shape}"
        )
    return float((probabilities(changed).argmax(axis=1) == labels)[fooled].mean())
