"""Channel attention that knows where along each axis: coordinate attention."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.peers.base import FeatureAttention, keep, spatial_axes
from keras_saliency.layers.normalization.batch import BatchNormalization
from keras_saliency.typing import Activation


@keras.saving.register_keras_serializable(package="keras_saliency")
class CoordinateAttention(FeatureAttention):
    """Coordinate attention: one mask along the height times one along the width.

    The features are averaged over the width, and over the height. Both profiles go through one
    convolution of window 1 with a normalization and an activation, and each through another one
    of its own and a sigmoid. The mask is their product, so that a channel's weight depends on the
    row and on the column.

    Source: Q. Hou, D. Zhou, J. Feng, "Coordinate Attention for Efficient Mobile Network Design",
    CVPR 2021 (arXiv:2103.02907); the hidden width is at least 8, as in the
    authors' code. Choice: on sequences and volumes there is a profile for every axis too.

    Args:
        ratio: Positive integer. The hidden width is the number of channels divided by it, at
            least 8.
        activation: Activation of the hidden layer.
        momentum, epsilon: Of the batch normalization, as in Keras.
        use_bias, data_format, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, kernel_constraint, bias_constraint: See `SqueezeExcite`.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features of rank 3 to 5, as for `SqueezeExcite`.
        mask: Optional boolean (batch, steps). Steps that are False do not count.
        training: Whether the statistics of the batch are used.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`.

    Output:
        A floating-point tensor of the shape of `inputs`: `inputs * mask`.

    Example:

    ```python
    import keras
    from keras_saliency import CoordinateAttention

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        CoordinateAttention(),
    ])
    ```
    """

    def __init__(
        self,
        ratio: int = 32,
        activation: Activation = "hard_swish",
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(ratio, activation, **kwargs)
        self.momentum = validation.number("momentum", momentum, 0, 1)
        self.epsilon = validation.number("epsilon", epsilon, 0, above=True)

    def _build_gate(self, shape):
        # A layer, since not every activation of Keras's can be traced.
        self.activate = keras.layers.Activation(self.activation, dtype=self.dtype_policy)
        channels = shape[-1]
        hidden = max(channels // self.ratio, 8)
        self.squeeze = self._dense("squeeze", channels, hidden)
        self.norm = BatchNormalization(
            momentum=self.momentum, epsilon=self.epsilon, name="norm", dtype=self.dtype_policy
        )
        self.norm.build((None, None, hidden))
        axes = range(len(shape) - 2)
        self.excite = [self._dense(f"excite_{i}", hidden, channels, last=True) for i in axes]
        self._neutral = 0.5 ** len(axes)

    def _gate(self, x, mask, training):
        axes = spatial_axes(x)
        profiles = [self._profile(x, axis, mask) for axis in axes]
        exists = None
        if mask is not None:
            # Of the first axis, time, some steps are padding; of the others none.
            flat = ops.reshape(mask, (-1, ops.shape(x)[1]))
            ones = [ops.ones_like(profile[..., 0], "bool") for profile in profiles[1:]]
            exists = ops.concatenate([flat, *ones], axis=1)
        hidden = self.norm(
            self.squeeze(ops.concatenate(profiles, axis=1)), training=training, mask=exists
        )
        hidden = self.activate(hidden)
        gate, begin = 1.0, 0
        for axis, excite in zip(axes, self.excite, strict=True):
            extent = ops.shape(x)[axis]
            part = ops.sigmoid(excite(hidden[:, begin : begin + extent]))
            shape = [-1] + [1] * len(axes) + [part.shape[-1]]
            shape[axis] = extent
            gate, begin = gate * ops.reshape(part, shape), begin + extent
        return gate

    def _profile(self, x, axis, mask):
        """Means over all axes of space but one, (batch, extent, channels)."""
        others = tuple(i for i in spatial_axes(x) if i != axis)
        if mask is None or axis == 1:
            return ops.mean(keep(x, mask), axis=others) if others else keep(x, mask)
        weights = ops.cast(mask, x.dtype)
        share = ops.maximum(ops.mean(weights, axis=1, keepdims=True), 1e-4)
        return ops.mean(keep(x, mask) / share, axis=others)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}
