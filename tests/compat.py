"""What the tests need from a backend and Keras does not offer: gradients and compilation."""

import keras
import numpy as np


def to_numpy(x):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, x)


def gradients(layer, inputs, loss, **call_kwargs):
    """Return the gradients of ``loss(layer(inputs))``, per input and per trainable weight."""
    arrays = [np.asarray(x, "float32") for x in inputs]

    def value(tensors):
        return loss(layer(tensors[0] if len(tensors) == 1 else list(tensors), **call_kwargs))

    variables = layer.trainable_variables
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(x) for x in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = value(tensors)
        found = tape.gradient(
            result,
            [tensors, [v.value for v in variables]],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
    elif backend == "jax":
        import jax

        def stateless(tensors, trainable):
            x = tensors[0] if len(tensors) == 1 else list(tensors)
            state = [v.value for v in layer.non_trainable_variables]
            return loss(layer.stateless_call(trainable, state, x, **call_kwargs)[0])

        found = jax.grad(stateless, argnums=(0, 1))(arrays, [v.value for v in variables])
    else:
        import torch

        device = keras.ops.convert_to_tensor(0.0).device
        tensors = [torch.tensor(x, requires_grad=True, device=device) for x in arrays]
        flat = [*tensors, *(v.value for v in variables)]
        raw = torch.autograd.grad(value(tensors), flat, allow_unused=True)
        raw = [torch.zeros_like(t) if g is None else g for g, t in zip(raw, flat, strict=True)]
        found = raw[: len(tensors)], raw[len(tensors) :]
    return [to_numpy(g) for g in found[0]], [to_numpy(g) for g in found[1]]


def compiled(layer, **call_kwargs):
    """Return ``layer`` as a function compiled by the backend: XLA, or TorchDynamo on PyTorch."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x: layer(x, **call_kwargs), jit_compile=True)
    if backend == "jax":
        import jax

        state = [v.value for v in layer.trainable_variables]
        fixed = [v.value for v in layer.non_trainable_variables]
        return jax.jit(lambda x: layer.stateless_call(state, fixed, x, **call_kwargs)[0])
    import torch

    # The code generator needs a C compiler and a minute; tracing is what a layer can break.
    return torch.compile(lambda x: layer(x, **call_kwargs), backend="aot_eager")
