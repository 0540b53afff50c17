"""Attention from the energy of every neuron, without weights: SimAM."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.peers.base import FeatureAttention, keep, spatial_axes
from keras_saliency.typing import DataFormat


@keras.saving.register_keras_serializable(package="keras_saliency")
class SimAM(FeatureAttention):
    """Simple, parameter-free attention: what differs from its channel's mean is important.

        a = sigmoid((x - mean)^2 / (4 (variance + epsilon)) + 1/2)

    with mean and variance of each channel over its places. The energy of separating a neuron
    linearly from the others of its channel has a closed form, and `a` is a sigmoid of its inverse.

    Source: L. Yang, R.-Y. Zhang, L. Li, X. Xie, "SimAM: A Simple, Parameter-Free Attention Module
    for Convolutional Neural Networks", ICML 2021, and the code of its
    appendix, whose variance divides by one place less than there are.

    Args:
        epsilon: Positive number, the paper's lambda.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features of rank 3 to 5, as for `SqueezeExcite`.
        mask: Optional boolean (batch, steps). Steps that are False do not count.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`.

    Output:
        A floating-point tensor of the shape of `inputs`: `inputs * mask`.

    Example:

    ```python
    import keras
    from keras_saliency import SimAM

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        SimAM(),
    ])
    ```
    """

    _gated = True

    def __init__(self, epsilon: float = 1e-4, data_format: DataFormat | None = None, **kwargs: Any):
        known = {"name", "dtype", "trainable", "activity_regularizer", "autocast", "start"}
        unknown = set(kwargs) - known
        if unknown:
            raise TypeError(f"SimAM has no weights and no argument {sorted(unknown)}.")
        super().__init__(1, None, data_format=data_format, **kwargs)
        self.epsilon = validation.number("epsilon", epsilon, 0, above=True)

    def _build_gate(self, shape):
        pass

    def _gate(self, x, mask, training):
        dtype = x.dtype
        # Squares of half floats overflow.
        x = ops.cast(x, keras.backend.result_type(dtype, "float32"))
        axes = spatial_axes(x)
        exists = ops.ones_like(x) if mask is None else ops.cast(mask, x.dtype)
        exists = ops.broadcast_to(exists, ops.shape(x))
        count = ops.maximum(ops.sum(exists, axes, keepdims=True), 1.0)
        mean = ops.sum(keep(x, mask), axes, keepdims=True) / count
        square = ops.square(x - mean)
        variance = ops.sum(keep(square, mask), axes, keepdims=True) / ops.maximum(count - 1, 1.0)
        return ops.cast(ops.sigmoid(square / (4 * (variance + self.epsilon)) + 0.5), dtype)

    def get_config(self):
        config = keras.layers.Layer.get_config(self)
        own = {"epsilon": self.epsilon, "data_format": self.data_format, "start": self.start}
        return {**config, **own}
