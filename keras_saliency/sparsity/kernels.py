"""The weights of a model that count as edges: what may be masked, what may not, and why."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field

import keras

from keras_saliency.graph.selection import matches
from keras_saliency.graph.symbolic import sublayers
from keras_saliency.sparsity.registry import find_kernels, find_reason
from keras_saliency.typing import Layers


@dataclass(frozen=True, eq=False)
class Kernel:
    """One weight whose entries are edges.

    Attributes:
        key: Unique name in the model. The layer's name for its `kernel` (or its only kernel),
            `"layer/weight"` for others: `"lstm"`, `"lstm/recurrent_kernel"`. Layers inside
            another layer or model carry its name in front: `"encoder/dense"`, `"mha/query"`.
        layer: The layer that owns it. For a recurrent layer that is the layer, not its cell.
        owner: The layer or cell whose attribute `name` the weight is.
        name: Attribute name on `owner`.
        variable: The `keras.Variable`.
        input_axes, output_axes: Non-negative axes of the kernel over input and output neurons.
        parents: The layers and models around `layer`, outermost first, the model itself left out.
        path: The layer's name with those of its parents, joined by `"/"`.
    """

    key: str
    layer: keras.layers.Layer
    owner: keras.layers.Layer
    name: str
    variable: keras.Variable
    input_axes: tuple
    output_axes: tuple
    parents: tuple = ()
    path: str = ""

    @property
    def shape(self):
        return tuple(self.variable.shape)

    @property
    def size(self):
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True)
class Skipped:
    """A layer with weights that stays dense, and why."""

    path: str
    layer: keras.layers.Layer
    reason: str


@dataclass
class Kernels:
    """What `maskable_kernels` found: `kernels` in the order of the layers, and `skipped`."""

    kernels: list = field(default_factory=list)
    skipped: list = field(default_factory=list)

    def __iter__(self):
        return iter(self.kernels)

    def __len__(self):
        return len(self.kernels)


def maskable_kernels(
    model: keras.Model, layers: Layers | None = None, exclude: Layers | None = None
) -> Kernels:
    """List the weights of a model that may be masked, and the layers that may not, with reasons.

    Biases, the weights of normalization layers, and other weights that are no edges never count.
    Needs no graph: it works on every built model, subclassed ones included.

    Args:
        model: A built `keras.Model`.
        layers: Which layers to take: `None` for all of them, or one of these, or a list of
            these: a layer (or a model or wrapper, which stands for everything in it), a name or
            a path such as `"encoder/dense"`, a glob pattern such as `"block1_*"`, a compiled
            regular expression (searched in the path), or a function of the layer that returns
            a bool.
        exclude: Which layers to leave out, in the same terms.

    Returns:
        A `Kernels` object: `.kernels`, a list of `Kernel` in the order of the model's layers,
        and `.skipped`, a list of `Skipped(path, layer, reason)`.

    Raises:
        TypeError: If `model` is not a `keras.Model`, or a selector is none of the above.
        ValueError: If the model is not built, or a layer or a name is not found in it.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import maskable_kernels

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, name="head"),
        ]
    )
    found = maskable_kernels(model, exclude="head")
    print([kernel.key for kernel in found])  # ['conv']
    print({skipped.path: skipped.reason for skipped in found.skipped})
    ```
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(f"`model` must be a Keras model. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built, so it has no weights yet. Call "
            "`model.build(input_shape)`, or call it on a batch of data, first."
        )
    found = Kernels()
    kernels = []
    keys, seen = {}, set()
    if isinstance(model, keras.Model):
        _collect_children(model, (), kernels, found.skipped, keys, seen)
    else:
        _collect(model, (), kernels, found.skipped, keys, seen)
    wanted = (
        set(range(len(kernels))) if layers is None else _select(model, kernels, layers, "layers")
    )
    unwanted = set() if exclude is None else _select(model, kernels, exclude, "exclude")
    for index, kernel in enumerate(kernels):
        if index in unwanted:
            found.skipped.append(Skipped(kernel.key, kernel.layer, "excluded"))
        elif index not in wanted:
            found.skipped.append(Skipped(kernel.key, kernel.layer, "not selected"))
        else:
            found.kernels.append(kernel)
    return found


def selected_layers(model, selectors, argument):
    """The layers that selectors of `maskable_kernels` mean, those without kernels too."""
    if selectors is None:
        return set()
    if not isinstance(selectors, (list, tuple, set, frozenset)):
        selectors = [selectors]
    found = set()

    def visit(layer, parents):
        for child in sublayers(layer):
            around = (*parents, child)
            names = _names(around)
            if any(matches(selector, around, names, argument) for selector in selectors):
                found.add(child)
            visit(child, around)

    visit(model, ())
    return found


def _collect_children(layer, parents, kernels, skipped, keys, seen):
    for child in sublayers(layer):
        _collect(child, parents, kernels, skipped, keys, seen)


def _collect(layer, parents, kernels, skipped, keys, seen, face=None):
    """Add the kernels of `layer` and of what is in it. `face` is the recurrent layer of a cell."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    shown = layer if face is None else face
    path = "/".join([parent.name for parent in parents] + [shown.name])
    own = layer._trainable_variables + layer._non_trainable_variables
    weights = [v for v in own if len(v.shape) > 0 and keras.backend.is_float_dtype(v.dtype)]
    axes = find_kernels(layer)
    if axes:
        present = []
        for name, kernel_axes in axes.items():
            variable = getattr(layer, name, None)
            if variable is None:
                continue
            if not keras.backend.is_float_dtype(variable.dtype):
                skipped.append(
                    Skipped(path, shown, f"its weights are quantized to {variable.dtype}")
                )
                continue
            present.append((name, kernel_axes, variable))
        for name, kernel_axes, variable in present:
            public = name.lstrip("_")
            key = path if public == "kernel" or len(axes) == 1 else f"{path}/{public}"
            keys[key] = keys.get(key, 0) + 1
            if keys[key] > 1:
                key = f"{key}#{keys[key]}"
            rank = len(variable.shape)
            kernels.append(
                Kernel(
                    key=key,
                    layer=shown,
                    owner=layer,
                    name=name,
                    variable=variable,
                    input_axes=tuple(axis % rank for axis in kernel_axes.inputs),
                    output_axes=tuple(axis % rank for axis in kernel_axes.outputs),
                    parents=parents,
                    path=path,
                )
            )
    elif weights:
        reason = find_reason(layer)
        if reason is None and axes is None:
            reason = (
                f"no significance rule is registered for {type(layer).__name__} "
                "(keras_saliency.sparsity.register_significance_rule)"
            )
        skipped.append(Skipped(path, shown, reason or "its weights are no edges"))
    cell = getattr(layer, "cell", None) if isinstance(layer, keras.layers.RNN) else None
    for child in sublayers(layer):
        if child is cell and not child._layers:
            _collect(child, parents, kernels, skipped, keys, seen, face=shown)
        else:
            _collect(child, (*parents, shown), kernels, skipped, keys, seen)


def _select(model, kernels, selectors, argument):
    if isinstance(selectors, (list, tuple, set, frozenset)):
        chosen = set()
        for selector in selectors:
            chosen |= _select(model, kernels, selector, argument)
        return chosen
    chosen = {i for i, kernel in enumerate(kernels) if _means(kernel, selectors, argument)}
    if chosen or not isinstance(selectors, (str, keras.layers.Layer)):
        return chosen
    if isinstance(selectors, keras.layers.Layer):
        known = any(selectors is layer for layer in model._flatten_layers())
        label = f"the layer '{selectors.name}'"
    else:
        names = {layer.name for layer in model._flatten_layers()}
        paths = {kernel.path for kernel in kernels}
        known = any(fnmatch.fnmatchcase(name, selectors) for name in names | paths)
        label = repr(selectors)
    if known:
        return chosen
    raise ValueError(
        f"`{argument}` asks for {label}, which the model '{model.name}' does not have. Its "
        f"maskable weights are: {', '.join(kernel.key for kernel in kernels)}"
    )


def _means(kernel, selector, argument):
    around = (*kernel.parents, kernel.layer)
    names = [kernel.key, *_names(around)]
    return selector is kernel.owner or matches(selector, around, names, argument)


def _names(around):
    """Names of what a chain of layers leads to: its paths, outermost first, and its layers'."""
    paths = ["/".join(layer.name for layer in around[: i + 1]) for i in range(len(around))]
    return [*paths, *(layer.name for layer in around)]


_WITH_FILTERS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def has_filters(kernel):
    """Whether all output channels of a kernel read the same inputs, so that they compare."""
    return isinstance(kernel.owner, _WITH_FILTERS) and getattr(kernel.owner, "groups", 1) == 1
