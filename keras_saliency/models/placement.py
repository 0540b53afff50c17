"""Where attention belongs in a graph of layers: stages, bottlenecks, and what made a tensor."""

import collections
import dataclasses

import keras

from keras_saliency.graph.discovery import is_attention_layer
from keras_saliency.graph.functional import sorted_nodes

# Activations that a model's output ends in when it is a prediction rather than a feature map.
_PREDICTIONS = {"linear", "softmax", "log_softmax", "sigmoid", "hard_sigmoid", "tanh"}


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """A tensor that attention should weigh, as every reader of the tensor will see it.

    Attributes:
        tensor: The features, y.
        stage: The layer that made them.
        previous: What the stage was applied to, y_prev; None if it lies outside this graph.
        key: The same for all calls of a layer that is called several times.
    """

    tensor: keras.KerasTensor
    stage: keras.layers.Layer
    previous: keras.KerasTensor | None
    key: tuple


@dataclasses.dataclass
class Plan:
    """Places in a model, the plans of the models nested in it, and what is left out and why."""

    graph: "Graph"
    places: dict = dataclasses.field(default_factory=dict)
    nested: dict = dataclasses.field(default_factory=dict)
    left_out: list = dataclasses.field(default_factory=list)


class Graph:
    """The calls of a functional model in the order in which they can be computed."""

    def __init__(self, model):
        self.model = model
        self.calls = sorted_nodes(model)
        inputs = [x._keras_history for x in model.inputs]
        self.nodes = [h.operation._inbound_nodes[h.node_index] for h in inputs] + self.calls
        self.maker = {id(t): node for node in self.nodes for t in node.outputs}
        self.readers = collections.defaultdict(list)
        for node in self.calls:
            for tensor in {id(t): t for t in features(node)}.values():
                self.readers[id(tensor)].append(node)
        self._find_stages()

    def _find_stages(self):
        """Note for each tensor the node whose features it holds, and the steps that led to it."""
        self.stage, self.steps = {}, {}
        for node in self.nodes:
            inputs = features(node)
            steps = 1 + max((self.steps[id(t)] for t in inputs), default=-1)
            layer = node.operation
            for tensor in node.outputs:
                self.steps[id(tensor)] = steps
                if node.is_input or (downsamples(layer) and not is_stage(layer)):
                    stage = None
                elif is_stage(layer) or is_nested(layer):
                    stage = node
                else:
                    # At a merge the longest branch counts, among those of the same extents: the
                    # gate of a squeeze-and-excitation is not what made the features.
                    same = [t for t in inputs if extents(t) == extents(tensor)] or inputs
                    if is_attention_layer(layer):
                        same = inputs[:1]
                    found = [self.stage[id(t)] for t in same if self.stage[id(t)] is not None]
                    stage = max(found, key=lambda n: self.steps[id(n.outputs[0])], default=None)
                self.stage[id(tensor)] = stage

    def before_padding(self, tensor):
        """Return what `tensor` was before padding and dropout."""
        while True:
            node = self.maker[id(tensor)]
            if node.is_input or not (_pads(node.operation) or _drops(node.operation)):
                return tensor
            tensor = features(node)[0]

    def entrance(self, tensor):
        """Walk back from `tensor` through layers of one input, normalization say, to its source."""
        while not self.maker[id(tensor)].is_input:
            node = self.maker[id(tensor)]
            if downsamples(node.operation) or len(features(node)) > 1:
                break
            tensor = features(node)[0]
        return tensor

    def end_of_stage(self, node):
        """Return the features of a stage after its normalization, activation and merge."""
        tensor = last = node.outputs[0]
        final = {id(t) for t in self.model.outputs}
        while id(tensor) not in final and len(self.readers[id(tensor)]) == 1:
            (reader,) = self.readers[id(tensor)]
            layer = reader.operation
            if (
                is_stage(layer)
                or is_nested(layer)
                or is_attention_layer(layer)
                or downsamples(layer)
                or isinstance(layer, keras.layers.TimeDistributed)
                or len(reader.outputs) != 1
            ):
                break
            # A dense layer on images is a convolution of window 1 inside the stage (ConvNeXt).
            after = reader.outputs[0]
            pointwise = isinstance(layer, keras.layers.Dense) and len(after.shape) > 3
            if after.shape != tensor.shape and not (
                pointwise and after.shape[:-1] == tensor.shape[:-1]
            ):
                break
            tensor = after
            if not _drops(layer):
                last = tensor
        return last

    def is_attended(self, tensor):
        return is_attention_layer(self.maker[id(tensor)].operation) or any(
            is_attention_layer(r.operation) and features(r)[0] is tensor
            for r in self.readers[id(tensor)]
        )

    def is_prediction(self, tensor):
        """Whether `tensor`, an output of the model, ends in no activation or in a probability."""
        while True:
            node = self.maker[id(tensor)]
            if node.is_input or is_nested(node.operation) or is_recurrent(node.operation):
                return False
            name = _activation(node.operation)
            if is_stage(node.operation) or name not in (None, "linear"):
                return name in _PREDICTIONS or name is None
            tensor = features(node)[0]


def plan(model, placement, weighed=(), final=None):
    """Decide where attention belongs.

    Args:
        model: A functional model.
        placement: `"bottleneck"` or `"full"`.
        weighed: Indices of outputs of `model` that a bottleneck follows outside of it.
        final: Indices of outputs that are outputs of the whole model. Default: all.

    Returns:
        A `Plan`.
    """
    graph = Graph(model)
    result = Plan(graph)
    final = set(range(len(model.outputs))) if final is None else final
    final = {id(t) for i, t in enumerate(model.outputs) if i in final}
    inner = collections.defaultdict(lambda: (set(), set()))
    for node in graph.calls:
        if is_nested(node.operation):
            inner[node.operation][1].update(i for i, t in enumerate(node.outputs) if id(t) in final)
    wanted = _bottlenecks(graph, result) if placement == "bottleneck" else _ends(graph, result)
    wanted += [graph.before_padding(model.outputs[i]) for i in weighed]
    calls = collections.Counter()
    for tensor in {id(t): t for t in wanted}.values():
        maker, stage = graph.maker[id(tensor)], graph.stage[id(tensor)]
        if is_nested(maker.operation):
            index = next(i for i, t in enumerate(maker.outputs) if t is tensor)
            inner[maker.operation][0].add(index)
            continue
        reason = _why_not(graph, tensor, stage, final)
        if reason:
            blamed = stage or next(iter(graph.readers[id(tensor)]), maker)
            result.left_out.append((blamed.operation.name, reason))
            continue
        nested = is_nested(stage.operation)
        previous = None if nested else graph.before_padding(features(stage)[0])
        number = calls[id(stage)]
        calls[id(stage)] += 1
        key = (id(stage.operation), number)
        result.places[id(tensor)] = Place(tensor, stage.operation, previous, key)
    for node in graph.calls:
        if is_nested(node.operation) and id(node.operation) not in result.nested:
            result.nested[id(node.operation)] = plan(
                as_functional(node.operation), placement, *inner[node.operation]
            )
    return result


def _ends(graph, result):
    wanted = []
    for node in graph.calls:
        if isinstance(node.operation, keras.layers.TimeDistributed):
            if is_stage(node.operation.layer) or is_nested(node.operation.layer):
                result.left_out.append(
                    (node.operation.name, "it is inside TimeDistributed: attend the inner layer")
                )
        elif is_stage(node.operation):
            if collapses_time(node.operation):
                result.left_out.append((node.operation.name, "it returns its last step only"))
            else:
                wanted.append(graph.end_of_stage(node))
    return wanted


def _bottlenecks(graph, result):
    wanted = []
    for node in graph.calls:
        layer = node.operation
        if is_nested(layer):
            opened = opening_inputs(as_functional(layer))
            read = [t for i, t in enumerate(features(node)) if i in opened]
        else:
            read = features(node)[:1] if downsamples(layer) else []
        for tensor in read:
            tensor = graph.before_padding(tensor)
            # Squeeze-and-excitation pools what it then weighs: no bottleneck.
            gate = pools_globally(layer) and not all(
                pools_globally(r.operation) for r in graph.readers[id(tensor)]
            )
            if gate:
                result.left_out.append((layer.name, "it summarizes features that others read"))
            else:
                wanted.append(tensor)
    return wanted


def opening_inputs(model):
    """Return the indices of the inputs that a nested model downsamples first of all."""
    graph = Graph(model)
    opened = set()
    for node in graph.calls:
        if is_nested(node.operation):
            indices = opening_inputs(as_functional(node.operation))
            read = [t for i, t in enumerate(features(node)) if i in indices]
        else:
            read = features(node)[:1] if downsamples(node.operation) else []
        origins = {id(graph.entrance(t)) for t in read if graph.stage[id(t)] is None}
        opened |= {i for i, t in enumerate(model.inputs) if id(t) in origins}
    return opened


def _why_not(graph, tensor, stage, final):
    if stage is None:
        return "no convolution or recurrent layer has made features since the last downsampling"
    if graph.is_attended(tensor):
        return "attention weighs these features already"
    if not 3 <= len(tensor.shape) <= 5:
        return f"features of shape {tuple(tensor.shape)} have no axis of space or time"
    if all(n == 1 for n in _space(tensor, stage.operation)):
        return f"features of shape {tuple(tensor.shape)} have one position only"
    if id(tensor) in final and graph.is_prediction(tensor):
        return "it makes the model's prediction"
    return None


# ---- what a layer is -------------------------------------------------------------------------


def features(node):
    """Return the tensors that a call reads, without masks."""
    arguments = node.arguments
    kwargs = {k: v for k, v in arguments.kwargs.items() if "mask" not in k}
    flat = keras.tree.flatten((arguments.args, kwargs))
    return [t for t in flat if isinstance(t, keras.KerasTensor)]


def extents(tensor):
    """Return what a merge needs to be equal: the shape but for one axis, the channels."""
    return (len(tensor.shape), tuple(n for n in tensor.shape[1:-1]))


def data_format(stage):
    return getattr(stage, "data_format", None) or "channels_last"


def _space(tensor, stage):
    shape = tuple(tensor.shape)
    return shape[2:] if data_format(stage) == "channels_first" else shape[1:-1]


def is_nested(layer):
    """Whether `layer` is a model whose graph is known."""
    return isinstance(layer, keras.Model) and isinstance(layer, (keras.Function, keras.Sequential))


def as_functional(model):
    """Return a functional model of the same layers; a built `Sequential` has none of its own."""
    if isinstance(model, keras.Sequential):
        outputs = model.outputs[0] if len(model.outputs) == 1 else model.outputs
        return keras.Model(model.inputs[0], outputs, name=model.name)
    return model


def is_recurrent(layer):
    return isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)) or hasattr(
        layer, "return_sequences"
    )


def is_stage(layer):
    """Whether `layer` is a convolution or a recurrent layer."""
    if not isinstance(layer, keras.layers.Layer) or is_nested(layer):
        return False
    convolves = hasattr(layer, "kernel_size") and layer.weights and not is_attention_layer(layer)
    return bool(convolves) or is_recurrent(layer)


def collapses_time(layer):
    return is_recurrent(layer) and not getattr(layer, "return_sequences", True)


def pools_globally(layer):
    return _named(layer, "Global") and _named(layer, "Pool")


def downsamples(layer):
    """Whether `layer` shrinks space or time: pooling, a strided convolution, a last state."""
    if _named(layer, "Pool"):
        # Adaptive and global pooling have no strides.
        return _strided(getattr(layer, "strides", None) or getattr(layer, "pool_size", 2))
    if not is_stage(layer):
        return False
    if collapses_time(layer):
        return True
    return _strided(getattr(layer, "strides", 1)) and not _named(layer, "Transpose")


def _strided(strides):
    return any(n > 1 for n in keras.tree.flatten(strides))


def _pads(layer):
    return _named(layer, "ZeroPadding") or type(layer).__name__ == "Pad"


def _drops(layer):
    return _named(layer, "Dropout") or _named(layer, "Noise")


def _named(layer, part):
    return any(part in cls.__name__ for cls in type(layer).__mro__)


def _activation(layer):
    """Return the name of the activation that `layer` ends in, or None if it has none."""
    activation = getattr(layer, "activation", None)
    if callable(activation):
        return getattr(activation, "__name__", type(activation).__name__)
    name = type(layer).__name__
    if name == "Softmax":
        return "softmax"
    if name.lower().endswith(("relu", "elu", "gelu", "silu")):
        return "relu"
    return name.lower() if name in ("Sigmoid", "LogSoftmax", "Tanh") else None
