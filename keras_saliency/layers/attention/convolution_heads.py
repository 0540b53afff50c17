"""What multi-head layers on convolutions share: arguments, kernels, checks, configuration."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.layers.attention.start import StartingLayer
from keras_saliency.layers.precision import wide_dtype
from keras_saliency.typing import Constraint, Initializer, Regularizer


def check_positive(name, value):
    return validation.integer(name, value)


def check_series(layer, shape):
    """Raise an error unless `shape` is that of a batch of series."""
    if len(shape) != 3:
        raise ValueError(
            f"{type(layer).__name__} expects an input of shape (batch, time, variates). "
            f"Received: shape={tuple(shape)}"
        )
    if not shape[-1]:
        raise ValueError(
            "The last axis of the input, the variates, must be known and not empty. "
            f"Received: shape={tuple(shape)}"
        )
    if shape[1] == 0:
        raise ValueError(
            f"The input must have at least one time step. Received: shape={tuple(shape)}"
        )


def check_series_mask(layer, mask, shape):
    """Raise an error unless `mask` fits a batch of series of `shape`."""
    check_mask(mask, shape, f"{type(layer).__name__} takes one series, which attends to itself.")


def convolve(x, kernel):
    """Convolve series, (batch, time, channels), with zeros around them, in the dtype of `x`."""
    return ops.conv(x, ops.cast(kernel, x.dtype), padding="same", data_format="channels_last")


def clone_initializer(initializer):
    """Return a copy, because a seeded initializer repeats its values; callables stay."""
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


class ConvolutionHeads(StartingLayer):
    """Heads that look at a series through convolutions of their own windows.

    Subclasses set `windows` and add their weights with `_kernel`, `_add_head_kernels` and `_bias`.
    """

    def __init__(
        self,
        num_heads: int = 8,
        key_dim: int = 64,
        output_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.num_heads = validation.integer("num_heads", num_heads)
        self.key_dim = validation.integer("key_dim", key_dim)
        self.output_dim = validation.integer("output_dim", output_dim, optional=True)
        self.dropout = validation.share("dropout", dropout)
        self.use_bias = validation.boolean("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        check_series(self, input_shape)
        self.dropout_layer = keras.layers.Dropout(
            self.dropout, dtype=self.wide_dtype, name="dropout"
        )
        self.dropout_layer.build((None, None, None, None))
        output_dim = self.output_dim or input_shape[-1]
        self._check_gate(output_dim, input_shape[-1], "output_dim")
        self._add_gate()
        self.output_kernel = self._kernel(
            "output_kernel", (self.num_heads * self.key_dim, output_dim)
        )
        self.output_bias = self._bias("output_bias", output_dim)

    def _kernel(self, name, shape):
        return self.add_weight(
            name=name,
            shape=shape,
            autocast=False,  # means of kernels are taken in float32
            initializer=clone_initializer(self.kernel_initializer),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _add_head_kernels(self, role, windows, variates):
        """Add the kernels `{role}_kernel_1`, ..., one per head."""
        for h, window in enumerate(windows, start=1):
            name = f"{role}_kernel_{h}"
            setattr(self, name, self._kernel(name, (window, variates, self.key_dim)))

    def head_kernels(self, role: str) -> list[keras.Variable]:
        """Return the kernels of a role, one per head: (window, variates, key_dim)."""
        return [getattr(self, f"{role}_kernel_{h}") for h in range(1, self.num_heads + 1)]

    @property
    def wide_dtype(self) -> str:
        """What is summed over time: float32, or float64 where the layer computes in it."""
        return wide_dtype(self.compute_dtype)

    @property
    def roles(self) -> tuple[str, ...]:
        """What the heads' kernels are for."""
        return ("query", "key", "value")

    def _bias(self, name, size):
        if not self.use_bias:
            return None
        return self.add_weight(
            name=name,
            shape=(size,),
            initializer=self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
        )

    def _add_bias(self, x, bias):
        return x if bias is None else x + ops.cast(bias, x.dtype)

    def _project(self, x):
        """Apply W^O to joined heads, (batch, time, heads * key_dim)."""
        kernel = ops.cast(self.output_kernel, self.compute_dtype)
        x = ops.matmul(ops.cast(x, self.compute_dtype), kernel)
        # On PyTorch, Keras returns float32 products of float64.
        return self._add_bias(ops.cast(x, self.compute_dtype), self.output_bias)

    def _split(self, x):
        return ops.reshape(x, (*ops.shape(x)[:-1], self.num_heads, self.key_dim))

    def _join(self, x):
        return ops.reshape(x, (*ops.shape(x)[:-2], self.num_heads * self.key_dim))

    def compute_output_shape(self, input_shape):
        check_series(self, input_shape)
        return (*input_shape[:-1], self.output_dim or input_shape[-1])

    def _scores_shape(self, input_shape):
        raise TypeError(f"{type(self).__name__} must say the shape of its scores.")

    def compute_output_spec(self, inputs, mask=None, training=None, return_attention_scores=False):
        check_series_mask(self, mask, inputs.shape)
        output = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        if not return_attention_scores:
            return output
        return output, keras.KerasTensor(self._scores_shape(inputs.shape), self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "output_dim": self.output_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
