"""Attention as activation: ATAC."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.peers.base import FeatureAttention
from keras_saliency.layers.normalization.batch import BatchNormalization
from keras_saliency.typing import Activation


@keras.saving.register_keras_serializable(package="keras_saliency")
class AttentionalActivation(FeatureAttention):
    """ATAC: an activation that looks at all channels of its own place.

        y = x * sigmoid(BN(W2 relu(BN(W1 x))))

    `W1` and `W2` are convolutions of window 1: squeeze-and-excitation without the global mean, so
    that the gate differs from place to place. It takes the place of a ReLU, after a convolution
    and its normalization.

    Source: Y. Dai, S. Oehmcke, F. Gieseke, Y. Wu, K. Barnard, "Attention as Activation", ICPR 2020
    (arXiv:2007.07729), and the authors' public code: no biases, and the hidden width half the
    channels, the code's setting for ImageNet.

    Significance looks into the layer; shrinking keeps the channels that it reads.

    Args:
        ratio: Positive integer, see `SqueezeExcite`.
        activation: Activation between the convolutions.
        momentum, epsilon: Of both batch normalizations, as in Keras.
        use_bias, data_format, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, kernel_constraint, bias_constraint: See `SqueezeExcite`; biases are
            off by default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features of rank 3 to 5, as for `SqueezeExcite`.
        mask: Optional boolean (batch, steps). Steps that are False do not enter the statistics.
        training: Whether the statistics of the batch are used.
        return_attention_scores: If True, also return the gate, of the shape of `inputs`.

    Output:
        A floating-point tensor of the shape of `inputs`.

    Example:

    ```python
    import keras
    from keras_saliency import AttentionalActivation

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(16, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(),
        AttentionalActivation(),
    ])
    ```
    """

    def __init__(
        self,
        ratio: int = 2,
        activation: Activation = "relu",
        use_bias: bool = False,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(ratio, activation, use_bias=use_bias, **kwargs)
        self.momentum = validation.number("momentum", momentum, 0, 1)
        self.epsilon = validation.number("epsilon", epsilon, 0, above=True)

    def _build_gate(self, shape):
        # A layer, since not every activation of Keras's can be traced.
        self.activate = keras.layers.Activation(self.activation, dtype=self.dtype_policy)
        hidden = self._hidden(shape[-1])
        self.squeeze = self._dense("squeeze", shape[-1], hidden)
        self.squeeze_norm = self._norm("squeeze_norm", (*shape[:-1], hidden))
        self.excite = self._dense("excite", hidden, shape[-1])
        self.excite_norm = self._norm("excite_norm", shape)

    def _norm(self, name, shape):
        layer = BatchNormalization(
            momentum=self.momentum, epsilon=self.epsilon, name=name, dtype=self.dtype_policy
        )
        layer.build(shape)
        return layer

    def _gate(self, x, mask, training):
        if mask is not None:
            mask = ops.broadcast_to(mask[..., 0], ops.shape(x)[:-1])
        hidden = self.squeeze_norm(self.squeeze(x), training=training, mask=mask)
        hidden = self.activate(hidden)
        return ops.sigmoid(self.excite_norm(self.excite(hidden), training=training, mask=mask))

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}
