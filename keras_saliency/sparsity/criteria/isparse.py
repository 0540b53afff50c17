"""Significance for the output (Garg 2020, section 4.4)."""

from __future__ import annotations

import numpy as np

from keras_saliency import validation
from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class ISparse(Criterion):
    """`|weight|` times the significance of the neuron that it leads to (Garg 2020, equation 4.6).

    Without data every output neuron counts the same.

    Args:
        power: Float, the power of the significance. At 1 it is the paper's; 0.5 starves fewer
            neurons where almost all edges go.
    """

    name = "isparse"

    def __init__(self, power: float = 1.0):
        self.power = validation.number("power", power, 0)

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        factor = kernel.by_units(np.power(kernel.significance, self.power))
        outputs = [kernel.shape[axis] for axis in kernel.output_axes]
        rest = [axis for axis in range(len(kernel.shape)) if axis not in kernel.output_axes]
        order = [*rest, *kernel.output_axes]
        moved = np.abs(kernel.values).transpose(order) * factor.reshape(outputs)
        return moved.transpose(np.argsort(order))
