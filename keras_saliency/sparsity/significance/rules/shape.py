"""Layers and operations that move entries around, and summaries along axes.

The score of a channel is the total over its positions, so what only moves positions (pooling,
padding, cropping, upsampling) hands totals on.
"""

import keras
import numpy as np
from keras import layers

from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.common import (
    argument,
    channel_axis,
    existing,
    only_first,
    operations,
    register,
)
from keras_saliency.sparsity.significance.scores import on_axis, reshape, spread, total


def positions(call):
    """The rank stays: totals per channel."""
    score = call.output_scores[0]
    return only_first(call, total(score, (0, channel_axis(call.layer, score.ndim))))


_POSITIONS = existing(
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


register(_POSITIONS, positions)


def global_pooling(call):
    rank = len(call.inputs[0].shape)
    axis = channel_axis(call.layer, rank)
    output_axis = axis if len(call.outputs[0].shape) == rank else 1
    return on_axis(call.scores(output_axis), axis, rank)


register(
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


@operations("Reshape", "Ravel", "ExpandDims", "Squeeze")
def reshaped_op(call):
    return only_first(
        call, reshape(call.output_scores[0], call.outputs[0].shape, call.inputs[0].shape)
    )


def _transposed(call, order):
    return np.transpose(call.output_scores[0], np.argsort(order))


@operations("Transpose")
def transpose_op(call):
    rank = len(call.inputs[0].shape)
    axes = call.layer.axes
    return _transposed(call, range(rank)[::-1] if axes is None else [a % rank for a in axes])


@operations("Swapaxes")
def swapaxes_op(call):
    return np.swapaxes(call.output_scores[0], call.layer.axis1, call.layer.axis2)


@operations("Moveaxis")
def moveaxis_op(call):
    return np.moveaxis(call.output_scores[0], call.layer.destination, call.layer.source)


@operations("Flip")
def flip_op(call):
    return np.flip(call.output_scores[0], call.layer.axis)


@operations("Roll")
def roll_op(call):
    axis = call.layer.axis
    if axis is None:
        return total(call.output_scores[0], ())
    return np.roll(call.output_scores[0], np.negative(call.layer.shift), axis)


@operations("GetItem")
def get_item_op(call):
    tensor, score = call.inputs[0], call.output_scores[0]
    key = argument(call, 1, "key")
    key = list(key) if isinstance(key, tuple) else [key]
    rank = len(tensor.shape)
    if not all(k is None or k is Ellipsis or isinstance(k, (int, slice, np.integer)) for k in key):
        return only_first(call, np.full((1,) * rank, score.sum()))
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
    return only_first(call, score)


@operations("Repeat", "Tile")
def repeat_op(call):
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


@operations("Pad")
def pad_op(call):
    score = call.output_scores[0]
    widths = np.asarray(call.layer.pad_width).reshape(-1, 2)
    widths = np.broadcast_to(widths, (score.ndim, 2))
    for axis, ((before, after), extent) in enumerate(
        zip(widths, call.inputs[0].shape, strict=True)
    ):
        if score.shape[axis] > 1 and (before or after):
            score = np.take(score, range(before, before + extent), axis=axis)
    return only_first(call, score)


@operations("Take", "TakeAlongAxis")
def take_op(call):
    """Which entries are taken is known when the model runs: the axis shares evenly."""
    tensor, score = call.inputs[0], call.output_scores[0]
    return only_first(call, np.full((1,) * len(tensor.shape), score.sum()))


@operations(
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
def positions_op(call):
    score = call.output_scores[0]
    rank = score.ndim
    data_format = call.kwargs.get("data_format", getattr(call.layer, "data_format", None))
    data_format = data_format or keras.config.image_data_format()
    axis = 1 if rank > 3 or "Pool" in type(call.layer).__name__ else 0
    axis = axis if data_format == "channels_first" else rank - 1
    return only_first(call, total(score, (0, axis) if rank > 3 else (axis,)))


@operations(
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
def reduction_op(call):
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
    return only_first(call, score)


@operations("Moments")
def moments_op(call):
    tensor = call.inputs[0]
    rank = len(tensor.shape)
    axes = call.layer.axes
    axes = tuple(a % rank for a in (axes if isinstance(axes, (list, tuple)) else [axes]))
    score = sum(call.output_scores)
    return score if score.ndim == rank else np.expand_dims(score, axes)


@operations("Cumsum", "Cumprod", "Sort")
def along_op(call):
    score = call.output_scores[0]
    axis = call.layer.axis
    if axis is None:
        return np.full((1,) * len(call.inputs[0].shape), score.sum())
    return total(score, [i for i in range(score.ndim) if i != axis % score.ndim])


@operations("TopK")
def top_k_op(call):
    return total(call.output_scores[0], range(call.output_scores[0].ndim - 1))
