"""Where tensors meet: equal channels go together."""

import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import Channels
from keras_saliency.sparsity.shrinking.rules.common import NAN, merge, operations, register, unary


@register(layers.Add)
def add(call):
    return merge(call, sum)


@register(layers.Multiply)
def multiply(call):
    return merge(call, lambda values: np.prod(values, axis=0), zero_wins=True)


@register(layers.Average)
def average(call):
    return merge(call, lambda values: sum(values) / len(values))


@register(layers.Subtract)
def subtract(call):
    return merge(call, lambda values: values[0] - values[1])


@register(layers.Maximum)
def maximum(call):
    return merge(call, lambda values: np.max(values, axis=0))


@register(layers.Minimum)
def minimum(call):
    return merge(call, lambda values: np.min(values, axis=0))


@register(layers.Concatenate)
def concatenate(call):
    return _concatenate(call, call.layer.axis)


def _concatenate(call, axis):
    rank = len(call.output_shapes[0])
    axis %= rank
    known = [x for x in call.inputs if x is not None]
    if len(known) < len(call.inputs):
        call.keep("the number of its input channels is not known")
    if all(x.axis != axis for x in known):
        return merge(call, lambda values: np.where(np.ptp(values, axis=0) == 0, values[0], NAN))
    xs = [call.input(index, axis) for index in range(len(known))]
    return Channels(
        axis, np.concatenate([x.ids for x in xs]), np.concatenate([x.values for x in xs])
    )


@register("keras>CustomScaleLayer")
def custom_scale(call):
    return merge(call, lambda values: values[0] + values[1] * call.layer.scale)


@operations("Concatenate")
def concatenate_op(call):
    return _concatenate(call, call.layer.axis)


def _binary(combine, zero_wins=False):
    def rule(call):
        if len(call.inputs) == 2:
            return merge(call, lambda values: combine(*values), zero_wins)
        return unary(call)

    return rule


def _unknown(a, b):
    return np.full(len(a), NAN)


operations("Add")(_binary(np.add))
operations("Subtract")(_binary(np.subtract))
operations("Multiply")(_binary(np.multiply, zero_wins=True))
operations("Divide", "TrueDivide", "Power")(_binary(_unknown))
operations("Maximum")(_binary(np.maximum))
operations("Minimum")(_binary(np.minimum))
