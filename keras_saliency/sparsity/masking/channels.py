"""Whole channels: their scores, and masks that take them out."""

import numpy as np

from keras_saliency.graph.data import first_sample
from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.trace import flatten_model
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.registry import ADVICE, has_rule


def kernels_of_outputs(model, x=None):
    """Ids of the kernels that make channels of the model's outputs; `x` to trace a subclass."""
    sample = None if is_functional(model) or x is None else first_sample(x)
    graph = flatten_model(model, sample, has_rule, ADVICE, fill=True)
    known = {id(kernel.variable) for kernel in maskable_kernels(model)}
    makers = {tensor: call for call in graph.calls for tensor in call.outputs}
    found, seen, stack = set(), set(), list(graph.outputs)
    while stack:
        call = makers.get(stack.pop())
        if call is None or call in seen:
            continue
        seen.add(call)
        own = known & {id(variable) for variable in getattr(call.layer, "weights", ())}
        found |= own
        if not own:  # an activation, a norm, an addition, pooling, ...
            stack.extend(call.inputs)
    return found


def units_of(kernel):
    """Units of a recurrent cell, whose kernels hold a column per gate and unit; else `None`."""
    if kernel.owner is kernel.layer:
        return None
    units = getattr(kernel.owner, "units", None) or getattr(kernel.owner, "filters", None)
    outputs = int(np.prod([kernel.shape[axis] for axis in kernel.output_axes]))
    return units if units and outputs % units == 0 else None


class _Channels:
    """The output channels of one kernel, or of all kernels of one recurrent cell."""

    def __init__(self, kernels, scores):
        self.kernels = kernels
        self.scores = scores

    def forced(self, forced):
        """Channels of which nothing is left."""
        if not all(kernel.key in forced for kernel in self.kernels):
            return None
        gone = np.ones(self.scores.size, bool)
        for kernel in self.kernels:
            gone &= _channel_view(forced[kernel.key].reshape(kernel.shape), kernel).all(axis=(0, 1))
        return gone

    def masks(self, keep):
        masks = {}
        for kernel in self.kernels:
            mask = np.empty(kernel.shape, bool)
            axes = [*others(kernel), *kernel.output_axes]
            moved = mask.transpose(axes)
            outputs = [kernel.shape[axis] for axis in kernel.output_axes]
            repeat = int(np.prod(outputs)) // keep.size
            moved[...] = np.tile(keep, repeat).reshape(outputs)
            masks[kernel.key] = mask
        return masks


def others(kernel):
    return [axis for axis in range(len(kernel.shape)) if axis not in kernel.output_axes]


def _channel_view(array, kernel):
    """The array as (other axes, gates, channels)."""
    moved = array.transpose([*others(kernel), *kernel.output_axes])
    outputs = int(np.prod([kernel.shape[axis] for axis in kernel.output_axes]))
    units = units_of(kernel) or outputs
    return moved.reshape(-1, outputs // units, units)


def channel_groups(pairs):
    """Channel scores: given, or sums of edge scores; kernels of a recurrent cell are added up."""
    groups = {}
    for kernel, found, _ in pairs:
        array = found.array()
        if array.ndim == 1 and len(kernel.shape) > 1:  # a score for each column
            scores = array.reshape(-1, units_of(kernel) or array.size).sum(0)
        else:
            scores = _channel_view(array, kernel).sum(axis=(0, 1))
        key = (id(kernel.owner), units_of(kernel)) if units_of(kernel) else kernel.key
        if key in groups:
            groups[key].kernels.append(kernel)
            groups[key].scores = groups[key].scores + scores
        else:
            groups[key] = _Channels([kernel], scores)
    return list(groups.values())
