"""A residual of another width."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_saliency")
class ResidualAdd(keras.layers.Layer):
    """Adds to a tensor one of another width, filled up with zeros or cut to fit.

    Source: Prakash (2019), section 7.2.3, which clips or pads to add the input of a stack of
    LSTMs, words, to its output.

    The layer has no weights; significance looks into it.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: List of two tensors (..., features) of the same axes but the last; the first one's
            width is kept.

    Output shape:
        That of the first input.

    Raises:
        ValueError: If the inputs are not two such tensors with a known number of features.

    Example:

    >>> import numpy as np
    >>> y = ResidualAdd()([np.ones((1, 3)), np.ones((1, 2))])
    >>> keras.ops.convert_to_numpy(y).tolist()
    [[2.0, 2.0, 1.0]]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        pair = len(input_shape) == 2 and all(isinstance(s, (list, tuple)) for s in input_shape)
        if not pair or len({len(s) for s in input_shape}) > 1:
            raise ValueError(
                "ResidualAdd takes a list of two tensors with as many axes. "
                f"Received: input_shape={input_shape}"
            )
        if any(len(s) < 2 or s[-1] is None for s in input_shape):
            raise ValueError(
                f"ResidualAdd needs known numbers of features. Received: input_shape={input_shape}"
            )

    def call(self, inputs):
        x, rest = inputs
        missing = x.shape[-1] - rest.shape[-1]
        if missing > 0:
            rest = ops.pad(rest, [(0, 0)] * (len(x.shape) - 1) + [(0, missing)])
        return x + rest[..., : x.shape[-1]]

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])
