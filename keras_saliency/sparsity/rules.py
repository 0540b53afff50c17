"""How significance walks through Keras's layers: one rule per layer type.

Scores of a channel are totals over its positions, so that layers which only move positions
around (pooling, padding, cropping, upsampling) hand the totals on.
"""

import numpy as np
from keras import layers

from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.scores import on_axis


def channel_axis(layer, rank):
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


@register_significance_rule(layers.Dense, kernels={"_kernel": (0, 1)})
def dense(call):
    scores = call.scores()
    call.edges("_kernel", scores)
    return call.contract("_kernel", scores.reshape(1, -1), keep=(0,))


_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)


def convolution(call):
    layer = call.layer
    rank = len(call.outputs[0].shape)
    axis = channel_axis(layer, rank)
    scores = call.scores(axis)
    call.edges("_kernel", scores)
    groups = layer.groups
    factor = scores.reshape((1,) * (rank - 1) + (-1,))
    if groups == 1:
        inputs = call.contract("_kernel", factor, keep=(rank - 2,))
    else:
        kernel = call.magnitude("_kernel")  # (..., inputs / groups, groups * outputs / groups)
        kernel = kernel.reshape(-1, kernel.shape[-2], groups, kernel.shape[-1] // groups)
        inputs = np.einsum("pigo,go->gi", kernel, scores.reshape(groups, -1)).reshape(-1)
    return on_axis(inputs, axis, rank)


for _cls in _CONVOLUTIONS:
    register_significance_rule(_cls, kernels={"_kernel": (-2, -1)})(convolution)
