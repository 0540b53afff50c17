"""How near two pictures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_saliency import validation
from keras_saliency.imaging import reading
from keras_saliency.typing import ArrayLike, DataFrame, Image

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, Wang et al. (2003)
_BORDER = 5  # of the 11 x 11 window


def psnr(original, other, chosen=None):
    """Peak signal-to-noise ratio in decibels over the chosen pixels, all channels; peak 255."""
    error = np.subtract(original, other, dtype="float32") ** 2
    error = np.mean(error if chosen is None else error[chosen], dtype="float64")
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def image_quality(
    original: Image | ArrayLike,
    other: Image | ArrayLike | bytes | Sequence[Any] | Mapping[str, Any],
    saliency: ArrayLike | None = None,
) -> DataFrame:
    """How near pictures are to the original: PSNR, PSNR where it matters, SSIM, MS-SSIM.

    PSNR-S is the PSNR of the pixels whose saliency exceeds 0.5 (Prakash (2019), section 2.5).
    SSIM is that of Wang et al. (2004), with a Gaussian window of 1.5, and MS-SSIM that of Wang et
    al. (2003) over five scales; both are means over the channels.

    Args:
        original: A gray or RGB picture: `PIL.Image`, or a uint8 array `(height, width)` or
            `(height, width, 3)`.
        other: A picture of the same extent, or the bytes of a file of one; a list or a dict of
            these for several rows.
        saliency: Optional map in [0, 1] of the picture's proportions.

    Returns:
        A data frame with a row per picture, indexed by the keys of a dict, and the columns `bytes`
        (NaN where no file was given), `PSNR`, `PSNR-S` (NaN without a map, or where no pixel of it
        exceeds 0.5), `SSIM` and `MS-SSIM` (NaN where an extent is below 11, or below 176). Equal
        pictures have an infinite PSNR.

    Raises:
        ValueError: If a picture is not gray or RGB of 8 bits, or if extents differ.

    Example:

    ```python
    import numpy as np
    from keras_saliency import imaging

    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), "uint8")
    frame = imaging.image_quality(picture, {"same": picture, "darker": picture // 2})
    assert frame.loc["same", "SSIM"] == 1
    ```
    """
    import pandas as pd

    first = reading.picture("original", original)
    chosen = None
    if saliency is not None:
        chosen = reading.saliency("saliency", saliency, first.shape[:2]) > 0.5
        if chosen.ndim != 2:
            raise ValueError(f"`saliency` must be one map. Received: shape={chosen.shape}")
    names = None
    others: Sequence[Any]
    if isinstance(other, Mapping):
        names, others = list(other), list(other.values())
    else:
        others = other if isinstance(other, list | tuple) else [other]
    if not others:
        raise validation.wrong("other", "at least one picture", other)
    return pd.DataFrame([_row(first, one, chosen) for one in others], index=names)


def _row(original, other, chosen):
    size = len(other) if isinstance(other, bytes | bytearray) else float("nan")
    other = reading.picture("other", other)
    if other.shape != original.shape:
        raise ValueError(
            f"`other` must have the shape of the original, {original.shape}. Received: "
            f"{other.shape}"
        )
    salient = chosen is not None and chosen.any()
    ssim, multiscale = _similarities(original, other)
    return {
        "bytes": size,
        "PSNR": psnr(original, other),
        "PSNR-S": psnr(original, other, chosen) if salient else float("nan"),
        "SSIM": ssim,
        "MS-SSIM": multiscale,
    }


def _similarities(a, b):
    """SSIM and MS-SSIM, means over channels; NaN where the picture is too small."""
    a, b = (np.atleast_3d(x).astype("float64") for x in (a, b))
    ssim, result = float("nan"), 1.0
    for scale, weight in enumerate(_WEIGHTS):
        if min(a.shape[:2]) <= 2 * _BORDER:
            return ssim, float("nan")
        whole, contrast = _ssim(a, b)
        ssim = whole if scale == 0 else ssim
        result *= max(whole if scale == 4 else contrast, 0.0) ** weight
        a, b = _halved(a), _halved(b)
    return ssim, result


def _halved(x):
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def _ssim(a, b):
    """Means of SSIM and of its factor for contrast and structure, away from the border."""
    from skimage.filters import gaussian

    def smooth(x):
        x = gaussian(x, 1.5, truncate=3.5, channel_axis=-1, preserve_range=True)
        return x[_BORDER:-_BORDER, _BORDER:-_BORDER]

    one, two = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    both = smooth(a * b) - mean_a * mean_b
    contrast = (2 * both + two) / (var_a + var_b + two)
    light = (2 * mean_a * mean_b + one) / (mean_a**2 + mean_b**2 + one)
    return float((light * contrast).mean()), float(contrast.mean())
