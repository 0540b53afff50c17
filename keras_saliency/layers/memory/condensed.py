"""Key-value memories read in several hops, with what earlier hops found condensed."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.precision import wide_dtype
from keras_saliency.typing import Constraint, Initializer, Regularizer


@keras.saving.register_keras_serializable(package="keras_saliency")
class CondensedMemory(keras.layers.Layer):
    """A memory network: a query reads a memory of keys and values, hop after hop.

        u_1 = query B
        o_k = sum over slots i of address(u_k, keys_i A_k) * values_i C_k
        u_(k+1) = u_k + o_k

    The output is not only the last state but what the states before it were, condensed:

    | condense | output |
    | --- | --- |
    | `"project"` | C-MemNN: `v_(k+1) = [u_(k+1), v_k D_k]`, each `D_k` halving the width |
    | `"average"` | A-MemNN: `v_(k+1) = u_(k+1) + v_k / 2`, without weights |
    | `None` | the state: a key-value memory network, or an end-to-end one if keys are values |

    with `v_1 = u_1`. The weight of a slot is, with `addressing="softmax"`, a softmax over slots of
    the products of `u_k` and the slot; with `"gated"` it is a network of two layers,
    `sigmoid(w tanh(u_k P + slot Q) + b)`, so that many slots may count.

    Source: Prakash (2019), section 8.4, equations 8.2 to 8.6. Where the text contradicts itself or
    is silent: equation 8.4 appends the state as it is, while the text speaks of halving it too (the
    equation decides); equation 8.6 as printed never sees a later state than the first (the moving
    average it is called decides); every hop has matrices of its own; the gate's network is not
    given. `keras.layers.Dense(labels, "sigmoid")` behind the layer is the response, equation 8.5.

    Significance looks into the layer; shrinking keeps the features that it reads.

    Args:
        units: Integer >= 1, the width of the state.
        hops: Integer >= 1.
        condense: `"project"`, `"average"` or None.
        addressing: `"softmax"` or `"gated"`.
        kernel_initializer, kernel_regularizer, kernel_constraint: Of all matrices.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: List of the query (batch, features), the keys (batch, slots, features) and the
            values (batch, slots, features), each with features of its own: documents as sums of
            word vectors, say.
        mask: Optional list; that of the keys, boolean (batch, slots), tells which slots exist.
        return_attention_scores: If True, also return the weights (batch, hops, slots).

    Output shape:
        (batch, units), or what `"project"` makes of it: with width w, `units + w // 2` hop by hop.

    Raises:
        ValueError: If an argument is not of the kind above, or the inputs are not such a list.

    Example:

    ```python
    import keras
    from keras_saliency import CondensedMemory

    query, keys, values = keras.Input((50,)), keras.Input((None, 50)), keras.Input((None, 32))
    state = CondensedMemory(64, hops=3)([query, keys, values])
    model = keras.Model([query, keys, values], keras.layers.Dense(20, "sigmoid")(state))
    ```
    """

    def __init__(
        self,
        units: int,
        hops: int = 3,
        condense: str | None = "project",
        addressing: str = "softmax",
        kernel_initializer: Initializer = "glorot_uniform",
        kernel_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = validation.integer("units", units)
        self.hops = validation.integer("hops", hops)
        self.condense = validation.choice("condense", condense, ("project", "average", None))
        self.addressing = validation.choice("addressing", addressing, ("softmax", "gated"))
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        query, keys, values = self._shapes(input_shape)
        units = self.units
        self.embed = self._dense("embed", query[-1], units)
        self.key_maps, self.value_maps, self.condensers, self.gates = [], [], [], []
        width = units
        for k in range(self.hops):
            self.key_maps.append(self._dense(f"keys_{k}", keys[-1], units))
            self.value_maps.append(self._dense(f"values_{k}", values[-1], units))
            if self.addressing == "gated":
                self.gates.append(
                    (
                        self._dense(f"gate_state_{k}", units, units),
                        self._dense(f"gate_slot_{k}", units, units),
                        self._dense(f"gate_{k}", units, 1, use_bias=True),
                    )
                )
            if self.condense == "project":
                self.condensers.append(self._dense(f"condense_{k}", width, max(width // 2, 1)))
                width = units + max(width // 2, 1)

    def _dense(self, name, inputs, units, use_bias=False):
        initializer = self.kernel_initializer
        layer = keras.layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=initializer.clone()
            if hasattr(initializer, "clone")
            else initializer,
            kernel_regularizer=self.kernel_regularizer,
            kernel_constraint=self.kernel_constraint,
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build((None, inputs))
        return layer

    def _shapes(self, input_shape):
        shapes = [tuple(s) for s in input_shape if isinstance(s, (list, tuple))]
        if [len(shape) for shape in shapes] != [2, 3, 3]:
            raise ValueError(
                "CondensedMemory takes [query, keys, values] of shapes (batch, features), "
                "(batch, slots, features) and (batch, slots, features). "
                f"Received: input_shape={input_shape}"
            )
        if any(shape[-1] is None for shape in shapes):
            raise ValueError(
                "CondensedMemory needs known numbers of features. "
                f"Received: input_shape={input_shape}"
            )
        slots = {shape[1] for shape in shapes[1:]} - {None}
        if len(slots) > 1:
            raise ValueError(
                "Keys and values must have the same number of slots. "
                f"Received: input_shape={input_shape}"
            )
        return shapes

    def call(self, inputs, mask=None, return_attention_scores=False):
        query, keys, values = inputs
        exists = mask[1] if isinstance(mask, (list, tuple)) else None
        state = condensed = self.embed(query)
        scores = []
        for k in range(self.hops):
            weights = self._address(k, state, self.key_maps[k](keys), exists)
            scores.append(weights)
            found = ops.matmul(weights[:, None], self.value_maps[k](values))[:, 0]
            state = state + found
            if self.condense == "project":
                condensed = ops.concatenate([state, self.condensers[k](condensed)], axis=-1)
            elif self.condense == "average":
                condensed = state + condensed / 2
            else:
                condensed = state
        outputs = ops.cast(condensed, self.compute_dtype)
        if return_attention_scores:
            return outputs, ops.cast(ops.stack(scores, axis=1), self.compute_dtype)
        return outputs

    def _address(self, k, state, slots, exists):
        if self.addressing == "gated":
            of_state, of_slot, gate = self.gates[k]
            hidden = ops.tanh(of_state(state)[:, None] + of_slot(slots))
            weights = ops.sigmoid(gate(hidden))[..., 0]
            if exists is not None:
                weights = ops.where(exists, weights, ops.zeros_like(weights))
            return weights
        # Exponentials are taken in single precision at least.
        dtype = slots.dtype
        products = ops.cast(ops.matmul(slots, state[..., None])[..., 0], wide_dtype(dtype))
        if exists is not None:
            products = ops.where(exists, products, ops.full_like(products, -1e30))
        weights = ops.softmax(products, axis=-1)
        if exists is not None:  # of no slots at all, none has weight
            weights = ops.where(exists, weights, ops.zeros_like(weights))
        return ops.cast(weights, dtype)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        shapes = self._shapes(input_shape)
        width = self.units
        if self.condense == "project":
            for _ in range(self.hops):
                width = self.units + max(width // 2, 1)
        return (shapes[0][0], width)

    def compute_output_spec(self, inputs, mask=None, return_attention_scores=False):
        shape = self.compute_output_shape([x.shape for x in inputs])
        output = keras.KerasTensor(shape, self.compute_dtype)
        if return_attention_scores:
            scores = (shape[0], self.hops, inputs[1].shape[1])
            return output, keras.KerasTensor(scores, self.compute_dtype)
        return output

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "hops": self.hops,
            "condense": self.condense,
            "addressing": self.addressing,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
