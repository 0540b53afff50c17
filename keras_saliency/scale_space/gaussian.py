"""Gaussians on a grid: the kernels and the scales of a 1-D scale space (G 2.1.2.1, 6.4.2.1)."""

from __future__ import annotations

import functools
import math

import numpy as np

from keras_saliency import validation


@functools.lru_cache(maxsize=512)
def _kernel(variance, tolerance):
    if variance == 0.0:
        return np.ones(1)
    from scipy.special import ive  # exp(-v) I_n(v): the discrete analogue of the Gaussian

    radius = math.ceil(8.0 * math.sqrt(variance) + 4.0)
    half = ive(np.arange(radius + 1), variance)
    tail = 2.0 * np.cumsum(half[::-1])[::-1]  # tail[n]: the mass at a distance of n and more
    keep = max(int(np.argmax(tail < tolerance)), 1) if tail[-1] < tolerance else radius + 1
    half = half[:keep]
    kernel = np.concatenate([half[:0:-1], half])
    kernel /= kernel.sum()
    kernel.flags.writeable = False
    return kernel


@validation.checked(sigma=validation.real(0, 1e6), tolerance=validation.real(0, 1, True, True))
def gaussian_kernel(sigma: float, tolerance: float = 1e-7) -> np.ndarray:
    """The discrete analogue of a Gaussian, which holds at small `sigma` too.

    A sampled Gaussian of half a step has hardly any width left, and the scales of a first octave
    cannot be told apart. The discrete analogue, `exp(-v) I_n(v)` with the modified Bessel
    function `I_n` and `v = sigma**2`, has exactly the variance `v`, and smoothing twice adds the
    variances, as for Gaussians on the real line (Lindeberg, 1990). It stands for the kernel of G
    equations 2.13 and 6.3, whose printed factor `1/sqrt(2 pi sigma)` is a slip: a kernel sums to 1.

    Args:
        sigma: Standard deviation in steps, a number >= 0. With 0, the kernel is `[1.0]`.
        tolerance: The mass that may be cut off at the two ends together.

    Returns:
        A read-only float64 array of odd length that sums to 1.

    Example:

    ```python
    import numpy as np
    from keras_saliency.scale_space import gaussian_kernel

    kernel = gaussian_kernel(0.5)
    steps = np.arange(len(kernel)) - len(kernel) // 2
    print(np.sum(kernel * steps**2))  # 0.25, the variance
    ```
    """
    return _kernel(sigma**2, tolerance)


def kernel_of_variance(variance, tolerance=1e-7):
    """`gaussian_kernel` by its variance; what rounding left below 0 counts as 0."""
    return _kernel(max(round(float(variance), 12), 0.0), float(tolerance))


@validation.checked(
    octaves=validation.whole(1, 60),
    scales=validation.whole(1, 100),
    sigma0=validation.real(0, 1e4, above=True),
)
def scale_sigmas(octaves: int = 3, scales: int = 3, sigma0: float = 0.5) -> np.ndarray:
    """Standard deviations of the scale space, in input steps (G equations 6.3 to 6.6).

    Args:
        octaves: Number of octaves; octave `o` works on the series halved `o` times.
        scales: Number of reported scales in an octave.
        sigma0: Standard deviation of the finest smoothing.

    Returns:
        A float64 array of shape `(octaves, scales + 3)`: entry `[o, s]` is
        `sigma0 * 2**(o + s / scales)`. Differences of neighbors are extrema candidates for
        `s = 1 .. scales`; the first and the last difference are neighbors only.

    Example:

    ```python
    from keras_saliency.scale_space import scale_sigmas

    print(scale_sigmas(octaves=3, scales=3).round(2))
    ```
    """
    o = np.arange(octaves)[:, None]
    s = np.arange(scales + 3)[None, :]
    return sigma0 * 2.0 ** (o + s / scales)
