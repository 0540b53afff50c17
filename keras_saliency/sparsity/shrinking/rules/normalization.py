"""Normalization."""

import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import Channels
from keras_saliency.sparsity.shrinking.rules.common import NAN, register


@register(layers.BatchNormalization)
def batch_normalization(call):
    layer = call.layer
    x = call.input(axis=layer.axis)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        call.slice(name, {0: x.ids})
    scale = 1.0 / np.sqrt(call.read("moving_variance").astype("float64") + layer.epsilon)
    if layer.scale:
        scale = scale * call.read("gamma")
    values = (x.values - call.read("moving_mean")) * scale
    values[scale == 0] = 0.0
    if layer.center:
        values = values + call.read("beta")
    return Channels(x.axis, x.ids, values)


def _affine(call, x, axes, name_scale, name_offset):
    """Weights of a norm over `axes`, and its constants: where the scale is 0."""
    values = np.full(len(x), NAN)
    place = axes.index(x.axis)
    scale, offset = call.read(name_scale), call.read(name_offset) if name_offset else None
    for name, weight in ((name_scale, scale), (name_offset, offset)):
        if weight is not None:
            call.slice(name, {place: x.ids})
    if len(axes) == 1 and scale is not None:
        values[scale == 0] = 0.0
        if offset is not None:
            values = values + offset
    return values


@register(layers.LayerNormalization, layers.RMSNormalization)
def layer_normalization(call):
    layer = call.layer
    given = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    rank = len(call.input_shapes[0])
    axes = [axis % rank for axis in given]
    x = call.inputs[0]
    if x is None:
        call.keep("the number of its input channels is not known")
    if x.axis not in axes:
        return Channels(x.axis, x.ids)
    call.pin(x.ids, "it normalizes over the channels", statistics=True)
    if isinstance(layer, layers.LayerNormalization):
        values = _affine(call, x, axes, "gamma", "beta")
    else:
        values = _affine(call, x, axes, "scale", None)
    return Channels(x.axis, x.ids, values)


@register(layers.UnitNormalization)
def unit_normalization(call):
    x = call.inputs[0]
    if x is None:
        call.keep("the number of its input channels is not known")
    call.pin(x.ids, "it normalizes over the channels", statistics=True)
    return Channels(x.axis, x.ids)


@register(layers.GroupNormalization)
def group_normalization(call):
    """Whole groups leave: the statistics of the others do not see them."""
    layer = call.layer
    x = call.input(axis=layer.axis)
    block = x.ids.reshape(layer.groups, -1)
    call.tie(block[:, 1:], np.repeat(block[:, :1], block.shape[1] - 1, axis=1))
    call.configure(groups=block[:, 0])
    values = np.full(len(x), NAN)
    scale, offset = call.read("gamma"), call.read("beta")
    for name, weight in (("gamma", scale), ("beta", offset)):
        if weight is not None:
            call.slice(name, {0: x.ids})
    same = x.values.reshape(block.shape)
    values[np.repeat((same == same[:, :1]).all(1), block.shape[1])] = 0.0
    if scale is not None:
        values[scale == 0] = 0.0
    return Channels(x.axis, x.ids, values if offset is None else values + offset)
