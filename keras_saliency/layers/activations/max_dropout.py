"""Dropout of what is most active."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation


@keras.saving.register_keras_serializable(package="keras_saliency")
class MaxDropout(keras.layers.Layer):
    """Sets the largest activations to zero in training, so that the others learn to do without.

    The tensor is brought to [0, 1] by its own minimum and maximum; what then exceeds `1 - rate`
    is dropped. So `rate` is a share of the range, not of the neurons: of a layer with a few very
    active ones little more than these leave. Nothing is drawn at random, and nothing is scaled
    up. Outside training the layer does nothing.

    Source: C. F. G. dos Santos, D. Colombo, M. Roder, J. P. Papa, "MaxDropout: Deep Neural Network
    Regularization Based on Maximum Output Values", ICPR 2020 (arXiv:2007.13723). The range is
    taken over the whole tensor, the batch included, as in the public PyTorch code; steps that a
    mask excludes do not count.

    The layer has no weights; significance and shrinking pass through it.

    Args:
        rate: Number in [0, 1], the upper part of the range that is dropped.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of any shape.
        mask: Optional boolean tensor with the first axes of `inputs`.
        training: Whether to drop.

    Output shape:
        That of `inputs`.

    Example:

    >>> layer = MaxDropout(0.4)
    >>> dropped = layer(np.array([[0.0, 1.0, 6.0, 10.0]]), training=True)
    >>> keras.ops.convert_to_numpy(dropped).tolist()
    [[0.0, 1.0, 6.0, 0.0]]
    """

    def __init__(self, rate: float = 0.3, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = validation.number("rate", rate, 0, 1)
        self.supports_masking = True

    def build(self, input_shape):
        pass

    def call(self, inputs, mask=None, training=False):
        if not training or self.rate == 0:
            return inputs
        low = high = ops.stop_gradient(inputs)
        if mask is not None:
            exists = ops.cast(mask, "bool")
            exists = ops.expand_dims(exists, tuple(range(len(mask.shape), len(inputs.shape))))
            # What is masked takes on a value that is there, or 0 where nothing is.
            first = ops.max(ops.where(exists, low, ops.full_like(low, -65504.0)))
            first = ops.where(ops.any(exists), first, ops.zeros_like(first))
            low = high = ops.where(exists, low, first)
        low, high = ops.min(low), ops.max(high)
        threshold = ops.cast(low + (high - low) * (1 - self.rate), inputs.dtype)
        # A constant tensor has no most active neuron: nothing exceeds the threshold.
        return ops.where(inputs > threshold, ops.zeros_like(inputs), inputs)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
