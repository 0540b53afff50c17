"""Convolution by quadratic neurons: CQNN."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.typing import Activation, Constraint, DataFormat, Initializer, Regularizer, Size


@keras.saving.register_keras_serializable(package="keras_saliency")
class QuadraticConv2D(keras.layers.Layer):
    """A 2-D convolution whose neurons are quadratic forms of what they see.

        y = p^T Q p,  p the window's values and a 1

    The 1 makes a linear part and a bias of the form's last row and column. A kernel has
    (window * channels + 1)^2 weights: for the first layers of a network.

    Source: P. Mantini, S. K. Shah, "CQNN: Convolutional Quadratic Neural Networks", ICPR 2020, and
    the authors' public code, whose sign (minus) is left to the initializer, which is symmetric.

    Significance and shrinking treat the layer as unknown as long as nobody registers a rule: a
    weight of a quadratic form is no edge.

    Args:
        filters: Integer, the number of neurons.
        kernel_size: Integer or pair of integers, the window.
        strides: Integer or pair of integers.
        padding: `"same"` or `"valid"`.
        data_format: `"channels_last"`, `"channels_first"`, or None for Keras's setting.
        activation: Activation of the output; None for none, since the form is not linear.
        kernel_initializer, kernel_regularizer, kernel_constraint: As in `keras.layers.Conv2D`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor (batch, height, width, channels), or with the channels first.

    Output shape:
        (batch, new height, new width, filters), or with the channels first.

    Raises:
        ValueError: If an argument is not of the kind above, or the channels are not known.

    Example:

    >>> import numpy as np
    >>> tuple(QuadraticConv2D(4, 3)(np.ones((2, 8, 8, 1), "float32")).shape)
    (2, 8, 8, 4)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size = 3,
        strides: Size = 1,
        padding: str = "same",
        data_format: DataFormat | None = None,
        activation: Activation = None,
        kernel_initializer: Initializer = "glorot_uniform",
        kernel_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = validation.integer("filters", filters)
        self.kernel_size = validation.pair("kernel_size", kernel_size)
        self.strides = validation.pair("strides", strides)
        self.padding = validation.choice("padding", padding, ("same", "valid"))
        self.data_format = validation.data_format(data_format)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)

    def build(self, input_shape):
        channels = self._channels_last(input_shape)[-1]
        if channels is None:
            raise ValueError(
                "QuadraticConv2D needs a known number of channels. "
                f"Received: input_shape={tuple(input_shape)}, data_format={self.data_format!r}"
            )
        size = self.kernel_size[0] * self.kernel_size[1] * channels + 1
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.filters, size, size),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _channels_last(self, shape):
        if len(shape) != 4:
            raise ValueError(
                f"QuadraticConv2D takes images of rank 4. Received: input_shape={tuple(shape)}"
            )
        if self.data_format == "channels_first":
            return (shape[0], *shape[2:], shape[1])
        return tuple(shape)

    def call(self, inputs):
        first = self.data_format == "channels_first"
        x = ops.moveaxis(inputs, 1, -1) if first else inputs
        windows = ops.image.extract_patches(
            x, self.kernel_size, self.strides, padding=self.padding, data_format="channels_last"
        )
        windows = ops.cast(windows, self.compute_dtype)
        windows = ops.concatenate([windows, ops.ones_like(windows[..., :1])], axis=-1)
        size = self.kernel.shape[-1]
        # One product of matrices for all forms: (filters, size, size) as (size, filters * size).
        kernel = ops.reshape(ops.transpose(self.kernel, (1, 0, 2)), (size, self.filters * size))
        rows = ops.matmul(windows, kernel)
        rows = ops.reshape(rows, (-1, *rows.shape[1:3], self.filters, size))
        outputs = ops.sum(rows * windows[..., None, :], axis=-1)
        if self.activation is not None:
            outputs = self.activation(outputs)
        return ops.moveaxis(outputs, -1, 1) if first else outputs

    def compute_output_shape(self, input_shape):
        batch, *extents, _ = self._channels_last(input_shape)
        if self.padding == "valid":
            extents = [
                None if n is None else n - k + 1
                for n, k in zip(extents, self.kernel_size, strict=True)
            ]
        extents = [
            None if n is None else -(-n // s) for n, s in zip(extents, self.strides, strict=True)
        ]
        if self.data_format == "channels_first":
            return (batch, self.filters, *extents)
        return (batch, *extents, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
