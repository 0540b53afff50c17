"""Chance: the floor of every comparison."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel
from keras_saliency.sparsity.significance.scores import BLOCK


@register
class Random(Criterion):
    """Scores drawn by the seed (DropConnect; Garg 2020, section 4.6.1)."""

    name = "random"

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        return self.scores(kernel).array()

    def scores(self, kernel: MeasuredKernel) -> Any:
        seed = [kernel.measurements.seed, kernel.step, kernel.index]
        return _Drawn(kernel.shape, seed, kernel.mask)


class _Drawn:
    """Seeded random scores, the same at every pass."""

    def __init__(self, shape, seed, mask=None):
        self.shape = tuple(shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self._seed = seed
        self._mask = None if mask is None else mask.reshape(-1)

    def blocks(self, length=BLOCK):
        rng = np.random.default_rng(self._seed)
        for start in range(0, self.size, length):
            stop = min(start + length, self.size)
            block = rng.random(stop - start)
            yield start, stop, block if self._mask is None else block * self._mask[start:stop]

    def array(self):
        return np.concatenate([block for _, _, block in self.blocks()]).reshape(self.shape)
