"""Which layer a map is read from: by name, by path, or the deepest that still has positions."""

import inspect

import keras
import numpy as np
from keras import layers

from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.steps import Steps
from keras_saliency.graph.trace import sublayers

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


def deepest(passes, sample):
    """The deepest layer before the output of which more than one position reaches the score."""
    model = passes.model
    if len(passes.moving) > 1:
        raise ValueError(
            "The model has several inputs with values. Name the layer that the map is read from "
            f"with `layer=`, one of {candidates(model)}, or use a method that differentiates by "
            "the inputs, such as 'integrated_gradients'."
        )
    rank = passes.inputs[passes.moving[0]].ndim + bool(passes.embeddings[passes.moving[0]])
    found = _from_graph(model, rank) if is_functional(model) else None
    return found or _from_gradient(passes, sample, rank)


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
        axes = channel_axis(tapped[key[0]], features.ndim)
        if (np.abs(np.moveaxis(gradient, axes, -1)).max(axis=-1) > 0).sum() > 1:
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
