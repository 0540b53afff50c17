"""Low-rank updates (LoRA) of Keras's layers: the kernel in use, and how it becomes the kernel."""

import numpy as np
from keras import ops


def lora_layers(model):
    """The layers of a model that carry a LoRA update."""
    return [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]


def lora_variables(layer):
    """The two factors of a layer's update."""
    return [v for v in layer.weights if v.name.startswith("lora_")]


def lora_kernel(layer):
    """The attribute of the weight that the update belongs to: `"kernel"` or `"embeddings"`."""
    return "embeddings" if hasattr(layer, "lora_embeddings_a") else "kernel"


def kernel_variable(layer):
    """The variable to which the update is added."""
    return getattr(layer, f"_{lora_kernel(layer)}")


def merged_kernel(layer):
    """The kernel in use, a NumPy array: the stored one and its update."""
    return np.array(ops.convert_to_numpy(getattr(layer, lora_kernel(layer))))


def merge(layer, kernel=None):
    """Write a layer's update into its kernel and switch LoRA off, in place.

    Args:
        layer: A layer with LoRA enabled.
        kernel: Array that takes the place of the merged kernel.
    """
    variable = kernel_variable(layer)
    variable.assign(merged_kernel(layer) if kernel is None else kernel)
    factors = [name for name in vars(layer) if name.startswith(f"lora_{lora_kernel(layer)}_")]
    layer._tracker.unlock()
    for name in factors:
        layer._untrack_variable(getattr(layer, name))
        delattr(layer, name)
    layer._tracker.lock()
    layer.lora_enabled = False
    layer.lora_rank = None
    variable.trainable = layer.trainable
