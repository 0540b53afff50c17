"""Normalization of weights in place of activations: WeightAlign."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.precision import wide_dtype


@keras.saving.register_keras_serializable(package="keras_saliency")
class WeightAlign(keras.layers.Wrapper):
    """Normalizes the kernel of a layer filter by filter, whatever the batch.

        w' = gamma (w - mean(w)) / sqrt(n / 2 * var(w) + epsilon)

    over the n weights of a filter, with a trained `gamma` per filter that begins at 1. Where the
    layer reads the output of a ReLU, what it makes then keeps about two thirds of its input's
    power whatever the kernel, without statistics of any sample.

    Source: X. Shi, Y. Li, X. Liu, J. van Gemert, "WeightAlign: Normalizing Activations by Weight
    Alignment", ICPR 2020 (arXiv:2010.07160). Only its abstract could be had, which names the mean
    and the scaled standard deviation within a filter; the scale n / 2 follows from He et al.'s
    condition n / 2 * var(w) = 1 for ReLUs (ICCV 2015), and `epsilon` is a choice.

    Significance walks through the aligned kernel, which is never masked itself; shrinking keeps
    the channels around it.

    Args:
        layer: A `keras.layers.Dense`, `Conv1D` (not causal), `Conv2D` or `Conv3D`.
        epsilon: Positive number.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: What `layer` takes.

    Output shape:
        That of `layer`.

    Raises:
        ValueError: If `layer` is none of these.

    Example:

    ```python
    import keras
    from keras_saliency import WeightAlign

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        WeightAlign(keras.layers.Conv2D(16, 3, activation="relu")),
        WeightAlign(keras.layers.Conv2D(32, 3, activation="relu")),
    ])
    ```
    """

    def __init__(self, layer: keras.layers.Layer, epsilon: float = 1e-5, **kwargs: Any):
        known = (
            keras.layers.Dense,
            keras.layers.Conv1D,
            keras.layers.Conv2D,
            keras.layers.Conv3D,
        )
        if type(layer) not in known or getattr(layer, "padding", None) == "causal":
            raise ValueError(
                "`layer` must be a Dense, Conv1D (not causal), Conv2D or Conv3D of Keras. "
                f"Received: layer={layer!r}; pad the series yourself for a causal convolution."
            )
        super().__init__(layer, **kwargs)
        self.epsilon = validation.number("epsilon", epsilon, 0, above=True)
        self.supports_masking = layer.supports_masking

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)
        self.gamma = self.add_weight(
            name="gamma", shape=(self.layer.kernel.shape[-1],), initializer="ones"
        )

    def _aligned_kernel(self):
        kernel = ops.convert_to_tensor(self.layer.kernel)
        dtype = kernel.dtype
        # Means and variances of half floats are taken in single precision.
        kernel = ops.cast(kernel, wide_dtype(dtype))
        axes = tuple(range(len(kernel.shape) - 1))
        count = 1
        for axis in axes:
            count *= kernel.shape[axis]
        centred = kernel - ops.mean(kernel, axis=axes, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=axes, keepdims=True)
        gamma = ops.cast(self.gamma, kernel.dtype)
        aligned = gamma * centred / ops.sqrt(count / 2 * variance + self.epsilon)
        return ops.cast(aligned, dtype)

    def call(self, inputs):
        layer = self.layer
        kernel = ops.cast(self._aligned_kernel(), self.compute_dtype)
        if isinstance(layer, keras.layers.Dense):
            outputs = ops.matmul(inputs, kernel)
        else:
            outputs = layer.convolution_op(inputs, kernel)
        if layer.use_bias:
            bias = ops.cast(layer.bias, outputs.dtype)
            if getattr(layer, "data_format", None) == "channels_first":
                bias = ops.reshape(bias, (1, -1) + (1,) * layer.rank)
            outputs = outputs + bias
        if layer.activation is not None:
            outputs = layer.activation(outputs)
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
