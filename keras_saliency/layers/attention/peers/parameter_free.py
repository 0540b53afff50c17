"""Self-attention without parameters."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.convolution_heads import check_series, check_series_mask
from keras_saliency.layers.attention.peers.dot_product import attend
from keras_saliency.layers.attention.start import StartingLayer


@keras.saving.register_keras_serializable(package="keras_saliency")
class ParameterFreeAttention(StartingLayer):
    """Parameter-free self-attention: each step is a mean of all, weighted by dot products.

        output_t = sum over s of softmax over s of (x_t . x_s) x_s

    Source: M.-T. Luong, H. Pham, C. D. Manning, "Effective Approaches to Attention-based Neural
    Machine Translation", EMNLP 2015 (arXiv:1508.04025), the dot score of equation 8, with the
    series as its own source, as G 7.6.2 uses it: nothing is transformed.

    Args:
        scale: Whether the dot products are divided by the square root of the variates, as later
            work does.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, time, variates)`.
        mask: Optional boolean tensor of shape `(batch, time)`. Other steps get no weight.
        return_attention_scores: Whether to return `(output, scores)`, scores of shape
            `(batch, time, time)`.

    Output:
        A tensor of the shape of `inputs`.

    Example:

    ```python
    import keras
    from keras_saliency import ParameterFreeAttention

    y = ParameterFreeAttention()(keras.random.normal((2, 100, 6)))
    print(y.shape)  # (2, 100, 6)
    ```
    """

    def __init__(self, scale: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale = validation.boolean("scale", scale)
        self.supports_masking = True

    def build(self, input_shape):
        check_series(self, input_shape)
        self._add_gate()

    def call(self, inputs, mask=None, return_attention_scores=False):
        check_series(self, inputs.shape)
        check_series_mask(self, mask, inputs.shape)
        x = ops.cast(inputs, self.compute_dtype)
        if mask is not None:
            keep = ops.cast(mask, "bool")[..., None]
            x = ops.where(keep, x, ops.zeros_like(x))
        x = x[:, :, None]
        result = attend(x, x, x, mask, None if self.scale else 1.0, None, return_attention_scores)
        result, scores = result if return_attention_scores else (result, None)
        output = self._through_gate(inputs, result[:, :, 0])
        if return_attention_scores:
            return output, ops.cast(scores[:, 0], self.compute_dtype)
        return output

    def compute_output_shape(self, input_shape):
        check_series(self, input_shape)
        return tuple(input_shape)

    def compute_output_spec(self, inputs, mask=None, return_attention_scores=False):
        output = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        if not return_attention_scores:
            return output
        batch, steps, _ = inputs.shape
        return output, keras.KerasTensor((batch, steps, steps), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
