"""Mutual attention between a series and its saliency (G 6.4.4)."""

from __future__ import annotations

from typing import Any

import keras
from keras import initializers, ops

from keras_saliency import validation
from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.layers.attention.saliency_series import SaliencySeries
from keras_saliency.layers.attention.start import StartingLayer
from keras_saliency.scale_space.temporal import Amplitude, Missing
from keras_saliency.typing import Activation, Constraint, Initializer, Regularizer

_RECURRENT = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


@keras.saving.register_keras_serializable(package="keras_saliency")
class SDMACrossAttention(StartingLayer):
    """Reads a time series and its saliency, each of which tells the other where to look.

    Two recurrent branches with weights of their own, each gated by the sigmoid of the other
    (G 6.4.4.1, equation 6.12):

        Y_T = LSTM(series)             Y_A = LSTM(saliency)
        G_T = Y_T * sigmoid(Y_A)       G_A = Y_A * sigmoid(Y_T)
        output = G_T + G_A

    `mutual=False` is SDCA (G 6.5.3): the saliency attends to the series only, the output is `G_T`.
    The gates act on what the branches return, so each is one call of Keras's own LSTM or GRU, and
    takes its fused GPU kernel.

    Args:
        units: Units of each branch.
        mutual: Whether the series attends to the saliency, too.
        recurrent: `"lstm"` or `"gru"`.
        return_sequences: Whether to return every step, or the last one.
        return_branches: Whether to return `(output, G_T, G_A)`, so that blocks stack (G 6.4.4.2):
            type 1 feeds `[G_T, G_A]` to the next block, type 2 `[output, saliency]`. Without
            `mutual`, `G_A` is the saliency branch as it is.
        octaves, scales, sigma0, contrast_threshold, theta, amplitude, cut, missing: Arguments of
            `SaliencySeries`, used where the saliency is computed inside.
        activation, recurrent_activation: As in Keras's LSTM and GRU; with others than the
            defaults, their fused GPU kernel is not taken.
        use_bias, kernel_initializer, recurrent_initializer, bias_initializer,
        kernel_regularizer, recurrent_regularizer, bias_regularizer, kernel_constraint,
        recurrent_constraint, bias_constraint: As in Keras's LSTM and GRU, for both branches.
        dropout: Share of the inputs of each branch that is dropped in training.
        recurrent_dropout: Share of the state that is dropped in training.
        seed: Seed of the dropout.
        start: `"paper"`, or `"identity"`: a new layer returns the series, which has `units`
            variates then; see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: The series (batch, time, variates), whose saliency is then computed inside, or
            `[series, saliency]`, which agree in batch and time.
        mask: Bool tensor (batch, time), or a list of two; a step is valid if both say so.
        training: Whether dropout is active.
        return_attention_scores: Whether to return the masks as well, last:
            `(sigmoid(Y_A), sigmoid(Y_T))`, what the series and what the saliency is multiplied
            with; without `mutual`, `sigmoid(Y_A)` alone.

    Output shape:
        `(batch, time, units)`, or `(batch, units)` with `return_sequences=False`.

    Example:

    ```python
    import keras
    from keras_saliency import SDMACrossAttention

    model = keras.Sequential([
        keras.Input((100, 6)),
        SDMACrossAttention(12, return_sequences=False),
        keras.layers.Dense(4, activation="softmax"),
    ])
    ```
    """

    def __init__(
        self,
        units: int,
        mutual: bool = True,
        recurrent: str = "lstm",
        return_sequences: bool = True,
        return_branches: bool = False,
        octaves: int = 3,
        scales: int = 3,
        sigma0: float = 0.5,
        contrast_threshold: float = 0.005,
        theta: float = 1.0,
        amplitude: Amplitude = "mean",
        cut: bool = False,
        missing: Missing | None = None,
        activation: Activation = "tanh",
        recurrent_activation: Activation = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        recurrent_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        recurrent_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        # The series reaches its analysis in full precision; the branches cast for themselves.
        super().__init__(**{"autocast": False, **kwargs})
        self.units = validation.integer("units", units)
        self.mutual = validation.boolean("mutual", mutual)
        self.recurrent = validation.choice("recurrent", recurrent, tuple(_RECURRENT))
        self.return_sequences = validation.boolean("return_sequences", return_sequences)
        self.return_branches = validation.boolean("return_branches", return_branches)
        self._saliency_arguments: dict[str, Any] = {
            "octaves": octaves,
            "scales": scales,
            "sigma0": sigma0,
            "contrast_threshold": contrast_threshold,
            "theta": theta,
            "amplitude": amplitude,
            "cut": cut,
            "missing": missing,
        }
        self.saliency = SaliencySeries(
            **self._saliency_arguments, dtype=self.dtype_policy, name="saliency"
        )
        self.activation = keras.activations.get(activation)
        self.recurrent_activation = keras.activations.get(recurrent_activation)
        self.use_bias = validation.boolean("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.dropout = validation.share("dropout", dropout)
        self.recurrent_dropout = validation.share("recurrent_dropout", recurrent_dropout)
        self.seed = validation.seed(seed)
        self.supports_masking = True
        if self.starts_as_identity and (self.return_branches or not self.return_sequences):
            raise ValueError(
                "`start='identity'` needs `return_sequences=True` and `return_branches=False`: the "
                "output must have the shape of the series. Received: "
                f"return_sequences={return_sequences}, return_branches={return_branches}"
            )

    def build(self, input_shape):
        series, saliency = _pair_of_shapes(input_shape)
        self._check_gate(self.units, series[-1], "units")
        self._add_gate()
        self.saliency.build(series)
        self.series_branch = self._branch("series", 0)
        self.saliency_branch = self._branch("saliency", 1)
        self.series_branch.build(series)
        self.saliency_branch.build(saliency)

    def _branch(self, name, number):
        return _RECURRENT[self.recurrent](
            self.units,
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            use_bias=self.use_bias,
            kernel_initializer=_fresh(self.kernel_initializer),
            recurrent_initializer=_fresh(self.recurrent_initializer),
            bias_initializer=_fresh(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            recurrent_regularizer=self.recurrent_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            recurrent_constraint=self.recurrent_constraint,
            bias_constraint=self.bias_constraint,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            seed=None if self.seed is None else self.seed + number,
            return_sequences=self.return_sequences,
            dtype=self.dtype_policy,
            name=f"{name}_{self.recurrent}",
        )

    def call(self, inputs, mask=None, training=None, return_attention_scores=False):
        mask = _one_mask(mask)
        _check_mask(mask, inputs)
        if isinstance(inputs, (list, tuple)):
            _pair_of_shapes([tuple(x.shape) for x in inputs])
            series, saliency = inputs
        else:
            series, saliency = inputs, self.saliency(inputs, mask=mask)
        of_series = self.series_branch(series, mask=mask, training=training)
        of_saliency = self.saliency_branch(saliency, mask=mask, training=training)
        on_series = ops.sigmoid(of_saliency)
        attended_series = of_series * on_series
        if self.mutual:
            on_saliency = ops.sigmoid(of_series)
            attended_saliency = of_saliency * on_saliency
            output, scores = attended_series + attended_saliency, (on_series, on_saliency)
        else:
            attended_saliency = of_saliency
            output, scores = attended_series, on_series
        output = self._through_gate(series, output)
        if self.return_branches:
            result = (output, attended_series, attended_saliency)
            return (*result, scores) if return_attention_scores else result
        return (output, scores) if return_attention_scores else output

    def compute_mask(self, inputs, mask=None):
        mask = _one_mask(mask) if self.return_sequences else None
        return (mask, mask, mask) if self.return_branches else mask

    def compute_output_shape(self, input_shape):
        series, _ = _pair_of_shapes(input_shape)
        time = (series[1],) if self.return_sequences else ()
        shape = (series[0], *time, self.units)
        return (shape, shape, shape) if self.return_branches else shape

    def compute_output_spec(self, inputs, mask=None, training=None, return_attention_scores=False):
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), inputs)
        if not isinstance(inputs, (list, tuple)):
            shapes = tuple(inputs.shape)
        else:
            shapes = [tuple(x.shape) for x in inputs]
        _check_mask(mask, inputs)
        shape = self.compute_output_shape(shapes)
        single = shape[0] if self.return_branches else shape

        def spec():
            return keras.KerasTensor(single, dtype=self.compute_dtype)

        outputs = (spec(), spec(), spec()) if self.return_branches else (spec(),)
        if return_attention_scores:
            return (*outputs, (spec(), spec()) if self.mutual else spec())
        return outputs if self.return_branches else outputs[0]

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "mutual": self.mutual,
            "recurrent": self.recurrent,
            "return_sequences": self.return_sequences,
            "return_branches": self.return_branches,
            **self._saliency_arguments,
            "activation": keras.activations.serialize(self.activation),
            "recurrent_activation": keras.activations.serialize(self.recurrent_activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "recurrent_initializer": initializers.serialize(self.recurrent_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "recurrent_regularizer": keras.regularizers.serialize(self.recurrent_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "recurrent_constraint": keras.constraints.serialize(self.recurrent_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
        }


def _fresh(initializer):
    """A copy with a seed of its own, so that the branches do not start equal."""
    if isinstance(initializer, initializers.Initializer):
        return initializer.clone()
    return initializer


def _one_mask(mask):
    if not isinstance(mask, (list, tuple)):
        return mask
    present = [m for m in mask if m is not None]
    if len(present) == 2:
        return ops.logical_and(*present)
    return present[0] if present else None


def _check_mask(mask, inputs):
    first = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
    for one in mask if isinstance(mask, (list, tuple)) else [mask]:
        check_mask(one, first.shape, "Series and saliency go in as a list, `[series, saliency]`.")


def _pair_of_shapes(shape):
    """Return the shapes of series and saliency, from one shape or a pair."""
    pair = list(shape) if shape and isinstance(shape[0], (list, tuple)) else [shape, shape]
    pair = [tuple(s) for s in pair]
    if len(pair) != 2:
        raise ValueError(
            "`inputs` must be a series or the pair [series, saliency]. "
            f"Received {len(pair)} tensors of shapes {pair}"
        )
    for s in pair:
        if len(s) != 3:
            raise ValueError(
                f"`inputs` must have the shape (batch, time, variates). Received: shape={s}"
            )
        if s[2] is None:
            raise ValueError(f"The number of variates must be known. Received: shape={s}")
    for axis, name in ((0, "batch"), (1, "time")):
        a, b = pair[0][axis], pair[1][axis]
        if isinstance(a, int) and isinstance(b, int) and a != b:
            raise ValueError(
                f"Series and saliency must agree in {name}. Received shapes {pair[0]} and {pair[1]}"
            )
    return pair
