"""Noise taken out of images where natural ones have none (Prakash (2019), section 4.7)."""

from __future__ import annotations

import numpy as np

from keras_saliency import validation
from keras_saliency.imaging import reading
from keras_saliency.typing import ArrayLike


def wavelet_denoise(
    images: ArrayLike, sigma: float = 0.04, wavelet: str = "db1", method: str = "BayesShrink"
) -> np.ndarray:
    """Take noise out of images by soft thresholds of their wavelet coefficients.

    Color images are denoised as YCbCr (Prakash (2019), section 4.7). Needs PyWavelets:
    `pip install keras_saliency[imaging]`.

    Args:
        images: Array `(images, height, width, channels)`: floats in [0, 1], or uint8.
        sigma: Float. The standard deviation of the noise, where white is 1.
        wavelet: String. The name of a wavelet, as PyWavelets has it.
        method: `"BayesShrink"`, thresholds by subband, or `"VisuShrink"`, one for all.

    Returns:
        An array of the images' shape and dtype.

    Raises:
        ImportError: If PyWavelets is not installed.
        ValueError: If there is no image, or if floats lie outside [0, 1].

    Example:

    ```python
    import numpy as np
    from keras_saliency import imaging

    noise = 0.1 * np.random.default_rng(0).normal(size=(1, 32, 32, 3))
    images = np.clip(0.5 + noise, 0, 1)
    assert imaging.wavelet_denoise(images, sigma=0.1).std() < images.std()
    ```
    """
    images = reading.batch("images", images)
    sigma = validation.number("sigma", sigma, 0, above=True)
    validation.choice("method", method, ("BayesShrink", "VisuShrink"))
    wavelet = _checked(wavelet)
    if images.dtype.kind in "iu" and images.dtype != np.uint8:
        raise ValueError(f"`images` must be floats or uint8. Received: {images.dtype}")
    values = images / np.float32(255) if images.dtype == np.uint8 else images
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"`images` must lie in [0, 1]. Received: values from {values.min():.4g} to "
            f"{values.max():.4g}; scale them first."
        )
    values = values.astype("float64")
    result = np.stack([_denoised(x, sigma, wavelet, method) for x in values])
    if images.dtype == np.uint8:
        return np.round(255 * np.clip(result, 0, 1)).astype("uint8")
    return np.clip(result, 0, 1).astype(images.dtype)


def _checked(wavelet):
    try:
        import pywt
    except ImportError as error:
        raise ImportError(
            "`wavelet_denoise` needs PyWavelets: pip install keras_saliency[imaging]"
        ) from error
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise validation.wrong("wavelet", "a discrete wavelet of PyWavelets, as 'db1'", wavelet)
    return wavelet


def _denoised(image, sigma, wavelet, method):
    import warnings

    from skimage.restoration import denoise_wavelet

    colour = image.shape[-1] == 3
    with warnings.catch_warnings():
        # A plane of one color has no contrast to rescale, and tiny images few levels.
        warnings.simplefilter("ignore")
        found = denoise_wavelet(
            image,
            sigma=sigma,
            wavelet=wavelet,
            mode="soft",
            method=method,
            convert2ycbcr=colour,
            channel_axis=-1,
            rescale_sigma=True,
        )
    return np.where(np.isfinite(found), found, image)
