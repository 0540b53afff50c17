"""What activations with weights of their own share: one weight for all, or one per channel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation


class TrainedActivation(keras.layers.Layer):
    """Base of activations of which some numbers are trained.

    Args:
        axis: The axis with a number per entry, such as the channels; None for one number for
            all. Its weights are then made at once, so that the layer can be an activation of
            another one, such as `keras.layers.LSTM`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, axis: int | None = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = validation.integer("axis", axis, minimum=None, optional=True)
        if self.axis == 0:
            raise validation.wrong("axis", "an axis other than 0, which is the batch", axis)
        self.supports_masking = True
        if self.axis is None:
            self._add_numbers(())

    def _add_numbers(self, shape):
        """Make the weights, each of `shape`."""
        raise NotImplementedError(type(self).__name__)

    def _number(self, name, value, shape, low=None, high=None):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(value),
            constraint=Between(low, high),
        )

    def build(self, input_shape):
        if self.axis is None:
            return
        rank = len(input_shape)
        if not -rank < self.axis < rank or input_shape[self.axis] is None:
            raise ValueError(
                "`axis` must be an axis of the input of known size, other than the batch, or None. "
                f"Received: axis={self.axis} for input_shape={tuple(input_shape)}"
            )
        self._add_numbers((input_shape[self.axis],))

    def _over(self, number, x):
        """A weight in the precision of `x`, with axes of 1 so that it broadcasts."""
        if self.axis is not None:
            shape = [1] * len(x.shape)
            shape[self.axis] = -1
            number = ops.reshape(number, shape)
        return ops.cast(number, x.dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


class Between(keras.constraints.Constraint):
    """Keeps a weight within bounds, inclusive; None for no bound."""

    def __init__(self, low, high):
        self.low, self.high = low, high

    def __call__(self, w):
        w = w if self.low is None else ops.maximum(w, ops.cast(self.low, w.dtype))
        return w if self.high is None else ops.minimum(w, ops.cast(self.high, w.dtype))
