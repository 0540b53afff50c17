"""Whole heads of attention layers: their scores, and masks that take them out."""

import numpy as np


class Heads:
    """The heads of one attention layer; of grouped queries, the groups.

    Attributes:
        kernels: Its kernels: query, key, value, output.
        count: Integer, how many heads or groups it has.
    """

    def __init__(self, layer):
        self.layer = layer
        self.count = getattr(layer, "num_key_value_heads", None) or layer.num_heads
        self.kernels = []
        self._scores = {}

    def add(self, kernel, edges=None):
        self.kernels.append(kernel)
        if edges is not None:
            self._scores[kernel.key] = self._by_head(kernel, edges)

    @property
    def scores(self):
        return sum(self._scores.values())

    def _axis(self, kernel):
        """The axis over heads: the first of the output's kernel, the second of the others."""
        return 0 if kernel.layer is self.layer._output_dense else 1

    def _by_head(self, kernel, edges):
        moved = np.moveaxis(edges, self._axis(kernel), 0)
        return moved.reshape(self.count, -1).sum(1)

    def masks(self, keep):
        masks = {}
        for kernel in self.kernels:
            axis = self._axis(kernel)
            marks = np.repeat(keep, kernel.shape[axis] // self.count)
            shape = [1] * len(kernel.shape)
            shape[axis] = -1
            masks[kernel.key] = np.broadcast_to(marks.reshape(shape), kernel.shape).copy()
        return masks

    def gone(self, forced):
        """Heads of which nothing is left."""
        if not all(kernel.key in forced for kernel in self.kernels):
            return None
        left = [
            self._by_head(k, (~forced[k.key]).reshape(k.shape).astype("float64"))
            for k in self.kernels
        ]
        return sum(left) == 0


def attention_of(kernel):
    """The attention layer whose heads a kernel holds, or `None`."""
    for layer in reversed(kernel.parents):
        parts = [getattr(layer, f"_{name}_dense", None) for name in ("query", "value", "output")]
        counted = hasattr(layer, "num_heads") or hasattr(layer, "num_key_value_heads")
        if counted and None not in parts and hasattr(kernel.layer, "equation"):
            return layer
    return None


def head_groups(pairs):
    """`Heads` of `(kernel, edge scores, decide)` triples."""
    groups = {}
    for kernel, scores, _ in pairs:
        layer = attention_of(kernel)
        groups.setdefault(id(layer), Heads(layer)).add(kernel, scores.array())
    return list(groups.values())
