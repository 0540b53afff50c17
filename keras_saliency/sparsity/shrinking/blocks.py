"""The residual blocks of a model: where they are, what each does to the stream, which stay."""

import contextlib
import re

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.functional import functional_of, is_functional, sorted_nodes
from keras_saliency.graph.gradients import without_gradients
from keras_saliency.graph.symbolic import is_composite, sublayers
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.registry import has_rule


class Block:
    """One residual block.

    Attributes:
        operation: The layer, or the addition, whose output is the stream behind the block.
        stream: Which of the tensors that it is called with is the stream before the block.
        layers: The layers that leave with it.
        node: Its node in a functional graph, or `None`.
        name: What users know it by.
    """

    def __init__(self, operation, layers, stream=0, node=None, name=None):
        self.operation = operation
        self.layers = {id(part) for layer in layers for part in layer._flatten_layers()}
        self.stream = stream
        self.node = node
        self.name = name or operation.name

    def stream_of(self, args, kwargs):
        return _tensors(args, kwargs, keras.ops.is_tensor)[self.stream]


def _tensors(args, kwargs, is_tensor):
    """The tensors among arguments, in the order in which they are written."""
    return [x for part in (args, *kwargs.values()) for x in tree.flatten(part) if is_tensor(x)]


def symbols(node):
    """The symbolic tensors that a node reads, in the order in which they are written."""
    return _tensors(node.arguments.args, node.arguments.kwargs, _is_symbol)


def _is_symbol(x):
    return isinstance(x, keras.KerasTensor)


def patch(block, function):
    """Let `function(call, args, kwargs)` stand for the call of the block's operation."""
    call = block.operation.call
    block.operation.__dict__["call"] = lambda *args, **kwargs: function(call, args, kwargs)


def bypass(block):
    """Let the block hand the stream on as it is."""

    def passed(call, args, kwargs):
        outputs = call(*args, **kwargs)
        flat = tree.flatten(outputs)
        flat[0] = block.stream_of(args, kwargs)
        return tree.pack_sequence_as(outputs, flat)

    patch(block, passed)


@contextlib.contextmanager
def _listening(blocks, note):
    """While open, `note(index, before, after)` is called whenever a block is run."""

    def listened(index, block):
        def run(call, args, kwargs):
            outputs = call(*args, **kwargs)
            note(index, block.stream_of(args, kwargs), tree.flatten(outputs)[0])
            return outputs

        return run

    for index, block in enumerate(blocks):
        patch(block, listened(index, block))
    try:
        yield
    finally:
        for block in blocks:
            block.operation.__dict__.pop("call", None)


def influence(model, blocks, data, batch_size=32):
    """How much each block changes the stream: 1 - cosine of what enters and leaves it.

    The mean over the samples, and over the positions of sequences. Men et al., "ShortGPT: Layers in
    Large Language Models are More Redundant Than You Expect", 2024.

    Args:
        model: The model that the blocks are of.
        blocks: List of `Block`.
        data: Inputs, a nest of arrays.
        batch_size: How many samples are run at once.

    Returns:
        (blocks,) float64.
    """
    total, times = np.zeros(len(blocks)), np.zeros(len(blocks))

    def note(index, before, after):
        a, b = (np.asarray(ops.convert_to_numpy(ops.stop_gradient(x))) for x in (before, after))
        a, b = a.astype("float64"), b.astype("float64")
        if a.ndim > 3:  # images, whichever axis their channels are on
            a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        cosine = (a * b).sum(-1) / np.maximum(norms, 1e-12)
        total[index] += (1 - cosine).sum()
        times[index] += cosine.size

    samples = len(tree.flatten(data)[0])
    with _listening(blocks, note), without_gradients():
        for start in range(0, samples, batch_size):
            stop = start + batch_size
            batch = tree.map_structure(lambda x, a=start, b=stop: x[a:b], data)
            model(batch, training=False)
    return total / np.maximum(times, 1)


def choose(scores, count, fits):
    """Which blocks stay, in their order, so that the sum of their scores is largest.

    Args:
        scores: (blocks,) what each is worth.
        count: How many stay.
        fits: Function of a block's index and a place among those that stay: whether it may take it.

    Returns:
        List of indices, or `None` where no choice fits.
    """
    best = [[(0.0, [])] * (len(scores) + 1)]
    for place in range(count):
        row = [(-np.inf, None)]
        for index in range(len(scores)):
            value, chosen = best[-1][index]
            with_it = (-np.inf, None)
            if chosen is not None and fits(index, place):
                with_it = value + scores[index], [*chosen, index]
            row.append(max(row[-1], with_it, key=lambda pair: pair[0]))
        best.append(row)
    return best[-1][-1][1]


# Blocks that a class makes by its config.


def repeated(model):
    """Layers that differ in the numbers in their names alone: dict from key to list of layers."""
    found = {}

    def look(layer, key):
        for child in sublayers(layer):
            if isinstance(child, keras.layers.Layer):
                inner = (*key, type(child), re.sub(r"\d+", "#", child.name))
                found.setdefault(inner, []).append(child)
                look(child, inner)

    look(model, ())
    return found


def chains(model, probe, depth):
    """The keys of the layers of which `model` has `depth` and `probe` one less, outermost ones."""
    ours, theirs = repeated(model), repeated(probe)
    counts = (depth, depth - 1)
    keys = [k for k in ours if (len(ours[k]), len(theirs.get(k, ()))) == counts]
    return [k for k in keys if not any(k[: len(o)] == o for o in keys if o != k)]


# Blocks in a graph.


def blocks_of_graph(model):
    """The residual blocks of a functional model and of those nested in it, in their order.

    A block is an addition of a tensor and of what layers with kernels make of it, the innermost
    where they are nested, or else a layer made of layers that keeps the shape of its input and of
    whose class there are several.
    """
    kernels = maskable_kernels(model).kernels
    holders = {id(k.layer) for k in kernels if not isinstance(k.layer, keras.layers.Embedding)}
    found = []
    _look(model, holders, found)
    return found


def _look(model, holders, found):
    graph = functional_of(model)
    nodes = sorted_nodes(model)
    readers = {}
    for node in nodes:
        for x in node.arguments.keras_tensors:
            readers.setdefault(id(x), []).append(node)
    uses = [id(node.operation) for node in nodes]
    outputs = {id(x) for x in graph.outputs}
    sums, made, nested = [], [], {}
    for node in nodes:
        operation = node.operation
        if uses.count(id(operation)) > 1 or len(node.outputs) != 1:
            continue
        if is_functional(operation):
            nested[id(node)] = []
            _look(operation, holders, nested[id(node)])
        elif type(operation).__name__ == "Add":
            sums += _sum(node, readers, outputs, holders)
        elif _keeps_shape(node, holders):
            made.append(node)
    classes = [type(node.operation) for node in made]
    made = [node for node, cls in zip(made, classes, strict=True) if classes.count(cls) > 1]
    parts = {id(n) for n in made} | {k for k, blocks in nested.items() if blocks}
    parts |= {id(block.node) for block, _ in sums}
    # A skip around several blocks is none; a layer made of layers in a branch is the branch.
    ends = {id(block.node) for block, _ in sums}
    sums = [(b, region) for b, region in sums if len(parts & region) < 2 and not ends & region]
    covered = set().union(*(region for _, region in sums)) if sums else set()
    by_node = {id(block.node): [block] for block, _ in sums}
    by_node |= {k: blocks for k, blocks in nested.items() if k not in covered}
    by_node |= {
        id(n): [Block(n.operation, [n.operation], node=n)] for n in made if id(n) not in covered
    }
    for node in nodes:
        found += by_node.get(id(node), ())


def _sum(node, readers, outputs, holders):
    """The block that an addition ends, and the ids of the nodes in it; a list of one or none."""
    tensors = symbols(node)
    if len(tensors) < 2 or any(x.shape != node.outputs[0].shape for x in tensors):
        return []
    for place, skip in enumerate(tensors):
        others = [x for i, x in enumerate(tensors) if i != place]
        behind, todo = {}, [skip]
        while todo:
            for reader in readers.get(id(todo.pop()), ()):
                if id(reader) not in behind and reader is not node:
                    behind[id(reader)] = reader
                    todo += reader.outputs
        region, todo, reached = {}, list(others), True
        for x in others:
            history = x._keras_history
            producer = history.operation._inbound_nodes[history.node_index]
            reached &= id(producer) in behind
        while todo:
            history = todo.pop()._keras_history
            producer = history.operation._inbound_nodes[history.node_index]
            if id(producer) in behind and id(producer) not in region:
                region[id(producer)] = producer
                todo += producer.arguments.keras_tensors
        inside = {*region, id(node)}
        closed = all(
            id(x) not in outputs and all(id(r) in inside for r in readers.get(id(x), ()))
            for part in region.values()
            for x in part.outputs
        )
        layers = [n.operation for n in region.values()]
        layers = [x for x in layers if isinstance(x, keras.layers.Layer)]
        kernels = any(id(part) in holders for x in layers for part in x._flatten_layers())
        if reached and closed and kernels:
            names = [x.name for x in layers if x.weights]
            block = Block(node.operation, layers, place, node, names[0])
            return [(block, set(region))]
    return []


def _keeps_shape(node, holders):
    """Whether a layer may be a block: made of layers, unknown to us as a layer of its own kind."""
    layer = node.operation
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return False
    if not is_composite(layer) or has_rule(layer):
        return False
    if symbols(node)[0].shape != node.outputs[0].shape:
        return False
    return any(id(part) in holders for part in layer._flatten_layers())
