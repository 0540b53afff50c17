"""A model as one flat list of calls, nested and subclassed models opened up."""

import contextlib
import inspect
import itertools

import keras
from keras import tree

from keras_saliency.graph.functional import (
    functional_of,
    is_functional,
    nested_inputs,
    walk_nodes,
)
from keras_saliency.graph.symbolic import is_composite, sublayers, symbolic_inputs, traceable


class Tensor:
    """A value that flows between two calls: its shape, batch axis included, and dtype."""

    __slots__ = ("data_format", "dtype", "shape")

    def __init__(self, shape, dtype):
        self.shape = tuple(shape)
        self.dtype = dtype
        self.data_format = None

    def __repr__(self):
        return f"<Tensor shape={self.shape} dtype={self.dtype}>"


class Call:
    """One call of a layer or an operation: what went in, and what came out.

    Attributes:
        inputs, outputs: The `Tensor` objects; masks are left out of the inputs.
        repeats: How often it happens for one sample: once, or at each of the time steps that it
            stands for; `None` where their number is not known.
    """

    def __init__(self, layer, args, kwargs, inputs, outputs):
        self.layer = layer
        self.args = args
        self.kwargs = kwargs
        self.inputs = inputs
        self.outputs = outputs
        self.repeats = 1

    def argument(self, index, name, default=None):
        """An argument of the call, by place or by name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)


class Frames(keras.Operation):
    """Stands for taking the time steps of a sequence as samples, as `TimeDistributed` does."""


class Sequence(keras.Operation):
    """Stands for putting the time steps of a sequence together again."""


class Whole(keras.Operation):
    """Stands for handing a tensor on as it is."""


class Graph:
    """The calls of a model in an order in which each follows the calls it depends on."""

    def __init__(self, is_leaf, advice, spared, opens, batches):
        self.is_leaf = is_leaf
        self.advice = advice
        self.spared = spared
        self.opens = opens
        self.batches = batches
        self.calls = []
        self.inputs = []
        self.outputs = []

    def part(self):
        """An empty graph of the same rules."""
        return Graph(self.is_leaf, self.advice, self.spared, self.opens, self.batches)


def _never(layer):
    return False


def flatten_model(
    model,
    data=None,
    is_leaf=_never,
    advice="",
    spared=_never,
    opens=_never,
    batches=(None, 2),
    fill=False,
):
    """Open a model up into a flat `Graph`.

    Functional and Sequential models are read; other models, and layers made of layers, are called
    once on symbolic tensors, which records what they do (nothing is computed, and the records are
    removed again).

    Args:
        model: A built `keras.Model`.
        data: Optional nest of arrays, whose extents stand for those that the model leaves open;
            a subclassed model takes the shapes of its inputs from it.
        is_leaf: Function of a layer: whether it is one call whatever it is made of.
        advice: What to do about a layer that cannot be traced, for the error; `{name}` in it
            stands for the layer's class.
        spared: Function of a layer: whether one that holds weights and is no leaf may be looked
            into for what its `call` tells, and is a leaf where that is nothing.
        opens: Function of a layer: whether one that is no leaf is looked into whatever its `call`
            is made of. One without weights that cannot be traced is a leaf then.
        batches: Batch sizes with which layers are called, until one works: code that computes
            with the batch size does not get on with an unknown one.
        fill: Whether, without data, axes that a model leaves open stand at some extent where it
            cannot be traced otherwise.

    Returns:
        A `Graph`.

    Raises:
        ValueError: If some layer's part in the model cannot be found out.
    """
    graph = Graph(is_leaf, advice, spared, opens, batches)
    if is_functional(model):
        graph.inputs = [Tensor(x.shape, x.dtype) for x in model.inputs]
        given = None if data is None else nested_inputs(model, (data,), {})
        if fill and given is None and any(None in x.shape[1:] for x in graph.inputs):
            return _with_open_extents(model, graph)
        if given is not None:
            for tensor, x in zip(graph.inputs, given, strict=True):
                if len(tensor.shape) == len(x.shape):
                    tensor.shape = (*tensor.shape[:1], *x.shape[1:])
        graph.outputs = _inline(model, graph.inputs, graph)
        return graph
    args, kwargs = symbolic_inputs(model, data)
    structure = tree.map_structure(_to_tensor, (args, kwargs))
    graph.inputs = [x for x in tree.flatten(structure) if isinstance(x, Tensor)]
    graph.outputs = _trace(model, *structure, graph)
    return graph


# What an axis that a model leaves open stands at where the model must be run through without data:
# a few tokens, a few dozen pixels.
_OPEN = {4: 64, 5: 32}
_OPEN_SEQUENCE = 8


def _with_open_extents(model, graph):
    """The graph of a model as it is, or else with numbers in place of the axes it leaves open."""
    part = graph.part()
    try:
        part.inputs = list(graph.inputs)
        part.outputs = _inline(model, part.inputs, part)
        return part
    except ValueError as error:
        for tensor in graph.inputs:
            extent = _OPEN.get(len(tensor.shape), _OPEN_SEQUENCE)
            rest = (extent if n is None else n for n in tensor.shape[1:])
            tensor.shape = (*tensor.shape[:1], *rest)
        try:
            graph.outputs = _inline(model, graph.inputs, graph)
        except ValueError:
            raise error from None
        return graph


def _to_tensor(x):
    return Tensor(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x


def _is_tensor(x):
    return isinstance(x, Tensor)


def _inline(model, inputs, graph):
    """Add the calls of a functional model that is fed with `inputs`; returns its outputs."""
    functional = functional_of(model)
    if any(_narrower(x, tensor) for x, tensor in zip(functional.inputs, inputs, strict=True)):
        return _trace(
            functional, (tree.pack_sequence_as(functional._inputs_struct, inputs),), {}, graph
        )
    return _add_nodes(functional.inputs, inputs, functional.outputs, graph)


def _narrower(x, tensor):
    """Whether a tensor has an extent that the model leaves open."""
    return len(x.shape) == len(tensor.shape) and any(
        m is None and n is not None for m, n in zip(x.shape[1:], tensor.shape[1:], strict=True)
    )


def _add_nodes(symbolic_inputs, inputs, symbolic_outputs, graph):
    def visit(node, known):
        def resolve(x):
            if not isinstance(x, keras.KerasTensor):
                return x
            return known.setdefault(id(x), Tensor(x.shape, x.dtype))

        args = tree.map_structure(resolve, node.arguments.args)
        kwargs = tree.map_structure(resolve, node.arguments.kwargs)
        return _expand(node.operation, args, kwargs, node.outputs, graph)

    known = walk_nodes(symbolic_inputs, inputs, symbolic_outputs, visit)
    return [known[id(x)] if id(x) in known else Tensor(x.shape, x.dtype) for x in symbolic_outputs]


def _expand(operation, args, kwargs, symbolic_outputs, graph):
    """Add one call, or what it consists of; returns its output tensors."""
    if isinstance(operation, keras.layers.RNN) and not graph.is_leaf(operation.cell):
        cell = operation.cell
        if is_composite(cell) or not (graph.spared(operation) or graph.spared(cell)):
            return _recurrent(operation, args, kwargs, symbolic_outputs, graph)
    if not graph.is_leaf(operation) and isinstance(operation, keras.layers.Layer):
        if isinstance(operation, keras.layers.TimeDistributed):
            return _time_distributed(operation, args, kwargs, symbolic_outputs, graph)
        if is_functional(operation):
            inputs = nested_inputs(operation, args, kwargs)
            if inputs is not None and all(_is_tensor(x) for x in inputs):
                return _inline(operation, inputs, graph)
        if is_composite(operation) and not graph.spared(operation):
            return _trace(operation, args, kwargs, graph)
        if graph.opens(operation) and not isinstance(operation, keras.layers.InputLayer):
            part = graph.part()
            try:
                outputs = _trace(operation, args, kwargs, part)
                if len(outputs) != len(symbolic_outputs):
                    raise ValueError(
                        f"'{operation.name}' ({type(operation).__name__}) returns something that "
                        f"does not come from its inputs. {_advice(graph, operation)}"
                    )
            except ValueError:
                if operation.weights:
                    raise
            else:
                graph.calls.extend(part.calls)
                return outputs
        transparent = not operation.weights or graph.spared(operation)
        if transparent and not isinstance(operation, keras.layers.InputLayer):
            # Its `call` may tell more than its shapes do; if it does not, the shapes have to do.
            part = graph.part()
            with contextlib.suppress(ValueError):
                outputs = _trace(operation, args, kwargs, part)
                if part.calls and all(understood(call, graph.is_leaf) for call in part.calls):
                    graph.calls.extend(part.calls)
                    return outputs
    outputs = [Tensor(x.shape, x.dtype) for x in symbolic_outputs]
    masks = _masks(operation, args, kwargs)
    inputs = [x for x in tree.flatten((args, kwargs)) if _is_tensor(x) and x not in masks]
    graph.calls.append(Call(operation, args, kwargs, inputs, outputs))
    return outputs


def _masks(layer, args, kwargs):
    """The boolean tensors that a layer is given as `mask`, `query_mask`, and the like."""
    if not isinstance(layer, keras.layers.Layer):
        return set()
    given = dict(zip(inspect.signature(layer.call).parameters, args, strict=False)) | kwargs
    named = [value for name, value in given.items() if name.split("_")[-1] == "mask"]
    return {x for x in tree.flatten(named) if _is_tensor(x) and x.dtype == "bool"}


def _time_distributed(layer, args, kwargs, symbolic_outputs, graph):
    sequence = args[0] if args else kwargs["inputs"]

    def frame(x):
        return Tensor((x.shape[0], *x.shape[2:]), x.dtype)

    name = layer.name
    step = frame(sequence)
    graph.calls.append(Call(Frames(name=name), (sequence,), {}, [sequence], [step]))
    before = len(graph.calls)
    results = _expand(layer.layer, (step,), {}, [frame(x) for x in symbolic_outputs], graph)
    _repeat(graph.calls[before:], sequence.shape[1])
    outputs = [Tensor(x.shape, x.dtype) for x in symbolic_outputs]
    for result, output in zip(results, outputs, strict=True):
        graph.calls.append(Call(Sequence(name=name), (result,), {}, [result], [output]))
    return outputs


def _recurrent(layer, args, kwargs, symbolic_outputs, graph):
    """A recurrent layer whose cell is made of layers: two time steps of it, the first feeding the
    second, so that what only reaches the output by way of the state has significance too."""
    cell = layer.cell
    if not is_composite(cell):
        raise ValueError(
            f"What '{cell.name}' of the class {type(cell).__name__}, the cell of '{layer.name}', "
            f"does with its weights is not known. {_advice(graph, cell)}"
        )
    sequence = args[0] if args else kwargs.get("sequences", kwargs.get("inputs"))
    step = Tensor((sequence.shape[0], *sequence.shape[2:]), sequence.dtype)
    graph.calls.append(Call(Frames(name=layer.name), (sequence,), {}, [sequence], [step]))
    sizes = cell.state_size if isinstance(cell.state_size, (list, tuple)) else [cell.state_size]
    states = [
        Tensor((sequence.shape[0], *(s if isinstance(s, (list, tuple)) else (s,))), sequence.dtype)
        for s in sizes
    ]
    length = sequence.shape[1]
    for times in (1, None if length is None else length - 1):
        before = len(graph.calls)
        output, *states = _trace(cell, (step, states), {}, graph)
        _repeat(graph.calls[before:], times)
    outputs = [Tensor(x.shape, x.dtype) for x in symbolic_outputs]
    for result, tensor in zip([output, *states], outputs, strict=False):
        whole = layer.return_sequences and tensor is outputs[0]
        join = Sequence(name=layer.name) if whole else Whole(name=layer.name)
        graph.calls.append(Call(join, (result,), {}, [result], [tensor]))
    return outputs


def _repeat(calls, times):
    for call in calls:
        call.repeats = None if None in (call.repeats, times) else call.repeats * times


def _advice(graph, layer):
    return graph.advice.format(name=type(layer).__name__)


def understood(call, is_leaf):
    """Whether it can be told from the shapes alone which inputs of a call lead where."""
    if is_leaf(call.layer) or not call.inputs:
        return True
    if getattr(call.layer, "weights", None):
        return False
    if isinstance(call.layer, keras.layers.Layer):
        return any(compatible(x, y) for x in call.inputs for y in call.outputs)
    return broadcasts(call)


def compatible(x, y):
    """Whether two tensors have one shape, as far as it is known."""
    return len(x.shape) == len(y.shape) and all(
        m is None or n is None or m == n for m, n in zip(x.shape, y.shape, strict=True)
    )


def broadcasts(call):
    """Whether every floating operand broadcasts to the one result."""
    if len(call.outputs) != 1:
        return False
    result = call.outputs[0].shape
    for tensor in call.inputs:
        shape = tensor.shape
        if not keras.backend.is_float_dtype(tensor.dtype):
            continue
        if len(shape) > len(result):
            return False
        for m, n in zip(reversed(shape), reversed(result), strict=False):
            if m not in (1, None, n) and n is not None:
                return False
    return True


def _trace(layer, args, kwargs, graph):
    """Call `layer.call` on symbolic tensors and add the calls that it makes."""
    unbuilt = [child.name for child in sublayers(layer) if not child.built and child.weights]
    if not layer.built or unbuilt:
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) is not built. Call the model on a batch of "
            "data first."
        )
    error = None
    for inline, batch in itertools.product((False, True), graph.batches):
        stand_ins, tensors = [], []

        def stand_in(x, batch=batch, stand_ins=stand_ins, tensors=tensors):
            if not _is_tensor(x):
                return x
            shape = x.shape if x.shape[:1] != (None,) or batch is None else (batch, *x.shape[1:])
            symbol = keras.KerasTensor(shape, x.dtype)
            stand_ins.append(symbol)
            tensors.append(x)
            return symbol

        symbolic_args, symbolic_kwargs = tree.map_structure(stand_in, (args, kwargs))
        symbolic_kwargs = {k: v for k, v in symbolic_kwargs.items() if v is not None}
        with traceable(layer, graph.is_leaf, inline) as calling:
            try:
                with calling:
                    outputs = tree.flatten(layer.call(*symbolic_args, **symbolic_kwargs))
            except Exception as exception:
                error = error or exception
                continue
            outputs = [x for x in outputs if isinstance(x, keras.KerasTensor)]
            return _add_nodes(stand_ins, tensors, outputs, graph)
    raise ValueError(
        f"What '{layer.name}' ({type(layer).__name__}) does could not be traced: its `call` "
        f"failed on symbolic tensors with {type(error).__name__}: {error}. Write it with "
        "`keras.ops` and Keras layers. "
        f"{_advice(graph, layer)}"
    ) from error
