"""How significance walks through Keras's layers: one rule per layer type.

A rule turns the significance of a layer's outputs into that of its inputs (G 4.4.2, equation
4.8), and reports the edges of its kernels (equation 4.6). The score of a channel is the total over
its positions, so layers that only move positions around (pooling, padding, cropping, upsampling)
hand totals on. Activations, dropout, noise and the like hand everything on. A gate, the other
factor of a product, is as significant as what it gates.
"""

import keras
import numpy as np
from keras import layers

from keras_saliency.graph.trace import Frames, Sequence, Tensor, Whole
from keras_saliency.layers.attention.convolution_heads import ConvolutionHeads
from keras_saliency.layers.attention.san import SANAttention
from keras_saliency.layers.recurrent.recurrent_conv import RecurrentConv2D
from keras_saliency.sparsity.registry import (
    register_internal_rule,
    register_significance_rule,
)
from keras_saliency.sparsity.significance.scores import axis_scores, on_axis, reshape, spread, total


def _register(classes, rule, **options):
    for cls in classes:
        register_significance_rule(cls, **options)(rule)


def channel_axis(layer, rank):
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


# Layers whose weights are a matrix from inputs to outputs.


@register_significance_rule(layers.Dense, kernels={"_kernel": (0, 1)})
def dense(call):
    scores = call.scores()
    call.edges("_kernel", scores)
    return call.contract("_kernel", scores.reshape(1, -1), keep=(0,))


def einsum_labels(equation, ranks):
    """Labels of an einsum's operands and of its output, the ellipsis written out."""
    left, right = equation.replace(" ", "").split("->")
    terms = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widest = max(
        [
            rank - len(t.replace("...", ""))
            for t, rank in zip(terms, ranks, strict=True)
            if "..." in t
        ],
        default=0,
    )
    batch = "".join(spare[:widest])
    written = []
    for term, rank in zip(terms, ranks, strict=True):
        width = rank - len(term.replace("...", ""))
        written.append(term.replace("...", batch[len(batch) - width :]))
    return written, right.replace("...", batch)


def _einsum_dense_kernels(layer):
    left, right = layer.equation.replace(" ", "").split("->")
    kernel = left.split(",")[1].replace("...", "")
    outputs = tuple(i for i, label in enumerate(kernel) if label in right)
    inputs = tuple(i for i, label in enumerate(kernel) if label not in right)
    return {"_kernel": (inputs, outputs)}


@register_significance_rule(layers.EinsumDense, kernels=_einsum_dense_kernels)
def einsum_dense(call):
    kernel_rank = len(call.layer._kernel.shape)
    (x, kernel), out = einsum_labels(call.layer.equation, [len(call.inputs[0].shape), kernel_rank])
    # Axes of the output that the kernel does not know are positions.
    scores = total(call.output_scores[0], [i for i, c in enumerate(out) if c in kernel])
    extents = dict(zip(kernel, call.layer._kernel.shape, strict=True))
    scores = spread(scores, [extents.get(label, 1) for label in out])
    shared = [label for label in out if label in kernel]
    vector = scores.reshape([extents[label] for label in shared])
    factor = np.einsum(vector, _ids(shared), _ids([c for c in kernel if c in shared]))
    factor = factor.reshape([extents[c] if c in shared else 1 for c in kernel])
    call.edges("_kernel", factor)
    kept = [i for i, label in enumerate(kernel) if label in x]
    inputs = call.contract("_kernel", factor, keep=kept)
    order = [kernel[i] for i in kept]
    inputs = np.einsum(inputs, _ids(order), _ids([c for c in x if c in order]))
    return inputs.reshape([extents[c] if c in order else 1 for c in x])


def _ids(labels):
    return [
        ord(label) - ord("A") if label < "a" else ord(label) - ord("a") + 26 for label in labels
    ]


@register_significance_rule(layers.Embedding, kernels={"_embeddings": (0, 1)})
def embedding(call):
    call.edges("_embeddings", call.scores())


def _reversible_kernels(layer):
    kernels = {"_embeddings": (0, 1)}
    if not layer.tie_weights:
        kernels["reverse_embeddings"] = (0, 1)
    return kernels


if hasattr(layers, "ReversibleEmbedding"):

    @register_significance_rule(layers.ReversibleEmbedding, kernels=_reversible_kernels)
    def reversible_embedding(call):
        reverse = call.kwargs.get("reverse", call.args[1] if len(call.args) > 1 else False)
        if not reverse:
            return embedding(call)
        scores = call.scores()
        if call.layer.tie_weights:
            factor = scores.reshape(-1, 1)
            call.edges("_embeddings", factor)
            return call.contract("_embeddings", factor, keep=(1,))
        call.edges("reverse_embeddings", scores)
        return call.contract("reverse_embeddings", scores.reshape(1, -1), keep=(0,))


# Convolutions. Every position of the output is reached by the whole kernel; borders are ignored.


def convolution(call):
    layer = call.layer
    rank = len(call.outputs[0].shape)
    axis = channel_axis(layer, rank)
    scores = call.scores(axis)
    call.edges("_kernel", scores)
    groups = layer.groups
    if groups == 1:
        factor = on_axis(scores, rank - 1, rank)
        inputs = call.contract("_kernel", factor, keep=(rank - 2,))
    else:
        kernel = call.magnitude("_kernel")
        kernel = kernel.reshape(-1, kernel.shape[-2], groups, kernel.shape[-1] // groups)
        inputs = np.einsum("pigo,go->gi", kernel, scores.reshape(groups, -1)).reshape(-1)
    return on_axis(inputs, axis, rank)


def transposed_convolution(call):
    rank = len(call.outputs[0].shape)
    axis = channel_axis(call.layer, rank)
    factor = on_axis(call.scores(axis), rank - 2, rank)  # The kernel is (..., outputs, inputs).
    call.edges("kernel", factor)
    return on_axis(call.contract("kernel", factor, keep=(rank - 1,)), axis, rank)


def depthwise_convolution(call):
    rank = len(call.outputs[0].shape)
    axis = channel_axis(call.layer, rank)
    factor = call.scores(axis).reshape((1,) * (rank - 2) + call.layer.kernel.shape[-2:])
    call.edges("kernel", factor)
    return on_axis(call.contract("kernel", factor, keep=(rank - 2,)), axis, rank)


def separable_convolution(call):
    rank = len(call.outputs[0].shape)
    axis = channel_axis(call.layer, rank)
    scores = call.scores(axis)
    call.edges("pointwise_kernel", scores)
    between = call.contract("pointwise_kernel", on_axis(scores, rank - 1, rank), keep=(rank - 2,))
    factor = between.reshape((1,) * (rank - 2) + call.layer.depthwise_kernel.shape[-2:])
    call.edges("depthwise_kernel", factor)
    return on_axis(call.contract("depthwise_kernel", factor, keep=(rank - 2,)), axis, rank)


_register((layers.Conv1D, layers.Conv2D, layers.Conv3D), convolution, kernels={"_kernel": (-2, -1)})
_register(
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    transposed_convolution,
    kernels={"kernel": (-1, -2)},
)
_register(
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    depthwise_convolution,
    kernels={"kernel": ((), (-2, -1))},
)
_register(
    (layers.SeparableConv1D, layers.SeparableConv2D),
    separable_convolution,
    kernels={"depthwise_kernel": ((), (-2, -1)), "pointwise_kernel": (-2, -1)},
)


# Recurrent layers. All gates of a unit are as significant as the unit: what it hands to the layers
# above, summed over time. The recurrent kernel leads to the same units (equation 4.6).


def recurrent_cell(call):
    """Cells: the input and the state before lead to the gates of each unit."""
    cell = call.layer
    rank = len(call.outputs[0].shape)
    axis = channel_axis(cell, rank)
    scores = sum(call.scores(axis, output) for output in range(len(call.outputs)))
    gates = cell.kernel.shape[-1] // scores.size
    scores = np.tile(scores, gates)
    kernel_rank = len(cell.kernel.shape)
    factor = on_axis(scores, kernel_rank - 1, kernel_rank)
    call.edges("kernel", scores)
    call.edges("recurrent_kernel", scores)
    results = [on_axis(call.contract("kernel", factor, keep=(kernel_rank - 2,)), axis, rank)]
    if len(call.inputs) > 1:
        state = call.contract("recurrent_kernel", factor, keep=(kernel_rank - 2,))
        results += [on_axis(state, axis, rank)] * (len(call.inputs) - 1)
    return results


_CELL_KERNELS = {"kernel": (-2, -1), "recurrent_kernel": (-2, -1)}
_register(
    (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell), recurrent_cell, kernels=_CELL_KERNELS
)
register_internal_rule("ConvLSTMCell", kernels=_CELL_KERNELS)(recurrent_cell)


@register_significance_rule(layers.StackedRNNCells, kernels=())
def stacked_cells(call):
    """The first output is the last cell's; the others are the states of all cells in order."""
    cells = call.layer.cells
    counts = [
        len(cell.state_size) if isinstance(cell.state_size, (list, tuple)) else 1 for cell in cells
    ]
    states = list(zip(call.outputs[1:], call.output_scores[1:], strict=True))
    score = call.output_scores[0]
    results = []
    for index in reversed(range(len(cells))):
        cell = cells[index]
        size = _size(cell.output_size)
        own = states[sum(counts[:index]) : sum(counts[: index + 1])] if states else []
        output = Tensor((None, size), call.outputs[0].dtype)
        features = cells[index - 1].output_size if index else call.inputs[0].shape[-1]
        x = Tensor((None, _size(features)), call.outputs[0].dtype)
        inputs = [x, *call.inputs[1:][sum(counts[:index]) : sum(counts[: index + 1])]]
        score, *before = call.delegate(
            cell, inputs, [output] + [s[0] for s in own], [score] + [s[1] for s in own]
        )
        results = before + results
    return [score, *results]


def _size(size):
    return int(size[-1] if isinstance(size, (list, tuple)) else size)


@register_significance_rule(layers.RNN)
def recurrent(call):
    """All recurrent layers: the cell at every time step, its scores summed over time."""
    layer, cell = call.layer, call.layer.cell
    sequence = call.inputs[0]
    output, score = call.outputs[0], call.output_scores[0]
    if layer.return_sequences:
        score = score.sum(axis=1)
        output = Tensor((output.shape[0], *output.shape[2:]), output.dtype)
    step = Tensor((sequence.shape[0], *sequence.shape[2:]), sequence.dtype)
    score, *states = call.delegate(
        cell,
        [step, *call.inputs[1:]],
        [output, *call.outputs[1:]],
        [score, *call.output_scores[1:]],
    )
    return [None if score is None else np.expand_dims(score, 1), *states]


@register_significance_rule(layers.Bidirectional)
def bidirectional(call):
    layer = call.layer
    forward, backward = layer.forward_layer, layer.backward_layer
    outputs, scores = list(call.outputs), list(call.output_scores)
    if layer.merge_mode is None:
        (own, other), rest = zip(outputs[:2], scores[:2], strict=True), 2
    else:
        rest = 1
        output, score = outputs[0], scores[0]
        own = other = (output, score)
        if layer.merge_mode == "concat":
            half = output.shape[-1] // 2
            score = spread(score, [*score.shape[:-1], 2 * half])
            output = Tensor((*output.shape[:-1], half), output.dtype)
            own, other = (output, score[..., :half]), (output, score[..., half:])
    states = list(zip(outputs[rest:], scores[rest:], strict=True))
    initial = call.inputs[1:]
    results, befores = None, []
    for direction, (output, score), part, first in (
        (forward, own, states[: len(states) // 2], initial[: len(initial) // 2]),
        (backward, other, states[len(states) // 2 :], initial[len(initial) // 2 :]),
    ):
        result, *before = call.delegate(
            direction,
            [call.inputs[0], *first],
            [output, *(s[0] for s in part)],
            [score, *(s[1] for s in part)],
        )
        results = result if results is None else results + result
        befores += before
    return [results, *befores]


@register_significance_rule(
    RecurrentConv2D, kernels={"kernel": (-2, -1), "recurrent_kernel": (-2, -1)}
)
def recurrent_convolution(call):
    """Its few steps are walked through one by one; each is fed by the same convolution."""
    layer = call.layer
    axis = channel_axis(layer, 4)

    def each_piece(scores):  # of a maxout unit; the last one may be short
        return np.repeat(scores, layer.pieces)[: layer.filters]

    scores = each_piece(call.scores(axis))
    feed, recurrent = scores, 0.0
    for _ in range(layer.steps):
        recurrent = recurrent + scores
        before = call.contract("recurrent_kernel", on_axis(scores, 3, 4), keep=(2,))
        scores = each_piece(before)
        feed = feed + scores
    call.edges("kernel", feed)
    if layer.steps:
        call.edges("recurrent_kernel", recurrent)
    inputs = call.contract("kernel", on_axis(feed, 3, 4), keep=(2,))
    return _only_first(on_axis(inputs, axis, 4), call)


# Attention. Values carry significance as in any product of matrices. Queries and keys only decide
# where to look: all entries of a head's query and key are as significant as the head's values.


def multi_head_attention(call):
    layer = call.layer
    arguments = dict(zip(("query", "value", "key"), call.args, strict=False))
    arguments.update({k: v for k, v in call.kwargs.items() if k in ("query", "value", "key")})
    query, value = arguments["query"], arguments["value"]
    key = arguments.get("key")
    key = value if key is None else key
    results = {}

    def lead(projection, tensor, score, heads):
        if score is None:
            return
        output = Tensor((*tensor.shape[:-1], *heads), tensor.dtype)
        (result,) = call.delegate(projection, [tensor], [output], [score])
        if result is not None:
            results[tensor] = result + results[tensor] if tensor in results else result

    width = tuple(layer._value_dense._kernel.shape[1:])  # (heads of values, their size)
    key_width = tuple(layer._key_dense._kernel.shape[1:])
    query_width = tuple(layer._query_dense._kernel.shape[1:])
    heads = query_width[0]
    attended = Tensor((*query.shape[:-1], heads, width[1]), query.dtype)
    (score,) = call.delegate(
        layer._output_dense, [attended], call.outputs[:1], call.output_scores[:1]
    )
    score = spread(total(score, (-2, -1)), (*(1,) * (score.ndim - 2), heads, width[1]))
    if getattr(layer, "_gate_dense", None) is not None:
        lead(layer._gate_dense, query, score, (heads, width[1]))
    # Grouped queries: consecutive heads share a key and a value.
    shape = (*score.shape[:-2], width[0], heads // width[0], width[1])
    grouped = score.reshape(shape).sum(axis=-2)
    rank = len(value.shape)
    lead(layer._value_dense, value, grouped.reshape((1,) * (rank - 1) + width), width)
    of_head = score.sum(axis=-1).reshape(-1)
    if len(call.outputs) > 1:  # The attention scores, (batch, heads, queries, keys), are used.
        of_head = of_head + call.scores(1, output=1)
    of_query = np.repeat(of_head[:, None] / query_width[1], query_width[1], axis=1)
    lead(
        layer._query_dense,
        query,
        of_query.reshape((1,) * (len(query.shape) - 1) + query_width),
        query_width,
    )
    of_key = of_query.reshape(key_width[0], -1, key_width[1]).sum(axis=1)
    lead(layer._key_dense, key, of_key.reshape((1,) * (len(key.shape) - 1) + key_width), key_width)
    return [results.pop(tensor, None) for tensor in call.inputs]


_register((layers.MultiHeadAttention, layers.GroupQueryAttention), multi_head_attention)


def _convolution_heads_kernels(layer):
    heads = range(1, layer.num_heads + 1)
    kernels = {f"{role}_kernel_{h}": (1, 2) for role in layer.roles for h in heads}
    kernels["output_kernel"] = (0, 1)
    if getattr(layer, "talk", None) == "input":
        kernels["input_kernel"] = (0, 1)
    return kernels


@register_significance_rule(ConvolutionHeads, kernels=_convolution_heads_kernels)
def convolution_heads(call):
    """Heads that look through convolutions: `XM2AHeads` and `MSMSA`.

    A query decides dimension by dimension where its head looks (7.5); a key is the same for all
    of them, and in `XM2AHeads` with cross-talk for all heads.
    """
    layer = call.layer
    output = call.scores()
    call.edges("output_kernel", output)
    values = call.contract("output_kernel", output.reshape(1, -1), keep=(0,))
    values = values.reshape(layer.num_heads, layer.key_dim)
    gates = values
    if len(call.outputs) > 1:  # The attention scores are used; their axis 1 is that of the heads.
        gates = gates + call.scores(1, output=1)[:, None] / layer.key_dim
    if getattr(layer, "talk", "self") == "scale":
        keys = np.full_like(gates, gates.mean())
    else:
        keys = np.repeat(gates.mean(axis=1, keepdims=True), layer.key_dim, axis=1)
    of_role = {"value": values, "query": gates, "key": keys}
    if "query" not in layer.roles:  # One convolution is value, query and key.
        of_role["value"] = values + gates + keys
    inputs = 0.0
    for role in layer.roles:
        for h, scores in enumerate(of_role[role], start=1):
            name = f"{role}_kernel_{h}"
            call.edges(name, scores)
            inputs = inputs + call.contract(name, on_axis(scores, 2, 3), keep=(1,))
    if getattr(layer, "talk", None) == "input":  # It is query and key of all heads.
        scores = gates.sum(axis=0) + gates.sum() / layer.key_dim
        call.edges("input_kernel", scores)
        inputs = inputs + call.contract("input_kernel", scores.reshape(1, -1), keep=(0,))
    return _only_first(inputs, call)


def attention(call):
    """`Attention` and `AdditiveAttention` on `[query, value, key]`; the key may be missing."""
    inputs = call.args[0] if call.args else call.kwargs["inputs"]
    query, value, *key = inputs
    key = key[0] if key else value
    channels = call.output_scores[0]
    share = total(channels, ())
    if len(call.outputs) > 1:
        share = share + total(call.output_scores[1], ())
    scale = getattr(call.layer, "scale", None)
    of_query = of_key = share.reshape(1, 1, 1)
    if scale is not None and len(scale.shape) == 1:  # Additive attention weighs its dimensions.
        weights = call.magnitude("scale")
        if weights.sum() > 0:
            of_query = of_key = share.reshape(1, 1, 1) * (weights / weights.sum())
    results = {}
    for tensor, score in ((value, total(channels, (-1,))), (query, of_query), (key, of_key)):
        if tensor in results:
            extent = [max(a, b) for a, b in zip(score.shape, results[tensor].shape, strict=True)]
            score = spread(score, extent) + spread(results[tensor], extent)
        results[tensor] = score
    return [results.pop(tensor, None) for tensor in call.inputs]


_register(
    (layers.Attention, layers.AdditiveAttention),
    attention,
    kernels=(),
    reason="its only weights are scales, no edges",
)


def _sum(first, second):
    """Sum of two scores of one tensor, resolved as far as either of them is."""
    shape = [max(m, n) for m, n in zip(first.shape, second.shape, strict=True)]
    return spread(first, shape) + spread(second, shape)


@register_significance_rule(SANAttention)
def san_attention(call):
    """`y * mask`: `y` and its mask count alike; the mask comes from `|y - y_prev|`, smoothed."""
    layer = call.layer
    y, previous = call.args[0] if call.args else call.kwargs["inputs"]
    rank = len(y.shape)
    axis = layer._channel_axis % rank
    score = total(call.output_scores[0], (axis,))
    gate = score if len(call.outputs) == 1 else score + total(call.output_scores[1], (axis,))
    if layer.smoothing is not None:
        (gate,) = call.delegate(layer.smoothing_layer, [y], [y], [gate])
    results = {y: _sum(score, gate)}
    before = total(gate, ()) if layer.align_channels else gate  # of the mean over channels
    results[previous] = _sum(results[previous], before) if previous in results else before
    return [results.pop(tensor, None) for tensor in call.inputs]


# Normalisation.


def _scaled(call, factor, axes):
    """Scores times a factor over the given axes of the output, if normalisation is to scale."""
    score = call.output_scores[0]
    if call.normalization == "pass" or factor is None:
        return score
    rank = score.ndim
    axes = sorted(axis % rank for axis in axes)
    shape = [1] * rank
    for axis, extent in zip(axes, factor.shape, strict=True):
        shape[axis] = extent
    wanted = [max(a, b) for a, b in zip(shape, score.shape, strict=True)]
    return spread(score, wanted) * factor.reshape(shape)


def _only_first(result, call):
    return [result] + [None] * (len(call.inputs) - 1)


@register_significance_rule(
    layers.BatchNormalization, kernels=(), reason="normalisation is never masked"
)
def batch_normalization(call):
    layer = call.layer
    variance = keras.ops.convert_to_numpy(layer.moving_variance).astype(np.float64)
    factor = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        factor = factor * call.magnitude("gamma")
    return _only_first(_scaled(call, factor, (layer.axis,)), call)


def _normalization(name):
    def rule(call):
        axis = call.layer.axis
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        weight = getattr(call.layer, name, None)
        factor = call.magnitude(name) if hasattr(weight, "shape") else None
        return _only_first(_scaled(call, factor, axes), call)

    return rule


_REASON = {"kernels": (), "reason": "normalisation is never masked"}
_register(
    (layers.LayerNormalization, layers.GroupNormalization), _normalization("gamma"), **_REASON
)
_register((layers.RMSNormalization,), _normalization("scale"), **_REASON)


@register_significance_rule(
    layers.Normalization, kernels=(), reason="it holds statistics of the data"
)
def data_normalization(call):
    return _only_first(call.output_scores[0], call)


# Layers that hand scores on entry by entry.


def unchanged(call):
    return _only_first(call.output_scores[0], call)


_UNCHANGED = (
    "Activation",
    "ActivityRegularization",
    "AlphaDropout",
    "AutoContrast",
    "Dropout",
    "ELU",
    "ContrastLimitedAdaptiveHistogramEqualization",
    "Equalization",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "LeakyReLU",
    "Masking",
    "MixUp",
    "ReLU",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomErasing",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPosterization",
    "RandomSaturation",
    "RandomSharpness",
    "Solarization",
    "Softmax",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "UnitNormalization",
    "CutMix",
    "AugMix",
    "RandAugment",
)
_register([getattr(layers, name) for name in _UNCHANGED if hasattr(layers, name)], unchanged)
register_significance_rule(
    layers.PReLU, kernels=(), reason="the slopes of an activation are no edges"
)(unchanged)


def times(score, factor):
    """Scores of what is multiplied by constants: weights of a diagonal (equation 4.8)."""
    factor = np.abs(factor)
    if factor.size > 1:
        factor = factor.reshape((1,) * (score.ndim - factor.ndim) + factor.shape)
        score = spread(score, [max(m, n) for m, n in zip(score.shape, factor.shape, strict=True)])
    return score * factor


def layer_scale(call):
    return times(call.output_scores[0], call.magnitude("gamma"))


@register_significance_rule(layers.Rescaling)
def rescaling(call):
    return times(call.output_scores[0], np.asarray(call.layer.scale, dtype=np.float64))


register_internal_rule("LayerScale", kernels=(), reason="its weights scale channels, no edges")(
    layer_scale
)


# Layers that move positions around: a channel's total stays the same.


def positions(call):
    """The rank stays: totals per channel."""
    score = call.output_scores[0]
    return _only_first(total(score, (0, channel_axis(call.layer, score.ndim))), call)


_POSITIONS = (
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "AdaptiveAveragePooling1D",
    "AdaptiveAveragePooling2D",
    "AdaptiveAveragePooling3D",
    "AdaptiveMaxPooling1D",
    "AdaptiveMaxPooling2D",
    "AdaptiveMaxPooling3D",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "ZeroPadding3D",
    "Cropping1D",
    "Cropping2D",
    "Cropping3D",
    "UpSampling1D",
    "UpSampling2D",
    "UpSampling3D",
    "CenterCrop",
    "Resizing",
    "RandomCrop",
    "RandomFlip",
    "RandomPerspective",
    "RandomRotation",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
    "RandomElasticTransform",
)
_register([getattr(layers, name) for name in _POSITIONS if hasattr(layers, name)], positions)


def global_pooling(call):
    rank = len(call.inputs[0].shape)
    axis = channel_axis(call.layer, rank)
    output_axis = axis if len(call.outputs[0].shape) == rank else 1
    return on_axis(call.scores(output_axis), axis, rank)


_register(
    [getattr(layers, f"Global{kind}Pooling{n}D") for kind in ("Average", "Max") for n in (1, 2, 3)],
    global_pooling,
)


@register_significance_rule(layers.Flatten)
def flatten(call):
    given, wanted = call.outputs[0].shape, call.inputs[0].shape
    if call.layer.data_format == "channels_first" and len(wanted) > 2:
        moved = (wanted[0], *wanted[2:], wanted[1])  # Keras moves the channels to the end first.
        return np.moveaxis(reshape(call.output_scores[0], given, moved), -1, 1)
    return reshape(call.output_scores[0], given, wanted)


@register_significance_rule(layers.Reshape)
def reshaped(call):
    return reshape(call.output_scores[0], call.outputs[0].shape, call.inputs[0].shape)


@register_significance_rule(layers.Permute)
def permute(call):
    order = (0, *call.layer.dims)
    return np.transpose(call.output_scores[0], np.argsort(order))


@register_significance_rule(layers.RepeatVector)
def repeat_vector(call):
    return call.output_scores[0].sum(axis=1)


register_significance_rule(Whole)(unchanged)


@register_significance_rule(Frames)
def frames(call):
    return np.expand_dims(call.output_scores[0], 1)


@register_significance_rule(Sequence)
def sequence(call):
    return call.output_scores[0].sum(axis=1)


# Merging layers: the scores of the result are those of each part.


def unbroadcast(score, output, tensor):
    """Scores of an operand of an element-wise operation: totals where it was broadcast."""
    rank = len(tensor.shape)
    extra = score.ndim - rank
    summed = score.sum(axis=tuple(range(extra))) if extra > 0 else score
    wide = output.shape[max(extra, 0) :]
    axes = [
        axis
        for axis in range(rank)
        if not (tensor.shape[axis] == 1 and wide[axis] not in (None, 1))
    ]
    return total(summed, axes)


def merge(call):
    output = call.outputs[0]
    results = []
    for tensor in call.inputs:
        rank = len(tensor.shape)
        missing = len(output.shape) - rank
        if missing > 0:  # Keras puts the missing axes behind the batch axis.
            padded = Tensor((tensor.shape[0], *(1,) * missing, *tensor.shape[1:]), tensor.dtype)
            score = unbroadcast(call.output_scores[0], output, padded)
            results.append(score.sum(axis=tuple(range(1, 1 + missing))))
        else:
            results.append(unbroadcast(call.output_scores[0], output, tensor))
    return results


_register(
    (
        layers.Add,
        layers.Average,
        layers.Maximum,
        layers.Minimum,
        layers.Multiply,
        layers.Subtract,
    ),
    merge,
)


def split_along(score, axis, tensors):
    """Scores of the parts of a concatenation."""
    axis %= score.ndim
    extents = [tensor.shape[axis] for tensor in tensors]
    if None in extents:
        return [total(score, [i for i in range(score.ndim) if i != axis])] * len(tensors)
    shape = list(score.shape)
    shape[axis] = sum(extents)
    score = spread(score, shape)
    return np.split(score, np.cumsum(extents)[:-1], axis=axis)


@register_significance_rule(layers.Concatenate)
def concatenate(call):
    return split_along(call.output_scores[0], call.layer.axis, call.inputs)


@register_significance_rule(layers.Dot)
def dot(call):
    """Both operands are as significant as the product; their entries share it evenly."""
    everything = call.output_scores[0].sum()
    return [np.full((1,) * len(tensor.shape), everything) for tensor in call.inputs]


# Layers at which significance ends: what they take in are no neurons.


def ends(call):
    return [None] * len(call.inputs)


_ENDS = (
    "CategoryEncoding",
    "Discretization",
    "HashedCrossing",
    "Hashing",
    "InputLayer",
    "IntegerLookup",
    "MelSpectrogram",
    "STFTSpectrogram",
    "StringLookup",
    "TextVectorization",
    "MaxNumBoundingBoxes",
)
_register(
    [getattr(layers, name) for name in _ENDS if hasattr(layers, name)],
    ends,
    kernels=(),
    reason="it prepares data and learns no edges",
)


__all__ = ["axis_scores", "split_along", "unbroadcast"]
