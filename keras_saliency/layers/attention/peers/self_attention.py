"""Self-attention between time steps, with a sigmoid on the energies."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.layers.attention.peers.base import FeatureAttention, keep
from keras_saliency.typing import Activation


def attend(energies, values, exists):
    """Return the softmax over the last axis of energies, and the values it averages."""
    if exists is not None:
        lowest = -6e4 if keras.backend.standardize_dtype(energies.dtype) == "float16" else -1e9
        there = ops.swapaxes(exists, 1, 2)
        energies = ops.where(there, energies, ops.full_like(energies, lowest))
    scores = ops.softmax(energies, axis=-1)
    # On PyTorch, Keras returns float32 products of float64.
    return scores, ops.cast(ops.matmul(scores, values), values.dtype)


class SequenceAttention(FeatureAttention):
    """Base of peers that mix the steps of a sequence, (batch, steps, channels)."""

    _gated = True

    def build(self, input_shape):
        if len(input_shape) != 3:
            raise ValueError(
                f"{type(self).__name__} takes sequences, (batch, steps, channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs, mask=None, training=None, return_attention_scores=False):
        check_mask(mask, (*inputs.shape[:1], None), "The layer takes one sequence.")
        first = self.data_format == "channels_first"
        x = ops.swapaxes(inputs, 1, 2) if first else inputs
        exists = None if mask is None else ops.cast(mask, "bool")[..., None]
        outputs, scores = self._attend(keep(x, exists), exists)
        if first:
            outputs = ops.swapaxes(outputs, 1, 2)
        outputs = self._through_gate(inputs, outputs)
        return (outputs, scores) if return_attention_scores else outputs

    def compute_output_spec(self, inputs, mask=None, training=None, return_attention_scores=False):
        outputs = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return outputs
        steps = self._channels_last(tuple(inputs.shape))[1]
        shape = (inputs.shape[0], steps, steps)
        return outputs, keras.KerasTensor(shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="keras_saliency")
class SelfAttention(SequenceAttention):
    """Self-attention of a sequence whose energies pass a sigmoid (G 6.5.3).

    Every step becomes the average of all steps, weighted by how they relate:

        e[t, u] = gate_activation(w . activation(W_q x_t + W_k x_u + b) + c)
        a[t, u] = softmax over u of e[t, u]
        y_t = sum over u of a[t, u] x_u

    Source: Z. Lin et al., "A Structured Self-Attentive Sentence Embedding", ICLR 2017
    (arXiv:1703.03130), section 2.1: there, a few learned queries summarize a sentence; here every
    step asks, as Keras users know it, and the sigmoid that G names bounds the energies, so that no
    step can outweigh another by more than e. Cost and memory are quadratic in the length.

    Args:
        ratio: Positive integer. The energies come from channels divided by it, at least 1.
        activation: Activation inside the energies.
        gate_activation: Activation of the energies; `"linear"` is plain additive attention.
        use_bias, data_format, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, kernel_constraint, bias_constraint: As in `SqueezeExcite`.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequences, (batch, steps, channels); (batch, channels, steps) in
            `channels_first`.
        mask: Optional boolean (batch, steps). Steps that are False get no weight.
        return_attention_scores: If True, also return a, (batch, steps, steps).

    Output:
        A floating-point tensor of the shape of `inputs`.

    Example:

    ```python
    import keras
    from keras_saliency import SelfAttention

    model = keras.Sequential([
        keras.Input((None, 5)),
        keras.layers.LSTM(16, return_sequences=True),
        SelfAttention(),
        keras.layers.GlobalAveragePooling1D(),
    ])
    ```
    """

    def __init__(
        self,
        ratio: int = 1,
        activation: Activation = "tanh",
        gate_activation: Activation = "sigmoid",
        **kwargs: Any,
    ):
        super().__init__(ratio, activation, **kwargs)
        self.gate_activation = keras.activations.get(gate_activation)

    def _build_gate(self, shape):
        hidden = self._hidden(shape[-1])
        self.query = self._dense("query", shape[-1], hidden)
        arguments = {**self._weight_arguments(), "use_bias": False}
        self.key = keras.layers.Dense(hidden, name="key", **arguments)
        self.key.build((None, shape[-1]))
        self.energy = self._dense("energy", hidden, 1)

    def _attend(self, x, exists):
        pairs = self.query(x)[:, :, None] + self.key(x)[:, None]
        energies = self.gate_activation(self.energy(self.activation(pairs))[..., 0])
        scores, outputs = attend(energies, x, exists)
        return outputs, scores

    def get_config(self):
        return {
            **super().get_config(),
            "gate_activation": keras.activations.serialize(self.gate_activation),
        }
