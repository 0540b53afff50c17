"""Convolutions: the whole kernel reaches every position of the output, borders are ignored."""

import numpy as np
from keras import layers

from keras_saliency.graph.trace import Tensor
from keras_saliency.sparsity.significance.rules.common import (
    argument,
    channel_axis,
    constant,
    operations,
    register,
)
from keras_saliency.sparsity.significance.scores import axis_scores, on_axis


def convolution(call):
    layer = call.layer
    rank = len(call.outputs[0].shape)
    axis = channel_axis(layer, rank)
    scores = call.scores(axis)
    call.edges("_kernel", scores)
    groups = layer.groups
    if groups == 1:
        factor = on_axis(scores, rank - 1, rank)
        inputs = call.contract("_kernel", factor, keep=(rank - 2,))
    else:
        kernel = call.magnitude("_kernel")
        kernel = kernel.reshape(-1, kernel.shape[-2], groups, kernel.shape[-1] // groups)
        inputs = np.einsum("pigo,go->gi", kernel, scores.reshape(groups, -1)).reshape(-1)
    return on_axis(inputs, axis, rank)


def transposed_convolution(call):
    rank = len(call.outputs[0].shape)
    axis = channel_axis(call.layer, rank)
    factor = on_axis(call.scores(axis), rank - 2, rank)  # The kernel is (..., outputs, inputs).
    call.edges("kernel", factor)
    return on_axis(call.contract("kernel", factor, keep=(rank - 1,)), axis, rank)


def depthwise_convolution(call):
    rank = len(call.outputs[0].shape)
    axis = channel_axis(call.layer, rank)
    factor = call.scores(axis).reshape((1,) * (rank - 2) + call.layer.kernel.shape[-2:])
    call.edges("kernel", factor)
    return on_axis(call.contract("kernel", factor, keep=(rank - 2,)), axis, rank)


def separable_convolution(call):
    rank = len(call.outputs[0].shape)
    axis = channel_axis(call.layer, rank)
    scores = call.scores(axis)
    call.edges("pointwise_kernel", scores)
    between = call.contract("pointwise_kernel", on_axis(scores, rank - 1, rank), keep=(rank - 2,))
    factor = between.reshape((1,) * (rank - 2) + call.layer.depthwise_kernel.shape[-2:])
    call.edges("depthwise_kernel", factor)
    return on_axis(call.contract("depthwise_kernel", factor, keep=(rank - 2,)), axis, rank)


register((layers.Conv1D, layers.Conv2D, layers.Conv3D), convolution, kernels={"_kernel": (-2, -1)})


register(
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    transposed_convolution,
    kernels={"kernel": (-1, -2)},
)


register(
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    depthwise_convolution,
    kernels={"kernel": ((), (-2, -1))},
)


register(
    (layers.SeparableConv1D, layers.SeparableConv2D),
    separable_convolution,
    kernels={"depthwise_kernel": ((), (-2, -1)), "pointwise_kernel": (-2, -1)},
)


@operations("Conv")
def convolution_op(call):
    kernel = argument(call, 1, "kernel")
    tensor = call.inputs[0]
    rank = len(tensor.shape)
    axis = 1 if argument(call, 4, "data_format") == "channels_first" else rank - 1
    if isinstance(kernel, Tensor):
        return [np.full((1,) * len(x.shape), call.output_scores[0].sum()) for x in call.inputs]
    scores = axis_scores(call.output_scores[0], axis, call.outputs[0].shape[axis])
    groups = tensor.shape[axis] // kernel.shape[-2]
    kernel = np.abs(constant(kernel)).reshape(
        -1, kernel.shape[-2], groups, kernel.shape[-1] // groups
    )
    inputs = np.einsum("pigo,go->gi", kernel, scores.reshape(groups, -1)).reshape(-1)
    return on_axis(inputs, axis, rank)


@operations("DepthwiseConv")
def depthwise_convolution_op(call):
    kernel = argument(call, 1, "kernel")
    rank = len(call.inputs[0].shape)
    axis = 1 if argument(call, 4, "data_format") == "channels_first" else rank - 1
    if isinstance(kernel, Tensor):
        return [np.full((1,) * len(x.shape), call.output_scores[0].sum()) for x in call.inputs]
    scores = axis_scores(call.output_scores[0], axis, call.outputs[0].shape[axis])
    kernel = np.abs(constant(kernel)).reshape(-1, *kernel.shape[-2:])
    inputs = np.einsum("pcm,cm->c", kernel, scores.reshape(kernel.shape[1:]))
    return on_axis(inputs, axis, rank)
