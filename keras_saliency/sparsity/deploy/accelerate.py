"""2:4 sparsity on NVIDIA GPUs, through PyTorch's semi-structured kernels. Experimental."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import read_weight

# Multiples that both of PyTorch's back ends (cuSPARSELt and CUTLASS) accept for half precision.
_ROWS, _COLUMNS = 32, 64
_DTYPES = ("float16", "bfloat16")


def accelerate(model: keras.Model) -> keras.Model:
    """Run the 2:4-sparse layers of a model on the sparse tensor cores of an NVIDIA GPU.

    Experimental: on an NVIDIA H200 with PyTorch 2.11 it ran, agreed with the dense layer, and was
    slower: 1.7 times the dense time at 4096 x 4096 x 4096 in float16, 1.2 times at 8192
    (`benchmarks/gpu.py`). Measure yours before you rely on it. For inference, with the torch
    backend, on a GPU of compute capability 8.0 or newer, for models that compute in float16 or
    bfloat16. `Dense` layers and 1×1 `Conv2D` layers whose kernels keep at most two of every four
    neighbors along the input axis, and whose sizes fit the kernels (outputs a multiple of 32,
    inputs of 64), go through `torch.sparse.to_sparse_semi_structured`; all others run as before.

    Args:
        model: A built `keras.Model`, for instance of `sparsify(model, 0.5, granularity=(2, 4))`.

    Returns:
        A copy of the model for inference, or, where nothing can be accelerated, the model itself,
        with a warning that says why. A copy saves as a plain Keras model.

    Raises:
        TypeError: If `model` is not a `keras.Model`.

    Example:

    ```python
    import warnings
    import keras
    import keras_saliency

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no GPU, or nothing that is sparse
        fast = keras_saliency.accelerate(model)
    ```
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a Keras model. Received: model={model!r}")
    reason = unavailable()
    if reason is None:
        from keras_saliency.graph.copying import copy_model
        from keras_saliency.sparsity.masking.sparsify import strip_masks

        masked = any(hasattr(x, "kernel_masks") for x in model._flatten_layers())
        copy = strip_masks(model) if masked else copy_model(model)
        reasons = {layer: why_not(layer) for layer in copy._flatten_layers(include_self=False)}
        chosen = [layer for layer, why in reasons.items() if why is None]
        if chosen:
            for layer in chosen:
                _replace_call(layer)
            return copy
        tried = [f"'{x.name}' {why}" for x, why in reasons.items() if _kind(x)]
        reason = "no layer fits: " + ("; ".join(tried) or "it has no Dense or 1×1 Conv2D layer")
    warnings.warn(
        f"The model '{model.name}' is returned unchanged: {reason}.", UserWarning, stacklevel=2
    )
    return model


def unavailable():
    """Why semi-structured kernels cannot run here, or `None`."""
    if keras.backend.backend() != "torch":
        return f"the backend is {keras.backend.backend()}, and the kernels are PyTorch's"
    import torch

    if not torch.cuda.is_available():
        return "PyTorch finds no NVIDIA GPU"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return "the GPU has compute capability {}.{}, and 2:4 kernels need 8.0 or newer".format(
            *capability
        )
    return None


def why_not(layer):
    """Why a layer does not run through the semi-structured kernels, or `None`."""
    if not _kind(layer):
        return "is no Dense or 1×1 Conv2D layer"
    if layer.compute_dtype not in _DTYPES:
        return f"computes in {layer.compute_dtype}, not in float16 or bfloat16"
    kernel = read_weight(layer, "kernel")
    kernel = kernel.reshape(-1, kernel.shape[-1])
    if kernel.shape[1] % _ROWS or kernel.shape[0] % _COLUMNS:
        return (
            f"has a kernel of {kernel.shape[0]} inputs and {kernel.shape[1]} outputs; "
            f"multiples of {_COLUMNS} and {_ROWS} are needed"
        )
    if not is_two_to_four(kernel):
        return "keeps more than two of four neighbors along its input axis"
    return None


def is_two_to_four(kernel):
    """Whether of every four neighbors along the first axis at most two are not zero."""
    blocks = (kernel != 0).reshape(-1, 4, kernel.shape[-1])
    return bool((np.count_nonzero(blocks, axis=1) <= 2).all())


def _kind(layer):
    if type(layer) is layers.Dense:
        return not layer.quantization_mode
    return (
        type(layer) is layers.Conv2D
        and set(layer.kernel_size) == set(layer.strides) == {1}
        and layer.groups == 1
        and layer.data_format == "channels_last"
    )


def _replace_call(layer):
    """Let a layer multiply with a compressed copy of its kernel."""
    import torch

    dtype = getattr(torch, layer.compute_dtype)
    kernel = layer.kernel.value.detach().reshape(-1, layer.kernel.shape[-1])
    weight = torch.sparse.to_sparse_semi_structured(kernel.t().to(dtype).contiguous())
    bias = layer.bias.value.detach().to(dtype) if layer.use_bias else None

    def call(inputs, training=None):
        if training:
            raise ValueError(
                f"The layer '{layer.name}' is accelerated for inference and cannot be trained."
            )
        flat = inputs.reshape(-1, inputs.shape[-1])
        outputs = torch.nn.functional.linear(flat, weight, bias)
        outputs = outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])
        return outputs if layer.activation is None else layer.activation(outputs)

    layer.call = call
