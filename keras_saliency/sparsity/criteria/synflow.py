"""Flow of strength through the network, without data."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.graph.functional import functional_of, is_functional
from keras_saliency.graph.gradients import gradient_function
from keras_saliency.graph.listening import listening
from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class SynFlow(Criterion):
    """`weight · ∂R/∂weight` of the network of `|weight|` fed with ones (Tanaka et al., 2020).

    Biases count as 0, and a softmax or sigmoid at the end is left out. The lowest go in rounds,
    each scored anew, so that no layer is lost whole.

    Args:
        rounds: Integer, how many.
    """

    name = "synflow"

    def __init__(self, rounds: int = 100):
        self.rounds = validation.integer("rounds", rounds)

    def prepare(self, kernels: Sequence[MeasuredKernel], count: int) -> None:
        model = kernels[0].measurements.model
        variables = [kernel.kernel.variable for kernel in kernels]
        total = sum(kernel.size for kernel in kernels)
        weights = [np.abs(kernel.values) for kernel in kernels]
        left = [np.ones(w.size, bool) for w in weights]
        final = [np.zeros(w.size) for w in weights]
        flow = _Flow(model, variables, kernels[0].measurements.x)
        density = max(1 - count / total, 1 / total)
        for i in range(1, self.rounds + 1):
            masked = [w * m.reshape(w.shape) for w, m in zip(weights, left, strict=True)]
            gradients = flow.gradients(masked)
            scores = [(w * np.abs(g)).reshape(-1) for w, g in zip(weights, gradients, strict=True)]
            keep = max(round(total * density ** (i / self.rounds)), len(kernels))
            scale = max(max(s.max(initial=0) for s in scores), 1e-300)
            stay = np.concatenate([np.where(m, s, -1) for s, m in zip(scores, left, strict=True)])
            bar = np.partition(stay, total - keep)[total - keep]
            for score, mark, out in zip(scores, left, final, strict=True):
                # What goes in a later round is worth more than all that went before.
                out[mark] = i + score[mark] / scale
                mark &= score >= bar
        self._scores = {
            kernel.key: out.reshape(kernel.shape)
            for kernel, out in zip(kernels, final, strict=True)
        }

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        return self._scores[kernel.key]


class _Flow:
    """`∂R/∂|weight|`, R the sum of the outputs."""

    def __init__(self, model, variables, x):
        self.model = model
        self.variables = variables
        self.scale = 1.0
        self.fixed = []
        known = {id(v) for v in variables}
        for v in model.weights:
            if id(v) in known or not keras.backend.is_float_dtype(v.dtype):
                continue
            value = np.abs(np.array(ops.convert_to_numpy(v)))
            if any(part in v.path.split("/")[-1] for part in ("bias", "beta", "moving_mean")):
                value[...] = 0
            self.fixed.append((v, value))
        self.shapes = _shapes(model, x)

        self.differentiate = gradient_function(self._total, variables)

    def _total(self, fixed, scale):
        scope = keras.src.backend.common.stateless_scope.get_stateless_scope()
        for (variable, _), value in zip(self.fixed, fixed, strict=True):
            scope.add_update((variable, ops.convert_to_tensor(value, variable.dtype)))
        inputs = keras.tree.map_structure(
            lambda x: ops.full(x[0], 1, x[2]) * (ops.cast(scale, x[2]) if x[1] else 1), self.shapes
        )
        with listening(_heads(self.model)):
            outputs = keras.tree.flatten(self.model(inputs, training=False))
        return sum(ops.sum(ops.cast(y, "float32")) for y in outputs)

    def gradients(self, weights):
        fixed = [value for _, value in self.fixed]
        # R grows with a power of every layer: smaller inputs keep it within float32.
        for _ in range(4):
            scale = np.float32(self.scale)
            total, gradients = self.differentiate(fixed, scale, values=weights)
            if np.isfinite(total) and all(np.isfinite(g).all() for g in gradients):
                return gradients
            self.scale *= 2.0**-40
        raise ValueError(
            f"The flow through '{self.model.name}' overflows in {self.variables[0].dtype}: take "
            "another `method`."
        )


def _shapes(model, x):
    """(shape, whether of floats, dtype) of one sample, in the structure of the inputs."""
    if x is not None:
        return keras.tree.map_structure(
            lambda a: _Spec((1, *a.shape[1:]), a.dtype.kind == "f", str(a.dtype)), x
        )
    symbols = functional_of(model)._inputs_struct if is_functional(model) else None
    if symbols is None or any(None in s.shape[1:] for s in keras.tree.flatten(symbols)):
        raise ValueError(
            "`method='synflow'` feeds the model with ones of its input's shape, which is not "
            f"known for '{model.name}'. Pass `data`, of which it takes the shape."
        )
    return keras.tree.map_structure(
        lambda s: _Spec((1, *s.shape[1:]), keras.backend.is_float_dtype(s.dtype), s.dtype), symbols
    )


class _Spec:
    """Shape, whether of floats, dtype."""

    def __init__(self, *parts):
        self._parts = parts

    def __getitem__(self, index):
        return self._parts[index]


def _heads(model):
    """Handlers that leave out a softmax or sigmoid that ends the model."""
    handlers = {}
    for output in getattr(model, "outputs", None) or ():
        operation = output._keras_history.operation
        while isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
            operation = operation.outputs[0]._keras_history.operation
        activation = getattr(operation, "activation", None)
        bounded = (keras.activations.softmax, keras.activations.sigmoid)
        if isinstance(operation, (keras.layers.Softmax, keras.layers.Activation)):
            if isinstance(operation, keras.layers.Softmax) or activation in bounded:
                handlers[operation] = lambda call, args, kwargs: args[0]
        elif activation in bounded:
            handlers[operation] = _linear(operation)
    return handlers


def _linear(layer):
    def handler(call, args, kwargs):
        activation = layer.activation
        layer.activation = keras.activations.linear
        try:
            return call(*args, **kwargs)
        finally:
            layer.activation = activation

    return handler
