"""Convolutions of every channel by itself, in the formulation that a backend runs fastest."""

import itertools
import math

import keras
from keras import ops

# Others, such as masked ones, may do more in their call than convolve.
_PLAIN = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D, keras.layers.Conv3D)
# So many taps are worth writing out: 9 x 9.
_LARGEST_WINDOW = 81


def convolve_depthwise(layer, x):
    """Return `layer(x)` for a built convolution with one kernel per channel.

    On JAX it is a sum of shifted products, which XLA fuses: its own depthwise convolution takes
    4 to 18 times as long on a CPU (`benchmarks/san_depthwise.py`). Elsewhere it is the layer.

    Args:
        layer: `DepthwiseConv1D`, `DepthwiseConv2D` or a `Conv3D` with as many groups as channels;
            padding `"same"`, no strides, no activation.
        x: Tensor that `layer` takes.
    """
    small = math.prod(layer.kernel_size) <= _LARGEST_WINDOW
    if keras.backend.backend() != "jax" or type(layer) not in _PLAIN or not small:
        return layer(x)
    rank, dtype = len(layer.kernel_size), x.dtype
    # Sums of half floats are taken in single precision, as convolutions take them.
    x = ops.cast(x, keras.backend.result_type(dtype, "float32"))
    channels_last = layer.data_format == "channels_last"
    axes = range(1, rank + 1) if channels_last else range(2, rank + 2)
    widths, extents = [(0, 0)] * (rank + 2), x.shape
    for axis, size, dilation in zip(axes, layer.kernel_size, layer.dilation_rate, strict=True):
        total = (size - 1) * dilation
        widths[axis] = (total // 2, total - total // 2)
    padded = ops.pad(x, widths)
    # One kernel per channel: another axis, wherever a layer keeps it, has length 1.
    kernel = ops.reshape(layer.kernel, (*layer.kernel_size, -1))
    shape = (1,) * (rank + 1) + (-1,) if channels_last else (1, -1) + (1,) * rank

    def product(taps):
        view = [slice(None)] * (rank + 2)
        for axis, tap, dilation in zip(axes, taps, layer.dilation_rate, strict=True):
            view[axis] = slice(tap * dilation, tap * dilation + extents[axis])
        return padded[tuple(view)] * ops.cast(ops.reshape(kernel[taps], shape), x.dtype)

    y = sum(product(taps) for taps in itertools.product(*map(range, layer.kernel_size)))
    if layer.use_bias:
        y += ops.cast(ops.reshape(layer.bias, shape), x.dtype)
    return ops.cast(y, dtype)
