"""Scores and their derivatives, on whichever backend Keras runs: the one place that asks which."""

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.masking import get_keras_mask


def differentiate(model, forward, values, extras, inputs=True):
    """Call `forward` and differentiate the sum of its scores.

    Nothing of the model changes: state that it would assign stays in a scope of its own, and no
    gradient is left on a variable.

    Args:
        model: The `keras.Model` that `forward` calls.
        forward: Function of `(values, extras, mark)` that returns scores `(rows,)` and a dict of
            further tensors. `mark(key, tensor)` returns a tensor to go on with, by which the
            scores are differentiated too.
        values: List of arrays of floats.
        extras: Nest of arrays, taken as they are.
        inputs: Whether to differentiate by `values`.

    Returns:
        A dict of NumPy arrays and lists: `scores`, `others`, `gradients` (by the values), `marked`
        and `marked_gradients` (by key; not for what the scores do not depend on).
    """
    run = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[keras.backend.backend()]
    result = run(model, forward, values, extras, inputs)
    return {
        "scores": _array(result["scores"]),
        "gradients": [_array(x) for x in result["gradients"]],
        **{
            name: {key: _array(x) for key, x in result[name].items()}
            for name in ("others", "marked", "marked_gradients")
        },
    }


def _array(x):
    x = np.asarray(ops.convert_to_numpy(x))
    kept = x.dtype.kind in "biu" or x.dtype == np.float64
    return x if kept else x.astype("float32")


def _collected(forward, values, extras, mark, marked):
    scores, others = forward(values, extras, mark)
    others = dict(others)
    for key, tensor in marked.items():
        mask = get_keras_mask(tensor)
        if mask is not None:
            others["mask", key] = mask
    return scores, others


def _torch(model, forward, values, extras, inputs):
    import torch

    marked = {}

    def mark(key, x):
        torch.set_grad_enabled(True)
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        marked[key] = x
        return x

    with torch.inference_mode(False), torch.enable_grad(), keras.StatelessScope():
        values = [ops.convert_to_tensor(x).detach().clone().requires_grad_(inputs) for x in values]
        extras = keras.tree.map_structure(ops.convert_to_tensor, extras)
        # What lies before the first tensor of interest needs no graph.
        torch.set_grad_enabled(inputs)
        scores, others = _collected(forward, values, extras, mark, marked)
        sources = [*(values if inputs else []), *marked.values()]
        gradients = [None] * len(sources)
        if sources and scores.requires_grad:
            gradients = torch.autograd.grad(scores.sum(), sources, allow_unused=True)
    return _result(scores, others, values, marked, gradients, inputs)


def _tensorflow(model, forward, values, extras, inputs):
    import tensorflow as tf

    marked = {}
    values = [ops.convert_to_tensor(x) for x in values]
    extras = keras.tree.map_structure(ops.convert_to_tensor, extras)
    with tf.GradientTape(watch_accessed_variables=False) as tape, keras.StatelessScope():
        if inputs:
            tape.watch(values)

        def mark(key, x):
            tape.watch(x)
            marked[key] = x
            return x

        scores, others = _collected(forward, values, extras, mark, marked)
    sources = [*(values if inputs else []), *marked.values()]
    gradients = tape.gradient(scores, sources) if sources else []
    gradients = [tf.convert_to_tensor(g) if g is not None else None for g in gradients]
    return _result(scores, others, values, marked, gradients, inputs)


def _result(scores, others, values, marked, gradients, inputs):
    first = len(values) if inputs else 0
    by_value = [
        ops.zeros_like(x) if g is None else g
        for x, g in zip(values[:first], gradients[:first], strict=True)
    ]
    by_mark = dict(zip(marked, gradients[first:], strict=True))
    return {
        "scores": scores,
        "others": others,
        "gradients": by_value,
        "marked": marked,
        "marked_gradients": {key: g for key, g in by_mark.items() if g is not None},
    }


def _jax(model, forward, values, extras, inputs):
    import jax

    variables = model.variables

    def pure(weights, values, extras):
        def run(values, deltas):
            marked = {}

            def mark(key, x):
                marked[key] = x if deltas is None else x + deltas[str(key)]
                return marked[key]

            scope = keras.StatelessScope(list(zip(variables, weights, strict=True)))
            with scope:
                scores, others = _collected(forward, values, extras, mark, marked)
            return scores, others, list(marked.values()), list(marked)

        keys = []

        def shapes(values):
            *results, found = run(values, None)
            keys[:] = found
            return results[2]

        tensors = jax.eval_shape(shapes, values) if forward.marks else []
        deltas = {
            str(key): jax.numpy.zeros(x.shape, x.dtype)
            for key, x in zip(keys, tensors, strict=True)
        }
        names = []

        def total(values, deltas):
            scores, others, marked, _ = run(values, deltas)
            names[:] = list(others)
            return scores.sum(), (scores, list(others.values()), marked)

        if not (inputs or deltas):
            _, (scores, others, marked) = total(values, deltas)
            gradients = ([], {})
        else:
            wanted = (0, 1) if inputs else 1
            (_, (scores, others, marked)), gradients = jax.value_and_grad(
                total, wanted, has_aux=True
            )(values, deltas)
            gradients = gradients if inputs else ([], gradients)
        pure.keys, pure.names = list(keys), list(names)
        return scores, others, marked, gradients[0], [gradients[1][str(key)] for key in keys]

    if getattr(model, "jit_compile", True) is False or getattr(model, "run_eagerly", False):
        scores, others, marked, by_value, by_mark = pure(
            [v.value for v in variables], values, extras
        )
    else:
        key = (forward.copies, inputs, *(x.shape for x in values), str(_shapes(extras)))
        compiled = forward.compiled.get(key)
        if compiled is None:
            compiled = forward.compiled[key] = (jax.jit(pure), pure)
        compiled, pure = compiled
        weights = [v.value for v in variables]
        scores, others, marked, by_value, by_mark = compiled(weights, values, extras)
    return {
        "scores": scores,
        "others": dict(zip(pure.names, others, strict=True)),
        "gradients": list(by_value),
        "marked": dict(zip(pure.keys, marked, strict=True)),
        "marked_gradients": dict(zip(pure.keys, by_mark, strict=True)),
    }


def _shapes(nest):
    return keras.tree.map_structure(lambda x: (np.shape(x), np.asarray(x).dtype.str), nest)
