"""Dual-stage two-phase attention: first along the variates, twice, then along time."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency.layers.attention.peers.base import fresh, keep
from keras_saliency.layers.attention.peers.self_attention import SequenceAttention, attend
from keras_saliency.typing import Activation, Initializer


class _VariateAttentionCell(keras.layers.Layer):
    """An LSTM that, at each step, weighs the variates by what it remembers.

    What each whole series says about itself comes along as a state that does not change: a
    recurrent layer has no other way to hand a constant to its cell. It comes flat, and the
    first state is the output itself, since so Keras's recurrence on JAX wants it under a mask.
    """

    def __init__(self, units, variates, activation, look, energy, cell, **kwargs):
        super().__init__(**kwargs)
        self.look, self.energy, self.cell = look, energy, cell
        self.activation = activation
        self.variates, self.units = variates, units
        self.output_size = variates + units
        self.state_size = [self.output_size, units, variates * units]

    def build(self, input_shape):
        pass  # everything is built already

    def call(self, inputs, states):
        before, c, keys = states
        h = before[:, self.variates :]
        query = self.look(ops.concatenate([h, c], axis=-1))
        by_variate = ops.reshape(keys, (-1, self.variates, self.units))
        energies = self.energy(self.activation(query[:, None] + by_variate))[..., 0]
        share = ops.softmax(energies, axis=-1)
        attended = inputs * share
        _, (h, c) = self.cell(attended, [h, c])
        output = ops.concatenate([attended, h], axis=-1)
        return output, [output, c, keys]


@keras.saving.register_keras_serializable(package="keras_saliency")
class DSTP(SequenceAttention):
    """Dual-stage two-phase attention (DSTP) for multivariate series of one length.

    Stage one looks along the variates, in two phases of the same form, the second on what the
    first leaves. With the series x^k of variate k, over all its T steps:

        f_t^k = w . activation(W [h_{t-1}; s_{t-1}] + U x^k + b)
        z_t^k = softmax over k of f_t^k, times x_t^k
        h_t, s_t = LSTM(z_t, h_{t-1}, s_{t-1})

    Stage two looks along time, at the states h of the second phase, and a dense layer returns to
    the variates: `y_t = V sum over u of softmax_u(w' . activation(W' h_t + U' h_u)) h_u`.

    Source: Y. Liu, C. Gong, L. Yang, Y. Chen, "DSTP-RNN: a dual-stage two-phase attention-based
    recurrent neural network for long-term and multivariate time series prediction", Expert
    Systems with Applications 143, 2020 (arXiv:1904.07464), sections 3.2 and 3.3; G 6.5.3.
    Differences: a layer has no target series, so none is appended between the phases, and each
    encoder state asks for its own context where the paper's decoder does.

    Args:
        ratio: Positive integer. States have the number of channels divided by it, at least 1.
        activation: Activation inside the energies.
        recurrent_initializer: Of the LSTMs' recurrent kernels.
        use_bias, data_format, kernel_initializer, bias_initializer, kernel_regularizer,
            bias_regularizer, kernel_constraint, bias_constraint: As in `SqueezeExcite`.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequences, (batch, steps, channels), of a known number of steps, since `U` reads
            whole series; (batch, channels, steps) in `channels_first`.
        mask: Optional boolean (batch, steps). Steps that are False count as 0 and get no weight.
        return_attention_scores: If True, also return the shares along time, (batch, steps, steps).

    Output:
        A floating-point tensor of the shape of `inputs`.

    Example:

    ```python
    import keras
    from keras_saliency import DSTP

    model = keras.Sequential([
        keras.Input((30, 5)),
        DSTP(),
        keras.layers.LSTM(16),
    ])
    ```
    """

    def __init__(
        self,
        ratio: int = 1,
        activation: Activation = "tanh",
        recurrent_initializer: Initializer = "orthogonal",
        **kwargs: Any,
    ):
        super().__init__(ratio, activation, **kwargs)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)

    def _build_gate(self, shape):
        _, steps, channels = shape
        if steps is None:
            raise ValueError(
                "DSTP reads whole series and needs to know how many steps they have. "
                f"Received: input_shape={shape}"
            )
        units = self._hidden(channels)
        self._steps, self._units = steps, units
        self.keys, self.phases = [], []
        for number in (1, 2):
            key = keras.layers.Dense(
                units,
                name=f"key_{number}",
                **{**self._weight_arguments(), "use_bias": False},
            )
            key.build((None, channels, steps))
            cell = keras.layers.LSTMCell(
                units,
                recurrent_initializer=fresh(self.recurrent_initializer),
                name=f"lstm_{number}",
                **self._weight_arguments(),
            )
            cell.build((None, channels))
            core = _VariateAttentionCell(
                units,
                channels,
                self.activation,
                self._dense(f"look_{number}", 2 * units, units),
                self._dense(f"energy_{number}", units, 1),
                cell,
                name="cell",
                dtype=self.dtype_policy,
            )
            phase = keras.layers.RNN(
                core, return_sequences=True, name=f"phase_{number}", dtype=self.dtype_policy
            )
            phase.build(shape)
            self.keys.append(key)
            self.phases.append(phase)
        self.query = self._dense("time_query", units, units)
        self.time_key = keras.layers.Dense(
            units, name="time_key", **{**self._weight_arguments(), "use_bias": False}
        )
        self.time_key.build((None, units))
        self.energy = self._dense("time_energy", units, 1)
        self.project = self._dense("project", units, channels)

    def _attend(self, x, exists):
        steps, channels = x.shape[1], x.shape[2]
        if steps != self._steps:
            raise ValueError(
                f"DSTP was built for series of {self._steps} steps. Received: {steps} steps"
            )
        mask = None if exists is None else exists[..., 0]
        zeros = ops.zeros_like(x[:, 0, :1]) * ops.zeros((1, self._units), dtype=x.dtype)
        for key, phase in zip(self.keys, self.phases, strict=True):
            keys = ops.reshape(key(ops.swapaxes(x, 1, 2)), (-1, channels * self._units))
            states = [ops.concatenate([ops.zeros_like(x[:, 0]), zeros], axis=-1), zeros, keys]
            both = phase(x, initial_state=states, mask=mask)
            x, h = both[..., :channels], both[..., channels:]
            x = keep(x, exists)
        pairs = self.query(h)[:, :, None] + self.time_key(h)[:, None]
        energies = self.energy(self.activation(pairs))[..., 0]
        scores, context = attend(energies, h, exists)
        return self.project(context), scores

    def get_config(self):
        return {
            **super().get_config(),
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
        }
