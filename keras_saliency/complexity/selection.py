"""Which features separate the classes: forward selection by the separation index."""

from __future__ import annotations

import numpy as np

from keras_saliency import validation
from keras_saliency.complexity import reading
from keras_saliency.complexity.indices import separation_index
from keras_saliency.typing import ArrayLike, Data

_HELD = 2000  # samples whose distances are held


def select_features(
    x: Data,
    y: ArrayLike | None = None,
    max_features: int | None = None,
    *,
    max_samples: int | None = _HELD,
    seed: int = 0,
) -> list[int]:
    """Choose features one by one, each time the one that raises the separation index most.

    It ends where no feature raises it. Each step looks at every feature left, on all pairs of
    samples.

    Args:
        x: As for `separation_index`.
        y: As for `separation_index`.
        max_features: How many features to choose at most. Default: no limit.
        max_samples: How many samples, drawn at random, to choose by. Default 2000.
        seed: int, of that draw.

    Returns:
        A list of ints, columns of the flattened `x`, in the order in which they were chosen.

    Raises:
        ValueError, TypeError: As for `separation_index`.

    Example:

    >>> import numpy as np
    >>> from keras_saliency.complexity import select_features
    >>> y = np.repeat([0, 1], 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 3))
    >>> select_features(np.column_stack([noise, 10.0 * y]), y)
    [3]

    Source: Kalhor (2023), chapter 3.2, algorithm 2, step 2.
    """
    max_features = validation.integer("max_features", max_features, optional=True)
    max_samples = validation.integer("max_samples", max_samples, 2)
    seed = validation.seed(seed)
    x, y = reading.read(x, y)
    x, y = reading.samples("x", x), reading.labels("y", y)
    reading.check_pair(x, y)
    if len(x) > max_samples:
        kept = np.sort(np.random.default_rng(seed).choice(len(x), max_samples, replace=False))
        x, y = x[kept], y[kept]
    separation_index(x, y)  # refuses what has no index
    x = x.astype("float64")
    squares = np.zeros((len(x), len(x)))
    np.fill_diagonal(squares, np.inf)
    chosen, best = [], -1.0
    left = list(range(x.shape[1]))
    while left and (max_features is None or len(chosen) < max_features):
        scores = [_index(squares, x[:, i], y) for i in left]
        if max(scores) <= best:
            break
        best = max(scores)
        winner = left.pop(int(np.argmax(scores)))
        squares += np.square(x[:, winner, None] - x[:, winner])
        chosen.append(winner)
    return chosen


def _index(squares, feature, y):
    """The separation index with one feature more."""
    correct, step = 0, max(1, 2**20 // len(y))
    for start in range(0, len(y), step):
        rows = slice(start, start + step)
        near = squares[rows] + np.square(feature[rows, None] - feature)
        correct += int((y[near.argmin(1)] == y[rows]).sum())
    return correct / len(y)
