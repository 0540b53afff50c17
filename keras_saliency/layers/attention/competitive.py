"""Squeeze-and-excitation of a residual that also looks at what it is added to."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.peers.base import over_space, spatial_mean
from keras_saliency.layers.normalization.batch import BatchNormalization
from keras_saliency.typing import Activation, DataFormat

View = Literal["pair", "double"]
VIEWS = get_args(View)


@keras.saving.register_keras_serializable(package="keras_saliency")
class CompetitiveSqueezeExcite(keras.layers.Layer):
    """CMPE-SE: the end of a residual block, in place of `Add`.

        y = identity + residual * g(mean(residual), mean(identity))

    Where squeeze-and-excitation weighs the channels of the residual by the residual alone, here
    residual and identity compete for them.

    In the `"pair"` view both means, side by side, are an image of two columns. Kernels that see
    one channel of both are convolved with it, and the mean of their maps goes through two dense
    layers. In the `"double"` view each mean is squeezed by a dense layer of its own, and both
    together are excited.

    Source: Y. Hu et al., "Competitive Inner-Imaging Squeeze and Excitation for Residual Network",
    2018 (arXiv:1807.08920), and the authors' public code (its convolution 2 x 1 and its double
    FC); Kalhor (2023), section 3.1 (4). Left out: the folded image with a 3 x 3 window, whose
    fold is the width factor of one network.

    Significance looks into the layer; shrinking keeps the channels that it reads.

    Args:
        ratio: Integer >= 1. The hidden width is `channels // ratio`, at least 1.
        view: `"pair"` or `"double"`.
        activation: Activation of the squeezed means.
        data_format: `"channels_last"`, `"channels_first"`, or None for Keras's setting.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: List of residual and identity, of one shape and of rank 3 to 5, as for
            `SqueezeExcite`.
        mask: Optional boolean (batch, steps), or a list of one per input, of which the first
            counts. Steps that are False do not enter the means.
        training: Whether the normalization of the pair's maps uses the statistics of the batch.

    Output shape:
        That of either input.

    Raises:
        ValueError: If an argument is not of the kind above, or the inputs are no such pair.

    Example:

    ```python
    import keras
    from keras_saliency import CompetitiveSqueezeExcite

    x = keras.Input((32, 32, 16))
    y = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    y = keras.layers.Conv2D(16, 3, padding="same")(y)
    block = keras.Model(x, CompetitiveSqueezeExcite(ratio=4)([y, x]))
    ```
    """

    def __init__(
        self,
        ratio: int = 16,
        view: View = "pair",
        activation: Activation = "relu",
        data_format: DataFormat | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.ratio = validation.integer("ratio", ratio)
        self.view = validation.choice("view", view, VIEWS)
        self.activation = keras.activations.get(activation)
        self.data_format = validation.data_format(data_format)
        self.supports_masking = True

    def build(self, input_shape):
        channels = self._channels(input_shape)
        hidden = max(channels // self.ratio, 1)
        if self.view == "pair":
            self.image = self._dense("image", 2, hidden)
            self.norm = BatchNormalization(momentum=0.9, name="norm", dtype=self.dtype_policy)
            self.norm.build((None, channels, hidden))
            self.squeeze = self._dense("squeeze", channels, hidden, self.activation)
            self.excite = self._dense("excite", hidden, channels, "sigmoid")
        else:
            self.squeeze = self._dense("squeeze", channels, hidden, self.activation)
            self.squeeze_identity = self._dense(
                "squeeze_identity", channels, hidden, self.activation
            )
            self.excite = self._dense("excite", 2 * hidden, channels, "sigmoid")

    def _dense(self, name, inputs, units, activation=None):
        layer = keras.layers.Dense(
            units, activation, use_bias=False, name=name, dtype=self.dtype_policy
        )
        layer.build((None, inputs))
        return layer

    def _channels(self, input_shape):
        pair = len(input_shape) == 2 and all(isinstance(s, (list, tuple)) for s in input_shape)
        shapes = [tuple(s) for s in input_shape] if pair else []
        axis = 1 if self.data_format == "channels_first" else -1
        if not pair or len(shapes[0]) != len(shapes[1]) or not 3 <= len(shapes[0]) <= 5:
            raise ValueError(
                "CompetitiveSqueezeExcite takes [residual, identity], both of one shape and of "
                f"rank 3 to 5. Received: input_shape={input_shape}"
            )
        channels = {shape[axis] for shape in shapes}
        if len(channels) > 1 or None in channels:
            raise ValueError(
                "Residual and identity must have the same, known number of channels. "
                f"Received: input_shape={input_shape}, data_format={self.data_format!r}"
            )
        return channels.pop()

    def call(self, inputs, mask=None, training=None):
        first = self.data_format == "channels_first"
        residual, identity = (ops.moveaxis(x, 1, -1) if first else x for x in inputs)
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        exists = None
        if mask is not None:
            exists = ops.expand_dims(ops.cast(mask, "bool"), tuple(range(2, len(residual.shape))))
        means = [spatial_mean(x, exists) for x in (residual, identity)]
        if self.view == "pair":
            maps = self.norm(self.image(ops.stack(means, axis=-1)), training=training)
            gate = self.excite(self.squeeze(ops.mean(maps, axis=-1)))
        else:
            squeezed = [self.squeeze(means[0]), self.squeeze_identity(means[1])]
            gate = self.excite(ops.concatenate(squeezed, axis=-1))
        outputs = identity + residual * over_space(gate, residual)
        return ops.moveaxis(outputs, -1, 1) if first else outputs

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def get_config(self):
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "view": self.view,
            "activation": keras.activations.serialize(self.activation),
            "data_format": self.data_format,
        }
