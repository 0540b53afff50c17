"""Two numbers for how hard data are: the separation index and the smoothness index."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from keras_saliency import validation
from keras_saliency.complexity import reading
from keras_saliency.complexity.neighbors import distances_to, nearest
from keras_saliency.typing import ArrayLike, Data

SeparationKind = Literal["hard", "soft", "anti", "center"]
SEPARATION_KINDS = get_args(SeparationKind)
SmoothnessKind = Literal["linear", "exponential"]
SMOOTHNESS_KINDS = get_args(SmoothnessKind)


def separation_index(
    x: Data,
    y: ArrayLike | None = None,
    order: int = 1,
    kind: SeparationKind = "hard",
    *,
    cross: tuple[ArrayLike, ArrayLike] | None = None,
    max_samples: int | None = None,
) -> float:
    """Of how many samples is the nearest neighbor of the same class: 1 is easy, chance is hard.

    Neighbors are the nearest by Euclidean distance, not the sample itself, the lower index on a
    tie. They are exact and found in blocks: 60 000 images of 28 × 28 need less than 500 MiB.
    Where all features are constant, the first samples are everyone's neighbors.

    Args:
        x: Array, tensor or data frame `(samples, ...)`, axes behind the first are flattened; or a
            data set of batches `(x, y)` (`tf.data`, `PyDataset`, PyTorch's `DataLoader`).
        y: Labels `(samples,)`, whole numbers or strings, or one-hot rows. Default: those in `x`.
        order: How many nearest neighbors count. Default 1. `"center"` does not use it.
        kind: `"hard"` (default): the share of the samples whose neighbors all have their label;
            `"soft"`: the mean share of the neighbors that have it; `"anti"`: the share of samples
            with no such neighbor; `"center"`: of those that lie nearest to the mean of their own
            class (the sample is part of it; the first class on a tie).
        cross: Optional `(x2, y2)`: neighbors, and class means, are looked for among these, test
            against training data say.
        max_samples: How many samples to take of `x`. Default: all.

    Returns:
        A float from 0 to 1.

    Raises:
        ValueError: If there is one class only, `order` is not below the number of samples, numbers
            are not finite, or `x` and `y` differ in length.
        TypeError: If `x` is no data.

    Example:

    >>> import keras_saliency
    >>> keras_saliency.separation_index([[0.0], [0.1], [1.0], [1.1], [0.2]], [0, 0, 1, 1, 1])
    0.8

    Source: Kalhor (2023), chapter 3.2, the separation index and its variants.
    """
    kind = validation.choice("kind", kind, SEPARATION_KINDS)
    x, y = reading.read(x, y, max_samples)
    x, y = reading.samples("x", x), reading.labels("y", y)
    reading.check_pair(x, y)
    others, known = _cross(x, y, cross, reading.labels)
    if len(np.unique(known)) < 2:
        raise ValueError(
            f"`{'y' if cross is None else 'cross'}` must hold two classes or more: with one there "
            "is nothing to separate."
        )
    if kind == "center":
        validation.integer("order", order)
        return _center(x, y, x if others is None else others, known)
    order = reading.check_order(order, len(known), cross is not None)
    indices, _ = nearest(x, others, order)
    same = known[indices] == y[:, None]
    share = {"hard": same.all(1), "soft": same.mean(1), "anti": ~same.any(1)}[kind]
    return float(share.mean())


def smoothness_index(
    x: Data,
    y: ArrayLike | None = None,
    order: int = 1,
    kind: SmoothnessKind = "linear",
    gamma: float = 1.0,
    *,
    cross: tuple[ArrayLike, ArrayLike] | None = None,
    max_samples: int | None = None,
) -> float:
    """How near the target of the nearest neighbor is: the separation index for regression.

    A sample scores `(d_max - d) / (d_max - d_min)`, with `d` the distance of its target to that of
    its nearest neighbor in `x`, and `d_max` and `d_min` to the farthest and the nearest target of
    all other samples. Where all targets are equally far it scores 1.

    Args:
        x: As for `separation_index`.
        y: Targets `(samples,)` or `(samples, values)`, finite numbers. Default: those in `x`.
        order: With r, the j-th neighbor in `x` is held against the j-th nearest target, and the
            least of the r scores counts. Default 1.
        kind: `"linear"` (default), as above, or `"exponential"`,
            `exp(-gamma (d - d_min) / d_mean)`, `d_mean` over all targets, the
            distance 0 to itself included.
        gamma: float above 0, how fast the exponential falls. Default 1.
        cross: Optional `(x2, y2)`, among which neighbors and targets are looked for.
        max_samples: How many samples to take of `x`. Default: all.

    Returns:
        A float from 0 to 1.

    Raises:
        ValueError, TypeError: As for `separation_index`.

    Example:

    >>> import keras_saliency
    >>> keras_saliency.smoothness_index([[0.0], [1.0], [2.0], [4.0]], [0.0, 1.0, 2.0, 4.0])
    1.0

    Source: Kalhor (2023), chapter 3.2, the smoothness index.
    """
    kind = validation.choice("kind", kind, SMOOTHNESS_KINDS)
    gamma = validation.number("gamma", gamma, 0, above=True)
    x, y = reading.read(x, y, max_samples)
    x, y = reading.samples("x", x), reading.targets("y", y)
    reading.check_pair(x, y)
    others, known = _cross(x, y, cross, reading.targets)
    if y.shape[1:] != known.shape[1:]:
        raise ValueError(
            f"The targets of `cross` must have {y.shape[1]} values. Received: {known.shape[1]}"
        )
    order = reading.check_order(order, len(known), cross is not None)
    indices, _ = nearest(x, others, order)
    total = 0.0
    for i, neighbors in enumerate(indices):
        distances = distances_to(y[i], known)
        mean, found = distances.mean(), distances[neighbors]
        rest = distances if cross is not None else np.delete(distances, i)
        least = np.sort(np.partition(rest, order - 1)[:order])
        total += _smoothness(found, least, rest.max(), mean, kind, gamma)
    return float(total / len(x))


def _smoothness(found, least, most, mean, kind, gamma):
    """The score of one sample."""
    if kind == "exponential":
        # Equal targets: all distances are 0. An exponent above 0 would be no smoother than smooth.
        return np.exp(-gamma * (found - least).max() / mean) if mean else 1.0
    span = most - least
    scores = np.where(span > 0, (most - found) / np.where(span > 0, span, 1.0), 1.0)
    return scores.min()


def _cross(x, y, cross, read):
    """Who may be a neighbor, `None` for `x` itself, and the targets of these."""
    if cross is None:
        return None, y
    if not isinstance(cross, (tuple, list)) or len(cross) != 2:
        raise validation.wrong("cross", "a pair (x2, y2)", cross)
    others, known = reading.samples("cross", cross[0]), read("cross", cross[1])
    reading.check_pair(others, known, ("x2", "y2"))
    if others.shape[1] != x.shape[1]:
        raise ValueError(
            f"The samples of `cross` must have {x.shape[1]} features, as those of `x`. "
            f"Received: {others.shape[1]}"
        )
    return others, known


def _center(x, y, others, known):
    classes, number = np.unique(known, return_inverse=True)
    means = np.stack([others[number == i].mean(0, dtype="float64") for i in range(len(classes))])
    indices, _ = nearest(x.astype("float64"), means)
    return float((classes[indices[:, 0]] == y).mean())
