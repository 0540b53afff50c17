"""What the attention mechanisms of other authors share: arguments, layouts and masks."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.layers.attention.start import StartingLayer
from keras_saliency.typing import Activation, Constraint, DataFormat, Initializer, Regularizer

CONVOLUTIONS = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}


class FeatureAttention(StartingLayer):
    """Base of layers that multiply one feature map by a mask computed from it.

    A subclass builds its weights in `_build_gate` and returns, from `_gate`, a mask that
    broadcasts against features in `channels_last` layout. The base does the rest.

    To start as the identity, the last layer before each sigmoid is made with `last=True`, and
    `_neutral` is the value of the mask then; a layer without such a kernel sets `_gated`.

    Args:
        ratio: Positive integer. The hidden width is the number of channels divided by it (at
            least 1).
        activation: Activation between the gate's layers.
        use_bias: Whether the gate's layers have a bias.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: As in `keras.layers.Dense`, for every kernel
            and bias.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.
    """

    _neutral = 0.5
    _gated = False

    def __init__(
        self,
        ratio: int,
        activation: Activation,
        use_bias: bool = True,
        data_format: DataFormat | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.ratio = validation.integer("ratio", ratio)
        self.activation = keras.activations.get(activation)
        self.use_bias = validation.boolean("use_bias", use_bias)
        self.data_format = validation.data_format(data_format)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

    # ---- for subclasses --------------------------------------------------------------------

    def _build_gate(self, shape):
        """Make and build the gate's layers for features of `shape` (`channels_last`)."""
        raise NotImplementedError(type(self).__name__)

    def _gate(self, x, mask, training):
        """Return the mask of `x` (`channels_last`); `mask` marks its existing steps or is None."""
        raise NotImplementedError(type(self).__name__)

    def _weigh(self, inputs, scores):
        # The factor first: from left to right, `inputs * scores` may round.
        return inputs * (scores / self._neutral if self._divides else scores)

    @property
    def _divides(self):
        return self.starts_as_identity and not self._gated

    def _hidden(self, channels):
        return max(channels // self.ratio, 1)

    def _weight_arguments(self, last=False):
        """Return the arguments of one more kernel and bias, each with its own initializer.

        `last` says that a sigmoid follows: such weights are zeros where the layer starts as the
        identity.
        """
        kernel, bias = fresh(self.kernel_initializer), fresh(self.bias_initializer)
        if last:
            kernel, bias = self._last(kernel), self._last(bias)
        return {
            "use_bias": self.use_bias,
            "kernel_initializer": kernel,
            "bias_initializer": bias,
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "kernel_constraint": self.kernel_constraint,
            "bias_constraint": self.bias_constraint,
            "dtype": self.dtype_policy,
        }

    def _dense(self, name, inputs, units, activation=None, last=False):
        """Return a built dense layer: on the channel axis, a convolution of window 1."""
        layer = keras.layers.Dense(units, activation, name=name, **self._weight_arguments(last))
        layer.build((None, inputs))
        return layer

    def _conv(
        self, name, shape, filters, kernel_size, dilation_rate=1, activation=None, last=False
    ):
        """Return a built `same` convolution on features of `shape` (`channels_last`)."""
        layer = CONVOLUTIONS[len(shape)](
            filters,
            kernel_size,
            padding="same",
            data_format="channels_last",
            dilation_rate=dilation_rate,
            activation=activation,
            name=name,
            **self._weight_arguments(last),
        )
        layer.build(shape)
        return layer

    # ---- Keras -----------------------------------------------------------------------------

    def build(self, input_shape):
        if len(input_shape) and isinstance(input_shape[0], (list, tuple)):
            raise ValueError(
                f"{type(self).__name__} takes one feature tensor. "
                f"Received a list of {len(input_shape)}, with shapes {list(input_shape)}"
            )
        if len(input_shape) not in CONVOLUTIONS:
            raise ValueError(
                f"{type(self).__name__} takes features of rank 3 to 5: (batch, steps, channels), "
                "(batch, height, width, channels) or (batch, depth, height, width, channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        shape = self._channels_last(tuple(input_shape))
        if shape[-1] is None:
            raise ValueError(
                f"{type(self).__name__} needs a known number of channels. "
                f"Received: input_shape={tuple(input_shape)}, data_format={self.data_format!r}"
            )
        self._build_gate(shape)
        if self._gated:
            self._add_gate()

    def call(self, inputs, mask=None, training=None, return_attention_scores=False):
        x = inputs
        first = self.data_format == "channels_first"
        if first:
            x = ops.moveaxis(x, 1, -1)
        exists = None
        check_mask(mask, (*inputs.shape[:1], None), "The layer takes one feature tensor.")
        if mask is not None:
            exists = ops.expand_dims(ops.cast(mask, "bool"), tuple(range(2, len(x.shape))))
        scores = self._gate(x, exists, training)
        if first:
            scores = ops.moveaxis(scores, -1, 1)
        outputs = self._through_gate(inputs, self._weigh(inputs, scores))
        if return_attention_scores:
            return outputs, ops.broadcast_to(scores, ops.shape(inputs))
        return outputs

    def compute_mask(self, inputs, mask=None):
        return mask

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs, mask=None, training=None, return_attention_scores=False):
        outputs = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if return_attention_scores:
            return outputs, keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        return outputs

    def get_config(self):
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "data_format": self.data_format,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    def _channels_last(self, shape):
        if self.data_format == "channels_first":
            return (shape[0], *shape[2:], shape[1])
        return shape


def fresh(initializer):
    return initializer.clone() if hasattr(initializer, "clone") else initializer


def positive_integers(value, name):
    """Return `value`, an integer or a tuple of integers, if all are positive."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not values or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in values):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return tuple(value) if isinstance(value, list) else value


def spatial_axes(x):
    return tuple(range(1, len(x.shape) - 1))


def keep(x, exists):
    """Return `x` with zeros where nothing exists."""
    return x if exists is None else ops.where(exists, x, ops.zeros_like(x))


def spatial_mean(x, exists):
    """Return the mean over space or time, of the steps that exist, as (batch, channels)."""
    if exists is None:
        return ops.mean(x, axis=spatial_axes(x))
    # A weighted sum of weights that sum to 1 cannot overflow in half precision.
    weights = ops.cast(exists, x.dtype)
    share = ops.mean(weights, axis=spatial_axes(x), keepdims=True)
    return ops.mean(keep(x, exists) / ops.maximum(share, 1e-4), axis=spatial_axes(x))


def spatial_max(x, exists):
    """Return the maximum over space or time, of the steps that exist, as (batch, channels)."""
    # `ops.max` breaks the graph of `torch.compile`, `ops.amax` does not.
    if exists is None:
        return ops.amax(x, axis=spatial_axes(x))
    lowest = -65504.0 if x.dtype == "float16" else -3.0e38
    found = ops.amax(ops.where(exists, x, ops.full_like(x, lowest)), axis=spatial_axes(x))
    return ops.where(ops.any(exists, axis=spatial_axes(x)), found, ops.zeros_like(found))


def over_space(channel, x):
    """Return (batch, channels) with the extents of `x` as axes of 1."""
    return ops.reshape(channel, (-1, *[1] * (len(x.shape) - 2), channel.shape[-1]))
