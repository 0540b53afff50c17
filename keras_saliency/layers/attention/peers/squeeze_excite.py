"""Channel attention: squeeze and excitation."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency.layers.attention.peers.base import FeatureAttention, over_space, spatial_mean
from keras_saliency.typing import Activation


@keras.saving.register_keras_serializable(package="keras_saliency")
class SqueezeExcite(FeatureAttention):
    """Squeeze-and-excitation: one weight per channel, from the channels' means.

    The mean of each channel over space or time passes through two dense layers of width
    `channels // ratio` and `channels`; the sigmoid of the result weighs the channels:
    `mask = sigmoid(W2 relu(W1 mean(x)))`.

    Source: J. Hu, L. Shen, G. Sun, "Squeeze-and-Excitation Networks", CVPR 2018
    (arXiv:1709.01507), equations 2 to 4. The paper prints no biases and finds ResNets slightly
    better without; its published code has them, as here by default (`use_bias=False` removes
    them). Sequences and volumes are treated like images.

    Args:
        ratio: Positive integer, the paper's reduction `r`. The hidden width is the number of
            channels divided by it, at least 1.
        activation: Activation of the hidden layer.
        use_bias: Whether the two layers have a bias.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: As in `keras.layers.Dense`, for both layers.
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
    from keras_saliency import SqueezeExcite

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(inputs)
    x = SqueezeExcite(ratio=16)(x)
    model = keras.Model(inputs, x)
    ```
    """

    def __init__(self, ratio: int = 16, activation: Activation = "relu", **kwargs: Any):
        super().__init__(ratio, activation, **kwargs)

    def _build_gate(self, shape):
        hidden = self._hidden(shape[-1])
        self.squeeze = self._dense("squeeze", shape[-1], hidden, self.activation)
        self.excite = self._dense("excite", hidden, shape[-1], last=True)

    def _gate(self, x, mask, training):
        return over_space(ops.sigmoid(self.excite(self.squeeze(spatial_mean(x, mask)))), x)
