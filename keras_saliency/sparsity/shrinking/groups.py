"""Which channels of a model must go together, and which of them are dead."""

from collections import Counter

import keras
import numpy as np
from keras import tree

from keras_saliency.graph.functional import (
    functional_of,
    is_functional,
    nested_inputs,
    sorted_nodes,
)
from keras_saliency.sparsity.operations import work_of_layer
from keras_saliency.sparsity.registry import find_shrink_rule
from keras_saliency.sparsity.shrinking import rules as _rules  # noqa: F401  (registers them)
from keras_saliency.sparsity.shrinking.call import KeepLayer, ShrinkCall
from keras_saliency.sparsity.shrinking.channels import Channels


class ChannelGroups:
    """The channels of a functional model and what ties them together.

    Every axis that layers call channels is followed through the graph. Channels that a residual
    addition, a product, a depthwise or grouped convolution, a normalization, a flattening or an
    attention head bring together form one group; a group is removed as a whole or not at all.
    Nothing is computed on data.

    Args:
        model: A built Functional or Sequential model, nested ones included.
        exclude: Layers to keep as they are: names, layers, glob patterns, compiled regular
            expressions, functions of a layer, or a list of these.
        input_shapes: Shapes of the inputs, batch axis included, that stand for the model's own.
            With them nothing is refused: such groups serve for counting operations only.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the graph cannot be seen, a layer is shared or of an unknown type, with
            the layer's name and what to do about it.
    """

    def __init__(self, model, exclude=None, input_shapes=None):
        from keras_saliency.graph.selection import selected

        if not isinstance(model, keras.Model):
            raise TypeError(f"`model` must be a Keras model. Received: model={model!r}")
        if not is_functional(model):
            raise ValueError(_no_graph(model))
        self.model = model
        self.rounded = []
        self.every_call = []
        self._counting = input_shapes is not None
        self.calls = {}
        self.entries = {}
        self.kept = {}
        self._size = 0
        self._ties = []
        self._pins = []
        self._excluded = selected(model, exclude, "exclude")
        self._uses = Counter()
        _count_uses(model, self._uses)
        functional = functional_of(model)
        inputs = [self._free(x.shape, "an input of the model") for x in functional.inputs]
        shapes = input_shapes or [x.shape for x in functional.inputs]
        symbols = [
            keras.KerasTensor(shape, x.dtype)
            for shape, x in zip(shapes, functional.inputs, strict=True)
        ]
        for channels in self._walk(model, inputs, symbols, ()):
            if channels is not None:
                self.pin(channels.ids, "an output of the model")
        self._close()

    # Building.

    def new(self, size):
        self._size += size
        return np.arange(self._size - size, self._size)

    def tie(self, a, b):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise ValueError(f"`tie` needs equally many channels. Received: {a.shape}, {b.shape}")
        self._ties.append((a, b))

    def pin(self, ids, reason, statistics=False):
        self._pins.append((np.asarray(ids), reason, statistics))

    def fresh(self, axis, size, reason):
        channels = Channels(axis, self.new(size))
        self.pin(channels.ids, reason)
        return channels

    def _free(self, shape, reason):
        if len(shape) < 2 or shape[-1] is None:
            return None
        return self.fresh(len(shape) - 1, shape[-1], reason)

    def _walk(self, model, inputs, symbols, parents):
        functional = functional_of(model)
        shown = {id(x): symbol for x, symbol in zip(functional.inputs, symbols, strict=True)}
        known = {id(x): c for x, c in zip(functional.inputs, inputs, strict=True)}
        for x, channels in zip(functional.inputs, inputs, strict=True):
            self.entries[id(x)] = channels
        for node in sorted_nodes(model):
            layer = node.operation
            tensors = node.arguments.keras_tensors
            channels = [known[id(x)] for x in tensors]
            if self._counting:
                args, kwargs = node.arguments.fill_in(shown)
                specs = tree.flatten(layer.compute_output_spec(*args, **kwargs))
                shown |= {id(x): spec for x, spec in zip(node.outputs, specs, strict=True)}
            else:
                shown |= {id(x): x for x in node.outputs}
            shapes = (
                [shown[id(x)].shape for x in tensors],
                [shown[id(x)].shape for x in node.outputs],
            )
            path = "/".join([*parents, layer.name])
            if is_functional(layer) and layer not in self._excluded:
                self._refuse_shared(layer, path)
                order = _model_inputs(layer, node, tensors, path)
                results = self._walk(
                    layer,
                    [known[id(x)] for x in order],
                    [shown[id(x)] for x in order],
                    (*parents, layer.name),
                )
            else:
                results = self._call(node, layer, path, channels, shapes)
            for x, result in zip(node.outputs, results, strict=True):
                known[id(x)] = result
        return [known[id(x)] for x in functional.outputs]

    def _refuse_shared(self, layer, path):
        if self._counting:
            return
        if self._uses[id(layer)] > 1 and getattr(layer, "weights", None):
            raise ValueError(
                f"The layer '{path}' is called {self._uses[id(layer)]} times. A shared layer "
                f"cannot lose channels. Keep it as it is with `exclude=['{layer.name}']`."
            )

    def _call(self, node, layer, path, inputs, shapes):
        call = ShrinkCall(
            self, layer, path, node.arguments.args, node.arguments.kwargs, inputs, shapes
        )
        self.every_call.append(call)
        try:
            if layer in self._excluded:
                call.keep("excluded")
            self._refuse_shared(layer, path)
            results = self._rule(layer, path)(call)
            if call.arguments and self._uses[id(layer)] > 1:
                call.keep("it is called more than once")
        except KeepLayer as reason:
            return self._keep(call, str(reason))
        self.calls[id(layer)] = call
        results = results if isinstance(results, (list, tuple)) else [results]
        if len(results) != len(shapes[1]):
            raise ValueError(
                f"The shrink rule of {type(layer).__name__} returned {len(results)} outputs for "
                f"the layer '{path}', which has {len(shapes[1])}."
            )
        return results

    def _rule(self, layer, path):
        rule = find_shrink_rule(layer)
        quantized = getattr(layer, "quantization_mode", None)
        if quantized or getattr(layer, "lora_enabled", False):
            what = f"it is quantized to {quantized}" if quantized else "it carries LoRA weights"
            return lambda call: call.keep(what)
        if rule is not None:
            return rule
        if type(layer).__module__.startswith(("keras.", "keras_saliency.")) and not isinstance(
            layer, (keras.layers.Lambda, keras.Model)
        ):
            # Well known, not understood channel by channel: everything around it stays.
            return lambda call: call.keep(f"no channel of {type(layer).__name__} can be removed")
        if isinstance(layer, keras.Model) and not self._counting:
            raise ValueError(_no_graph(layer, path))
        if self._counting:
            return lambda call: call.keep("unknown")
        raise ValueError(
            f"What the layer '{path}' ({type(layer).__module__}.{type(layer).__qualname__}) does "
            "with its channels is not known. Tell it with `keras_saliency.sparsity."
            f"register_shrink_rule({type(layer).__name__})`, or keep the layer as it is with "
            f"`exclude=['{layer.name}']`."
        )

    def _keep(self, call, reason):
        self.kept[call.path] = reason
        call.kernels, call.slices, call.arguments, call.created = [], {}, {}, []
        work = work_of_layer(
            call.layer, call.args, call.kwargs, call.input_shapes, call.output_shapes
        )
        call.work = [(None, count) for _, count in work]
        self.calls[id(call.layer)] = call
        for channels in call.inputs:
            if channels is not None:
                call.pin(channels.ids, reason)
        return [self._free(shape, f"'{call.path}': {reason}") for shape in call.output_shapes]

    def _close(self):
        from scipy import sparse

        pairs = [(a.ravel(), b.ravel()) for a, b in self._ties if a.size]
        rows = np.concatenate([a for a, _ in pairs]) if pairs else np.zeros(0, "int64")
        columns = np.concatenate([b for _, b in pairs]) if pairs else np.zeros(0, "int64")
        shape = (self._size, self._size)
        graph = sparse.coo_matrix((np.ones(len(rows), "int8"), (rows, columns)), shape)
        self.count, self.labels = sparse.csgraph.connected_components(graph, directed=False)
        self.edges = [e for call in self.calls.values() for e in call.kernels]

    # Asking.

    def pinned(self, statistics=True):
        """(count,) whether a group must stay; `statistics`: also where a norm needs it."""
        result = np.zeros(self.count, bool)
        for ids, _, soft in self._pins:
            if statistics or not soft:
                result[self.labels[ids]] = True
        return result

    def reasons(self):
        """Dict from group number to the reasons why it must stay."""
        result = {}
        for ids, reason, _ in self._pins:
            for group in np.unique(self.labels[ids]):
                result.setdefault(int(group), []).append(reason)
        return result

    def live(self):
        """(count,) which groups the outputs of the model depend on.

        A channel is alive when an edge that is not zero leads from it to a living channel and it
        is no constant. Constants go into the bias of the layer they enter. Where zero padding
        forbids that, one constant channel stays and carries the others' edges.
        """
        live = self.pinned()
        while True:
            self._spread(live)
            carriers = [self._carrier(edges, live) for edges in self.edges]
            carriers = [group for group in carriers if group is not None]
            if not carriers:
                return live
            live[carriers] = True

    def _spread(self, live):
        """Walk back from living channels to those they depend on, until nothing changes."""
        changed = True
        while changed:
            changed = False
            for edges in reversed(self.edges):
                inputs = self.labels[edges.inputs.ids]
                ask = ~live[inputs] & np.isnan(edges.inputs.values)
                if ask.any():
                    targets = live[self.labels[edges.outputs]]
                    needed = inputs[ask][edges.nonzero[ask][:, targets].any(1)]
                    changed |= len(needed) > 0
                    live[needed] = True

    def removed_constants(self, edges, live):
        """Indices of the inputs of a kernel that go and whose constant must be made up for."""
        values = edges.inputs.values
        gone = ~live[self.labels[edges.inputs.ids]] & ~np.isnan(values) & (values != 0)
        targets = live[self.labels[edges.outputs]]
        gone = np.flatnonzero(gone)
        return gone[edges.nonzero[gone][:, targets].any(1)]

    def carrier(self, edges, live):
        """Index of the constant input that stays and carries the removed ones, or `None`."""
        values = np.where(np.isnan(edges.inputs.values), 0, np.abs(edges.inputs.values))
        values = values * live[self.labels[edges.inputs.ids]]
        return int(values.argmax()) if values.any() else None

    def _carrier(self, edges, live):
        """The group that has to stay to carry constants, if there is none yet."""
        if edges.bias is not None or edges.add_bias:
            return None
        gone = self.removed_constants(edges, live)
        if not len(gone) or self.carrier(edges, live) is not None:
            return None
        best = gone[np.abs(edges.inputs.values[gone]).argmax()]
        return self.labels[edges.inputs.ids[best]]


def _count_uses(model, uses):
    for node in sorted_nodes(model):
        uses[id(node.operation)] += 1
        if is_functional(node.operation) and uses[id(node.operation)] == 1:
            _count_uses(node.operation, uses)


def _model_inputs(model, node, tensors, path):
    """The tensors of a call of a nested model in the order of the model's inputs."""
    order = nested_inputs(model, node.arguments.args, node.arguments.kwargs)
    if order is None or len(order) != len(tensors):
        raise ValueError(
            f"The inputs of the nested model '{path}' cannot be told apart. Keep the model as it "
            f"is with `exclude=['{model.name}']`."
        )
    return order


def _no_graph(model, path=None):
    name = path or model.name
    if isinstance(model, keras.Sequential) and model._functional is None:
        return (
            f"The graph of the Sequential model '{name}' is not known yet. Give it an input shape "
            "(`keras.Input(...)` as its first entry), or call it on a batch of data first."
        )
    way = (
        f"keep it as it is with `exclude=['{model.name}']`"
        if path
        else "write it as a Functional model; `sparsify` and `sparsity_report` work on it as it is"
    )
    return (
        f"The graph of the model '{name}' ({type(model).__name__}) cannot be seen: it is "
        f"subclassed or has a `call` of its own. To shrink around it, {way}."
    )
