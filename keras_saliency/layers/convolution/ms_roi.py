"""MS-ROI: a head with feature maps of its own for every class, that finds every object at once."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.layers.precision import wide_dtype
from keras_saliency.typing import Constraint, DataFormat, Initializer, Regularizer, Size


@keras.saving.register_keras_serializable(package="keras_saliency")
class MSROI(keras.layers.Layer):
    """Classifies by feature maps that belong to one class each, so that all objects show at once.

    A convolution makes `features` maps per class, `f[d, c] = relu(conv(x))`; the logit of a class
    is their mean over `d` and all positions, plus a bias:

        z[c] = mean over d and positions of f[d, c] + b[c],    P(c) = sigmoid(z[c]).

    Sigmoids do not compete, so a second object takes nothing from the first. Train it on several
    labels per image, with `keras.losses.BinaryCrossentropy(from_logits=True)`; what it then sees
    is `keras_saliency.saliency_map(model, images, "ms_roi")`.

    Source: Prakash (2019), section 2.3. Equation 2.4 is a sum; here it is a mean, so that a logit
    does not depend on the image's extent, and a bias can say how rare a class is. Equation 2.6 is
    printed with the sign of the logit turned round.

    Args:
        num_classes: Integer, the number of classes.
        features: Integer, feature maps per class.
        kernel_size: Integer, or one per axis of space, the window; strides are 1, the padding
            `"same"`.
        data_format: `"channels_last"` or `"channels_first"`; None for Keras's setting.
        kernel_initializer, kernel_regularizer, kernel_constraint: Of the convolution.
        bias_initializer, bias_regularizer, bias_constraint: Of its bias.
        logit_bias_initializer: Of the logits' bias; None for -3, a class that one image in twenty
            has. From 0, training would first push every map to zero, where a ReLU learns no more.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor `(batch, *space, channels)`, or with the channels first; one to three axes of
            space, series, images and volumes.
        mask: Of series alone: bool tensor (batch, time). Masked steps count as zeros, and in no
            mean.
        return_maps: Whether the sum of each class's maps is returned too.

    Output shape:
        (batch, num_classes), the logits. With `return_maps=True` a pair of these and the maps,
        `(batch, *space, num_classes)` in both data formats.

    Raises:
        ValueError: If an argument is not of the kind above, or the channels are not known.

    Example:

    >>> import numpy as np
    >>> layer = MSROI(10)
    >>> logits, maps = layer(np.ones((2, 8, 8, 3), "float32"), return_maps=True)
    >>> tuple(logits.shape), tuple(maps.shape)
    ((2, 10), (2, 8, 8, 10))
    """

    def __init__(
        self,
        num_classes: int,
        features: int = 4,
        kernel_size: Size = 3,
        data_format: DataFormat | None = None,
        kernel_initializer: Initializer = "he_normal",
        bias_initializer: Initializer = "zeros",
        logit_bias_initializer: Initializer | None = None,
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_classes = validation.integer("num_classes", num_classes)
        self.features = validation.integer("features", features)
        if isinstance(kernel_size, list | tuple):
            self.kernel_size = validation.sizes("kernel_size", kernel_size)
        else:
            self.kernel_size = validation.integer("kernel_size", kernel_size)
        self.data_format = validation.data_format(data_format)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        if logit_bias_initializer is None:
            logit_bias_initializer = keras.initializers.Constant(-3.0)
        self.logit_bias_initializer = keras.initializers.get(logit_bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        space, channels = self._split(input_shape)
        window = self.kernel_size
        window = (window,) * len(space) if isinstance(window, int) else window
        if len(window) != len(space):
            raise ValueError(
                f"`kernel_size` must be an integer or one per axis of space, {len(space)}. "
                f"Received: kernel_size={self.kernel_size} for input_shape={tuple(input_shape)}"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*window, channels, self.num_classes * self.features),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(self.num_classes * self.features,),
            initializer=self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
        )
        self.logit_bias = self.add_weight(
            name="logit_bias",
            shape=(self.num_classes,),
            initializer=self.logit_bias_initializer,
        )

    def _split(self, input_shape):
        """The extents of space, and the number of channels."""
        shape = tuple(input_shape)
        first = self.data_format == "channels_first"
        if not 3 <= len(shape) <= 5 or shape[1 if first else -1] is None:
            raise ValueError(
                "MSROI takes series, images or volumes `(batch, *space, channels)` with a known "
                f"number of channels. Received: input_shape={shape}, "
                f"data_format={self.data_format!r}"
            )
        return (shape[2:], shape[1]) if first else (shape[1:-1], shape[-1])

    def call(self, inputs, mask=None, return_maps=False):
        dtype = wide_dtype(self.compute_dtype)
        x = ops.moveaxis(inputs, 1, -1) if self.data_format == "channels_first" else inputs
        if mask is not None:
            self._check_mask(mask, inputs)
            x = x * ops.cast(mask, x.dtype)[..., None]
        x = ops.conv(x, ops.cast(self.kernel, x.dtype), padding="same", data_format="channels_last")
        x = ops.relu(x + ops.cast(self.bias, x.dtype))
        # The kernel's channels go class by class.
        space = ops.shape(x)[1:-1]
        x = ops.reshape(x, (-1, *space, self.num_classes, self.features))
        maps = ops.sum(ops.cast(x, dtype), axis=-1)
        axes = tuple(range(1, len(maps.shape) - 1))
        if mask is None:
            total = ops.mean(maps, axis=axes)
        else:
            weights = ops.cast(mask, dtype)[..., None]
            maps = maps * weights
            total = ops.sum(maps, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1)
        logits = total / self.features + ops.cast(self.logit_bias, dtype)
        logits = ops.cast(logits, self.compute_dtype)
        return (logits, ops.cast(maps, self.compute_dtype)) if return_maps else logits

    @staticmethod
    def _check_mask(mask, inputs):
        if len(inputs.shape) != 3:
            raise ValueError(
                "`mask` is of series (batch, time, channels) alone. Received: inputs of shape "
                f"{tuple(inputs.shape)}"
            )
        check_mask(mask, inputs.shape, "The layer takes one series.")

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        self._split(input_shape)
        return (input_shape[0], self.num_classes)

    def compute_output_spec(self, inputs, mask=None, return_maps=False):
        space, _ = self._split(inputs.shape)
        logits = keras.KerasTensor((inputs.shape[0], self.num_classes), self.compute_dtype)
        if not return_maps:
            return logits
        maps = (inputs.shape[0], *space, self.num_classes)
        return logits, keras.KerasTensor(maps, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "features": self.features,
            "kernel_size": self.kernel_size,
            "data_format": self.data_format,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "logit_bias_initializer": keras.initializers.serialize(self.logit_bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
