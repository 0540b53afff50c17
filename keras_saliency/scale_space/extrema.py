"""Soft extrema: how far a value towers over its neighborhood, as a share in (0, 1]."""

from __future__ import annotations

import itertools

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.typing import DataFormat, Tensor

# A value that is greater than no other; a finite one, lest debugging tools that look for
# infinities report it.
_LOWEST = {
    "float16": -65504.0,
    "bfloat16": -3.3895313892515355e38,
    "float32": -3.4028234663852886e38,
    "float64": -1.7976931348623157e308,
}


def soft_extrema(
    x: Tensor, neighborhood: int = 3, mask: Tensor = None, data_format: DataFormat | None = None
) -> Tensor:
    """Return, for every value, the share of its neighborhood that it is not below.

    A local maximum scores 1, a local minimum 1 over the number of neighbors (itself included),
    a flat region 1. Every channel has its own neighborhoods. At a border the share is taken
    over the neighbors that exist (G 5.4.3.2, equation 5.10).

    Args:
        x: Tensor with 1 to 3 axes of space or time: `(batch, steps, channels)`,
            `(batch, height, width, channels)` or `(batch, depth, height, width, channels)`,
            of any floating dtype (integers become floats).
        neighborhood: Odd integer, the extent of the neighborhood along every axis.
        mask: Boolean tensor `(batch, steps)`, or with more of the axes of space; where it is
            `False` a value is no neighbor of any other. As Keras makes it.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras's setting.

    Returns:
        Tensor of the shape of `x`, in (0, 1]. It is a count: no gradient flows through it. A NaN
        is neither above nor below anything.

    Raises:
        ValueError: If the rank of `x` or an argument is not as above.

    Example:

    ```python
    import numpy as np
    from keras_saliency.scale_space import soft_extrema

    series = np.array([0.0, 3.0, 1.0, 2.0, 2.0]).reshape(1, 5, 1)
    soft_extrema(series)[0, :, 0]  # [0.5, 1.0, 0.33, 1.0, 1.0]
    ```

    Reference: Y. Garg, dissertation, 2020, section 5.4.3.2 (equations 5.9 and 5.10).
    """
    neighborhood = standardize_neighborhood(neighborhood)
    data_format = validation.data_format(data_format)
    if not ops.is_tensor(x):
        x = validation.array("x", x, empty=True)
    x = ops.convert_to_tensor(x)
    if not 3 <= len(x.shape) <= 5:
        raise ValueError(
            "`x` must have 3 to 5 axes: batch, 1 to 3 of space or time, and channels. "
            f"Received: x of shape {tuple(x.shape)}"
        )
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype not in _LOWEST:
        dtype = keras.config.floatx()
        x = ops.cast(x, dtype)
    # The lowest float stands for "no neighbor".
    x = ops.maximum(x, _LOWEST[dtype])
    valid = None
    if mask is not None:
        if not ops.is_tensor(mask):
            mask = validation.array("mask", mask, empty=True)
        _check_mask(mask, x, data_format)
        valid = expand_mask(ops.cast(mask, "bool"), len(x.shape), data_format)
    return extrema_share(x, neighborhood, spatial_axes(len(x.shape), data_format), valid)


def _check_mask(mask, x, data_format):
    space = x.shape[1:-1] if data_format == "channels_last" else x.shape[2:]
    expected, found = (x.shape[0], *space), tuple(mask.shape)
    known = [(a, b) for a, b in zip(found, expected, strict=False) if None not in (a, b)]
    if len(found) < 2 or len(found) > len(expected) or any(a not in (1, b) for a, b in known):
        raise ValueError(
            f"`mask` must have the shape {expected}, or that of its first axes. Received: "
            f"shape={found}"
        )


def standardize_neighborhood(neighborhood):
    """Return `neighborhood` if it is an odd positive integer, or say so."""
    neighborhood = validation.integer("neighborhood", neighborhood)
    if neighborhood % 2 == 0:
        raise ValueError(
            "`neighborhood` must be odd and positive, so that a center exists. "
            f"Received: neighborhood={neighborhood}"
        )
    return neighborhood


def spatial_axes(ndim, data_format):
    """Return the axes of space or time of a tensor of `ndim` axes."""
    return range(1, ndim - 1) if data_format == "channels_last" else range(2, ndim)


def expand_mask(mask, ndim, data_format):
    """Insert axes of length 1 into a mask `(batch, steps, ...)`: it broadcasts to `ndim` axes."""
    if not 2 <= len(mask.shape) < ndim:
        raise ValueError(
            f"`mask` must have 2 to {ndim - 1} axes for a tensor of {ndim} axes: the batch and "
            f"axes of space or time. Received: mask of shape {tuple(mask.shape)}"
        )
    while len(mask.shape) < ndim - 1:
        mask = ops.expand_dims(mask, -1)
    return ops.expand_dims(mask, -1 if data_format == "channels_last" else 1)


def extrema_share(x, neighborhood, axes, valid=None):
    """`soft_extrema` of checked arguments; `valid` broadcasts to `x`, `axes` are those of space."""
    if neighborhood == 1:
        return ops.ones_like(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    # A constant of the gradient, so that nothing of the count is kept for the backward pass.
    x = ops.stop_gradient(x)
    if valid is None:
        exists = ops.ones_like(x[:1, ..., :1] if axes[0] == 1 else x[:1, :1])
    else:
        exists = ops.cast(valid, dtype)
        x = ops.where(valid, x, ops.cast(_LOWEST[dtype], dtype))
    # The center is a neighbor of itself, also where it is masked.
    neighbors = 1 + sum(_shifted(exists, neighborhood, axes, 0.0))
    greater = _count_greater(x, neighborhood, axes)
    return ops.stop_gradient((neighbors - ops.cast(greater, dtype)) / neighbors)


def _count_greater(x, neighborhood, axes):
    """Return how many neighbors of each value are greater, as integers.

    Two formulations, since no one is good everywhere (`benchmarks/san_extrema.py`): XLA fuses
    the comparisons into one pass, and TensorFlow's graphs copy nothing for them; in eager
    PyTorch what costs is fresh memory, which adding in place saves.
    """
    dtype = "uint8" if neighborhood ** len(axes) <= 256 else "int32"
    if keras.backend.backend() == "torch":
        return _count_greater_in_place(x, neighborhood, axes, dtype)
    return _count_greater_in_lines(x, neighborhood, axes, dtype)


def _count_greater_in_lines(x, neighborhood, axes, dtype):
    """Compare lines of values with lines some places on, of the map laid out with its border."""
    reach = neighborhood // 2
    shape = list(ops.shape(x))
    for axis in axes:
        shape[axis] += 2 * reach
    lowest = _LOWEST[keras.backend.standardize_dtype(x.dtype)]
    padded = ops.pad(x, _widths(x, reach, axes), constant_values=lowest)
    # All axes but the last become one: to look at a neighbor along them is to look that many
    # lines on, a view of the same memory. Only the last axis, if it is one of space, is cut.
    step, strides = 1, {}
    for axis in reversed(range(len(shape) - 1)):
        strides[axis] = step
        step *= shape[axis]
    lines = ops.reshape(padded, (step, shape[-1]))
    cut = axes[-1] == len(shape) - 1
    edge = reach * sum(strides[axis] for axis in axes if axis in strides)
    size = step - 2 * edge
    if isinstance(size, int):
        size = max(size, 0)  # an empty batch

    def look(offset):
        start = edge + sum(strides.get(a, 0) * o for a, o in zip(axes, offset, strict=True))
        view = lines[start : start + size]
        first = reach + offset[-1]
        return view[:, first : first + ops.shape(x)[-1]] if cut else view

    here = (0,) * len(axes)
    centre = look(here)
    offsets = itertools.product(range(-reach, reach + 1), repeat=len(axes))
    count = sum(ops.cast(look(o) > centre, dtype) for o in offsets if o != here)
    count = ops.pad(count, [(0, 2 * edge), (0, 0)])[:step]
    count = ops.reshape(count, [*shape[:-1], ops.shape(x)[-1]])
    return count[tuple(slice(0, n) for n in ops.shape(x))]


def _count_greater_in_place(x, neighborhood, axes, dtype):
    import torch

    count = torch.zeros_like(x, dtype=getattr(torch, dtype))
    reach = neighborhood // 2
    for offset in itertools.product(range(-reach, reach + 1), repeat=len(axes)):
        # Each pair of neighbors is looked at once, for both of them.
        if offset <= (0,) * len(axes):
            continue
        low, high = [slice(None)] * x.ndim, [slice(None)] * x.ndim
        for axis, step in zip(axes, offset, strict=True):
            end = max(x.shape[axis] - abs(step), 0)
            low[axis], high[axis] = slice(0, end), slice(abs(step), None)
            if step < 0:
                low[axis], high[axis] = high[axis], low[axis]
        low, high = tuple(low), tuple(high)
        count[low] += x[high] > x[low]
        count[high] += x[low] > x[high]
    return count


def _shifted(x, neighborhood, axes, outside):
    """Yield `x` seen from each neighbor; beyond the border lies the value `outside`."""
    reach = neighborhood // 2
    padded = ops.pad(x, _widths(x, reach, axes), constant_values=outside)
    for offset in itertools.product(range(neighborhood), repeat=len(axes)):
        if set(offset) == {reach}:
            continue
        view = [slice(None)] * len(x.shape)
        for axis, start in zip(axes, offset, strict=True):
            view[axis] = slice(start, (start - neighborhood + 1) or None)
        yield padded[tuple(view)]


def _widths(x, reach, axes):
    return [(reach, reach) if axis in axes else (0, 0) for axis in range(len(x.shape))]
