"""MSMSA: multi-scale multi-head self-attention, without cross-talk."""

import keras
from keras import ops

from keras_saliency.layers.attention.convolution_heads import (
    ConvolutionHeads,
    check_series,
    check_series_mask,
    convolve,
)
from keras_saliency.layers.attention.peers.dot_product import attend


@keras.saving.register_keras_serializable(package="keras_saliency")
class MSMSA(ConvolutionHeads):
    """Multi-scale multi-head self-attention (MSMSA).

    Dot-product attention whose head h makes its queries, keys and values by convolutions of
    window 2h - 1 instead of by projections of single steps. Heads do not talk to each other, and
    time and memory are quadratic in the length of the series.

    Source: Q. Guo, X. Qiu, P. Liu, X. Xue, Z. Zhang, "Multi-Scale Self-Attention for Text
    Classification", AAAI 2020 (arXiv:1912.00544), as G 7.3 and table 7.1 describe it; the
    paper's own heads restrict the window of the attention rather than convolve.

    Args:
        num_heads: Integer, H.
        key_dim: Integer, kernels of each head.
        output_dim: Integer, size of the output; default: the variates of the input.
        dropout: Float in [0, 1), share of the attention scores dropped in training.
        use_bias: Whether the convolutions and the output projection have biases.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: For the convolutions and the output projection.
        activity_regularizer: Regularizer of the output.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Tensor of shape `(batch, time, variates)`.
        mask: Optional boolean tensor of shape `(batch, time)`, `True` for a step that exists.
            Other steps are zeros to the convolutions and get no weight.
        training: Whether dropout is on.
        return_attention_scores: Whether to return `(output, scores)`.

    Output shape:
        `(batch, time, output_dim)`; scores: `(batch, num_heads, time, time)`, before dropout.

    Example:

    ```python
    import keras
    from keras_saliency import MSMSA

    y = MSMSA(num_heads=4, key_dim=8)(keras.random.normal((2, 100, 6)))
    print(y.shape)  # (2, 100, 6)
    ```
    """

    def build(self, input_shape):
        super().build(input_shape)
        width = self.num_heads * self.key_dim
        windows = [2 * h - 1 for h in range(1, self.num_heads + 1)]
        for role in self.roles:
            self._add_head_kernels(role, windows, input_shape[-1])
        self.biases = {role: self._bias(f"{role}_bias", width) for role in self.roles}

    def call(self, inputs, mask=None, training=None, return_attention_scores=False):
        check_series(self, inputs.shape)
        check_series_mask(self, mask, inputs.shape)
        if mask is not None:
            keep = ops.cast(mask, "bool")[..., None]
            inputs = ops.where(keep, inputs, ops.zeros_like(inputs))
        inputs = ops.cast(inputs, self.compute_dtype)
        parts = []
        for role in self.roles:
            kernels = self.head_kernels(role)
            part = ops.concatenate([convolve(inputs, kernel) for kernel in kernels], axis=-1)
            parts.append(self._split(self._add_bias(part, self.biases[role])))
        dropout = self.dropout_layer if self.dropout and training else None
        result = attend(*parts, mask, None, dropout and self._dropped, return_attention_scores)
        result, scores = result if return_attention_scores else (result, None)
        output = self._through_gate(inputs, self._project(self._join(result)))
        if return_attention_scores:
            return output, ops.cast(scores, self.compute_dtype)
        return output

    def _dropped(self, weights):
        return self.dropout_layer(weights, training=True)

    def _scores_shape(self, input_shape):
        return (input_shape[0], self.num_heads, input_shape[1], input_shape[1])
