"""What `sparsify` hands back: a plain copy, a model with masked layers, or the model itself."""

import keras
import numpy as np
from keras import ops

from keras_saliency.graph import lora
from keras_saliency.graph.copying import LEFT_OUT, copy_model, same_layer
from keras_saliency.layers.masked.base import MaskedKernels, masked
from keras_saliency.layers.masked.generic import (
    become_masked,
    describes_itself,
    mask_layer,
    plain_config,
    sublayer_paths,
)
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.assigning import assign_all
from keras_saliency.sparsity.reconstruction.refit import counterparts


def plain_copy(model, values=()):
    """A copy of Keras's own layers, masks and LoRA updates merged into the kernels."""
    values = plain_values(model, merge=True) | dict(values)
    return copy_model(model, make=lambda layer: plain_layer(layer, True), values=values)


def take_over(model, masks, sweep, copy):
    """Bring what a refit of `copy` found into `model` itself, at once.

    Args:
        model: The model that was refitted; it may have LoRA updates and masks.
        masks: Dict from kernel key to mask.
        sweep: The `Refit` of the copy.
        copy: The copy, or `model`.
    """
    twins = {} if copy is model else counterparts(copy, model)
    jobs, merged = [], {}
    for variable, value in sweep.values.values():
        target = variable if copy is model else twins[id(variable)]
        jobs.append((target, value))
        merged[id(target)] = value
    for kernel in maskable_kernels(model):
        if kernel.key in masks and _current_mask(kernel) is not None:
            jobs.append((_current_mask(kernel), masks[kernel.key]))
    assign_all(jobs)
    for layer in lora.lora_layers(model):
        lora.merge(layer, merged.get(id(lora.kernel_variable(layer))))


def take_over_masked(masked, model, masks, sweep, copy):
    """Store refitted values in a masked model, in kernels where its masks keep."""
    twins = counterparts(copy, masked)
    kernels = {id(k.variable): k for k in maskable_kernels(masked) if k.key in masks}
    jobs = []
    for variable, value in sweep.values.values():
        target = twins[id(variable)]
        kernel = kernels.get(id(target))
        if kernel is not None:
            stored = np.array(ops.convert_to_numpy(target))
            if getattr(kernel.owner, "lora_enabled", False):  # the update stays, under the mask
                value = value - (lora.merged_kernel(kernel.owner) - stored)
            value = np.where(masks[kernel.key], value, stored)
        jobs.append((target, value))
    assign_all(jobs)


def plain_layer(layer, merge):
    """A layer of Keras's own class, or the user's, without masks, and without LoRA if asked."""
    parts = layer._flatten_layers()
    masked = any(isinstance(part, MaskedKernels) for part in parts)
    updated = merge and any(getattr(part, "lora_enabled", False) for part in parts)
    if not masked and not updated:
        return same_layer(layer)
    config = plain_config(layer.get_config())
    if updated:
        config = _without_lora(config)
    if isinstance(layer, MaskedKernels):
        config.pop("masked", None)
        return layer.plain_class.from_config(config)
    return type(layer).from_config(config)


def _without_lora(config):
    if isinstance(config, dict):
        return {
            key: _without_lora(value)
            for key, value in config.items()
            if key not in ("lora_rank", "lora_alpha")
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_without_lora(item) for item in config)
    return config


def plain_values(model, merge):
    """What the weights of masked layers are in a plain model, for `copy_model`.

    With `merge` every LoRA update goes into its kernel, else only those under a mask.
    """
    values = {}
    for layer in model._flatten_layers():
        masks = layer.kernel_masks() if isinstance(layer, MaskedKernels) else []
        updated = getattr(layer, "lora_enabled", False) and (merge or masks)
        if updated:
            values.update({id(v): LEFT_OUT for v in lora.lora_variables(layer)})
            variable = lora.kernel_variable(layer)
            values[id(variable)] = lambda layer=layer: lora.merged_kernel(layer)
        for variable, mask in masks:
            values[id(mask)] = LEFT_OUT
            if keras.backend.is_float_dtype(variable.dtype):  # a quantized zero is one already
                value = values.get(id(variable), variable)
                values[id(variable)] = lambda value=value, mask=mask: _zeroed(value, mask)
    return values


def _zeroed(value, mask):
    # In NNX mode a variable can be called, like what it holds.
    if callable(value) and not isinstance(value, keras.Variable):
        value = value()
    return masked(ops.stop_gradient(ops.convert_to_tensor(value)), mask)


def _current_mask(kernel):
    """The mask that a kernel has already, or `None`."""
    if not isinstance(kernel.owner, MaskedKernels):
        return None
    return kernel.owner.masks.get(kernel.name.lstrip("_"))


def sparse_value(kernel, mask, rewound):
    """A function that returns the kernel in use, with zeros where a mask is `False`."""

    def value():
        given = rewound.get(id(kernel.variable))
        if given is None:
            updated = getattr(kernel.owner, "lora_enabled", False)
            given = lora.merged_kernel(kernel.owner) if updated else kernel.variable
        given = _zeroed(given, mask)
        current = _current_mask(kernel)
        return given if current is None else _zeroed(given, current)

    return value


def zero_in_place(model, maker, masks, rewound):
    """Bring the zeros into the model itself: everything is computed before anything changes."""
    new = {
        id(kernel.variable): sparse_value(kernel, masks[kernel.key], rewound)()
        for kernel in maker.kernels
    }
    kernels = {id(kernel.variable) for kernel in maker.kernels}
    jobs = [(kernel.variable, new[id(kernel.variable)]) for kernel in maker.kernels]
    jobs += [(v, rewound[id(v)]) for v in model.weights if id(v) in set(rewound) - kernels]
    jobs += [
        (_current_mask(kernel), masks[kernel.key])
        for kernel in maker.kernels
        if _current_mask(kernel) is not None
    ]
    merges = [
        (layer, new.get(id(lora.kernel_variable(layer)))) for layer in lora.lora_layers(model)
    ]
    assign_all(jobs)
    for layer, kernel in merges:
        lora.merge(layer, kernel)


def masked_model(model, maker, masks, rewound):
    sparse = copy_model(model, values=rewound)
    kernels = [kernel for kernel in maskable_kernels(sparse) if kernel.key in masks]
    mask_model(sparse, kernels)
    for kernel in kernels:
        name = kernel.name.lstrip("_")
        kernel.owner.set_mask(masks[kernel.key], name)
        if maker.options.scope == "layer":
            targets = kernel.owner.__dict__.setdefault("mask_targets", {})
            targets[name] = maker.targets[kernel.key]
    return sparse


def mask_model(model, kernels):
    """Give kernels of a built model masks of ones, in place; the model computes the same.

    Meant for models that nothing has compiled yet.

    Args:
        model: A built model.
        kernels: `Kernel` objects of it.
    """
    for kernel in kernels:
        owner = kernel.owner
        if not isinstance(owner, MaskedKernels) or not owner.kernels:
            mask_layer(owner, [k.name.lstrip("_") for k in kernels if k.owner is owner])
    # From the inside out, whatever would not say in its config that something in it is masked.
    seen = set()  # a container's config is asked for once, since it may be large
    for kernel in kernels:
        around = [model, *kernel.parents, kernel.layer]
        for container in reversed(around):
            if id(container) in seen or container is kernel.owner:
                continue
            seen.add(id(container))
            if describes_itself(container):
                continue
            become_masked(
                container,
                {
                    path: list(item.kernels)
                    for path, item in sublayer_paths(container)
                    if isinstance(item, MaskedKernels) and item.masks
                },
            )
