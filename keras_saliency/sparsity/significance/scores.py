"""Arithmetic of significance: scores that cannot overflow, and edges that need no memory."""

import numpy as np

BLOCK = 1 << 18  # Edges that are computed at once: 2 MiB of float64, which stays in the cache.


class Score:
    """Significance of a tensor: `array * 2**exponent`.

    The array has the tensor's rank. An axis has the tensor's extent, or extent 1 where the score
    is the total over that axis (a channel's score is the total over its positions).
    """

    __slots__ = ("array", "exponent")

    def __init__(self, array, exponent=0):
        array = np.asarray(array, dtype=np.float64)
        largest = array.max(initial=0.0)
        if largest > 0:
            shift = int(np.frexp(largest)[1])
            array = np.ldexp(array, -shift)
            exponent += shift
        self.array = array
        self.exponent = exponent

    def scaled_to(self, exponent):
        return np.ldexp(self.array, self.exponent - exponent)

    @property
    def is_zero(self):
        return not self.array.any()


def add(first, second, shape):
    """Sum of two scores of one tensor; totals are spread evenly where the other one is resolved."""
    if first is None or first.is_zero:
        return second
    if second is None or second.is_zero:
        return first
    exponent = max(first.exponent, second.exponent)
    a, b = first.scaled_to(exponent), second.scaled_to(exponent)
    target = [max(m, n) for m, n in zip(a.shape, b.shape, strict=True)]
    return Score(spread(a, target) + spread(b, target), exponent)


def add_factors(first, second):
    """Sum of two edge factors of one kernel, which broadcast against it."""
    if first is None or first.is_zero:
        return second
    if second is None or second.is_zero:
        return first
    exponent = max(first.exponent, second.exponent)
    return Score(first.scaled_to(exponent) + second.scaled_to(exponent), exponent)


def spread(array, shape):
    """Resolve axes: a total over an axis becomes equal shares of the axis's entries."""
    factor = 1.0
    for extent, wanted in zip(array.shape, shape, strict=True):
        if extent == 1 and wanted not in (None, 1):
            factor /= wanted
    shape = [w if w is not None else n for n, w in zip(array.shape, shape, strict=True)]
    return np.broadcast_to(array * factor, shape)


def total(array, keep):
    """Sum over every axis that is not in `keep`; the summed axes stay with extent 1."""
    rank = array.ndim
    keep = {axis % rank for axis in keep}
    return array.sum(axis=tuple(axis for axis in range(rank) if axis not in keep), keepdims=True)


def axis_scores(array, axis, extent):
    """Vector over one axis: summed over the others, spread evenly if only its total is known."""
    vector = total(array, (axis,)).reshape(-1)
    if vector.size == 1 and extent not in (None, 1):
        vector = np.full(extent, vector[0] / extent)
    return vector


def reshape(array, given, wanted):
    """Scores of a tensor of shape `given` as scores of the same entries in the shape `wanted`.

    The axes fall into groups with the same number of entries on both sides, and a group of which
    only the total is known stays so. An extent of `None` is known by its place.
    """
    groups = _groups(given, wanted)
    if groups is None:
        return np.full((1,) * len(wanted), array.sum())
    out = []
    for old, new in groups:
        known = any(array.shape[axis] > 1 for axis in old)
        sizes = [given[axis] for axis in old] + [wanted[axis] for axis in new]
        if known and None in sizes:
            array = total(array, [axis for axis in range(array.ndim) if axis not in old])
            known = False
        out.append((old, new, known))
    target = [1] * array.ndim
    for old, _, known in out:
        for axis in old:
            if known:
                target[axis] = given[axis]
    array = spread(array, [w if w > 1 else n for w, n in zip(target, array.shape, strict=True)])
    shape = [1] * len(wanted)
    for _, new, known in out:
        for axis in new:
            if known:
                shape[axis] = wanted[axis]
    return np.reshape(array, shape)


def _groups(given, wanted):
    """Pairs of axes lists with equal numbers of entries, or `None` where that is unclear."""
    groups = []
    i, j = 0, 0
    while i < len(given) or j < len(wanted):
        if i < len(given) and j < len(wanted) and given[i] is None and wanted[j] is None:
            groups.append(([i], [j]))
            i, j = i + 1, j + 1
            continue
        old, new = [], []
        m = n = 1
        while not (old or new) or m != n:
            if (m <= n or j >= len(wanted)) and i < len(given):
                extent = given[i]
                old.append(i)
                i += 1
                if extent is None:
                    return _rest(groups, old, new, i, j, len(given), len(wanted))
                m *= extent
            elif j < len(wanted):
                extent = wanted[j]
                new.append(j)
                j += 1
                if extent is None:
                    return _rest(groups, old, new, i, j, len(given), len(wanted))
                n *= extent
            else:
                return None
        groups.append((old, new))
    return groups


def _rest(groups, old, new, i, j, m, n):
    """All axes from here on as one group, whose extents are not known."""
    return [*groups, (old + list(range(i, m)), new + list(range(j, n)))]


def on_axis(vector, axis, rank):
    """A vector over one axis as an array of the given rank."""
    shape = [1] * rank
    shape[axis] = vector.size
    return np.reshape(vector, shape)


class EdgeScores:
    """Significance of the edges of one kernel, `|kernel| * factor` (equation 4.6), lazily.

    Attributes:
        shape, size: Of the kernel.
        factor: Significance of the neuron that each edge leads to; broadcasts to `shape`.
        exponent: The scores that equation 4.11 gives are these times `2**exponent`; within one
            kernel it makes no difference, between kernels it is many orders of magnitude.
    """

    def __init__(self, values, factor, exponent=0, mask=None):
        self.values = values
        self.mask = mask
        self.factor = np.asarray(factor, dtype=np.float64)
        self.exponent = exponent
        self.shape = tuple(values.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def blocks(self, length=BLOCK):
        """Yield `(start, stop, scores)`: float64 pieces of the C-ordered flattened scores."""
        factor = self.factor.reshape(
            (1,) * (len(self.shape) - self.factor.ndim) + self.factor.shape
        )
        for start, stop, block, part in magnitude_blocks(self.values, self.mask, factor, length):
            block *= part
            yield start, stop, block.reshape(-1)

    def powered(self, power):
        """The scores with the neurons' significance raised to a power."""
        factor = np.power(self.factor, power)
        mean = factor.mean()
        return EdgeScores(
            self.values, factor / mean if mean > 0 else factor, self.exponent * power, self.mask
        )

    def array(self, dtype=np.float64):
        """All scores, an array of the kernel's shape."""
        out = np.empty(self.size, dtype=dtype)
        for start, stop, block in self.blocks():
            out[start:stop] = block
        return out.reshape(self.shape)


def magnitude_blocks(values, mask, factor, length=BLOCK):
    """Yield `(start, stop, |values * mask|, factor)` in pieces of about `length` in C order.

    The pieces are fresh float64 arrays; the factors broadcast against them.
    """
    shape = values.shape
    if not values.size:
        return
    # Leading axes along which the factor is constant may be cut anywhere between them.
    leading = 0
    while leading < len(shape) - 1 and factor.shape[leading] == 1:
        leading += 1
    leading = max(leading, 1 if factor.ndim and factor.shape[0] == 1 else 0)
    rows = int(np.prod(shape[:leading], dtype=np.int64))
    if leading:
        values = np.reshape(values, (rows, *shape[leading:]))
        mask = None if mask is None else np.reshape(mask, (rows, *shape[leading:]))
        factor = factor.reshape((1, *factor.shape[leading:]))
    elif not shape:
        values, factor = np.reshape(values, (1,)), np.reshape(factor, (1,))
        mask = None if mask is None else np.reshape(mask, (1,))
        rows = 1
    else:
        rows = shape[0]
    row = values.size // rows
    step = max(1, length // max(row, 1))
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        block = np.array(values[begin:end], dtype=np.float64)
        if mask is not None:
            block *= mask[begin:end]
        np.abs(block, out=block)
        part = factor if factor.shape[0] == 1 else factor[begin:end]
        yield begin * row, end * row, block, part


def contract(values, mask, factor, keep):
    """Sum `|values * mask| * factor` over all axes but `keep`: equation 4.8 for any kernel.

    Args:
        values: The kernel.
        mask: `None`, or an array of its shape.
        factor: Array of the kernel's rank that broadcasts against it.
        keep: The axes that stay, in increasing order.

    Returns:
        A float64 array over the kept axes.
    """
    shape = values.shape
    rank = len(shape)
    keep = tuple(axis % rank for axis in keep)
    # The common case is a matrix times a vector, in pieces. The vector's axes are the last ones.
    width = rank - 1
    while width and factor.shape[width - 1] != 1:
        width -= 1
    last = all(extent == 1 for extent in factor.shape[:width])
    if last and not any(axis >= width for axis in keep):
        rows, vector_shape = shape[:width], shape[width:]
        vector = np.broadcast_to(factor.reshape(factor.shape[width:]), vector_shape).reshape(-1)
        matrix = np.reshape(values, (-1, vector.size))
        mask = None if mask is None else np.reshape(mask, (-1, vector.size))
        sums = np.empty(matrix.shape[0])
        step = max(1, BLOCK // max(vector.size, 1))
        for begin in range(0, matrix.shape[0], step):
            block = np.array(matrix[begin : begin + step], dtype=np.float64)
            if mask is not None:
                block *= mask[begin : begin + step]
            np.abs(block, out=block)
            sums[begin : begin + step] = block @ vector
        sums = sums.reshape(rows)
        return sums.sum(axis=tuple(axis for axis in range(width) if axis not in keep))
    magnitude = np.abs(np.array(values, dtype=np.float64))
    if mask is not None:
        magnitude *= mask
    others = tuple(axis for axis in range(rank) if axis not in keep)
    return (magnitude * factor).sum(axis=others)
