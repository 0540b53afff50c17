"""Which layer a map is read from: by name, by path, or the deepest that still has positions."""

import inspect

import keras
import numpy as np
from keras import layers

from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.steps import Steps
from keras_saliency.graph.symbolic import sublayers

# Behind these every position of their input still reaches the score.
_KEEPS_ALL = (
    layers.Dense,
    layers.Dropout,
    layers.Flatten,
    layers.Activation,
    layers.ReLU,
    layers.Softmax,
    layers.Reshape,
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
)


def paths_of(model):
    """Every layer inside a model, by its path through nested models and layers."""
    found = {}

    def add(parent, prefix):
        for layer in sublayers(parent):
            path = f"{prefix}{layer.name}"
            if path not in found:
                found[path] = layer
                add(layer, f"{path}/")

    add(model, "")
    return found


def find_layers(model, layer):
    """The layers that `layer` means: one, its name or path, or a list of these."""
    asked = layer if isinstance(layer, (list, tuple)) else [layer]
    if not asked:
        raise ValueError("`layer` must name at least one layer. Received: an empty list")
    paths = paths_of(model)
    found = []
    for item in asked:
        if isinstance(item, keras.layers.Layer):
            if item not in paths.values():
                raise ValueError(
                    f"`layer`: '{item.name}' is not a layer of the model '{model.name}'."
                )
            found.append(item)
            continue
        if not isinstance(item, str):
            raise TypeError(
                f"`layer` must be a layer, its name or path, or a list of these. Received: {item!r}"
            )
        if item in paths:
            found.append(paths[item])
            continue
        matching = {p: x for p, x in paths.items() if p.split("/")[-1] == item}
        if not matching:
            raise ValueError(
                f"`layer`: the model '{model.name}' has no layer {item!r}. Layers with positions: "
                f"{candidates(model)}"
            )
        if len({id(x) for x in matching.values()}) > 1:
            raise ValueError(f"`layer`: {item!r} is the name of several: {sorted(matching)}")
        found.append(next(iter(matching.values())))
    return found


def candidates(model):
    """Names of the layers whose output has positions, as far as it is known."""
    names = []
    for path, layer in paths_of(model).items():
        try:
            shape = layer.output.shape
        except (AttributeError, ValueError):
            continue
        if len(shape) >= 3 and not isinstance(layer, keras.layers.InputLayer):
            names.append(path)
    return names or list(paths_of(model))


class Place:
    """Where the map of one input is read: a call of a layer, the last that counts if `None`."""

    def __init__(self, layer, position=0, number=None):
        self.layer, self.position, self.number = layer, position, number


def places_of(passes, sample, layer):
    """The places that `layer` means; by default each input's deepest with positions."""
    named = None if layer is None else find_layers(passes.model, layer)
    if len(passes.moving) > 1:
        return _by_input(passes, sample, named)
    if named is None:
        named = [_deepest(passes, sample)]
    return [Place(item) for item in named]


def _deepest(passes, sample):
    """The deepest layer before the output of which more than one position reaches the score."""
    model = passes.model
    rank = _rank(passes, passes.moving[0])
    found = _from_graph(model, rank) if is_functional(model) else None
    return found or _from_gradient(passes, sample, rank)


def _rank(passes, i):
    return passes.inputs[i].ndim + bool(passes.embeddings[i])


def _by_input(passes, sample, named):
    """Of the calls that the score looks at, those that depend on each input.

    What depends on an input is what changes when the input does: that holds for every model, also
    where its graph cannot be seen.
    """
    layers = _tappable(passes.model) if named is None else named
    seen, marked, changed = _probe(passes, sample, layers)
    found = []
    for position, i in enumerate(passes.moving):
        rank = _rank(passes, i)
        keys = [k for k in seen if changed[k][position] and rank > 2]
        if named is None:
            keys = [k for k in keys if _is_of(passes, marked[k], rank, changed[k])]
            found += [Place(layers[k[0]], position, k[1]) for k in keys[-1:]]
            continue
        keys = [k for k in keys if marked[k].ndim in (rank, 3)]
        last = {k[0]: k for k in keys}  # of a layer that is used more than once the last use
        found += [Place(layers[k[0]], position, k[1]) for k in last.values()]
    if not found:
        raise ValueError(
            f"The model '{passes.model.name}' has no {'layer' if named is None else 'such layer'} "
            "that depends on an input with positions and that the score looks at. Use a method "
            "that differentiates by the inputs, such as 'integrated_gradients', or name one of "
            f"{candidates(passes.model)} with `layer=`."
        )
    return found


def _is_of(passes, features, rank, changed):
    """Whether features have positions of an input; a sequence of several inputs' has not."""
    if features.ndim == rank:
        return True
    ranks = {_rank(passes, i) for i, moves in zip(passes.moving, changed, strict=True) if moves}
    return features.ndim == 3 and len(ranks - {2}) == 1


def _probe(passes, sample, layers):
    """The calls with positions that reach the score, in order, and on which inputs they depend."""
    ranks = [_rank(passes, i) for i in passes.moving]
    taps, passes.taps = passes.taps, layers
    try:
        result = sample.look(inputs=False)
        others = []
        generator = np.random.default_rng(0)
        for j, x in enumerate(sample.values):
            values = list(sample.values)
            values[j] = x + generator.normal(size=x.shape).astype(x.dtype) * (x.std() + 0.1)
            others.append(sample.look(values, inputs=False)["marked"])
    finally:
        passes.taps = taps
    marked = result["marked"]
    outputs = result["others"].get("outputs")
    seen, changed = [], {}
    for key, features in marked.items():
        gradient = result["marked_gradients"].get(key)
        if gradient is None or not any(_has_positions(features.shape, rank) for rank in ranks):
            continue
        if outputs is not None and features.shape == outputs.shape:
            continue
        if _positions_seen(layers[key[0]], gradient) > 1:
            seen.append(key)
            changed[key] = [not np.array_equal(features, other[key]) for other in others]
    return seen, marked, changed


def _positions_seen(layer, gradient):
    gradient = np.moveaxis(gradient, channel_axis(layer, gradient.ndim), -1)
    return (np.abs(gradient).max(axis=-1) > 0).sum()


def _has_positions(shape, rank):
    if len(shape) not in (rank, 3) or len(shape) < 3:
        return False
    return any(n is None or n > 1 for n in shape[1:-1]) or (len(shape) > 3 and shape[2] != 1)


def _from_graph(model, rank):
    """Read off the graph, where all that follows surely looks at every position; else `None`."""
    steps = Steps(model)
    if len(steps.outputs) != 1:
        return None
    number = steps.outputs[0]
    first = True
    while True:
        step = next((s for s in steps.steps if number in s.outputs), None)
        if step is None or len(step.outputs) != 1:
            return None
        operation = step.operation
        shape = _output_shape(operation)
        if shape is None:
            return None
        if not first and _has_positions(shape, rank) and len(shape) == rank:
            return operation
        if len(step.inputs) != 1 or not isinstance(operation, _KEEPS_ALL):
            return None
        first = False
        number = step.inputs[0]


def _output_shape(operation):
    nodes = operation._inbound_nodes
    if len({tuple(node.outputs[0].shape) for node in nodes}) != 1:
        return None
    return tuple(nodes[0].outputs[0].shape)


def _inside(layer):
    """Layers in loops, and in attention, whose outputs are no features of positions."""
    return (
        isinstance(layer, (keras.layers.RNN, keras.layers.Wrapper, keras.layers.StackedRNNCells))
        or "return_attention_scores" in inspect.signature(layer.call).parameters
    )


def _tappable(model):
    found = []

    def add(parent):
        for layer in sublayers(parent):
            if layer in found or isinstance(layer, keras.layers.InputLayer):
                continue
            found.append(layer)
            if not _inside(layer):
                add(layer)

    add(model)
    return found


def _from_gradient(passes, sample, rank):
    taps, passes.taps = passes.taps, _tappable(passes.model)
    try:
        result = sample.look(inputs=False)
        tapped = passes.taps
    finally:
        passes.taps = taps
    outputs = result["others"].get("outputs")
    best = None
    for key, features in result["marked"].items():
        gradient = result["marked_gradients"].get(key)
        if gradient is None or not _has_positions(features.shape, rank):
            continue
        if outputs is not None and features.shape == outputs.shape:
            continue
        if _positions_seen(tapped[key[0]], gradient) > 1:
            best = tapped[key[0]]
    if best is None:
        raise ValueError(
            f"The model '{passes.model.name}' has no layer at more than one position of which the "
            "score looks. Use a method that differentiates by the inputs, such as 'gradient' or "
            "'integrated_gradients', or name a layer with `layer=`."
        )
    return best


def channel_axis(layer, rank):
    """Where the channels of a layer's output are."""
    data_format = getattr(layer, "data_format", None)
    if data_format is None and rank > 3:
        data_format = keras.config.image_data_format()
    return 1 if data_format == "channels_first" else rank - 1
