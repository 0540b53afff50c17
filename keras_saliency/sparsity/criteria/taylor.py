"""What the loss loses, to first order, when a weight or a channel goes."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class Taylor(Criterion):
    """`(gradient · weight)²`; a channel's sum is squared as a whole (Molchanov et al., 2019)."""

    name = "taylor"
    needs = "xy"

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        return np.square(kernel.gradient * kernel.values)

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        return np.square(kernel.by_channel(kernel.gradient * kernel.values).sum(0))


@register
class SNIP(Criterion):
    """`|gradient · weight|`; a channel's edges are summed (Lee et al., 2019).

    On edges it ranks as `Taylor` does.
    """

    name = "snip"
    needs = "xy"

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        return np.abs(kernel.gradient * kernel.values)
