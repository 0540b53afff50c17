"""The loss itself, with a channel gone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import StatelessScope, Variable, ops, tree

from keras_saliency.graph.gradients import loss_of
from keras_saliency.sparsity.criteria.criterion import ChannelCriterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class Oracle(ChannelCriterion):
    """How much the loss rises when a channel is set to zero (Prakash 2019, equation 5.3).

    The data pass once for every channel, which is costly.

    Args:
        verbose: Whether a progress bar is shown.
    """

    name = "oracle"
    needs = "xy"

    def __init__(self, verbose: bool = False):
        self.verbose = verbose

    def prepare(self, kernels: Sequence[MeasuredKernel], count: int) -> None:
        from tqdm import tqdm

        total = sum(kernel.outputs_count for kernel in kernels)
        self._progress = tqdm(total=total, desc="oracle", disable=not self.verbose, leave=False)
        self._base = None

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        if self._base is None:
            self._base = self._loss(kernel.measurements, {})
        norm = kernel.norm
        parts: list[tuple[Variable, int | None]] = [(kernel.kernel.variable, None)]
        bias = getattr(kernel.owner, "bias", None)
        for variable in (bias, *(() if norm is None else (norm.gamma, norm.beta))):
            if variable is not None and variable.shape == (kernel.outputs_count,):
                parts.append((variable, 0))
        rises = []
        for channel in range(kernel.outputs_count):
            values = {}
            for variable, axis in parts:
                array = np.array(ops.convert_to_numpy(variable))
                if axis is None:
                    gone = kernel.by_channel(np.arange(array.size).reshape(array.shape))[:, channel]
                    array.reshape(-1)[gone] = 0
                else:
                    array[channel] = 0
                values[id(variable)] = variable, array
            rises.append(self._loss(kernel.measurements, values) - self._base)
            self._progress.update()
        if self._progress.n == self._progress.total:
            self._progress.close()
        return np.array(rises)

    def _loss(self, m, values):
        measure = loss_of(m.model, m.loss)
        pairs = [(v, ops.convert_to_tensor(x, v.dtype)) for v, x in values.values()]
        total = 0.0
        for start in range(0, m.samples, m.batch_size):
            part = slice(start, start + m.batch_size)
            x, y, weight = (
                tree.map_structure(lambda a, s=part: None if a is None else a[s], nest)
                for nest in (m.x, m.y, m.sample_weight)
            )
            with StatelessScope(pairs):
                loss = ops.convert_to_numpy(measure(x, y, weight))
            total += float(loss) * len(tree.flatten(x)[0])
        return total / m.samples
