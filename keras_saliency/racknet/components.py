"""Complexity of keypoints, and the Gaussian components of its distribution (G 3.4.4)."""

import functools
import math
from typing import NamedTuple

import numpy as np

# The criterion takes a histogram for so many keypoints at most, however many were counted: see
# `find_components`.
EFFECTIVE_SIZE = 250
# A component is no narrower than so many bins; below, it would follow single entropy values.
_MIN_WIDTH = 5


@functools.cache
def _n_log_n(size):
    n = np.arange(1, size + 1, dtype="float64")
    return np.concatenate([[0.0], n * np.log2(n)])


def keypoint_entropy(image, x, y, sigma):
    """Shannon entropy, in bits, of the pixel values around keypoints.

    The window of a keypoint is the square of the pixels within 3 sigma of its center in either
    direction, as far as the image reaches.

    Args:
        image: uint8 array (height, width).
        x, y, sigma: float arrays (n,), in pixels.

    Returns:
        float32 array (n,), values in [0, 8].

    Source: G 3.4.4.1.
    """
    height, width = image.shape
    left = np.maximum(np.ceil(x - 3 * sigma), 0).astype(int)
    right = np.minimum(np.floor(x + 3 * sigma), width - 1).astype(int) + 1
    top = np.maximum(np.ceil(y - 3 * sigma), 0).astype(int)
    bottom = np.minimum(np.floor(y + 3 * sigma), height - 1).astype(int) + 1
    # Keypoints with several orientations share a window.
    corners, back = np.unique(np.stack([top, bottom, left, right]), axis=1, return_inverse=True)
    entropies = np.zeros(corners.shape[1])
    table = _n_log_n(height * width)
    for i, (t, b, l, r) in enumerate(corners.T.tolist()):  # noqa: E741
        counts = np.bincount(image[t:b, l:r].ravel())
        size = max(1, (b - t) * (r - l))
        entropies[i] = math.log2(size) - table[counts].sum() / size
    # Rounding must not give a constant window an entropy below 0.
    return np.maximum(entropies, 0.0)[back.reshape(-1)].astype("float32")


def histogram_quantiles(histogram, bin_size, size):
    """`size` evenly spaced quantiles of the distribution that a histogram describes.

    Args:
        histogram: int array, the count per bin; bin i covers `[i, i + 1) * bin_size`.
        bin_size: float.
        size: int.

    Returns:
        float array (size,), rising.
    """
    histogram = np.asarray(histogram, "float64")
    filled = np.flatnonzero(histogram)
    upper = np.cumsum(histogram[filled]) / histogram.sum()
    lower = np.concatenate([[0.0], upper[:-1]])
    levels = (np.arange(size) + 0.5) / size
    at = np.minimum(np.searchsorted(upper, levels), len(filled) - 1)
    within = (levels - lower[at]) / (upper[at] - lower[at])
    return (filled[at] + within) * bin_size


class Mixture(NamedTuple):
    """Gaussian components by rising mean.

    Attributes:
        means, stds, weights: float arrays, one entry per component.
        assignment: int array, the component of every histogram bin.
    """

    means: np.ndarray
    stds: np.ndarray
    weights: np.ndarray
    assignment: np.ndarray


def find_components(
    histogram,
    bin_size=0.01,
    min_components=1,
    max_components=8,
    effective_size=EFFECTIVE_SIZE,
):
    """Divides an entropy histogram into as many Gaussian components as it shows.

    Mixtures of rising numbers of components are fitted, and the Bayesian information criterion
    chooses. Taken at face value the criterion prefers more and more components as more images are
    read, since no real distribution is a mixture of few Gaussians. So the histogram is represented
    by at most `effective_size` of its quantiles: what is chosen depends on the shape of the
    histogram and not on the number of keypoints behind it, and the fit costs the same however
    many there are. The fits start from equal parts of the quantiles: nothing is random.

    Args:
        histogram: int array, keypoints per entropy bin.
        bin_size: float, width of a bin in bits.
        min_components, max_components: ints, the numbers offered. A component has at least ten
            quantiles on average, whatever the smallest number.
        effective_size: int, quantiles that stand for the histogram: the more, the finer the
            components, and the more they depend on the sample.

    Returns:
        A `Mixture`; components that no bin belongs to are left out.

    Source: G 3.4.4.2 and 3.4.5.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    histogram = np.asarray(histogram)
    total = int(histogram.sum())
    # Two, since scikit-learn fits nothing to a single value.
    values = histogram_quantiles(histogram, bin_size, max(2, min(total, effective_size)))
    floor = (_MIN_WIDTH * bin_size) ** 2
    best, best_score = None, math.inf
    distinct = len(np.unique(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        largest = min(max_components, distinct, max(1, len(values) // 10))
        for k in range(min(min_components, largest), largest + 1):
            parts = np.array_split(values, k)
            mixture = GaussianMixture(
                k,
                reg_covar=floor,
                max_iter=300,
                tol=1e-4,
                weights_init=np.full(k, 1 / k),
                means_init=np.array([[part.mean()] for part in parts]),
                precisions_init=np.array([[[1 / (part.var() + floor)]] for part in parts]),
            ).fit(values[:, None])
            score = mixture.bic(values[:, None])
            if score < best_score - 1e-9:
                best, best_score = mixture, score
    centres = (np.arange(len(histogram)) + 0.5) * bin_size
    order = np.argsort(best.means_[:, 0], kind="stable")
    rank = np.argsort(order)
    assignment = rank[best.predict(centres[:, None])]
    kept = np.unique(assignment[histogram > 0])
    assignment = np.minimum(np.searchsorted(kept, assignment), len(kept) - 1)
    order = order[kept]
    return Mixture(
        best.means_[order, 0],
        np.sqrt(best.covariances_[order, 0, 0]),
        best.weights_[order] / best.weights_[order].sum(),
        assignment,
    )
