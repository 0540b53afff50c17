"""Maxout: the largest of several feature maps (Goodfellow et al. 2013; G 3.5.1)."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import keras
from keras import ops

from keras_saliency import validation


def maxout_channels(channels, pieces):
    """Number of feature maps that `maxout` leaves of `channels` (None stays None)."""
    return None if channels is None else -(-channels // pieces)


def maxout(inputs, pieces, axis=-1):
    """Maximum over successive groups of `pieces` entries of one axis; the last group may be short.

    Args:
        inputs: tensor.
        pieces: int, the size of a group.
        axis: int, the axis to reduce; its size must be known.

    Returns:
        A tensor with `ceil(size / pieces)` entries along `axis`.
    """
    if pieces == 1:
        return inputs
    axis = axis % len(inputs.shape)
    size = inputs.shape[axis]
    before = [slice(None)] * axis
    missing = maxout_channels(size, pieces) * pieces - size
    if missing:
        # The last entry again: it changes no maximum.
        last = inputs[(*before, slice(size - 1, size))]
        inputs = ops.concatenate([inputs, *[last] * missing], axis=axis)
    # Elementwise over strided parts: a reduction breaks torch.compile's graph.
    parts = [inputs[(*before, slice(i, None, pieces))] for i in range(pieces)]
    # On PyTorch, Keras returns float32 maxima of float64.
    return ops.cast(functools.reduce(ops.maximum, parts), inputs.dtype)


def check_pieces(pieces, name="pieces"):
    return validation.integer(name, pieces)


@keras.saving.register_keras_serializable(package="keras_saliency")
class Maxout(keras.layers.Layer):
    """Keeps the largest of every `pieces` successive feature maps.

    A maxout unit is the maximum of several linear maps. Place this layer after a linear
    convolution or dense layer: of its C maps, `ceil(C / pieces)` remain. Where C is no multiple
    of `pieces`, the last group is smaller, so that any kernel count will do.

    Args:
        pieces: int, the number of linear maps per unit.
        axis: int, the axis of the feature maps (1 for `channels_first`).
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: tensor of any rank >= 2; the size of `axis` must be known.

    Output shape:
        The input's, with `ceil(size / pieces)` along `axis`.

    Raises:
        ValueError: when an argument is no such integer, or `axis` is not an axis of the input.

    Example:

    >>> import numpy as np
    >>> import keras_saliency
    >>> keras_saliency.Maxout(pieces=2)(np.array([[1.0, 5.0, 2.0, 3.0, 4.0]])).shape[1]
    3

    Source: Goodfellow et al., Maxout networks, ICML 2013, equation 1; G 3.5.1 and 3.5.2.
    """

    def __init__(self, pieces: int = 2, axis: int = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.pieces = check_pieces(pieces)
        if isinstance(axis, bool) or not isinstance(axis, numbers.Integral) or axis == 0:
            raise ValueError(
                "`axis` must be an integer other than 0, which is the batch. "
                f"Received: axis={axis!r}"
            )
        self.axis = int(axis)
        self.supports_masking = True

    def build(self, input_shape):
        rank = len(input_shape)
        if not -rank < self.axis < rank:
            raise ValueError(
                f"`axis` must be an axis of the input other than the batch. Received: "
                f"axis={self.axis} for input_shape={tuple(input_shape)}"
            )
        if input_shape[self.axis] is None:
            raise ValueError(
                f"The size of axis {self.axis} must be known to group its feature maps. "
                f"Received: input_shape={tuple(input_shape)}"
            )

    def call(self, inputs):
        return maxout(inputs, self.pieces, self.axis)

    def compute_output_shape(self, input_shape):
        shape = list(input_shape)
        shape[self.axis] = maxout_channels(shape[self.axis], self.pieces)
        return tuple(shape)

    def get_config(self):
        return {**super().get_config(), "pieces": self.pieces, "axis": self.axis}
