"""Recurrent convolution of Liang and Hu, with weights shared between layers of a rack."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.activations.maxout import check_pieces, maxout, maxout_channels
from keras_saliency.layers.precision import wide_dtype
from keras_saliency.typing import (
    Activation,
    Constraint,
    DataFormat,
    Initializer,
    Regularizer,
    Size,
    Tensor,
)

# Local response normalization with the constants of Liang and Hu, section 3.2.
_LRN_ALPHA, _LRN_BETA = 0.001, 0.75


def kernel_pattern(kernel):
    """Mean of a kernel over its input channels: (kh, kw, in, filters) to (kh, kw, filters)."""
    return ops.mean(kernel, axis=2)


def _norm(pattern):
    """Length of each filter's pattern, (1, 1, filters); never 0, so that gradients stay finite."""
    return ops.sqrt(ops.sum(ops.square(pattern), axis=(0, 1), keepdims=True) + 1e-12)


@keras.saving.register_keras_serializable(package="keras_saliency")
class RecurrentConv2D(keras.layers.Layer):
    """A 2-D convolution whose units also listen to their neighbors, several times.

    At step 0 the state is the plain convolution of the input, `x(0) = f(W_f * u + b)`; at each
    further step it is `x(t) = f(W_f * u + W_r * x(t - 1) + b)`. The receptive field grows with the
    steps while the number of weights does not.

    Called with `[inputs, pattern]`, the layer shares weights with an earlier layer of its rack
    (G 3.4.6.2). `pattern` is what that layer returns beside its output when it was made with
    `return_pattern=True`: its kernels' means over the input channels. Each kernel here is mapped
    to one there by the non-trainable weight `mapping` (`KernelSharingCallback` keeps it pointing
    at the most similar one), and its own mean is replaced by the mapped one, scaled to the
    length that its own has. So the gradient reaches the mapped kernel. The chapter compares
    kernels without saying how those of different depth can stand for each other; what they have
    in common is the spatial pattern, and this is what is shared.

    Args:
        filters: int, the number of kernels.
        kernel_size: int or pair of ints, the window of `W_f`.
        steps: int >= 0, the number of recurrent steps after the first, feed-forward one.
        strides: int or pair of ints, of the feed-forward convolution.
        padding: `"same"` or `"valid"`, of the feed-forward convolution.
        data_format: `"channels_last"`, `"channels_first"`, or None for Keras's setting.
        dilation_rate: int or pair of ints, of both convolutions.
        recurrent_kernel_size: int or pair of ints, the window of `W_r`; None for `kernel_size`.
        pieces: int, maxout after the activation: the state is the largest of every `pieces`
            successive maps, so that `ceil(filters / pieces)` remain. 1 for none.
        normalization: None, or `"response"` for the local response normalization over
            `filters // 8 + 1` maps that Liang and Hu put after each step.
        activation: the function f.
        use_bias: bool.
        return_pattern: bool, whether the kernels' pattern is returned too, for the next layer.
        kernel_initializer, recurrent_initializer, bias_initializer: initializers.
        kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer:
            regularizers.
        kernel_constraint, recurrent_constraint, bias_constraint: constraints.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor (batch, height, width, channels), or (batch, channels, height, width), or
            a list of that tensor and the pattern (kernel height, kernel width, filters) of an
            earlier layer with the same `kernel_size`.

    Output shape:
        (batch, new height, new width, ceil(filters / pieces)), or with the channels first. With
        `return_pattern=True` a tuple of this and (kernel height, kernel width, filters).

    Raises:
        ValueError: when an argument is not of the kind above, when strides and dilation are both
            larger than 1, or when a pattern's window is not this layer's.

    Example:

    >>> import numpy as np
    >>> import keras_saliency
    >>> layer = keras_saliency.RecurrentConv2D(8, 3, steps=3)
    >>> tuple(layer(np.ones((2, 28, 28, 1), "float32")).shape)
    (2, 28, 28, 8)

    Source: Liang and Hu, Recurrent convolutional neural network for object recognition, CVPR
    2015, equations 1 to 4; G 3.4.6.2 and 3.5.2.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size = 3,
        steps: int = 3,
        strides: Size = 1,
        padding: str = "same",
        data_format: DataFormat | None = None,
        dilation_rate: Size = 1,
        recurrent_kernel_size: Size | None = None,
        pieces: int = 1,
        normalization: str | None = None,
        activation: Activation = "relu",
        use_bias: bool = True,
        return_pattern: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        recurrent_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        recurrent_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = check_pieces(filters, "filters")
        self.kernel_size = validation.pair("kernel_size", kernel_size)
        self.steps = validation.integer("steps", steps, 0)
        self.strides = validation.pair("strides", strides)
        self.padding = str(padding).lower()
        if self.padding not in ("same", "valid"):
            raise ValueError(f'`padding` must be "same" or "valid". Received: padding={padding!r}')
        self.data_format = validation.data_format(data_format)
        self.dilation_rate = validation.pair("dilation_rate", dilation_rate)
        self.recurrent_kernel_size = validation.pair(
            "recurrent_kernel_size",
            self.kernel_size if recurrent_kernel_size is None else recurrent_kernel_size,
        )
        self.pieces = check_pieces(pieces)
        self.normalization = validation.choice("normalization", normalization, (None, "response"))
        self.activation = keras.activations.get(activation)
        self.use_bias = validation.boolean("use_bias", use_bias)
        self.return_pattern = validation.boolean("return_pattern", return_pattern)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.channel_axis = -1 if self.data_format == "channels_last" else 1
        self.mapping = None

    # ---- shapes --------------------------------------------------------------------------

    @staticmethod
    def _split(inputs, is_shape=False):
        """(input, pattern or None) of tensors or shapes."""
        if isinstance(inputs, list | tuple) and not (
            is_shape and all(n is None or isinstance(n, numbers.Integral) for n in inputs)
        ):
            if len(inputs) != 2:
                raise ValueError(
                    "RecurrentConv2D takes a tensor, or a list of a tensor and the pattern of an "
                    f"earlier layer. Received a list of {len(inputs)}"
                )
            return inputs
        return inputs, None

    def build(self, input_shape):
        input_shape, pattern_shape = self._split(input_shape, is_shape=True)
        if len(input_shape) != 4:
            raise ValueError(
                "RecurrentConv2D needs inputs of rank 4, a batch of images. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        channels = input_shape[self.channel_axis]
        if channels is None:
            raise ValueError(
                "The number of input channels must be known. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "`strides` > 1 is not possible together with `dilation_rate` > 1. "
                f"Received: strides={self.strides}, dilation_rate={self.dilation_rate}"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels, self.filters),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        state = maxout_channels(self.filters, self.pieces)
        self.recurrent_kernel = None
        if self.steps:
            self.recurrent_kernel = self.add_weight(
                name="recurrent_kernel",
                shape=(*self.recurrent_kernel_size, state, self.filters),
                initializer=self.recurrent_initializer,
                regularizer=self.recurrent_regularizer,
                constraint=self.recurrent_constraint,
            )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        if pattern_shape is not None:
            if tuple(pattern_shape[:2]) != self.kernel_size or len(pattern_shape) != 3:
                raise ValueError(
                    f"The shared pattern must have the shape {self.kernel_size} + (filters,), "
                    f"this layer's window. Received: {tuple(pattern_shape)}"
                )
            others = pattern_shape[-1]
            # Until a callback looks for the most similar kernels: one to one (G figure 3.5a).
            self.mapping = self.add_weight(
                name="mapping",
                shape=(self.filters,),
                initializer=lambda shape, dtype=None: ops.convert_to_tensor(
                    np.arange(shape[0]) % others, dtype="int32"
                ),
                dtype="int32",
                trainable=False,
            )

    # ---- the mathematics -------------------------------------------------------------------

    def shared_kernel(self, pattern: Tensor = None) -> Tensor:
        """The feed-forward kernel in use: its own, or with the mapped patterns of `pattern`."""
        kernel = ops.convert_to_tensor(self.kernel)
        if pattern is None:
            return kernel
        own = kernel_pattern(kernel)
        pattern = ops.cast(pattern, kernel.dtype)
        # In half precision a sum of squares underflows: lengths are taken in float32.
        dtype = wide_dtype(kernel.dtype)
        wide, other = ops.cast(own, dtype), ops.cast(pattern, dtype)
        direction = ops.take(other / _norm(other), ops.convert_to_tensor(self.mapping), axis=-1)
        replaced = ops.cast(direction * _norm(wide), kernel.dtype)
        return kernel + ops.expand_dims(replaced - own, 2)

    def _normalize(self, x):
        dtype = wide_dtype(x.dtype)
        wide = ops.square(ops.cast(x, dtype))
        window = self.filters // 8 + 1
        index = ops.arange(maxout_channels(self.filters, self.pieces), dtype=dtype)
        near = ops.abs(index[:, None] - index[None, :]) <= window / 2
        near = ops.cast(near, dtype) * (_LRN_ALPHA / window)
        if self.channel_axis == 1:
            wide = ops.moveaxis(wide, 1, -1)
        scale = ops.power(1.0 + ops.matmul(wide, near), -_LRN_BETA)
        if self.channel_axis == 1:
            scale = ops.moveaxis(scale, -1, 1)
        return x * ops.cast(scale, x.dtype)

    def _state(self, z):
        x = maxout(self.activation(z), self.pieces, self.channel_axis)
        return self._normalize(x) if self.normalization else x

    def call(self, inputs):
        inputs, pattern = self._split(inputs)
        if (pattern is None) != (self.mapping is None):
            raise ValueError(
                "RecurrentConv2D was built for "
                + ("one tensor" if self.mapping is None else "a tensor and a pattern")
                + " and was called with the other."
            )
        kernel = self.shared_kernel(pattern)
        feed = ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        if self.bias is not None:
            shape = (1, -1, 1, 1) if self.channel_axis == 1 else (1, 1, 1, -1)
            feed = feed + ops.reshape(self.bias, shape)
        state = self._state(feed)
        for _ in range(self.steps):
            recurrent = ops.conv(
                state,
                self.recurrent_kernel,
                padding="same",
                data_format=self.data_format,
                dilation_rate=self.dilation_rate,
            )
            state = self._state(feed + recurrent)
        return (state, kernel_pattern(kernel)) if self.return_pattern else state

    def compute_output_shape(self, input_shape):
        input_shape, _ = self._split(input_shape, is_shape=True)
        first = self.channel_axis == 1
        space = input_shape[2:4] if first else input_shape[1:3]
        extents = []
        for size, window, stride, rate in zip(
            space, self.kernel_size, self.strides, self.dilation_rate, strict=True
        ):
            if size is not None:
                if self.padding == "valid":
                    size -= (window - 1) * rate
                size = -(-size // stride)
            extents.append(size)
        channels = maxout_channels(self.filters, self.pieces)
        shape = (channels, *extents) if first else (*extents, channels)
        shape = (input_shape[0], *shape)
        return (shape, (*self.kernel_size, self.filters)) if self.return_pattern else shape

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "steps": self.steps,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "recurrent_kernel_size": self.recurrent_kernel_size,
            "pieces": self.pieces,
            "normalization": self.normalization,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "return_pattern": self.return_pattern,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "recurrent_regularizer": keras.regularizers.serialize(self.recurrent_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "recurrent_constraint": keras.constraints.serialize(self.recurrent_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
