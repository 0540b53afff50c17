"""Derivatives of a scalar by a model's variables, on whichever backend Keras runs."""

import contextlib

import keras
import numpy as np
from keras import ops, tree


def gradient_function(score, variables, state=()):
    """Make a function that differentiates a scalar by variables; nothing of any model changes.

    Args:
        score: Function of any nests of arrays that returns a scalar tensor.
        variables: List of `keras.Variable`s to differentiate by.
        state: List of other variables that `score` reads, for a function that is called again
            after they have changed: on JAX what is not named here is compiled in as it stands.

    Returns:
        A function of `(*arguments, values=None, state_values=None)`, both being arrays to take in
        place of what `variables` and `state` hold. It returns the score as a float, and a list of
        NumPy arrays of the variables' shapes, zeros where the score does not depend on a variable.
        On JAX it is compiled once for each shape of the arguments.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency.graph.gradients import gradient_function

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    differentiate = gradient_function(
        lambda x: keras.ops.sum(model(x)), model.trainable_variables
    )
    total, (gradient, _) = differentiate(np.ones((4, 3), "float32"))
    assert (gradient == 4).all()
    ```
    """

    def run(tensors, held, arguments):
        pairs = [*zip(variables, tensors, strict=True), *zip(state, held, strict=True)]
        with keras.StatelessScope(pairs):
            return score(*arguments)

    backend = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[keras.backend.backend()]
    derived = backend(run)

    def differentiate(*arguments, values=None, state_values=None):
        if values is None:
            values = [ops.convert_to_numpy(v) for v in variables]
        values = [ops.convert_to_tensor(x, v.dtype) for x, v in zip(values, variables, strict=True)]
        if state_values is None:
            state_values = state
        held = [ops.convert_to_tensor(x, v.dtype) for x, v in zip(state_values, state, strict=True)]
        total, gradients = derived(values, held, arguments)
        arrays = [
            np.zeros(v.shape, "float32") if g is None else np.asarray(ops.convert_to_numpy(g))
            for g, v in zip(gradients, variables, strict=True)
        ]
        return float(ops.convert_to_numpy(total)), arrays

    return differentiate


def without_gradients():
    """A context in which PyTorch records nothing to differentiate; on other backends none is."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def _jax(run):
    import jax

    return jax.jit(jax.value_and_grad(run))


def _tensorflow(run):
    import tensorflow as tf

    def derived(values, held, arguments):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            total = run(values, held, arguments)
        gradients = tape.gradient(total, values)
        return total, [None if g is None else tf.convert_to_tensor(g) for g in gradients]

    return derived


def _torch(run):
    import torch

    def derived(values, held, arguments):
        with torch.inference_mode(False), torch.enable_grad():
            values = [x.detach().clone().requires_grad_() for x in values]
            total = run(values, held, arguments)
            if not total.requires_grad:
                return total, [None] * len(values)
            return total.detach(), torch.autograd.grad(total, values, allow_unused=True)

    return derived


def loss_gradients(model, variables, x, y, sample_weight=None, *, loss=None, batch_size=32):
    """The mean over samples of the gradient of a model's loss by variables.

    Args:
        model: A built model; compiled, unless `loss` is given.
        variables: List of `keras.Variable`s.
        x, y, sample_weight: Nests of arrays, as `read_pairs` gives them.
        loss: Function of `(y_true, y_pred)`, a `keras.losses.Loss`, or its name, in place of the
            loss that the model was compiled with.
        batch_size: How many samples pass through the model at once.

    Returns:
        A list of float64 arrays of the variables' shapes.
    """
    differentiate = gradient_function(loss_of(model, loss), variables)
    count = len(tree.flatten(x)[0])
    sums = [np.zeros(v.shape) for v in variables]
    for start in range(0, count, batch_size):
        part = slice(start, start + batch_size)
        batch = [
            tree.map_structure(lambda a, s=part: None if a is None else a[s], nest)
            for nest in (x, y, sample_weight)
        ]
        _, gradients = differentiate(*batch)
        share = len(tree.flatten(batch[0])[0]) / count
        for total, gradient in zip(sums, gradients, strict=True):
            total += share * gradient.astype("float64")
    return sums


def loss_of(model, loss=None):
    """Function of `(x, y, sample_weight)` that gives the loss of a batch, as a scalar tensor."""
    if loss is None:
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"The model '{model.name}' is not compiled, so it has no loss to differentiate. "
                "Compile it, or pass `loss`, for example loss='sparse_categorical_crossentropy'."
            )

        def measure(x, y, sample_weight):
            y_pred = model(x, training=False)
            return model.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False
            )

        return measure
    loss = keras.losses.get(loss)

    def measure(x, y, sample_weight):
        y_pred = model(x, training=False)
        if isinstance(loss, keras.losses.Loss):
            return loss(y, y_pred, sample_weight=sample_weight)
        values = ops.convert_to_tensor(loss(y, y_pred), "float32")
        if sample_weight is not None:
            values = values * ops.convert_to_tensor(sample_weight, "float32")
        return ops.mean(values)

    return measure
