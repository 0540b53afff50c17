"""Convolutions."""

import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import Channels
from keras_saliency.sparsity.shrinking.rules.common import NAN, positions, register


def _pads(layer):
    return layer.padding in ("same", "causal") and any(size > 1 for size in layer.kernel_size)


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call):
    layer = call.layer
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    where = positions(call.output_shapes[0], axis)
    if layer.groups > 1:
        return _grouped(call, x, axis, where)
    ids = call.new(layer.filters)
    call.configure(filters=ids)
    values = call.edges("kernel", x, ids, padded=_pads(layer), add_bias=True, positions=where)
    return call.output(ids, axis, call.activate(layer.activation, ids, values))


def _grouped(call, x, axis, where):
    """A group of channels, all that goes in and all that comes out, leaves together."""
    layer = call.layer
    ids = call.new(layer.filters)
    inputs, outputs = x.ids.reshape(layer.groups, -1), ids.reshape(layer.groups, -1)
    for block in (inputs, outputs):
        call.tie(block[:, 1:], np.repeat(block[:, :1], block.shape[1] - 1, axis=1))
    call.tie(inputs[:, 0], outputs[:, 0])
    call.slice("kernel", {-1: ids})
    call.slice("bias", {0: ids})
    call.costs("kernel", where)
    call.configure(filters=ids, groups=outputs[:, 0])
    kernel = call.read("kernel")
    kernel = kernel.reshape(-1, kernel.shape[-2], kernel.shape[-1])
    known = x.values if not _pads(layer) else np.where(x.values == 0, 0, NAN)
    incoming = np.repeat(known.reshape(layer.groups, -1).T, outputs.shape[1], axis=1)
    values = np.where((kernel == 0).all(0), 0, incoming * kernel.sum(0, dtype="float64")).sum(0)
    if layer.use_bias:
        values = values + call.read("bias")
    return call.output(ids, axis, call.activate(layer.activation, ids, values))


def _depthwise(call, x, kernel, where):
    """Channels and constants behind a depthwise kernel, before the bias."""
    weight = call.read(kernel)
    weight = weight.reshape(-1, *weight.shape[-2:])
    call.slice(kernel, {-2: x.ids})
    call.costs(kernel, where)
    known = np.where(x.values == 0, 0, NAN) if _pads(call.layer) else x.values
    total = weight.sum(0, dtype="float64")
    values = np.where((weight == 0).all(0), 0, known[:, None] * total)
    return np.repeat(x.ids, total.shape[1]), values.ravel()


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(call):
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    ids, values = _depthwise(call, x, "kernel", positions(call.output_shapes[0], axis))
    if call.layer.use_bias:
        call.slice("bias", {0: ids})
        values = values + call.read("bias")
    return call.output(ids, axis, call.activate(call.layer.activation, ids, values))


@register(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(call):
    layer = call.layer
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    where = positions(call.output_shapes[0], axis)
    middle, values = _depthwise(call, x, "depthwise_kernel", where)
    ids = call.new(layer.filters)
    call.configure(filters=ids)
    values = call.edges(
        "pointwise_kernel", Channels(axis, middle, values), ids, add_bias=True, positions=where
    )
    return call.output(ids, axis, call.activate(layer.activation, ids, values))


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(call):
    layer = call.layer
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    ids = call.new(layer.filters)
    call.configure(filters=ids)
    # A constant input is no constant in the output: positions get different parts of the kernel.
    values = call.edges(
        "kernel",
        x,
        ids,
        input_axes=-1,
        output_axes=-2,
        padded=True,
        positions=positions(call.input_shapes[0], axis),
    )
    return call.output(ids, axis, call.activate(layer.activation, ids, values))
