"""Layers and operations that treat every number, or every channel, by itself."""

import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import Channels, apply_elementwise
from keras_saliency.sparsity.shrinking.rules.common import (
    NAN,
    operations,
    register,
    unary,
    unchanged,
)

register(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
    layers.Identity,
    "keras>StochasticDepth",
    "keras_saliency>MaxDropout",
)(unchanged)


@register(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Rescaling)
def elementwise(call):
    """A layer without weights that treats every number by itself."""
    x = call.inputs[0]
    if x is None or np.isnan(x.values).all():
        return x
    if isinstance(call.layer, layers.Rescaling) and not np.isscalar(call.layer.scale):
        return Channels(x.axis, x.ids)
    return Channels(x.axis, x.ids, apply_elementwise(call.layer.call, x.values))


@register(layers.Activation)
def activation(call):
    x = call.inputs[0]
    if x is None:
        return None
    return Channels(x.axis, x.ids, call.activate(call.layer.activation, x.ids, x.values))


@register(layers.PReLU)
def prelu(call):
    x = call.inputs[0]
    alpha = call.read("alpha")
    if x is None or alpha.shape[x.axis - 1] not in (1, len(x)):
        call.keep("the number of its input channels is not known")
    if alpha.shape[x.axis - 1] == len(x):
        call.slice("alpha", {x.axis - 1: x.ids})
    values = np.where(x.values >= 0, x.values, NAN)
    if alpha.size == len(x):
        values = np.where(x.values < 0, x.values * alpha.ravel(), values)
    return Channels(x.axis, x.ids, values)


@register("keras>LayerScale")
def layer_scale(call):
    x = call.input()
    gamma = call.read("gamma")
    call.slice("gamma", {0: x.ids})
    call.configure(projection_dim=x.ids)
    return Channels(x.axis, x.ids, np.where(gamma == 0, 0.0, x.values * gamma))


operations(
    "Absolute",
    "Abs",
    "Exp",
    "Expm1",
    "Log1p",
    "Negative",
    "Sqrt",
    "Square",
    "Tanh",
    "Sin",
    "Cos",
    "Clip",
    "Sign",
    "Relu",
    "Relu6",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Silu",
    "LeakyRelu",
    "HardSigmoid",
    "HardSilu",
    "HardTanh",
    "Elu",
    "Selu",
    "Gelu",
    "Celu",
    "LogSigmoid",
    "Squareplus",
    "Cast",
)(unary)
