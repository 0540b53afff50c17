"""How an attention layer starts: as its paper prints it, or as the identity."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.precision import wide_dtype

Start = Literal["paper", "identity"]
STARTS = get_args(Start)


class StartingLayer(keras.layers.Layer):
    """Base of attention layers that may start as the identity, so that a trained model stays it.

    Where a layer weighs its features by a mask that ends in a sigmoid, the last kernel and bias
    start at zero (`_last`), so that the mask is the same everywhere, and the mask is divided by
    that value. Any other layer adds a scalar, `_add_gate` in `build`, and ends its `call` in
    `_through_gate`.

    Args:
        start: `"paper"`, or `"identity"`: a new layer returns its input.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, start: Start = "paper", **kwargs: Any):
        super().__init__(**kwargs)
        self.start = validation.choice("start", start, STARTS)
        self.start_gate = None

    @property
    def starts_as_identity(self) -> bool:
        return self.start == "identity"

    def _last(self, initializer):
        """Return the initializer of the last kernel, or bias, before a sigmoid."""
        return keras.initializers.Zeros() if self.starts_as_identity else initializer

    def _add_gate(self):
        if self.starts_as_identity:
            self.start_gate = self.add_weight(
                name="gate", shape=(), initializer="zeros", dtype="float32", autocast=False
            )

    def _check_gate(self, size, channels, argument):
        """Raise an error if the layer changes the channels: it cannot start as the identity."""
        if self.starts_as_identity and size != channels:
            raise ValueError(
                f"`start='identity'` needs an output of the shape of the input, {channels} "
                f"channels. Received: {argument}={size}. Pass {argument}={channels} or "
                "start='paper'."
            )

    def _through_gate(self, x, y):
        """Return `x + gate * (y - x)`, or `y` where there is no gate."""
        if self.start_gate is None:
            return y
        wide = wide_dtype(self.compute_dtype)
        x = ops.cast(x, wide)
        mixed = x + ops.cast(self.start_gate, wide) * (ops.cast(y, wide) - x)
        return ops.cast(mixed, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "start": self.start}
