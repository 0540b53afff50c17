"""Weights by what passes over them."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class Wanda(Criterion):
    """`|weight|` times the norm of its input, ranked within each output (Sun et al., 2024)."""

    name = "wanda"
    needs = "x"
    within_outputs = True

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        squares = np.square(kernel.inputs, dtype="float64").sum(0)
        matrix = kernel.view.matrix(np.abs(kernel.values)) * np.sqrt(squares)[:, :, None]
        return kernel.view.kernel(matrix)
