"""FusAtNet: features of one modality, seen through masks from both."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.layers.attention.peers.base import FeatureAttention, keep, positive_integers
from keras_saliency.typing import Activation, Size


@keras.saving.register_keras_serializable(package="keras_saliency")
class FusAtNet(FeatureAttention):
    """Fusion by self- and cross-attention (FusAtNet), on sequences and, say, their saliency.

    With x the sequence, s the second modality, F, A and B stacks of two `same` convolutions
    (F ends in `activation`, A and B in a sigmoid):

        m_x = F(x) * A_x(x)               its own mask
        m_s = F(x) * A_s(s)               the other's mask
        z = [x, s, m_x, m_s]
        y = F_z(z) * B(z)                 a mask on what was fused

    Given the sequence alone, it stands for the second modality, too: the "data only" of G table
    6.2.

    Source: S. Mohla, S. Pande, B. Banerjee, S. Chaudhuri, "FusAtNet: Dual Attention based
    SpectroSpatial Multimodal Fusion Network for Hyperspectral and LiDAR Classification", CVPR
    Workshops 2020, section 2; G 6.5.3. Differences: convolutions over time instead of image
    patches, two in a stack instead of six with batch normalization, and the shape of x is kept,
    so that it can stand where any attention layer stands.

    Args:
        ratio: Positive integer. Hidden convolutions have channels divided by it, at least 1.
        kernel_size: Window of the convolutions.
        activation: Activation of the convolutions.
        use_bias, data_format, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, kernel_constraint, bias_constraint: As in `SqueezeExcite`.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequences (batch, steps, channels), or `[sequence, second]`, which agree in batch
            and steps; (batch, channels, steps) in `channels_first`.
        mask: Optional boolean (batch, steps), or a list of two.
        return_attention_scores: If True, also return the last mask, B(z), of the output's shape.

    Output:
        A floating-point tensor of the shape of the sequence.

    Example:

    ```python
    import keras
    from keras_saliency import FusAtNet, SaliencySeries

    series = keras.Input((100, 6))
    fused = FusAtNet()([series, SaliencySeries()(series)])
    model = keras.Model(series, keras.layers.LSTM(12)(fused))
    ```
    """

    _gated = True

    def __init__(
        self, ratio: int = 1, kernel_size: Size = 3, activation: Activation = "relu", **kwargs: Any
    ):
        super().__init__(ratio, activation, **kwargs)
        self.kernel_size = positive_integers(kernel_size, "kernel_size")

    def build(self, input_shape):
        pair = _pair(input_shape)
        for shape in pair:
            if len(shape) != 3 or self._channels_last(tuple(shape))[-1] is None:
                raise ValueError(
                    "FusAtNet takes sequences, (batch, steps, channels), with known channels. "
                    f"Received: input_shape={input_shape}"
                )
        (_, t, channels), (_, t2, others) = (self._channels_last(tuple(s)) for s in pair)
        if None not in (t, t2) and t != t2:
            raise ValueError(f"The two sequences must agree in steps. Received: {t} and {t2}")
        fused = 3 * channels + others
        self.features = self._stack("features", channels, channels, self.activation)
        self.own_mask = self._stack("own_mask", channels, channels, "sigmoid")
        self.other_mask = self._stack("other_mask", others, channels, "sigmoid")
        self.fusion = self._stack("fusion", fused, channels, self.activation)
        self.fusion_mask = self._stack("fusion_mask", fused, channels, "sigmoid")
        self._add_gate()

    def _stack(self, name, inputs, outputs, activation):
        hidden = self._hidden(outputs)
        return [
            self._conv(
                f"{name}_1", (None, None, inputs), hidden, self.kernel_size, 1, self.activation
            ),
            self._conv(f"{name}_2", (None, None, hidden), outputs, self.kernel_size, 1, activation),
        ]

    def call(self, inputs, mask=None, training=None, return_attention_scores=False):
        pair = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs, inputs]
        given = pair[0]
        masks = mask if isinstance(mask, (list, tuple)) else [mask]
        exists = None
        for m in masks:
            if m is not None:
                check_mask(m, (*pair[0].shape[:1], None), "Two inputs go in as a list.")
                m = ops.cast(m, "bool")[..., None]
                exists = m if exists is None else ops.logical_and(exists, m)
        if self.data_format == "channels_first":
            pair = [ops.swapaxes(x, 1, 2) for x in pair]

        def run(stack, x):
            for conv in stack:
                x = keep(conv(x), exists)
            return x

        x, second = (keep(x, exists) for x in pair)
        features = run(self.features, x)
        own = features * run(self.own_mask, x)
        other = features * run(self.other_mask, second)
        fused = ops.concatenate([x, second, own, other], axis=-1)
        scores = run(self.fusion_mask, fused)
        outputs = run(self.fusion, fused) * scores
        if self.data_format == "channels_first":
            outputs, scores = (ops.swapaxes(t, 1, 2) for t in (outputs, scores))
        outputs = self._through_gate(given, outputs)
        return (outputs, scores) if return_attention_scores else outputs

    def compute_mask(self, inputs, mask=None):
        if isinstance(mask, (list, tuple)):
            present = [m for m in mask if m is not None]
            mask = ops.logical_and(*present) if len(present) == 2 else (present or [None])[0]
        return mask

    def compute_output_shape(self, input_shape):
        return tuple(_pair(input_shape)[0])

    def compute_output_spec(self, inputs, mask=None, training=None, return_attention_scores=False):
        first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        return super().compute_output_spec(first, return_attention_scores=return_attention_scores)

    def get_config(self):
        return {**super().get_config(), "kernel_size": self.kernel_size}


def _pair(shape):
    if not (len(shape) and isinstance(shape[0], (list, tuple))):
        return [shape, shape]
    if len(shape) != 2:
        raise ValueError(f"FusAtNet takes one or two sequences. Received: {len(shape)}")
    return list(shape)
