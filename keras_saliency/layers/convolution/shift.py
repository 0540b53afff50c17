"""Convolutions that learn to be shifts: shift attention, and the shifts it ends in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.precision import wide_dtype
from keras_saliency.typing import Activation, Constraint, DataFormat, Initializer, Regularizer, Size


class _Convolution(keras.layers.Layer):
    """What both layers share: the arguments of a convolution of images, and its output."""

    def __init__(
        self,
        filters: int,
        data_format: DataFormat | None = None,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = validation.integer("filters", filters)
        self.data_format = validation.data_format(data_format)
        self.activation = keras.activations.get(activation)
        self.use_bias = validation.boolean("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)

    def _channels(self, input_shape):
        axis = 1 if self.data_format == "channels_first" else -1
        if len(input_shape) != 4 or input_shape[axis] is None:
            raise ValueError(
                f"{type(self).__name__} takes images of rank 4 with a known number of channels. "
                f"Received: input_shape={tuple(input_shape)}, data_format={self.data_format!r}"
            )
        return input_shape[axis]

    def compute_output_shape(self, input_shape):
        self._channels(input_shape)
        shape = list(input_shape)
        shape[1 if self.data_format == "channels_first" else -1] = self.filters
        return tuple(shape)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "data_format": self.data_format,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


@keras.saving.register_keras_serializable(package="keras_saliency")
class ShiftAttention2D(_Convolution):
    """A convolution that learns, channel by channel, the one place it will look at.

    The kernel is multiplied by attention over the places of its window,

        softmax over places of (a / (std(a) * T)),

    one distribution per input channel. In training the temperature `T` falls with every step,
    from nearly the same weight for all places to nearly all weight on one: a shift of the
    channel, followed by a convolution of window 1. `keras_saliency.models.freeze_shifts` makes
    this of it.

    Source: G. B. Hacene, C. Lassance, V. Gripon, M. Courbariaux, Y. Bengio, "Attention Based
    Pruning for Shift Networks", ICPR 2020 (arXiv:1905.12300). Only its abstract could be had, so
    the formula is a reading of it. Choices: one place per input channel, shared by all filters,
    since only then is the rest a convolution of window 1; the logits in units of their own standard
    deviation; a geometric schedule.

    Significance and shrinking treat the layer as unknown as long as nobody registers a rule:
    freeze the shifts first.

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or pair of integers, the window; strides are 1, the padding `"same"`.
        decay_steps: Integer >= 1, the training steps in which `T` falls. Train on behind them: what
            the places that are dropped still brought is lost in freezing.
        initial_temperature, final_temperature: Positive numbers.
        data_format, activation, use_bias, kernel_initializer, bias_initializer,
            kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: As in
            `keras.layers.Conv2D`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor (batch, height, width, channels), or with the channels first.
        training: Whether the temperature falls.

    Output shape:
        (batch, height, width, filters), or with the channels first.

    Raises:
        ValueError: If an argument is not of the kind above, or the channels are not known.

    Example:

    >>> import numpy as np
    >>> layer = ShiftAttention2D(4, 3, decay_steps=500)
    >>> tuple(layer(np.ones((2, 8, 8, 3), "float32")).shape)
    (2, 8, 8, 4)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size = 3,
        decay_steps: int = 1000,
        initial_temperature: float = 6.7,
        final_temperature: float = 0.02,
        **kwargs: Any,
    ):
        super().__init__(filters, **kwargs)
        self.kernel_size = validation.pair("kernel_size", kernel_size)
        self.decay_steps = validation.integer("decay_steps", decay_steps)
        self.initial_temperature = validation.number(
            "initial_temperature", initial_temperature, 0, above=True
        )
        self.final_temperature = validation.number(
            "final_temperature", final_temperature, 0, self.initial_temperature, above=True
        )

    def build(self, input_shape):
        channels = self._channels(input_shape)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels, self.filters),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
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
        self.attention = self.add_weight(
            name="attention",
            shape=(*self.kernel_size, channels),
            initializer=keras.initializers.RandomNormal(1.0),
        )
        self.temperature = self.add_weight(
            name="temperature",
            shape=(),
            initializer=keras.initializers.Constant(self.initial_temperature),
            trainable=False,
            dtype=wide_dtype(self.variable_dtype),
        )

    def _weights_of_places(self):
        """The attention, (window height, window width, channels), in single precision."""
        dtype = wide_dtype(self.variable_dtype)
        logits = ops.cast(self.attention, dtype)
        logits = ops.reshape(logits, (-1, logits.shape[-1]))
        logits = logits - ops.mean(logits, axis=0, keepdims=True)
        spread = ops.sqrt(ops.mean(ops.square(logits), axis=0, keepdims=True) + 1e-12)
        weights = ops.softmax(logits / (spread * ops.cast(self.temperature, dtype)), axis=0)
        return ops.reshape(weights, self.attention.shape)

    def call(self, inputs, training=None):
        if training and self.trainable:
            factor = (self.final_temperature / self.initial_temperature) ** (1 / self.decay_steps)
            self.temperature.assign(ops.maximum(self.temperature * factor, self.final_temperature))
        kernel = ops.cast(self.kernel, wide_dtype(self.variable_dtype))
        kernel = ops.cast(kernel * self._weights_of_places()[..., None], self.compute_dtype)
        first = self.data_format == "channels_first"
        x = ops.moveaxis(inputs, 1, -1) if first else inputs
        x = ops.conv(x, kernel, padding="same", data_format="channels_last")
        if self.use_bias:
            x = x + ops.cast(self.bias, x.dtype)
        if self.activation is not None:
            x = self.activation(x)
        x = ops.cast(x, self.compute_dtype)
        return ops.moveaxis(x, -1, 1) if first else x

    def frozen(self) -> tuple[ShiftConv2D, list[np.ndarray]]:
        """Return the plain shifts and the kernel that the layer ends in.

        Returns:
            A pair: a new, unbuilt `ShiftConv2D`, and its weights for `set_weights`.
        """
        attention = np.asarray(ops.convert_to_numpy(self.attention), "float32")
        height, width, channels = attention.shape
        best = attention.reshape(-1, channels).argmax(0)
        rows, columns = best // width, best % width
        kernel = np.asarray(ops.convert_to_numpy(self.kernel))
        kernel = kernel[rows, columns, np.arange(channels)]
        shifts = np.stack([rows - (height - 1) // 2, columns - (width - 1) // 2], -1)
        config = super().get_config()
        layer = ShiftConv2D(shifts=shifts.tolist(), **config)
        bias = [np.asarray(ops.convert_to_numpy(self.bias))] if self.use_bias else []
        return layer, [kernel, *bias]

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "decay_steps": self.decay_steps,
            "initial_temperature": self.initial_temperature,
            "final_temperature": self.final_temperature,
        }


@keras.saving.register_keras_serializable(package="keras_saliency")
class ShiftConv2D(_Convolution):
    """Shifts every channel by its own whole offset, then convolves with a window of 1.

    What comes in from beyond the border is 0. `keras_saliency.models.freeze_shifts` makes such
    layers of `ShiftAttention2D`.

    Source: B. Wu et al., "Shift: A Zero FLOP, Zero Parameter Alternative to Spatial Convolutions",
    CVPR 2018 (arXiv:1711.08141).

    Significance looks into the layer, whose kernel is sparsified as that of the
    `keras.layers.Dense` in it; shrinking keeps the channels that it reads.

    Args:
        filters: Integer, the number of output channels.
        shifts: A pair of integers per input channel: output place (i, j) reads the channel's
            place (i + first, j + second).
        data_format, activation, use_bias, kernel_initializer, bias_initializer,
            kernel_regularizer, bias_regularizer, kernel_constraint, bias_constraint: As in
            `keras.layers.Conv2D`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor (batch, height, width, channels), or with the channels first.

    Output shape:
        (batch, height, width, filters), or with the channels first.

    Raises:
        ValueError: If an argument is not of the kind above, or the shifts are not one pair per
            input channel.

    Example:

    >>> import numpy as np
    >>> layer = ShiftConv2D(1, [(0, 1)], use_bias=False, kernel_initializer="ones")
    >>> x = np.arange(3.0).reshape(1, 1, 3, 1)
    >>> keras.ops.convert_to_numpy(layer(x)).ravel().tolist()
    [1.0, 2.0, 0.0]
    """

    def __init__(self, filters: int, shifts: Sequence[Sequence[int]], **kwargs: Any):
        super().__init__(filters, **kwargs)
        pairs = [validation.items("shifts", pair) for pair in validation.items("shifts", shifts)]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise validation.wrong("shifts", "a pair of integers per input channel", shifts)
        self.shifts = [
            tuple(validation.integer("shifts", n, minimum=None) for n in pair) for pair in pairs
        ]

    def build(self, input_shape):
        channels = self._channels(input_shape)
        if channels != len(self.shifts):
            raise ValueError(
                "`shifts` must have one pair per input channel. "
                f"Received: {len(self.shifts)} pairs for input_shape={tuple(input_shape)}"
            )
        self.mix = keras.layers.Dense(
            self.filters,
            self.activation,
            use_bias=self.use_bias,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            name="mix",
            dtype=self.dtype_policy,
        )
        self.mix.build((None, channels))

    def call(self, inputs):
        first = self.data_format == "channels_first"
        x = self.mix(self._shift(ops.moveaxis(inputs, 1, -1) if first else inputs))
        return ops.moveaxis(x, -1, 1) if first else x

    def _shift(self, x):
        groups = {}
        for channel, shift in enumerate(self.shifts):
            groups.setdefault(shift, []).append(channel)
        border = [max(abs(shift[i]) for shift in groups) for i in range(2)]
        padded = ops.pad(x, [(0, 0), *((n, n) for n in border), (0, 0)])
        height, width = ops.shape(x)[1:3]
        parts = []
        for (down, right), channels in groups.items():
            top, left = border[0] + down, border[1] + right
            view = padded[:, top : top + height, left : left + width]
            parts.append(ops.take(view, np.asarray(channels), axis=-1))
        order = np.concatenate([np.asarray(channels) for channels in groups.values()])
        return ops.take(ops.concatenate(parts, axis=-1), np.argsort(order), axis=-1)

    def get_config(self):
        return {**super().get_config(), "shifts": [list(pair) for pair in self.shifts]}
