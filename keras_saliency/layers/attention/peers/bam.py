"""Channel and spatial attention in two branches that meet before the sigmoid: BAM."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.peers.base import (
    FeatureAttention,
    keep,
    over_space,
    positive_integers,
    spatial_mean,
)
from keras_saliency.layers.normalization.batch import BatchNormalization
from keras_saliency.typing import Activation, Size


@keras.saving.register_keras_serializable(package="keras_saliency")
class BAM(FeatureAttention):
    """Bottleneck attention module: a channel branch and a dilated spatial branch.

    The channel branch is `BN(W1 relu(W0 mean(x)))`. The spatial branch reduces the channels by
    a convolution of window 1, applies two dilated convolutions, ends in one channel and is
    normalized too. The mask is `sigmoid(channel + spatial)`, and the features keep a residual
    path: `x + x * mask`.

    Source: J. Park, S. Woo, J.-Y. Lee, I. S. Kweon, "BAM: Bottleneck Attention Module", BMVC
    2018 (arXiv:1807.06514), equations 1 to 5; a competitor in G 5.5.4. The printed equations
    show no activation between the layers of a branch; the authors' code has ReLU, as here
    (`activation=None` gives the printed form), and more batch normalization inside the
    branches, where this layer follows the paper: one at the end of each branch. Sequences and
    volumes are treated like images.

    Args:
        ratio: Positive integer, the paper's reduction `r` of both branches.
        kernel_size: Window of the dilated convolutions, an integer or a tuple.
        dilation_rate: Their dilation `d`, an integer or a tuple.
        activation: Activation between the layers of a branch.
        momentum, epsilon: Of the two batch normalizations, as in
            `keras.layers.BatchNormalization`.
        use_bias: Whether the dense and convolutional layers have a bias.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: As in `keras.layers.Conv2D`, for all layers.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features, (batch, steps, channels), (batch, height, width, channels) or
            (batch, depth, height, width, channels); channels at axis 1 in `channels_first`.
        mask: Optional boolean (batch, steps). Steps that are False do not count.
        training: Whether the batch's own statistics normalize (True) or the moving ones.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`.

    Output:
        A floating-point tensor of the shape of `inputs`: `inputs * (1 + mask)`.

    Example:

    ```python
    import keras
    from keras_saliency import BAM

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        BAM(dilation_rate=4),
        keras.layers.MaxPooling2D(),
    ])
    ```
    """

    def __init__(
        self,
        ratio: int = 16,
        kernel_size: Size = 3,
        dilation_rate: Size = 4,
        activation: Activation = "relu",
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(ratio, activation, **kwargs)
        self.kernel_size = positive_integers(kernel_size, "kernel_size")
        self.dilation_rate = positive_integers(dilation_rate, "dilation_rate")
        self.momentum = validation.number("momentum", momentum, 0, 1)
        self.epsilon = validation.number("epsilon", epsilon, 0, above=True)

    def _build_gate(self, shape):
        hidden = self._hidden(shape[-1])
        small = (*shape[:-1], hidden)
        self.squeeze = self._dense("squeeze", shape[-1], hidden, self.activation)
        self.excite = self._dense("excite", hidden, shape[-1])
        self.channel_norm = self._norm("channel_norm", (None, shape[-1]))
        self.reduce = self._dense("reduce", shape[-1], hidden, self.activation)
        window = (hidden, self.kernel_size, self.dilation_rate, self.activation)
        self.context_1 = self._conv("context_1", small, *window)
        self.context_2 = self._conv("context_2", small, *window)
        self.project = self._dense("project", hidden, 1)
        self.spatial_norm = self._norm("spatial_norm", (*shape[:-1], 1))

    def _norm(self, name, shape):
        layer = BatchNormalization(
            momentum=self.momentum,
            epsilon=self.epsilon,
            # To start as the identity the scale is zero, and not the kernel before it: a batch of
            # equal values has no spread, and its gradient would be 1 / sqrt(epsilon) too large.
            gamma_initializer=self._last("ones"),
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build(shape)
        return layer

    def _gate(self, x, mask, training):
        channel = self.excite(self.squeeze(spatial_mean(x, mask)))
        channel = over_space(self.channel_norm(channel, training=training), x)
        position = self.reduce(x)
        for context in (self.context_1, self.context_2):
            position = context(keep(position, mask))
        position = self.project(position)
        exists = None
        if mask is not None:
            exists = ops.broadcast_to(mask[..., 0], ops.shape(position)[:-1])
        position = self.spatial_norm(position, training=training, mask=exists)
        return ops.sigmoid(channel + position)

    def _weigh(self, inputs, scores):
        if self._divides:
            return inputs * ((1.0 + scores) / 1.5)
        return inputs + inputs * scores

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "dilation_rate": self.dilation_rate,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }
