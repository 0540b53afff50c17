"""Filters that point where others point."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import ChannelCriterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class Orthogonality(ChannelCriterion):
    """1 less a filter's overlap with the others of its layer (Prakash 2019, equation 5.2)."""

    name = "orthogonality"

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        return 1 - overlap(kernel.by_channel(kernel.values).T)


def overlap(filters):
    """A filter's `|cosine|` to the others, summed and divided by the number of filters.

    Prakash (2019), equations 5.1 and 5.2. A filter of zeros overlaps with none.

    Args:
        filters: (filters, weights).

    Returns:
        A vector with one value in [0, 1) a filter.
    """
    norms = np.linalg.norm(filters, axis=1, keepdims=True)
    unit = np.divide(filters, norms, out=np.zeros_like(filters, "float64"), where=norms != 0)
    cosines = np.abs(unit @ unit.T)
    np.fill_diagonal(cosines, 0)
    return cosines.sum(1) / len(filters)
