"""Recurrent attention: what to look at now depends on what was seen before."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency.layers.attention.peers.base import FeatureAttention, keep
from keras_saliency.typing import Activation, Constraint, Initializer, Regularizer


class _Glimpses(keras.layers.Layer):
    """The recurrent cell: a mask from the last state, a new state from the masked step."""

    def __init__(self, units, activation, look, glance, remember, **kwargs):
        super().__init__(**kwargs)
        self.state_size = units
        self.output_size = look.units
        self.activation = activation
        self.look, self.glance, self.remember = look, glance, remember

    def build(self, input_shape):
        self.look.build((None, self.state_size))
        self.glance.build((None, self.output_size))
        self.remember.build((None, self.state_size))

    def call(self, inputs, states):
        mask = ops.sigmoid(self.look(states[0]))
        state = self.activation(self.glance(inputs * mask) + self.remember(states[0]))
        return mask, [state]


@keras.saving.register_keras_serializable(package="keras_saliency")
class RecurrentAttention(FeatureAttention):
    """Recurrent attention network (RAN) for sequences: a mask from what was seen before.

    A recurrent state h walks along the sequence. At step t the mask comes from the state of
    step t-1 alone, the masked step is the glimpse, and the glimpse updates the state:

        a_t = sigmoid(W_a h_{t-1} + b_a)
        h_t = activation(W_g (a_t * x_t) + b_g + W_h h_{t-1})

    Source: V. Mnih, N. Heess, A. Graves, K. Kavukcuoglu, "Recurrent Models of Visual
    Attention", NIPS 2014 (arXiv:1406.6247), section 3.1, as G 5.5.4 describes it for
    multivariate series: the subset of the input at time t is chosen by the model's output of
    time t-1. Differences: the paper's location is sampled and trained by REINFORCE, here it is
    a soft mask over the channels, trained by gradients; the paper's core is rectified for its
    6 to 8 glimpses and an LSTM for longer tasks, here tanh by default, since series have
    hundreds of steps.

    Args:
        ratio: Positive integer. The state has the number of channels divided by it, at least 1.
        activation: Activation of the state.
        recurrent_initializer, recurrent_regularizer, recurrent_constraint: Of `W_h`, as in
            `keras.layers.SimpleRNN`.
        use_bias: Whether `b_a` and `b_g` exist.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras's own setting.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: Of the other weights, as in
            `keras.layers.Dense`.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequences, (batch, steps, channels); (batch, channels, steps) in
            `channels_first`.
        mask: Optional boolean (batch, steps). Steps that are False leave the state as it is.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`.

    Output:
        A floating-point tensor of the shape of `inputs`: `inputs * mask`.

    Example:

    ```python
    import keras
    from keras_saliency import RecurrentAttention

    model = keras.Sequential([
        keras.Input((None, 5)),
        keras.layers.LSTM(64, return_sequences=True),
        RecurrentAttention(),
        keras.layers.GlobalAveragePooling1D(),
    ])
    ```
    """

    def __init__(
        self,
        ratio: int = 1,
        activation: Activation = "tanh",
        recurrent_initializer: Initializer = "orthogonal",
        recurrent_regularizer: Regularizer = None,
        recurrent_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(ratio, activation, **kwargs)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)

    def build(self, input_shape):
        if len(input_shape) != 3:
            raise ValueError(
                "RecurrentAttention takes sequences, (batch, steps, channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        super().build(input_shape)

    def _build_gate(self, shape):
        units = self._hidden(shape[-1])
        cell = _Glimpses(
            units,
            self.activation,
            look=keras.layers.Dense(shape[-1], name="look", **self._weight_arguments(last=True)),
            glance=keras.layers.Dense(units, name="glance", **self._weight_arguments()),
            remember=keras.layers.Dense(
                units,
                use_bias=False,
                kernel_initializer=self.recurrent_initializer,
                kernel_regularizer=self.recurrent_regularizer,
                kernel_constraint=self.recurrent_constraint,
                dtype=self.dtype_policy,
                name="remember",
            ),
            name="cell",
            dtype=self.dtype_policy,
        )
        self.core = keras.layers.RNN(
            cell, return_sequences=True, name="core", dtype=self.dtype_policy
        )
        self.core.build(shape)

    def _gate(self, x, mask, training):
        return self.core(keep(x, mask), mask=None if mask is None else mask[..., 0])

    def get_config(self):
        return {
            **super().get_config(),
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
            "recurrent_regularizer": keras.regularizers.serialize(self.recurrent_regularizer),
            "recurrent_constraint": keras.constraints.serialize(self.recurrent_constraint),
        }
