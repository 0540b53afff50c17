"""Channel attention by a convolution over the channels: ECA."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.peers.base import FeatureAttention, over_space, spatial_mean


@keras.saving.register_keras_serializable(package="keras_saliency")
class EfficientChannelAttention(FeatureAttention):
    """Efficient channel attention: each channel's weight from its neighbors' means.

        a = sigmoid(conv(mean(x)))

    One small kernel slides over the channels: attention of the whole feature map for a handful of
    weights, and no hidden layer to lose information in.

    Source: Q. Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
    Networks", CVPR 2020 (arXiv:1910.03151): without a size given, the kernel is
    the odd number nearest to `(log2(channels) + 1) / 2`, from above where it is even.
    Beyond the first and the last channel there are zeros.

    Args:
        kernel_size: Odd integer, how many channels a weight sees; None for the paper's.
        use_bias: Whether the convolution has a bias.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: As in `keras.layers.Dense`.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Features of rank 3 to 5, as for `SqueezeExcite`.
        mask: Optional boolean (batch, steps). Steps that are False do not count.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`.

    Output:
        A floating-point tensor of the shape of `inputs`: `inputs * mask`.

    Example:

    ```python
    import keras
    from keras_saliency import EfficientChannelAttention

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        EfficientChannelAttention(),
    ])
    ```
    """

    def __init__(self, kernel_size: int | None = None, use_bias: bool = False, **kwargs: Any):
        super().__init__(1, None, use_bias=use_bias, **kwargs)
        self.kernel_size = validation.integer("kernel_size", kernel_size, optional=True)
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise validation.wrong("kernel_size", "an odd integer, or None", kernel_size)

    def _build_gate(self, shape):
        size = self.kernel_size or _kernel_size(shape[-1])
        self.conv = self._conv("conv", (None, shape[-1], 1), 1, size, last=True)

    def _gate(self, x, mask, training):
        channel = self.conv(spatial_mean(x, mask)[..., None])[..., 0]
        return over_space(ops.sigmoid(channel), x)

    def get_config(self):
        config = {**super().get_config(), "kernel_size": self.kernel_size}
        return {k: v for k, v in config.items() if k not in ("ratio", "activation")}


def _kernel_size(channels):
    size = int((math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1
