"""From a plain model to a masked one, and back (G 4.4.3)."""

import inspect
import logging
import warnings

import keras
import numpy as np
from keras import ops

from keras_saliency.layers.masked.base import MaskedKernels, mask_variables
from keras_saliency.layers.masked.generic import (
    MaskedLayer,
    become_masked,
    mask_layer,
    plain_config,
    sublayer_paths,
)
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.masks import MaskMaker

_logger = logging.getLogger("keras_saliency")


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
    initial_weights=None,
    seed=0,
    normalization="pass",
    batch_size=32,
):
    """Make a sparse model of a trained one, without retraining (G 4.4, "sparsify-with").

    The new model has the topology and the weights of the given one; its layers are the masked
    twins, whose masks take the edges of least significance out. Per kernel exactly
    `round(sparsity * size)` edges go, lowest scores first, on a tie the earlier position in the
    C-ordered flattened kernel (equation 4.5). Biases and normalisation layers stay as they are.
    The given model is not touched.

    Works on Sequential, functional and nested models, shared layers, wrappers such as
    `TimeDistributed` and `Bidirectional`, recurrent and attention layers, and on subclassed models
    that have a config (`get_config`, or constructor arguments that Keras can write into one).

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
        initial_weights: For `"lottery"`: the weights before training, as `model.get_weights()`
            gave them. Without them the weights stay.
        seed: Of `method="random"` and `order="random"`.
        normalization: Whether normalisation layers `"pass"` or `"scale"` significance.
        batch_size: How many samples of `data` the model sees at once.

    Returns:
        A new model, compiled like the given one (with a fresh optimizer state) where that can be.

    Raises:
        ValueError: If an argument is out of range, a name is unknown, `m` does not divide an input
            axis, the model is not built, cannot be copied, or holds a layer with weights for
            which there is no significance rule.

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
    initial_weights = _check_initial_weights(model, initial_weights, method)
    masks = maker.masks()
    sparse = copy_model(model)
    kernels = [kernel for kernel in maskable_kernels(sparse) if kernel.key in masks]
    if initial_weights is not None:
        held = {id(mask) for mask in mask_variables(sparse)}
        plain = [variable for variable in sparse.weights if id(variable) not in held]
        for variable, value in zip(plain, initial_weights, strict=True):
            variable.assign(value)
    mask_model(sparse, kernels)
    for kernel in kernels:
        kernel.owner.set_mask(masks[kernel.key], kernel.name.lstrip("_"))
        if scope == "layer":
            targets = kernel.owner.__dict__.setdefault("mask_targets", {})
            targets[kernel.name.lstrip("_")] = maker.targets[kernel.key]
    _compile_like(model, sparse)
    return sparse


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
    _check_built(model)
    plain = _copy_structure(model, _plain_layer)
    masks = {
        id(variable): mask
        for layer in model._flatten_layers()
        if isinstance(layer, MaskedKernels)
        for variable, mask in layer.kernel_masks()
    }
    held = {id(mask) for mask in masks.values()}
    values = (
        (variable, masks.get(id(variable)))
        for variable in model.weights
        if id(variable) not in held
    )
    _assign_all(
        plain, [(v, None if m is None else ops.convert_to_numpy(m)) for v, m in values], model
    )
    _compile_like(model, plain)
    return plain


def copy_model(model):
    """A copy of a model with the same weights; it shares nothing with the given one."""
    _check_built(model)
    copy = _copy_structure(model, _same_layer)
    _assign_all(copy, [(variable, None) for variable in model.weights], model)
    return copy


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
    seen = set()
    for kernel in kernels:
        around = [model, *kernel.parents, kernel.layer]
        for container in reversed(around):
            if id(container) in seen or container is kernel.owner or _describes(container):
                continue
            seen.add(id(container))
            become_masked(
                container,
                {
                    path: list(item.kernels)
                    for path, item in sublayer_paths(container)
                    if isinstance(item, MaskedKernels) and item.masks
                },
            )


def _describes(container):
    """Whether the container's config holds the configs of the layers in it."""
    if isinstance(container, MaskedLayer):
        return False
    if isinstance(container, keras.Model):
        return _is_standard(container)
    return (
        isinstance(container, (keras.layers.Wrapper, keras.layers.StackedRNNCells))
        or type(container) is keras.layers.RNN
    )


def _is_standard(model):
    """Whether the config is a list of layers: Sequential, or `Model(inputs, outputs)`."""
    if isinstance(model, MaskedLayer):
        return False
    if isinstance(model, keras.Sequential):
        return type(model) is keras.Sequential or "layers" in model.get_config()
    return hasattr(model, "_nodes_by_depth") and "input_layers" in model.get_config()


def _copy_structure(model, make):
    """A model of the same structure, its layers made by `make(layer)`, with weights of its own."""
    if _is_standard(model):

        def clone(layer):
            if isinstance(layer, keras.Model) and _is_standard(layer):
                return _copy_structure(layer, make)
            return make(layer)

        try:
            return keras.models.clone_model(model, clone_function=clone)
        except ValueError as error:
            raise ValueError(f"The model '{model.name}' cannot be copied: {error}") from error
    try:
        _check_config(model)
        copy = make(model)
        if not copy.built:
            copy.build_from_config(model.get_build_config() or {})
    except Exception as error:
        raise ValueError(
            f"The model '{model.name}' of the class {type(model).__name__} cannot be copied, so it "
            "cannot be converted. A subclassed model needs a `get_config` from which "
            "`from_config` makes it again, and a `build` or one input shape. To sparsify it in "
            "place, during training, use `keras_saliency.iSparseCallback` or "
            f"`keras_saliency.Sparsifier`, which need no copy. The cause was: {error}"
        ) from error
    return copy


def _check_config(model):
    """Refuse what Keras would make again with default arguments, without a word."""
    if not getattr(model.get_config, "_is_default", False):
        return
    parameters = inspect.signature(type(model).__init__).parameters.values()
    lost = [
        p.name
        for p in list(parameters)[1:]
        if p.name not in ("name", "dtype", "trainable")
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if lost:
        raise ValueError(
            f"it has no `get_config`, and Keras does not record its constructor arguments {lost}."
        )


def _same_layer(layer):
    if type(layer) is keras.layers.Lambda:
        return _copy_lambda(layer)
    return type(layer).from_config(layer.get_config())


def _plain_layer(layer):
    if type(layer) is keras.layers.Lambda:
        return _copy_lambda(layer)
    config = plain_config(layer.get_config())
    if isinstance(layer, MaskedKernels):
        config.pop("masked", None)
        return layer.plain_class.from_config(config)
    return type(layer).from_config(config)


def _copy_lambda(layer):
    """`from_config` refuses functions of unknown origin; this one is already running here."""
    config = keras.layers.Layer.get_config(layer)
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        **config,
    )


def _assign_all(copy, sources, model):
    """Give `copy` the values of the variables in `sources`, times their masks."""
    targets = copy.weights
    if [tuple(v.shape) for v in targets] != [tuple(v.shape) for v, _ in sources]:
        raise ValueError(
            f"The model '{model.name}' cannot be copied: made again from its config it has "
            f"{len(targets)} weights where it has {len(sources)}, or weights of other shapes."
        )
    for target, (source, mask) in zip(targets, sources, strict=True):
        # A copy of its own: JAX gives the memory of a trained model's variables away.
        value = np.array(ops.convert_to_numpy(source))
        if mask is not None:
            value[~mask] = 0
        target.assign(value)
    # Layers inside a subclassed model or layer were named anew.
    for mine, its in zip(copy._flatten_layers(), model._flatten_layers(), strict=True):
        if mine.name != its.name:
            mine.name = its.name
    copy.built = True  # a model without `build` has its weights, but Keras does not say so


def _compile_like(model, copy):
    if not getattr(model, "compiled", False):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns and leaves the model as it is
            copy.compile_from_config(model.get_compile_config())
    except Exception as error:
        _logger.debug("compile_from_config failed: %s", error)
    if not copy.compiled:
        _logger.warning(
            "The new model is not compiled, because the compile settings of '%s' cannot be written "
            "down and read again. Call compile() on it.",
            model.name,
        )


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


def _check_built(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built, so it has no weights yet. Call "
            "`model.build(input_shape)`, or call it on a batch of data, first."
        )
