"""Where tensors meet or part: the scores of the result are those of each part."""

import numpy as np
from keras import layers

from keras_saliency.graph.trace import Tensor
from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.common import (
    argument,
    constant,
    elementwise,
    operations,
    register,
    split_along,
    times,
    unbroadcast,
)
from keras_saliency.sparsity.significance.scores import spread, total


def merge(call):
    output = call.outputs[0]
    results = []
    for tensor in call.inputs:
        rank = len(tensor.shape)
        missing = len(output.shape) - rank
        if missing > 0:  # Keras puts the missing axes behind the batch axis.
            padded = Tensor((tensor.shape[0], *(1,) * missing, *tensor.shape[1:]), tensor.dtype)
            score = unbroadcast(call.output_scores[0], output, padded)
            results.append(score.sum(axis=tuple(range(1, 1 + missing))))
        else:
            results.append(unbroadcast(call.output_scores[0], output, tensor))
    return results


register(
    (
        layers.Add,
        layers.Average,
        layers.Maximum,
        layers.Minimum,
        layers.Multiply,
        layers.Subtract,
    ),
    merge,
)


@register_significance_rule(layers.Concatenate)
def concatenate(call):
    return split_along(call.output_scores[0], call.layer.axis, call.inputs)


@register_significance_rule(layers.Dot)
def dot(call):
    """Both operands are as significant as the product; their entries share it evenly."""
    everything = call.output_scores[0].sum()
    return [np.full((1,) * len(tensor.shape), everything) for tensor in call.inputs]


@operations("Multiply", "Divide", "TrueDivide", "DivideNoNan")
def product_op(call):
    """Factors hand their scores to each other; a constant factor is a weight."""
    first, second = argument(call, 0, "x1"), argument(call, 1, "x2")
    constants = [x for x in (first, second) if not isinstance(x, Tensor)]
    if not constants:
        return elementwise(call)
    factor = constant(constants[0])
    if type(call.layer).__name__ != "Multiply":
        if first is constants[0]:
            return elementwise(call)
        factor = np.divide(1.0, factor, out=np.zeros_like(factor), where=factor != 0)
    score = times(call.output_scores[0], factor)
    return unbroadcast(score, call.outputs[0], call.inputs[0])


@operations("Concatenate", "Append", "Hstack", "Vstack", "Dstack")
def concatenate_op(call):
    parts = argument(call, 0, "xs")
    rank = len(call.outputs[0].shape)
    axis = getattr(call.layer, "axis", None)
    if axis is None:
        axis = {"Hstack": min(1, rank - 1), "Vstack": 0, "Dstack": 2}.get(
            type(call.layer).__name__, 0
        )
    scores = split_along(call.output_scores[0], axis, parts)
    return [s for s, x in zip(scores, parts, strict=True) if isinstance(x, Tensor)]


@operations("Stack")
def stack_op(call):
    parts = argument(call, 0, "x")
    score, axis = call.output_scores[0], call.layer.axis
    shape = list(score.shape)
    shape[axis] = len(parts)
    score = spread(score, shape)
    return [np.take(score, i, axis=axis) for i, x in enumerate(parts) if isinstance(x, Tensor)]


@operations("Unstack")
def unstack_op(call):
    axis = call.layer.axis
    rank = len(call.inputs[0].shape)
    return _joined(
        [np.expand_dims(s, axis % rank) for s in call.output_scores],
        axis,
        [(*x.shape[: axis % rank], 1, *x.shape[axis % rank :]) for x in call.outputs],
    )


@operations("Split", "ArraySplit")
def split_op(call):
    return _joined(call.output_scores, call.layer.axis, [x.shape for x in call.outputs])


def _joined(scores, axis, shapes):
    rank = scores[0].ndim
    axis %= rank
    target = [max(score.shape[i] for score in scores) for i in range(rank)]
    parts = []
    for score, shape in zip(scores, shapes, strict=True):
        wanted = list(target)
        wanted[axis] = shape[axis]
        parts.append(spread(score, wanted))
    if any(shape[axis] is None for shape in shapes):
        return sum(total(part, [i for i in range(rank) if i != axis]) for part in parts)
    return np.concatenate(parts, axis=axis)
