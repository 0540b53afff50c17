"""How significance walks through `keras.ops` in functional and traced models.

Operations that work entry by entry, with or without broadcasting, need no rule of their own.
"""

import keras
import numpy as np
from keras import ops

from keras_saliency.graph.trace import Tensor
from keras_saliency.sparsity.registry import register_internal_rule
from keras_saliency.sparsity.significance.rules.layers import (
    einsum_labels,
    split_along,
    times,
    unbroadcast,
)
from keras_saliency.sparsity.significance.scores import axis_scores, on_axis, reshape, spread, total


def _rule(*names):
    def decorator(rule):
        for name in names:
            register_internal_rule(name, operation=True)(rule)
        return rule

    return decorator


def _per_input(call, first):
    """The score of the first tensor; indices, masks and the like get none."""
    return [first] + [None] * (len(call.inputs) - 1)


def _argument(call, index, name, default=None):
    if len(call.args) > index:
        return call.args[index]
    return call.kwargs.get(name, getattr(call.layer, name, default))


def elementwise(call):
    """Any operation whose operands broadcast to its result."""
    output, score = call.outputs[0], call.output_scores[0]
    results = []
    for tensor in call.inputs:
        used = keras.backend.is_float_dtype(tensor.dtype)
        results.append(unbroadcast(score, output, tensor) if used else None)
    return results


# Moving entries around.


@_rule("Reshape", "Ravel", "ExpandDims", "Squeeze")
def reshaped(call):
    return _per_input(
        call, reshape(call.output_scores[0], call.outputs[0].shape, call.inputs[0].shape)
    )


def _transposed(call, order):
    return np.transpose(call.output_scores[0], np.argsort(order))


@_rule("Transpose")
def transpose(call):
    rank = len(call.inputs[0].shape)
    axes = call.layer.axes
    return _transposed(call, range(rank)[::-1] if axes is None else [a % rank for a in axes])


@_rule("Swapaxes")
def swapaxes(call):
    return np.swapaxes(call.output_scores[0], call.layer.axis1, call.layer.axis2)


@_rule("Moveaxis")
def moveaxis(call):
    return np.moveaxis(call.output_scores[0], call.layer.destination, call.layer.source)


@_rule("Flip")
def flip(call):
    return np.flip(call.output_scores[0], call.layer.axis)


@_rule("Roll")
def roll(call):
    axis = call.layer.axis
    if axis is None:
        return total(call.output_scores[0], ())
    return np.roll(call.output_scores[0], np.negative(call.layer.shift), axis)


@_rule("GetItem")
def get_item(call):
    tensor, score = call.inputs[0], call.output_scores[0]
    key = _argument(call, 1, "key")
    key = list(key) if isinstance(key, tuple) else [key]
    rank = len(tensor.shape)
    if not all(k is None or k is Ellipsis or isinstance(k, (int, slice, np.integer)) for k in key):
        return _per_input(call, np.full((1,) * rank, score.sum()))
    given = sum(k is not None and k is not Ellipsis for k in key)
    whole = [slice(None)] * (rank - given)
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key[at : at + 1] = whole
    else:
        key += whole
    axis = 0  # Of the score, which first takes the rank of the input, then its extents.
    indices = []
    for k in key:
        if k is None:
            score = score.sum(axis=axis)
            continue
        if not isinstance(k, slice):
            score = np.expand_dims(score, axis)
        indices.append(k)
        axis += 1
    for axis, (k, extent) in enumerate(zip(indices, tensor.shape, strict=True)):
        if extent is None or k == slice(None):
            continue
        positions = range(extent)[k]
        positions = [positions] if isinstance(positions, int) else list(positions)
        shape = list(score.shape)
        shape[axis] = len(positions)
        placed = list(score.shape)
        placed[axis] = extent
        array = np.zeros(placed)
        array[(slice(None),) * axis + (positions,)] = spread(score, shape)
        score = array
    return _per_input(call, score)


@_rule("Concatenate", "Append", "Hstack", "Vstack", "Dstack")
def concatenate(call):
    parts = _argument(call, 0, "xs")
    rank = len(call.outputs[0].shape)
    axis = getattr(call.layer, "axis", None)
    if axis is None:
        axis = {"Hstack": min(1, rank - 1), "Vstack": 0, "Dstack": 2}.get(
            type(call.layer).__name__, 0
        )
    scores = split_along(call.output_scores[0], axis, parts)
    return [s for s, x in zip(scores, parts, strict=True) if isinstance(x, Tensor)]


@_rule("Stack")
def stack(call):
    parts = _argument(call, 0, "x")
    score, axis = call.output_scores[0], call.layer.axis
    shape = list(score.shape)
    shape[axis] = len(parts)
    score = spread(score, shape)
    return [np.take(score, i, axis=axis) for i, x in enumerate(parts) if isinstance(x, Tensor)]


@_rule("Unstack")
def unstack(call):
    axis = call.layer.axis
    rank = len(call.inputs[0].shape)
    return _joined(
        [np.expand_dims(s, axis % rank) for s in call.output_scores],
        axis,
        [(*x.shape[: axis % rank], 1, *x.shape[axis % rank :]) for x in call.outputs],
    )


@_rule("Split", "ArraySplit")
def split(call):
    return _joined(call.output_scores, call.layer.axis, [x.shape for x in call.outputs])


def _joined(scores, axis, shapes):
    rank = scores[0].ndim
    axis %= rank
    target = [max(score.shape[i] for score in scores) for i in range(rank)]
    parts = []
    for score, shape in zip(scores, shapes, strict=True):
        wanted = list(target)
        wanted[axis] = shape[axis]
        parts.append(spread(score, wanted))
    if any(shape[axis] is None for shape in shapes):
        return sum(total(part, [i for i in range(rank) if i != axis]) for part in parts)
    return np.concatenate(parts, axis=axis)


@_rule("Repeat", "Tile")
def repeat(call):
    tensor, score = call.inputs[0], call.output_scores[0]
    rank = len(tensor.shape)
    repeats, axis = call.layer.repeats, getattr(call.layer, "axis", None)
    tiles = type(call.layer).__name__ == "Tile"
    if not tiles and (axis is None or not isinstance(repeats, int)):
        return np.full((1,) * rank, score.sum())
    if tiles:
        counts = [repeats] if isinstance(repeats, int) else list(repeats)
        counts = [1] * (rank - len(counts)) + counts
    else:
        counts = [repeats if i == axis % rank else 1 for i in range(rank)]
    score = score.sum(axis=tuple(range(score.ndim - rank)))
    for i, (count, extent) in enumerate(zip(counts, tensor.shape, strict=True)):
        if score.shape[i] == 1 or count == 1:
            continue
        pair = (count, extent) if tiles else (extent, count)
        score = score.reshape(score.shape[:i] + pair + score.shape[i + 1 :])
        score = score.sum(axis=i if tiles else i + 1)
    return score


@_rule("Pad")
def pad(call):
    score = call.output_scores[0]
    widths = np.asarray(call.layer.pad_width).reshape(-1, 2)
    widths = np.broadcast_to(widths, (score.ndim, 2))
    for axis, ((before, after), extent) in enumerate(
        zip(widths, call.inputs[0].shape, strict=True)
    ):
        if score.shape[axis] > 1 and (before or after):
            score = np.take(score, range(before, before + extent), axis=axis)
    return _per_input(call, score)


@_rule("Take", "TakeAlongAxis")
def take(call):
    """Which entries are taken is known when the model runs: the axis shares evenly."""
    tensor, score = call.inputs[0], call.output_scores[0]
    return _per_input(call, np.full((1,) * len(tensor.shape), score.sum()))


# Summaries along axes.


@_rule(
    "Mean",
    "Max",
    "Min",
    "Amax",
    "Amin",
    "Prod",
    "Std",
    "Var",
    "Logsumexp",
    "Median",
    "Norm",
    "Nanmean",
    "Nanmax",
    "Nanmin",
    "Average",
    "Sum",
    "Nansum",
)
def reduction(call):
    tensor, score = call.inputs[0], call.output_scores[0]
    rank = len(tensor.shape)
    axis = call.layer.axis
    axes = range(rank) if axis is None else axis if isinstance(axis, (list, tuple)) else [axis]
    axes = sorted(a % rank for a in axes)
    if score.ndim < rank:
        score = np.expand_dims(score, tuple(axes))
    if type(call.layer).__name__ in ("Sum", "Nansum"):
        # Every entry reaches the sum in full, where a mean takes a share of it.
        score = score * np.prod([tensor.shape[a] or 1 for a in axes if a])
    return _per_input(call, score)


@_rule("Moments")
def moments(call):
    tensor = call.inputs[0]
    rank = len(tensor.shape)
    axes = call.layer.axes
    axes = tuple(a % rank for a in (axes if isinstance(axes, (list, tuple)) else [axes]))
    score = sum(call.output_scores)
    return score if score.ndim == rank else np.expand_dims(score, axes)


# Products.


@_rule("Multiply", "Divide", "TrueDivide", "DivideNoNan")
def product(call):
    """Factors hand their scores to each other; a constant factor is a weight."""
    first, second = _argument(call, 0, "x1"), _argument(call, 1, "x2")
    constants = [x for x in (first, second) if not isinstance(x, Tensor)]
    if not constants:
        return elementwise(call)
    factor = _array(constants[0])
    if type(call.layer).__name__ != "Multiply":
        if first is constants[0]:
            return elementwise(call)
        factor = np.divide(1.0, factor, out=np.zeros_like(factor), where=factor != 0)
    score = times(call.output_scores[0], factor)
    return unbroadcast(score, call.outputs[0], call.inputs[0])


def _contraction(call, operands, labels, output):
    """Scores of the operands of an einsum; constant operands are weights."""
    score = call.output_scores[0]
    extents = {}
    for operand, axes in zip(operands, labels, strict=True):
        for label, extent in zip(axes, operand.shape, strict=True):
            if extent not in (None, 1) or label not in extents:
                extents[label] = extent
    constants = [
        (np.abs(_array(x)), axes)
        for x, axes in zip(operands, labels, strict=True)
        if not isinstance(x, Tensor)
    ]
    results = []
    for operand, axes in zip(operands, labels, strict=True):
        if not isinstance(operand, Tensor):
            continue
        known = set("".join(axes for _, axes in constants))
        # Resolve what the constants tell apart; sum over what this operand does not have.
        part = total(score, [i for i, c in enumerate(output) if c in known or c in axes])
        part = spread(
            part,
            [extents[c] if c in known else n for c, n in zip(output, part.shape, strict=True)],
        )
        names = sorted({*output, *axes, *known})
        ids = {c: i for i, c in enumerate(names)}
        terms = []
        for array, letters in [(part, output), *constants]:
            keep = [i for i, n in enumerate(array.shape) if n > 1]
            terms += [
                array.reshape([array.shape[i] for i in keep]),
                [ids[letters[i]] for i in keep],
            ]
        present = {i for term in terms[1::2] for i in term}
        kept = [c for c in axes if ids[c] in present]
        result = np.einsum(*terms, [ids[c] for c in kept], optimize=True)
        results.append(result.reshape([extents[c] if c in kept else 1 for c in axes]))
    return results


def _array(x):
    return np.asarray(ops.convert_to_numpy(x), dtype=np.float64)


@_rule("Einsum")
def einsum(call):
    operands = list(call.args)
    labels, output = einsum_labels(call.layer.subscripts, [len(x.shape) for x in operands])
    return _contraction(call, operands, labels, output)


@_rule("Matmul")
def matmul(call):
    first, second = _argument(call, 0, "x1"), _argument(call, 1, "x2")
    m, n = len(first.shape), len(second.shape)
    batch = "abcdefgh"
    a = batch[8 - max(m - 2, 0) :] if m > 2 else ""
    b = batch[8 - max(n - 2, 0) :] if n > 2 else ""
    left = a + ("xk" if m > 1 else "k")
    right = b + ("ky" if n > 1 else "k")
    wide = a if len(a) >= len(b) else b
    output = wide + ("x" if m > 1 else "") + ("y" if n > 1 else "")
    return _contraction(call, [first, second], [left, right], output)


@_rule("Dot")
def dot(call):
    first, second = _argument(call, 0, "x1"), _argument(call, 1, "x2")
    if not first.shape or not second.shape:
        return elementwise(call)
    letters = "abcdefghijmnopqrstuvwxyz"
    left = letters[: len(first.shape) - 1] + "k"
    right = letters[12 : 12 + len(second.shape) - 1]
    right = right[:-1] + "k" + right[-1:] if right else "k"
    return _contraction(call, [first, second], [left, right], (left + right).replace("k", ""))


@_rule("Tensordot")
def tensordot(call):
    first, second = _argument(call, 0, "x1"), _argument(call, 1, "x2")
    axes = call.layer.axes
    m, n = len(first.shape), len(second.shape)
    if isinstance(axes, int):
        axes = (range(m - axes, m), range(axes))
    pairs = [[a] if isinstance(a, int) else list(a) for a in axes]
    left = list("abcdefghijklm"[:m])
    right = list("nopqrstuvwxyz"[:n])
    for i, j in zip(*pairs, strict=True):
        right[j % n] = left[i % m]
    contracted = {left[i % m] for i in pairs[0]}
    output = "".join(c for c in left + right if c not in contracted)
    return _contraction(call, [first, second], ["".join(left), "".join(right)], output)


@_rule("DotProductAttention")
def dot_product_attention(call):
    """(batch, time, heads, size): values as in a product, queries and keys evenly per head."""
    query, key, value = (
        _argument(call, i, name) for i, name in enumerate(("query", "key", "value"))
    )
    score = total(call.output_scores[0], (2, 3))
    heads = query.shape[2]
    score = spread(score, (1, 1, heads, score.shape[3]))
    of_head = total(score, (2,))
    results = {}
    for tensor, part in ((value, score), (query, of_head), (key, of_head)):
        groups = tensor.shape[2]
        part = part.reshape(1, 1, groups, heads // groups, part.shape[3]).sum(axis=3)
        if tensor in results:
            wide = [max(a, b) for a, b in zip(part.shape, results[tensor].shape, strict=True)]
            part = spread(part, wide) + spread(results[tensor], wide)
        results[tensor] = part
    return [results.pop(tensor, None) for tensor in call.inputs]


@_rule("Conv")
def convolution(call):
    kernel = _argument(call, 1, "kernel")
    tensor = call.inputs[0]
    rank = len(tensor.shape)
    axis = 1 if _argument(call, 4, "data_format") == "channels_first" else rank - 1
    if isinstance(kernel, Tensor):
        return [np.full((1,) * len(x.shape), call.output_scores[0].sum()) for x in call.inputs]
    scores = axis_scores(call.output_scores[0], axis, call.outputs[0].shape[axis])
    groups = tensor.shape[axis] // kernel.shape[-2]
    kernel = np.abs(_array(kernel)).reshape(
        -1, kernel.shape[-2], groups, kernel.shape[-1] // groups
    )
    inputs = np.einsum("pigo,go->gi", kernel, scores.reshape(groups, -1)).reshape(-1)
    return on_axis(inputs, axis, rank)


@_rule("DepthwiseConv")
def depthwise_convolution(call):
    kernel = _argument(call, 1, "kernel")
    rank = len(call.inputs[0].shape)
    axis = 1 if _argument(call, 4, "data_format") == "channels_first" else rank - 1
    if isinstance(kernel, Tensor):
        return [np.full((1,) * len(x.shape), call.output_scores[0].sum()) for x in call.inputs]
    scores = axis_scores(call.output_scores[0], axis, call.outputs[0].shape[axis])
    kernel = np.abs(_array(kernel)).reshape(-1, *kernel.shape[-2:])
    inputs = np.einsum("pcm,cm->c", kernel, scores.reshape(kernel.shape[1:]))
    return on_axis(inputs, axis, rank)


# Positions, as in the layers of these names.


@_rule(
    "MaxPool",
    "AveragePool",
    "AdaptiveMaxPool",
    "AdaptiveAveragePool",
    "Resize",
    "PadImages",
    "CropImages",
    "GaussianBlur",
    "AffineTransform",
    "ElasticTransform",
    "PerspectiveTransform",
)
def positions(call):
    score = call.output_scores[0]
    rank = score.ndim
    data_format = call.kwargs.get("data_format", getattr(call.layer, "data_format", None))
    data_format = data_format or keras.config.image_data_format()
    axis = 1 if rank > 3 or "Pool" in type(call.layer).__name__ else 0
    axis = axis if data_format == "channels_first" else rank - 1
    return _per_input(call, total(score, (0, axis) if rank > 3 else (axis,)))


# Mixing along one axis: its entries share evenly, all others keep theirs.


@_rule("Softmax", "LogSoftmax", "Sparsemax", "Normalize", "LayerNorm", "RMSNorm", "BatchNorm")
def unchanged(call):
    return _per_input(call, call.output_scores[0])


@_rule("Cumsum", "Cumprod", "Sort")
def along(call):
    score = call.output_scores[0]
    axis = call.layer.axis
    if axis is None:
        return np.full((1,) * len(call.inputs[0].shape), score.sum())
    return total(score, [i for i in range(score.ndim) if i != axis % score.ndim])


@_rule("Glu")
def glu(call):
    score, axis = call.output_scores[0], call.layer.axis
    score = spread(
        score,
        [
            n if i == axis % score.ndim else s
            for i, (n, s) in enumerate(zip(call.outputs[0].shape, score.shape, strict=True))
        ],
    )
    return np.concatenate([score, score], axis=axis)


@_rule("TopK")
def top_k(call):
    return total(call.output_scores[0], range(call.output_scores[0].ndim - 1))


# Operations that ask what there is, not how much.


@_rule(
    "All",
    "Any",
    "Argmax",
    "Argmin",
    "Argsort",
    "Bincount",
    "CountNonzero",
    "Digitize",
    "Equal",
    "Greater",
    "GreaterEqual",
    "InTopK",
    "IsIn",
    "Isclose",
    "Isfinite",
    "Isinf",
    "Isnan",
    "Less",
    "LessEqual",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "MultiHot",
    "Ndim",
    "NotEqual",
    "OneHot",
    "OnesLike",
    "SearchSorted",
    "Size",
    "ZerosLike",
    "EmptyLike",
    "FullLike",
)
def ends(call):
    return [None] * len(call.inputs)
