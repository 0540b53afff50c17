"""Channel and spatial attention side by side: scSE."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.peers.base import FeatureAttention, over_space, spatial_mean
from keras_saliency.typing import Activation

Aggregation = Literal["add", "max", "multiply"]
AGGREGATIONS = get_args(Aggregation)
# The mask where both weights are 1/2.
_NEUTRAL = {"add": 1.0, "max": 0.5, "multiply": 0.25}


@keras.saving.register_keras_serializable(package="keras_saliency")
class ConcurrentSpatialChannelSE(FeatureAttention):
    """Concurrent spatial and channel squeeze-and-excitation (scSE).

    Two masks are computed side by side: one weight per channel, from the channels' means
    (cSE, `a = sigmoid(W1 relu(W2 mean(x)))`), and one weight per position, from a convolution
    of window 1 (sSE, `b = sigmoid(W x)`). The two weighted feature maps are then aggregated.

    Source: A. G. Roy, N. Navab, C. Wachinger, "Concurrent Spatial and Channel 'Squeeze &
    Excitation' in Fully Convolutional Networks", MICCAI 2018 (arXiv:1803.02579), which adds
    the two; the same authors' article in IEEE TMI 2019 (arXiv:1808.08127) compares with the
    maximum and the product. Its fourth aggregation, concatenation, doubles the channels and is
    left out, since the layer keeps the shape. The hidden layer of cSE has the paper's `r = 2`.

    Args:
        ratio: Positive integer, the paper's reduction `r`. The hidden width is the number of
            channels divided by it, at least 1.
        aggregation: `"add"`: `x * a + x * b`; `"max"`: the larger of `x * a` and `x * b`;
            `"multiply"`: `x * a * b`.
        activation: Activation of the hidden layer of cSE.
        use_bias: Whether the layers have a bias.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: As in `keras.layers.Dense`, for all layers.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features, (batch, steps, channels), (batch, height, width, channels) or
            (batch, depth, height, width, channels); channels at axis 1 in `channels_first`.
        mask: Optional boolean (batch, steps). Steps that are False do not count.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`. With
            `aggregation="add"` it lies in [0, 2], otherwise in [0, 1].

    Output:
        A floating-point tensor of the shape of `inputs`: `inputs * mask`.

    Example:

    ```python
    import keras
    from keras_saliency import ConcurrentSpatialChannelSE

    inputs = keras.Input((64, 64, 16))
    model = keras.Model(inputs, ConcurrentSpatialChannelSE(aggregation="max")(inputs))
    ```
    """

    def __init__(
        self,
        ratio: int = 2,
        aggregation: Aggregation = "add",
        activation: Activation = "relu",
        **kwargs: Any,
    ):
        super().__init__(ratio, activation, **kwargs)
        self.aggregation = validation.choice("aggregation", aggregation, AGGREGATIONS)

    @property
    def _neutral(self):
        return _NEUTRAL[self.aggregation]

    def _build_gate(self, shape):
        hidden = self._hidden(shape[-1])
        self.squeeze = self._dense("squeeze", shape[-1], hidden, self.activation)
        self.excite = self._dense("excite", hidden, shape[-1], last=True)
        self.spatial = self._dense("spatial", shape[-1], 1, last=True)

    def _gate(self, x, mask, training):
        channel = over_space(ops.sigmoid(self.excite(self.squeeze(spatial_mean(x, mask)))), x)
        position = ops.sigmoid(self.spatial(x))
        if self.aggregation == "add":
            return channel + position
        if self.aggregation == "multiply":
            return channel * position
        # The larger of two products with x is the product with the smaller weight where x < 0.
        larger, smaller = ops.maximum(channel, position), ops.minimum(channel, position)
        return ops.where(x >= 0, larger, smaller)

    def get_config(self):
        return {**super().get_config(), "aggregation": self.aggregation}
