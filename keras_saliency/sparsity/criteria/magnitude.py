"""The size of the weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel
from keras_saliency.sparsity.significance.scores import EdgeScores


@register
class Magnitude(Criterion):
    """`|weight|` (Han et al., 2015)."""

    name = "magnitude"

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        return np.abs(kernel.values)

    def scores(self, kernel: MeasuredKernel) -> Any:  # in blocks, without a copy of the kernel
        values = kernel.stored
        return EdgeScores(values, np.ones((1,) * values.ndim), mask=kernel.mask)


@register
class Lottery(Magnitude):
    """`|weight|`; what stays goes back to where it began (Frankle and Carbin, 2019)."""

    name = "lottery"
