"""A Transformer encoder block on Keras's own attention."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.convolution_heads import (
    check_series,
    check_series_mask,
    clone_initializer,
)
from keras_saliency.layers.attention.start import StartingLayer
from keras_saliency.typing import Activation, Constraint, Initializer, Regularizer


@keras.saving.register_keras_serializable(package="keras_saliency")
class TransformerBlock(StartingLayer):
    """Encoder block of the Transformer: `keras.layers.MultiHeadAttention` and a feed-forward part.

        y = norm(x + attention(x)),  output = norm(y + W2 activation(W1 y))

    Source: A. Vaswani et al., "Attention Is All You Need", NIPS 2017 (arXiv:1706.03762), sections
    3.1 to 3.3.

    Args:
        num_heads: Integer, heads of the attention.
        key_dim: Integer, size of each head.
        ff_dim: Integer, width of the feed-forward part. Default: 4 times the variates.
        dropout: Float in [0, 1), after the attention and after the feed-forward part, and on the
            attention scores.
        activation: Activation of the feed-forward part.
        epsilon: Float, added to the variance in the layer normalizations.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: For the attention and the feed-forward part.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, time, variates)`.
        mask: Optional boolean tensor of shape `(batch, time)`. Other steps get no weight.
        training: Whether dropout is on.
        return_attention_scores: Whether to return `(output, scores)`, scores of shape
            `(batch, num_heads, time, time)`.

    Output:
        A tensor of the shape of `inputs`.

    Example:

    ```python
    import keras
    from keras_saliency import TransformerBlock

    y = TransformerBlock(num_heads=4, key_dim=8)(keras.random.normal((2, 100, 6)))
    print(y.shape)  # (2, 100, 6)
    ```
    """

    def __init__(
        self,
        num_heads: int = 8,
        key_dim: int = 64,
        ff_dim: int | None = None,
        dropout: float = 0.0,
        activation: Activation = "relu",
        epsilon: float = 1e-6,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = validation.integer("num_heads", num_heads)
        self.key_dim = validation.integer("key_dim", key_dim)
        self.ff_dim = validation.integer("ff_dim", ff_dim, optional=True)
        self.dropout = validation.share("dropout", dropout)
        self.activation = keras.activations.get(activation)
        self.epsilon = validation.number("epsilon", epsilon, 0, above=True)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        check_series(self, input_shape)
        width, shape = input_shape[-1], (None, None, input_shape[-1])
        weights = {
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "kernel_constraint": self.kernel_constraint,
            "bias_constraint": self.bias_constraint,
            "dtype": self.dtype_policy,
        }

        def initializers():  # clones: one instance would repeat its values
            return {
                "kernel_initializer": clone_initializer(self.kernel_initializer),
                "bias_initializer": clone_initializer(self.bias_initializer),
            }

        self.attention = keras.layers.MultiHeadAttention(
            self.num_heads,
            self.key_dim,
            dropout=self.dropout,
            name="attention",
            **initializers(),
            **weights,
        )
        self.attention.build(shape, shape)
        hidden = self.ff_dim or 4 * width
        self.expand = keras.layers.Dense(
            hidden, self.activation, name="expand", **initializers(), **weights
        )
        self.expand.build(shape)
        self.contract = keras.layers.Dense(width, name="contract", **initializers(), **weights)
        self.contract.build((None, None, hidden))
        self.norms = [
            keras.layers.LayerNormalization(
                epsilon=self.epsilon, name=f"norm_{i}", dtype=self.dtype_policy
            )
            for i in (1, 2)
        ]
        self.dropouts = [
            keras.layers.Dropout(self.dropout, name=f"dropout_{i}", dtype=self.dtype_policy)
            for i in (1, 2)
        ]
        for layer in (*self.norms, *self.dropouts):
            layer.build(shape)
        self._add_gate()

    def call(self, inputs, mask=None, training=None, return_attention_scores=False):
        check_series(self, inputs.shape)
        check_series_mask(self, mask, inputs.shape)
        x = ops.cast(inputs, self.compute_dtype)
        if mask is not None:
            x = ops.where(ops.cast(mask, "bool")[..., None], x, ops.zeros_like(x))
        found = self.attention(
            x,
            x,
            query_mask=mask,
            value_mask=mask,
            training=training,
            return_attention_scores=return_attention_scores,
        )
        attended, scores = found if return_attention_scores else (found, None)
        y = self.norms[0](x + self.dropouts[0](attended, training=training))
        forward = self.contract(self.expand(y))
        y = self.norms[1](y + self.dropouts[1](forward, training=training))
        y = self._through_gate(inputs, y)
        return (y, scores) if return_attention_scores else y

    def compute_output_shape(self, input_shape):
        check_series(self, input_shape)
        return tuple(input_shape)

    def compute_output_spec(self, inputs, mask=None, training=None, return_attention_scores=False):
        output = keras.KerasTensor(self.compute_output_shape(inputs.shape), self.compute_dtype)
        if not return_attention_scores:
            return output
        batch, steps, _ = inputs.shape
        scores = (batch, self.num_heads, steps, steps)
        return output, keras.KerasTensor(scores, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "ff_dim": self.ff_dim,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
