"""Channel attention, then spatial attention: CBAM."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency.layers.attention.peers.base import (
    FeatureAttention,
    keep,
    over_space,
    positive_integers,
    spatial_max,
    spatial_mean,
)
from keras_saliency.typing import Activation, Size


@keras.saving.register_keras_serializable(package="keras_saliency")
class CBAM(FeatureAttention):
    """Convolutional block attention module: which channels, then which places.

    The channels' means and maxima pass through one shared network of two dense layers:
    `m_c = sigmoid(MLP(mean(x)) + MLP(max(x)))`. Of the weighted features, the mean and the
    maximum over channels pass through one convolution:
    `m_s = sigmoid(conv([mean(x m_c), max(x m_c)]))`. The mask is `m_c * m_s`.

    Source: S. Woo, J. Park, J.-Y. Lee, I. S. Kweon, "CBAM: Convolutional Block Attention
    Module", ECCV 2018 (arXiv:1807.06521), equations 1 to 3; a competitor in G 5.5.4. The
    authors' code normalizes the convolution's output over the batch, which the paper's
    equations do not and this layer does not. Sequences and volumes are treated like images.

    Args:
        ratio: Positive integer, the paper's reduction `r` of the shared network.
        kernel_size: Window of the spatial convolution, an integer or a tuple. The paper finds 7
            better than 3.
        activation: Activation of the hidden layer of the shared network.
        use_bias: Whether the layers have a bias.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: As in `keras.layers.Conv2D`, for all layers.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features, (batch, steps, channels), (batch, height, width, channels) or
            (batch, depth, height, width, channels); channels at axis 1 in `channels_first`.
        mask: Optional boolean (batch, steps). Steps that are False do not count.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`.

    Output:
        A floating-point tensor of the shape of `inputs`: `inputs * mask`.

    Example:

    ```python
    import keras
    from keras_saliency import CBAM

    inputs = keras.Input((32, 32, 64))
    outputs, mask = CBAM()(inputs, return_attention_scores=True)
    model = keras.Model(inputs, [outputs, mask])
    ```
    """

    _neutral = 0.25

    def __init__(
        self, ratio: int = 16, kernel_size: Size = 7, activation: Activation = "relu", **kwargs: Any
    ):
        super().__init__(ratio, activation, **kwargs)
        self.kernel_size = positive_integers(kernel_size, "kernel_size")

    def _build_gate(self, shape):
        hidden = self._hidden(shape[-1])
        self.squeeze = self._dense("squeeze", shape[-1], hidden, self.activation)
        self.excite = self._dense("excite", hidden, shape[-1], last=True)
        self.spatial = self._conv("spatial", (*shape[:-1], 2), 1, self.kernel_size, last=True)

    def _shared(self, pooled):
        return self.excite(self.squeeze(pooled))

    def _gate(self, x, mask, training):
        channel = self._shared(spatial_mean(x, mask)) + self._shared(spatial_max(x, mask))
        channel = over_space(ops.sigmoid(channel), x)
        weighed = x * channel
        mean = ops.mean(weighed, axis=-1, keepdims=True)
        maximum = ops.amax(weighed, axis=-1, keepdims=True)
        maps = keep(ops.concatenate([mean, maximum], axis=-1), mask)
        return channel * ops.sigmoid(self.spatial(maps))

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}
