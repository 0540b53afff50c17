"""Two feature maps of different extents, made to fit."""

from keras import ops


def alignment(extent, previous):
    """Return (crop on each side, pooling factor) that takes `previous` to `extent`, or None."""
    if extent is None or previous is None or extent == previous:
        return 0, 1
    if extent and previous % extent == 0 and previous:
        return 0, previous // extent
    excess = previous - extent
    if 0 < excess < extent and excess % 2 == 0:
        return excess // 2, 1
    return None


def align(x, y, axes, valid):
    """Crop or average `x` to the extents of `y` along `axes`.

    Where `valid` is given, averages are taken over the steps that it marks.
    """
    extents = ops.shape(y)
    if valid is None or all(x.shape[axis] == y.shape[axis] for axis in axes):
        for axis in axes:
            x = _fit(x, extents[axis], axis)
        return x
    total, count = ops.where(valid, x, ops.zeros_like(x)), ops.cast(valid, x.dtype)
    for axis in axes:
        total = _fit(total, extents[axis], axis)
        if count.shape[axis] != 1:
            count = _fit(count, extents[axis], axis)
    # Both are averages; without a valid step the total is 0 as well.
    return total / ops.where(count > 0, count, ops.ones_like(count))


def _fit(x, extent, axis):
    """Crop or average `x` to `extent` along one axis (see `alignment`)."""
    available = ops.shape(x)[axis]
    if isinstance(extent, int) and isinstance(available, int):
        crop, factor = alignment(extent, available)
        if (crop, factor) == (0, 1):
            return x
    else:
        # Only TensorFlow has extents that are known so late. One that does not fit makes the
        # reshape fail.
        factor = available // ops.maximum(extent, 1)
        excess = available - factor * extent
        crop = ops.where(ops.equal(factor, 1), excess // 2, 0)
    view = [slice(None)] * len(x.shape)
    view[axis] = slice(crop, available - crop)
    shape = list(ops.shape(x))
    shape[axis : axis + 1] = [extent, factor]
    return ops.mean(ops.reshape(x[tuple(view)], shape), axis=axis + 1)
