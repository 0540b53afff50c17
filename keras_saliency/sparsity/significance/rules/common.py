"""What the rules of several families share."""

import keras
import numpy as np

from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.scores import spread, total


def register(classes, rule, **options):
    """Register one rule for several classes."""
    for cls in classes:
        register_significance_rule(cls, **options)(rule)


def existing(*names):
    """The layers of these names that this version of Keras has."""
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


def operations(*names):
    """A decorator that registers a rule for operations of `keras.ops`."""

    def decorator(rule):
        for name in names:
            register_significance_rule(f"keras.ops>{name}")(rule)
        return rule

    return decorator


def channel_axis(layer, rank):
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def argument(call, index, name, default=None):
    """An argument of an operation, wherever it was given: in the call or in the constructor."""
    if len(call.args) > index:
        return call.args[index]
    return call.kwargs.get(name, getattr(call.layer, name, default))


def constant(x):
    return np.asarray(keras.ops.convert_to_numpy(x), dtype=np.float64)


def only_first(call, score):
    """The score of the first tensor; indices, masks and the like get none."""
    return [score] + [None] * (len(call.inputs) - 1)


def unchanged(call):
    return only_first(call, call.output_scores[0])


def sum_scores(first, second):
    """Sum of two scores of one tensor, resolved as far as either of them is."""
    shape = [max(m, n) for m, n in zip(first.shape, second.shape, strict=True)]
    return spread(first, shape) + spread(second, shape)


def collect(call, scores):
    """The scores of the call's inputs from pairs of a tensor and a score; constants get none."""
    results = {}
    for tensor, score in scores:
        if score is not None:
            known = results.get(id(tensor))
            results[id(tensor)] = score if known is None else sum_scores(score, known)
    return [results.pop(id(tensor), None) for tensor in call.inputs]


def times(score, factor):
    """Scores of what is multiplied by constants: weights of a diagonal (equation 4.8)."""
    factor = np.abs(factor)
    if factor.size > 1:
        factor = factor.reshape((1,) * (score.ndim - factor.ndim) + factor.shape)
        score = spread(score, [max(m, n) for m, n in zip(score.shape, factor.shape, strict=True)])
    return score * factor


def unbroadcast(score, output, tensor):
    """Scores of an operand of an element-wise operation: totals where it was broadcast."""
    rank = len(tensor.shape)
    extra = score.ndim - rank
    summed = score.sum(axis=tuple(range(extra))) if extra > 0 else score
    wide = output.shape[max(extra, 0) :]
    axes = [
        axis
        for axis in range(rank)
        if not (tensor.shape[axis] == 1 and wide[axis] not in (None, 1))
    ]
    return total(summed, axes)


def elementwise(call):
    """Any operation whose operands broadcast to its result."""
    output, score = call.outputs[0], call.output_scores[0]
    results = []
    for tensor in call.inputs:
        used = keras.backend.is_float_dtype(tensor.dtype)
        results.append(unbroadcast(score, output, tensor) if used else None)
    return results


def split_along(score, axis, tensors):
    """Scores of the parts of a concatenation."""
    axis %= score.ndim
    extents = [tensor.shape[axis] for tensor in tensors]
    if None in extents:
        return [total(score, [i for i in range(score.ndim) if i != axis])] * len(tensors)
    shape = list(score.shape)
    shape[axis] = sum(extents)
    score = spread(score, shape)
    return np.split(score, np.cumsum(extents)[:-1], axis=axis)
