"""Layers that move positions and axes around."""

import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import Channels
from keras_saliency.sparsity.shrinking.rules.common import NAN, register


@register(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
)
def spatial(call):
    return call.input(axis=call.channel_axis(len(call.input_shapes[0])))


@register(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def zero_padding(call):
    x = call.input(axis=call.channel_axis(len(call.input_shapes[0])))
    if not np.any(call.layer.padding):
        return x
    return Channels(x.axis, x.ids, np.where(x.values == 0, 0, NAN))


@register(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def global_pooling(call):
    x = call.input(axis=call.channel_axis(len(call.input_shapes[0])))
    axis = x.axis if len(call.output_shapes[0]) > 2 else 1
    return Channels(axis, x.ids, x.values)


@register(layers.Flatten)
def flatten(call):
    shape = call.input_shapes[0]
    x = call.inputs[0]
    if x is None or None in shape[1:]:
        call.keep("the size of what it flattens is not known")
    order = list(range(1, len(shape)))
    if call.layer.data_format == "channels_first" and len(shape) > 2:
        order = [*range(2, len(shape)), 1]

    def spread(vector):
        full = [1] * len(shape)
        full[x.axis] = len(x)
        array = np.broadcast_to(vector.reshape(full), (1, *shape[1:]))
        return array.transpose([0, *order]).ravel()

    return Channels(1, spread(x.ids), spread(x.values))


@register(layers.Reshape)
def reshape(call):
    return _reshape(call, lambda target: call.configure(target_shape=target))


def _reshape(call, configure):
    old, new = call.input_shapes[0][1:], call.output_shapes[0][1:]
    x = call.inputs[0]
    if x is None:
        call.keep("the number of its input channels is not known")
    if None in old or None in new:
        # Only positions are joined or split, the last axis is the same.
        if x.axis != len(old) or new[-1] != old[-1] or new.count(None) > 1:
            call.keep("the size of what it reshapes is not known")
        ids, values, axis = x.ids, x.values, len(new) - 1
    else:
        full = [1] * len(old)
        full[x.axis - 1] = len(x)
        ids = np.broadcast_to(x.ids.reshape(full), old).reshape(new)
        values = np.broadcast_to(x.values.reshape(full), old).reshape(new)
        axis = _channel_axis_of(ids)
        rows = np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])
        seen = np.moveaxis(values, axis, -1).reshape(rows.shape)
        call.tie(rows[1:], np.repeat(rows[:1], len(rows) - 1, axis=0))
        same = (seen == seen[:1]).all(0)
        ids, values = rows[0], np.where(same, seen[0], NAN)

    def target(count):
        shape = [-1 if extent is None else extent for extent in new]
        shape[axis] = count(ids)
        return tuple(shape)

    configure(target)
    return Channels(axis + 1, ids, values)


def _channel_axis_of(ids):
    """The axis along which `ids` differ while they are the same along all others."""
    for axis in reversed(range(ids.ndim)):
        rows = np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])
        if ids.shape[axis] > 1 and (rows == rows[:1]).all():
            return axis
    return ids.ndim - 1


@register(layers.Permute)
def permute(call):
    x = call.inputs[0]
    if x is None:
        return None
    return Channels(1 + list(call.layer.dims).index(x.axis), x.ids, x.values)


@register(layers.RepeatVector)
def repeat_vector(call):
    x = call.input()
    return Channels(2, x.ids, x.values)
