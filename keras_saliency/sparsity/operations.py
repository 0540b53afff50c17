"""How many multiplications a model does for one sample, and at which weights: the one counter.

Layers are opened up until a layer or an operation is met whose work follows from its shapes.
"""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, tree

from keras_saliency.graph.functional import functional_of, is_functional
from keras_saliency.graph.symbolic import sublayers
from keras_saliency.graph.trace import Call, Tensor, flatten_model
from keras_saliency.layers.attention.convolution_heads import ConvolutionHeads
from keras_saliency.layers.attention.peers.msmsa import MSMSA
from keras_saliency.layers.attention.saliency_series import SaliencySeries
from keras_saliency.layers.attention.san import SANAttention
from keras_saliency.layers.recurrent.recurrent_conv import RecurrentConv2D
from keras_saliency.sparsity.registry import Registry, find_kernels


class Work(NamedTuple):
    """Multiplications of one sample: how many, and by which weight.

    `weight` is a variable, or `None` where two tensors are multiplied, as in attention; `count`
    is `None` where it depends on an extent that is not known.
    """

    weight: Any
    count: int | None  # type: ignore[assignment]  # beside `tuple.count`, which nobody calls


_RULES = Registry("rule for counting operations")


def work_of(model, input_shapes=None):
    """The list of `Work` of one sample of a model.

    Args:
        model: A built `keras.Model`.
        input_shapes: Shapes of the inputs, batch axis included, in the order of `model.inputs`,
            for a model that leaves axes open or does not know them.

    Raises:
        ValueError: If what the model does cannot be found out.
    """
    graph = flatten_model(
        model,
        None if input_shapes is None else _stand_ins(model, input_shapes),
        lambda layer: _RULES.find(layer) is not None,
        "Its operations cannot be counted.",
        opens=_opens,
        batches=(1,),
    )
    batch = (model.inputs[0].shape[0] if is_functional(model) else None) or 1
    work = []
    for call in graph.calls:
        rule = _RULES.find(call.layer)
        if rule is None:
            continue
        for weight, count in rule(call):
            known = None not in (count, call.repeats)
            work.append(Work(weight, count * call.repeats // batch if known else None))
    return work


def work_of_layer(layer, args, kwargs, input_shapes, output_shapes):
    """The list of `Work` of one call of a layer that has a rule; an empty one without."""
    rule = _RULES.find(layer)
    if rule is None:
        return []
    inputs, outputs = ([Tensor(s, "float32") for s in x] for x in (input_shapes, output_shapes))
    return [Work(*item) for item in rule(Call(layer, args, kwargs, inputs, outputs))]


def total(work):
    """The sum of all counts, or `None` where one is not known."""
    counts = [item.count for item in work]
    return None if None in counts else sum(counts)


def _stand_ins(model, shapes):
    """Arrays of these shapes that take no memory, in the structure of the model's inputs."""
    shapes = [shapes] if isinstance(shapes[0], (int, type(None))) else list(shapes)
    arrays = [
        np.broadcast_to(np.zeros((), "float32"), (1, *(n or 1 for n in shape[1:])))
        for shape in shapes
    ]
    if is_functional(model):
        return tree.pack_sequence_as(functional_of(model)._inputs_struct, arrays)
    return arrays[0] if len(arrays) == 1 else arrays


def _opens(layer):
    """Keras's layers with weights and without a rule multiply by no matrix (norms, tables).

    Nor do others with weights that are known to have no edges and hold no layers with weights.
    """
    if not layer.weights:
        return True
    if type(layer).__module__.startswith("keras."):
        return False
    return find_kernels(layer) != {} or any(child.weights for child in sublayers(layer))


def _rule(*classes):
    def decorate(rule):
        for layer_class in classes:
            _RULES.set(layer_class, rule)
        return rule

    return decorate


def _product(*extents):
    return None if None in extents else math.prod(extents)


def _batch(shape):
    """The first axis of one sample: 1, or what a layer merged into it."""
    return shape[0] or 1 if shape else 1


def _space(layer, shape):
    """Positions of one sample: all axes but the channels."""
    data_format = getattr(layer, "data_format", None) or keras.config.image_data_format()
    inside = shape[2:] if data_format == "channels_first" else shape[1:-1]
    return _product(_batch(shape), *inside)


def _kernel(layer, name="kernel"):
    """The variable behind a kernel, which Keras may show by a property."""
    kernel = getattr(layer, f"_{name}", None)
    return getattr(layer, name) if kernel is None else kernel


# Layers.


@_rule(layers.Dense, *([layers.TernaryDense] if hasattr(layers, "TernaryDense") else []))
def _dense(call):
    shape = call.inputs[0].shape
    return [(_kernel(call.layer), _product(_batch(shape), *shape[1:], call.layer.units))]


@_rule(layers.EinsumDense)
def _einsum_dense(call):
    layer = call.layer
    shape = call.inputs[0].shape
    count = _einsum(layer.equation, [(_batch(shape), *shape[1:]), _unpacked(layer)])
    return [(_kernel(layer), count)]


def _unpacked(layer):
    """The shape of the kernel that a quantized one, two numbers to a byte, stands for."""
    return tuple(getattr(layer, "original_kernel_shape", None) or layer.kernel.shape)


@_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(call):
    layer = call.layer
    where = _space(layer, call.outputs[0].shape)
    inputs = call.inputs[0].shape[1 if layer.data_format == "channels_first" else -1]
    size = _product(*layer.kernel_size, inputs // layer.groups, layer.filters)
    return [(_kernel(layer), _product(where, size))]


@_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(call):
    where = _space(call.layer, call.outputs[0].shape)
    kernel = _kernel(call.layer)
    return [(kernel, _product(where, *kernel.shape))]


@_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(call):
    where = _space(call.layer, call.outputs[0].shape)
    kernels = call.layer.depthwise_kernel, call.layer.pointwise_kernel
    return [(kernel, _product(where, *kernel.shape)) for kernel in kernels]


@_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed(call):
    where = _space(call.layer, call.inputs[0].shape)
    kernel = _kernel(call.layer)
    return [(kernel, _product(where, *kernel.shape))]


@_rule(layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell, "keras>ConvLSTMCell")
def _cell(call):
    layer = call.layer
    where = _space(layer, call.outputs[0].shape) if hasattr(layer, "filters") else 1
    return [
        (kernel, _product(where, *kernel.shape))
        for kernel in (layer.kernel, layer.recurrent_kernel)
    ]


@_rule(layers.StackedRNNCells)
def _stacked(call):
    found = []
    for cell in call.layer.cells:
        rule = _RULES.find(cell)
        found += [(None, None)] if rule is None else rule(_Step(cell, call.outputs))
    return found


class _Step:
    """One step of a recurrent layer, as a call of its cell."""

    def __init__(self, layer, outputs):
        self.layer = layer
        self.outputs = outputs


@_rule(layers.RNN)
def _recurrent(call):
    layer = call.layer
    shape = call.outputs[0].shape
    frames = [_Shape((shape[0], *shape[2:]) if layer.return_sequences else shape)]
    steps = call.inputs[0].shape[1]
    rule = _RULES.find(layer.cell)
    work = [(None, None)] if rule is None else rule(_Step(layer.cell, frames))
    return [(weight, _product(steps, count)) for weight, count in work]


class _Shape(NamedTuple):
    shape: tuple


@_rule(layers.MultiHeadAttention, layers.GroupQueryAttention)
def _heads(call):
    # Opened up, Keras's projections would forget the lengths of the sequences.
    layer = call.layer
    query, value = call.argument(0, "query").shape, call.argument(1, "value").shape
    key = call.argument(2, "key")
    key = value if key is None else key.shape
    fed = {"query": query, "key": key, "value": value, "gate": query, "output": query}
    work = []
    for name, shape in fed.items():
        projection = getattr(layer, f"_{name}_dense", None)
        if projection is not None:
            kernel = _kernel(projection)
            work.append((kernel, _product(_batch(shape), *shape[1:-1], *_unpacked(projection))))
    heads, width = _unpacked(layer._query_dense)[-2:]
    width += _unpacked(layer._value_dense)[-1]
    return [*work, (None, _product(_batch(query), *query[1:-1], *value[1:-1], heads * width))]


# Layers of this library whose calls are written otherwise on each backend.


@_rule(SaliencySeries)
def _saliency(call):
    return []  # smoothing with fixed kernels, no product of weights


@_rule(SANAttention)
def _scale_space_attention(call):
    where = _space(call.layer, call.outputs[0].shape)
    kernels = [x for x in call.layer.trainable_weights if x.name.endswith("kernel")]
    return [(kernel, _product(where, *kernel.shape)) for kernel in kernels]


@_rule(RecurrentConv2D)
def _recurrent_convolution(call):
    layer = call.layer
    where = _space(layer, call.outputs[0].shape)
    work = [(layer.kernel, _product(where, *layer.kernel.shape))]
    if layer.steps:
        kernel = layer.recurrent_kernel
        work.append((kernel, _product(where, layer.steps, *kernel.shape)))
    return work


@_rule(ConvolutionHeads)
def _convolution_heads(call):
    """The kernels; of the products of two tensors those of `MSMSA`, since masks are elementwise."""
    layer = call.layer
    shape = call.inputs[0].shape
    steps = _product(_batch(shape), shape[1])
    work = [
        (kernel, _product(steps, *kernel.shape))
        for kernel in layer.trainable_weights
        if "kernel" in kernel.name
    ]
    if isinstance(layer, MSMSA):
        work.append((None, _product(steps, shape[1], 2 * layer.num_heads * layer.key_dim)))
    return work


# Operations of `keras.ops`, of which layers of one's own are made.


def _operands(call, count=2):
    """The variable among the first operands of an operation, and their shapes."""
    given = [*call.args, *call.kwargs.values()]
    given = [x for x in tree.flatten(given) if hasattr(x, "shape")][:count]
    weight = next((x for x in given if isinstance(x, keras.Variable)), None)
    shapes = [tuple(x.shape) for x in given]
    return weight, [(_batch(s), *s[1:]) if s else s for s in shapes]


@_rule("keras.ops>Matmul")
def _matmul(call):
    weight, shapes = _operands(call)
    shape = call.outputs[0].shape
    return [(weight, _product(_batch(shape), *shape[1:], shapes[0][-1]))]


@_rule("keras.ops>Einsum")
def _einsum_operation(call):
    weight, shapes = _operands(call, None)
    return [(weight, _einsum(call.layer.subscripts, shapes))]


@_rule("keras.ops>DotProductAttention")
def _attention(call):
    _, (query, key, value) = _operands(call, 3)
    pairs = _product(query[0], query[1], key[1], query[2])
    return [(None, _product(pairs, query[3] + value[3]))]


@_rule("keras.ops>Conv", "keras.ops>DepthwiseConv")
def _convolution_operation(call):
    weight, (_, kernel) = _operands(call)
    where = _space(call.layer, call.outputs[0].shape)
    return [(weight, _product(where, *kernel))]


@_rule("keras.ops>SeparableConv")
def _separable_operation(call):
    _, (_, depthwise, pointwise) = _operands(call, 3)
    where = _space(call.layer, call.outputs[0].shape)
    return [(None, _product(where, *depthwise)), (None, _product(where, *pointwise))]


@_rule("keras.ops>ConvTranspose")
def _transposed_operation(call):
    weight, (inputs, kernel) = _operands(call)
    return [(weight, _product(_space(call.layer, inputs), *kernel))]


def _einsum(equation, shapes):
    """Multiplications in a product of two tensors: the product of all extents."""
    inputs = equation.replace(" ", "").partition("->")[0]
    extents = {}
    for letters, shape in zip(inputs.split(","), shapes, strict=True):
        before, _, after = letters.partition("...")
        inside = len(shape) - len(before) - len(after)
        # The axes of an ellipsis are aligned at its end.
        for name, extent in zip([*before, *range(-inside, 0), *after], shape, strict=True):
            known = extents.get(name, 1)
            extents[name] = extent if known == 1 else known
    return _product(*extents.values())
