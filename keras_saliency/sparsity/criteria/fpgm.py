"""Filters that others can stand in for."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import ChannelCriterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class FPGM(ChannelCriterion):
    """The sum of a filter's distances to the others of its layer (He et al., 2019).

    What lies near the geometric median is replaced by the rest.
    """

    name = "fpgm"

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        from scipy.spatial.distance import cdist

        filters = kernel.by_channel(kernel.values).T
        return cdist(filters, filters).sum(1)
