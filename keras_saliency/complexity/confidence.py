"""What the nearest neighbor is worth as a model: `NeighborConfidence`."""

from __future__ import annotations

import numpy as np

from keras_saliency import validation
from keras_saliency.complexity import reading
from keras_saliency.complexity.indices import separation_index, smoothness_index
from keras_saliency.complexity.neighbors import distances_to, nearest
from keras_saliency.typing import ArrayLike


class NeighborConfidence:
    """The nearest neighbor as a model, with its confidence and what it can guarantee.

    Args:
        x: Training samples, as for `separation_index`.
        y: Their labels (whole numbers, strings, one-hot), or, as floats that are no one-hot rows,
            the targets of a regression.

    Raises:
        ValueError, TypeError: As for `separation_index` and `smoothness_index`.

    Example:

    >>> import numpy as np
    >>> from keras_saliency.complexity import NeighborConfidence
    >>> model = NeighborConfidence(np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1]))
    >>> model.confidence()
    1.0
    >>> model.guaranteed([[2.0]], uncertainty=1.0)
    array([ True])

    Source: Kalhor (2023), chapter 3.2, confidence and guarantee.
    """

    def __init__(self, x: ArrayLike, y: ArrayLike | None = None):
        x, y = reading.read(x, y)
        self.x = reading.samples("x", x)
        self.regression = _is_regression(y)
        self.y = (reading.targets if self.regression else reading.labels)("y", y)
        self._flat = self.regression and np.ndim(y) == 1
        index = smoothness_index if self.regression else separation_index
        self._confidence = index(self.x, self.y)
        if self.regression:
            indices, _ = nearest(self.x)
            self._spread = _norms(self.y - self.y[indices[:, 0]])

    def __repr__(self):
        kind = "smoothness" if self.regression else "separation"
        return f"<NeighborConfidence of {len(self.x)} samples, {kind} {self._confidence:.3f}>"

    def predict(self, x: ArrayLike) -> np.ndarray:
        """The label, or the target, of the nearest training sample of each row of `x`."""
        found = self.y[nearest(self._samples(x), self.x)[0][:, 0]]
        return found[:, 0] if self._flat else found

    def confidence(self) -> float:
        """The separation (for a regression, smoothness) index of the training samples: a float."""
        return self._confidence

    def guaranteed(self, x: ArrayLike, uncertainty: float = 0.0) -> np.ndarray:
        """Whether the predicted label is certain although `x` is measured with an error.

        With `dp` the distance to the nearest sample, `dn` to the nearest of another label:
        `dp + uncertainty < dn - uncertainty`, and the separation index is 1.

        Args:
            x: Samples `(samples, ...)`.
            uncertainty: float >= 0, how far `x` may be from its true value.

        Returns:
            A boolean array.
        """
        self._need(False, "guaranteed", "error_bound")
        uncertainty = validation.number("uncertainty", uncertainty, 0)
        x = self._samples(x)
        distances = np.sort(
            np.column_stack([nearest(x, self.x[self.y == c])[1][:, 0] for c in np.unique(self.y)]),
            axis=1,
        )
        certain = distances[:, 0] + uncertainty < distances[:, 1] - uncertainty
        return certain & (self._confidence == 1.0)

    def error_bound(self, x: ArrayLike, uncertainty: float = 0.0) -> np.ndarray:
        """A bound on the distance of the predicted target to the true one.

        It covers all training samples within `d1 + 2 * uncertainty`, with `d1` the distance to the
        nearest: any of them may be the nearest of the true `x`. Each adds the distance of its
        target to the predicted one, and to that of its own nearest neighbor.

        Args:
            x: Samples `(samples, ...)`.
            uncertainty: float >= 0, how far `x` may be from its true value.

        Returns:
            A float array.
        """
        self._need(True, "error_bound", "guaranteed")
        uncertainty = validation.number("uncertainty", uncertainty, 0)
        bounds = []
        for row in self._samples(x):
            distances = distances_to(row, self.x)
            first = int(distances.argmin())
            near = distances <= distances[first] + 2 * uncertainty
            bounds.append((_norms(self.y[near] - self.y[first]) + self._spread[near]).max())
        return np.array(bounds)

    def _samples(self, x):
        x = reading.samples("x", x)
        if x.shape[1] != self.x.shape[1]:
            raise ValueError(
                f"`x` must have {self.x.shape[1]} features, as the training samples. "
                f"Received: {x.shape[1]}"
            )
        return x

    def _need(self, regression, name, other):
        if self.regression != regression:
            kinds = ("labels", "real targets")
            raise ValueError(
                f"`{name}` is for {kinds[regression]}, this model has {kinds[self.regression]}: "
                f"use `{other}`."
            )


def _is_regression(y):
    if getattr(y, "dtype", None) is None or np.asarray(y).dtype.kind != "f":
        return False
    y = np.asarray(y)
    one_hot = y.ndim == 2 and y.shape[1] > 1 and ((y == 0) | (y == 1)).all()
    return not (one_hot and (y.sum(1) == 1).all())


def _norms(rows):
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))
