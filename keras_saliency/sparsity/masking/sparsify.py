"""From a dense model to a sparse one, and from masks to zeros (Garg 2020, section 4.4.3)."""

import keras
import numpy as np
from keras import ops

from keras_saliency.graph import lora
from keras_saliency.graph.copying import LEFT_OUT, check_built, copy_model, same_layer
from keras_saliency.layers.masked.base import MaskedKernels, mask_variables
from keras_saliency.layers.masked.generic import (
    become_masked,
    describes_itself,
    mask_layer,
    plain_config,
    sublayer_paths,
)
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.assigning import assign_all
from keras_saliency.sparsity.masking.frame import kernel_frame
from keras_saliency.sparsity.masking.masks import MaskMaker


def sparsify(
    model,
    sparsity,
    data=None,
    method="isparse",
    *,
    scores="inffs",
    scope="layer",
    granularity="edge",
    order="forward",
    layers=None,
    exclude=None,
    masked=False,
    inplace=False,
    return_report=False,
    initial_weights=None,
    seed=0,
    normalization="pass",
    batch_size=32,
):
    """Make a sparse model of a trained one, without retraining (Garg 2020, section 4.4).

    The new model has the classes, the topology and the weights of the given one, with exact zeros
    where the edges of least significance were: plain Keras, which saves, loads and exports
    without this library. Per kernel exactly `round(sparsity * size)` edges go, one less where
    that is all of them, lowest scores first, on a tie the earlier position in the C-ordered
    flattened kernel (equation 4.5). Biases and normalisation layers stay as they are. The given
    model is not touched. `keras_saliency.KeepSparsity()` keeps the zeros while it is trained on.

    Works on Sequential, functional and nested models, shared layers, wrappers such as
    `TimeDistributed` and `Bidirectional`, recurrent and attention layers, and on subclassed models
    that have a config (`get_config`, or constructor arguments that Keras can write into one); with
    `inplace=True` on every model. A LoRA update is merged into the kernel that is pruned.

    Args:
        model: A built `keras.Model`.
        sparsity: Share of the edges that go, in [0, 1): one number; a dict from layer name to
            number, the others stay dense; or a function that takes a layer and returns a number
            or `None` for dense.
        data: Inputs, a sample of two or more, from which `"isparse"` scores the output neurons;
            see `edge_significance`.
        method: `"isparse"`: significance for the output. `"magnitude"`: `|weight|` (the
            retraining-free peer). `"random"` (DropConnect). `"lottery"`: `|weight|`, and what stays
            goes back to its `initial_weights`, ready to be trained again.
        scores: How output neurons score: `"inffs"`, `"identity"`, `"pca"` (G table 4.3).
        scope: `"layer"`: each kernel loses its share. `"global"`: all edges are ranked together,
            and the model loses the share.
        granularity: `"edge"`. `"channel"`: whole output channels, `round(sparsity * channels)`,
            those with the lowest sum of edge scores; the channels of the model's outputs stay,
            unless `layers` or a dict as `sparsity` names their layer. A pair `(n, m)`: of every m
            neighbours along the input axis the n best stay; `sparsity` must be `1 - n / m`.
        order: `"forward"`; or `"backward"` or `"random"`, where the scores of a layer know what is
            masked in the layers before it in that order (G 4.6.6).
        layers, exclude: Which layers: objects, names, glob patterns, compiled regular
            expressions, or predicates, or a list of these; see `maskable_kernels`.
        masked: Whether the model gets masked layers instead (`MaskedDense`, ...), in which a masked
            weight keeps its stored value, so that it may come back.
        inplace: Whether `model` itself is changed and returned, at the very end or not at all.
            Its compile settings and optimizer stay.
        return_report: Whether to return `(model, report)`: the frame of `sparsity_report` with
            the columns `target` and `reason`, why a kernel stayed dense.
        initial_weights: For `"lottery"`: the weights before training, as `model.get_weights()`
            gave them. Without them the weights stay.
        seed: Of `method="random"` and `order="random"`.
        normalization: Whether normalisation layers `"pass"` or `"scale"` significance.
        batch_size: How many samples of `data` the model sees at once.

    Returns:
        A new model, compiled like the given one (with a fresh optimizer state); with
        `inplace=True` the given one; with `return_report=True` a pair of it and a frame.

    Raises:
        ValueError: If an argument is out of range, a name is unknown, `m` does not divide an input
            axis, the model is not built, cannot be copied, or holds a layer with weights for
            which there is no significance rule. The given model is then as it was.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(64, 8))
    sparse = keras_saliency.sparsify(model, 0.5, data=x)
    assert keras_saliency.sparsity_report(sparse)["zeros"].tolist() == [64, 24]
    ```
    """
    if inplace and masked:
        raise ValueError(
            "`inplace=True` changes the weights of the model, not its layers, so it cannot be "
            "combined with `masked=True`. Drop one of them."
        )
    maker = MaskMaker(
        model,
        sparsity,
        data,
        method,
        scores=scores,
        scope=scope,
        granularity=granularity,
        order=order,
        layers=layers,
        exclude=exclude,
        seed=seed,
        normalization=normalization,
        batch_size=batch_size,
    )
    rewound = _rewound(model, initial_weights, method)
    masks = maker.masks()
    if masked:
        sparse = _masked_model(model, maker, masks, rewound)
    elif inplace:
        _zero_in_place(model, maker, masks, rewound)
        sparse = model
    else:
        values = rewound | _plain_values(model, merge=True)
        for kernel in maker.kernels:
            values[id(kernel.variable)] = _sparse_value(kernel, masks[kernel.key], rewound)
        sparse = copy_model(model, make=lambda layer: _plain_layer(layer, True), values=values)
    if not return_report:
        return sparse
    report = kernel_frame(sparse)
    reasons = {skipped.path: skipped.reason for skipped in maker.skipped}
    report["target"] = [maker.targets.get(key, np.nan) for key in report["layer"]]
    report["reason"] = [reasons.get(key, "") for key in report["layer"]]
    return sparse, report


def strip_masks(model):
    """Make a plain Keras model of a masked one: zeros where the masks are.

    Args:
        model: A model with masked layers, from `sparsify` or your own.

    Returns:
        A new model of Keras's own layers (and of your custom ones), with the weights `kernel *
        mask`. It saves to a file that loads without this library.

    Raises:
        ValueError: If the model is not built or cannot be copied.

    Example:

    ```python
    import keras
    import keras_saliency

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude")
    keras_saliency.strip_masks(sparse).save("small.keras")
    small = keras.saving.load_model("small.keras")  # needs Keras alone
    assert (small.get_weights()[0] == 0).sum() == 12
    ```
    """
    check_built(model)
    return copy_model(
        model,
        make=lambda layer: _plain_layer(layer, isinstance(layer, MaskedKernels)),
        values=_plain_values(model, merge=False),
    )


def _plain_layer(layer, merge):
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


def _plain_values(model, merge):
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
            if keras.backend.is_float_dtype(variable.dtype):  # a quantised zero is one already
                value = values.get(id(variable), variable)
                values[id(variable)] = lambda value=value, mask=mask: _masked_array(value, mask)
    return values


def _masked_array(value, mask):
    array = value() if callable(value) else np.array(ops.convert_to_numpy(value))
    array[~np.asarray(ops.convert_to_numpy(mask))] = 0
    return array


def _current_mask(kernel):
    """The mask that a kernel has already, or `None`."""
    if not isinstance(kernel.owner, MaskedKernels):
        return None
    return kernel.owner.masks.get(kernel.name.lstrip("_"))


def _sparse_value(kernel, mask, rewound):
    """A function that returns the kernel in use, with zeros where a mask is `False`."""

    def value():
        given = rewound.get(id(kernel.variable))
        if given is not None:
            array = np.array(given)
        elif getattr(kernel.owner, "lora_enabled", False):
            array = lora.merged_kernel(kernel.owner)
        else:
            array = np.array(ops.convert_to_numpy(kernel.variable))
        array[~mask] = 0
        current = _current_mask(kernel)
        return array if current is None else _masked_array(lambda: array, current)

    return value


def _zero_in_place(model, maker, masks, rewound):
    """Bring the zeros into the model itself: everything is computed before anything changes."""
    new = {
        id(kernel.variable): _sparse_value(kernel, masks[kernel.key], rewound)()
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


def _masked_model(model, maker, masks, rewound):
    sparse = copy_model(model, values=rewound)
    kernels = [kernel for kernel in maskable_kernels(sparse) if kernel.key in masks]
    mask_model(sparse, kernels)
    for kernel in kernels:
        name = kernel.name.lstrip("_")
        kernel.owner.set_mask(masks[kernel.key], name)
        if maker.scope == "layer":
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


def _rewound(model, initial_weights, method):
    """Dict from the `id` of a weight to its initial value."""
    values = _check_initial_weights(model, initial_weights, method)
    if values is None:
        return {}
    held = {id(mask) for mask in mask_variables(model)}
    weights = [v for v in model.weights if id(v) not in held]
    return {id(v): np.array(value) for v, value in zip(weights, values, strict=True)}


def _check_initial_weights(model, initial_weights, method):
    if initial_weights is None:
        return None
    if method != "lottery":
        raise ValueError(
            f"`initial_weights` belongs to method='lottery'. Received: method={method!r}"
        )
    if isinstance(initial_weights, keras.Model):
        initial_weights = initial_weights.get_weights()
    held = {id(mask) for mask in mask_variables(model)}
    shapes = [tuple(v.shape) for v in model.weights if id(v) not in held]
    given = [np.shape(value) for value in initial_weights]
    if given != shapes:
        raise ValueError(
            "`initial_weights` must hold the weights of the model before training, as "
            f"`model.get_weights()` gives them: shapes {shapes}. Received: shapes {given}"
        )
    return initial_weights
