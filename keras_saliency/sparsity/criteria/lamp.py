"""Layer-adaptive magnitude."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class LAMP(Criterion):
    """A weight's square over the sum of the squares in its layer that are no smaller.

    One threshold over the model then gives each layer a share of its own (Lee et al., 2021).
    """

    name = "lamp"

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        squares = np.square(kernel.values).reshape(-1)
        order = np.argsort(squares, kind="stable")
        ranked = squares[order]
        rest = np.cumsum(ranked[::-1])[::-1]
        first = np.searchsorted(ranked, ranked)  # weights of one size share the whole sum
        scores = np.empty_like(squares)
        rest = rest[first]
        scores[order] = np.divide(ranked, rest, out=np.zeros_like(ranked), where=rest > 0)
        return scores.reshape(kernel.shape)
