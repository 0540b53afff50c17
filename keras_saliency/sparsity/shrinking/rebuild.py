"""Build a functional model anew with fewer channels, weights copied."""

import contextlib

import keras
import numpy as np
from keras import tree

from keras_saliency.graph.copying import Zeros, copy_model, copy_saved_state
from keras_saliency.graph.functional import functional_of, is_functional, sorted_nodes
from keras_saliency.sparsity.shrinking.channels import find_weight, read_weight


def rebuild(groups, live):
    """Build the model of `groups` from the living channels alone.

    Args:
        groups: A `ChannelGroups`.
        live: (count,) which groups stay.

    Returns:
        A new Functional or Sequential model with plain Keras layers.
    """
    return _Builder(groups, live).model(groups.model, None)


class _Builder:
    def __init__(self, groups, live):
        self.groups = groups
        self.live = live
        self.made = {}

    def keep(self, ids):
        return self.live[self.groups.labels[ids]]

    def count(self, ids):
        return int(self.keep(ids).sum())

    def model(self, model, given):
        """A new model; `given`: `None`, or the structure of its new inputs' tensors."""
        functional = functional_of(model)
        known = {}
        for x in functional.inputs:
            known[id(x)] = self.input(x, nested=given is not None)
        for node in sorted_nodes(model):
            args, kwargs = node.arguments.fill_in(known)
            layer = self.layer(node.operation, args)
            with _without_initializers(layer):
                outputs = tree.flatten(layer(*args, **kwargs))
            for x, y in zip(node.outputs, outputs, strict=True):
                known[id(x)] = y

        def new(x):
            return known[id(x)]

        inputs = tree.map_structure(new, functional._inputs_struct)
        outputs = tree.map_structure(new, functional._outputs_struct)
        if isinstance(model, keras.Sequential):
            layers = [self.made[id(layer)] for layer in model.layers]  # masks are computed anew
            result = _sequential(model, tree.flatten(inputs)[0], layers)
        else:
            result = _model_class(model)(inputs, outputs, name=model.name)
        for node in sorted_nodes(model):
            if not is_functional(node.operation) or node.operation in self.groups._excluded:
                self.copy_weights(node.operation)
        result._trainable = model._trainable
        return result

    def input(self, x, nested):
        layer = x._keras_history.operation
        shape = list(x.shape)
        channels = self.groups.entries[id(x)]
        if nested and channels is not None:
            shape[channels.axis] = self.count(channels.ids)
        options = {"sparse": x.sparse, "optional": getattr(layer, "optional", False)}
        options = {k: v for k, v in options.items() if v}
        return keras.Input(batch_shape=tuple(shape), dtype=x.dtype, name=layer.name, **options)

    def layer(self, layer, args):
        if id(layer) in self.made:
            return self.made[id(layer)]
        if is_functional(layer) and layer not in self.groups._excluded:
            new = self.model(layer, args)
        else:
            new = self.narrower(layer)
        self.made[id(layer)] = new
        return new

    def narrower(self, layer):
        """A layer of the same class and configuration, except for its numbers of channels."""
        if is_functional(layer):
            return copy_model(layer)
        call = self.groups.calls[id(layer)]
        config = _unbuilt(layer.get_config())
        if call.arguments and "backward_layer" in {path[0] for path in call.arguments}:
            config.setdefault("backward_layer", _backward(layer))
        for path, ids in call.arguments.items():
            place = config
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = ids(self.count) if callable(ids) else self.count(ids)
        if any(self.needs_bias(edges) for edges in call.kernels):
            config["use_bias"] = True
        options = {"safe_mode": False} if isinstance(layer, keras.layers.Lambda) else {}
        return type(layer).from_config(config, **options)

    def needs_bias(self, edges):
        return edges.add_bias and len(self.groups.removed_constants(edges, self.live)) > 0

    def copy_weights(self, layer):
        new = self.made[id(layer)]
        if not isinstance(layer, keras.layers.Layer) or getattr(new, "_copied", False):
            return
        call = self.groups.calls.get(id(layer))
        if call is None or not (call.slices or call.kernels):
            for old, variable in zip(layer.variables, new.variables, strict=True):
                _copy(old, variable)
                variable.trainable = old.trainable
            for old, fresh in zip(layer._flatten_layers(), new._flatten_layers(), strict=True):
                copy_saved_state(old, fresh)
            new._trainable = layer._trainable
            return
        sliced = set()
        values = {name: self.sliced(layer, name, axes) for name, axes in call.slices.items()}
        for edges in call.kernels:
            self.fold(layer, edges, values)
        for name, value in values.items():
            _, variable = find_weight(new, name)
            _, old = find_weight(layer, name)
            variable.assign(value.astype(_numpy_dtype(variable.dtype)))
            if old is not None:
                variable.trainable = old.trainable
                sliced.add(id(old))
        # The other variables (the states of random generators) are taken over as they are.
        others = {_tail(v, layer): v for v in layer.variables if id(v) not in sliced}
        for variable in new.variables:
            old = others.get(_tail(variable, new))
            if old is not None and tuple(old.shape) == tuple(variable.shape):
                _copy(old, variable)
        for old, fresh in zip(layer._flatten_layers(), new._flatten_layers(), strict=False):
            fresh._trainable = old._trainable

    def sliced(self, layer, name, axes):
        value = read_weight(layer, name)
        for axis, ids in axes.items():
            kept = self.keep(ids)
            if not kept.all():
                value = np.compress(kept, value, axis=axis)
        return value

    def fold(self, layer, edges, values):
        """Move what removed constants contributed into the bias, or to one constant that stays."""
        gone = self.groups.removed_constants(edges, self.live)
        if not len(gone):
            return
        kernel = read_weight(layer, edges.weight)
        matrix = edges.matrix(kernel)
        outputs = self.keep(edges.outputs)
        inputs = self.keep(edges.inputs.ids)
        constants = edges.inputs.values[gone]
        removed = matrix[:, gone][:, :, outputs].astype("float64")
        if edges.bias is not None or edges.add_bias:
            total = np.einsum("i,pio->o", constants, removed)
            name = edges.bias or "bias"
            old = values.get(name)
            if old is None:
                values[name] = total
            elif old.size == total.size:
                values[name] = old + total.reshape(old.shape)
            else:  # a GRU's: the first row belongs to the input
                values[name] = np.stack([old[0] + total, old[1]])
            return
        carrier = self.groups.carrier(edges, self.live)
        if carrier is None:  # only where `shrink_to` removes it, which need not be exact
            return
        share = np.einsum("i,pio->po", constants / edges.inputs.values[carrier], removed)
        new = matrix[:, inputs][:, :, outputs].astype("float64")
        new[:, int(inputs[:carrier].sum())] += share
        values[edges.weight] = edges.unmatrix(new, values[edges.weight].shape)


@contextlib.contextmanager
def _without_initializers(layer):
    """Build with zeros: drawing numbers that are overwritten costs most of the time."""
    changed = []
    for part in layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else ():
        for name, value in list(vars(part).items()):
            if isinstance(value, keras.initializers.Initializer):
                changed.append((part, name, value))
                object.__setattr__(part, name, Zeros())
    try:
        yield
    finally:
        for part, name, value in changed:
            object.__setattr__(part, name, value)


def _backward(layer):
    """The configuration of the backward layer of a `Bidirectional`, written out."""
    return _unbuilt(keras.saving.serialize_keras_object(layer.backward_layer))


def _unbuilt(config):
    """A configuration without the shapes that layers inside were built with."""
    if isinstance(config, dict):
        return {k: _unbuilt(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, (list, tuple)):
        return type(config)(_unbuilt(v) for v in config)
    return config


def _sequential(model, tensor, new_layers):
    first = tensor._keras_history.operation
    entry = keras.layers.InputLayer(
        batch_shape=first.batch_shape, dtype=first.dtype, name=first.name
    )
    return keras.Sequential([entry, *new_layers], name=model.name)


def _model_class(model):
    """`keras.Model`, or a subclass that is constructed from inputs and outputs alike."""
    for cls in type(model).__mro__:
        if "__init__" in vars(cls):
            plain = cls.__module__.startswith("keras.")
            return type(model) if plain else keras.Model
    return keras.Model


def _copy(old, new):
    # A true copy: JAX gives the memory of a model's variables away when it trains.
    new.assign(np.array(keras.ops.convert_to_numpy(old)))


def _tail(variable, layer):
    """A variable's path in its layer."""
    return variable.path.split(f"{layer.name}/", 1)[-1]


def _numpy_dtype(dtype):
    return "float32" if dtype in ("bfloat16", "float16") else dtype
