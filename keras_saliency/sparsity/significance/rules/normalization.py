"""Normalization passes significance on, or scales it by what it does to its input."""

import keras
import numpy as np
from keras import layers

from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.common import (
    only_first,
    operations,
    register,
    unchanged,
)
from keras_saliency.sparsity.significance.scores import spread


def _scaled(call, factor, axes):
    """Scores times a factor over the given axes of the output, if normalization is to scale."""
    score = call.output_scores[0]
    if call.normalization == "pass" or factor is None:
        return score
    rank = score.ndim
    axes = sorted(axis % rank for axis in axes)
    shape = [1] * rank
    for axis, extent in zip(axes, factor.shape, strict=True):
        shape[axis] = extent
    wanted = [max(a, b) for a, b in zip(shape, score.shape, strict=True)]
    return spread(score, wanted) * factor.reshape(shape)


@register_significance_rule(
    layers.BatchNormalization, kernels=(), reason="normalization is never masked"
)
def batch_normalization(call):
    layer = call.layer
    variance = keras.ops.convert_to_numpy(layer.moving_variance).astype(np.float64)
    factor = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        factor = factor * call.magnitude("gamma")
    return only_first(call, _scaled(call, factor, (layer.axis,)))


def _normalization(name):
    def rule(call):
        axis = call.layer.axis
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        weight = getattr(call.layer, name, None)
        factor = call.magnitude(name) if hasattr(weight, "shape") else None
        return only_first(call, _scaled(call, factor, axes))

    return rule


_REASON = {"kernels": (), "reason": "normalization is never masked"}


register((layers.LayerNormalization, layers.GroupNormalization), _normalization("gamma"), **_REASON)


register((layers.RMSNormalization,), _normalization("scale"), **_REASON)


@register_significance_rule(
    layers.Normalization, kernels=(), reason="it holds statistics of the data"
)
def data_normalization(call):
    return only_first(call, call.output_scores[0])


operations("Softmax", "LogSoftmax", "Sparsemax", "Normalize", "LayerNorm", "RMSNorm", "BatchNorm")(
    unchanged
)
