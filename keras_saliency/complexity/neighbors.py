"""Nearest neighbors by brute force: exact, in blocks, at the speed of a matrix product."""

import numpy as np

_BLOCK = 2**24  # approximate distances held at a time, 64 MiB of them
_EXACT = 2**21  # numbers whose differences are taken at a time


def nearest(x, others=None, count=1):
    """The `count` nearest of `others` to each row of `x`, or of the other rows of `x`.

    A float32 product of the centered rows tells which may be nearest, with a bound on its rounding;
    the exact differences, in float64, decide among these. On a tie the lower index is nearer.

    Args:
        x: Array (n, d) of finite numbers.
        others: Array (m, d). By default `x`, and no row is its own neighbor.
        count: How many, at most m, or n − 1.

    Returns:
        `(indices, distances)`, arrays of shape (n, count).
    """
    alone, others = others is None, x if others is None else others
    center = others.mean(0, dtype="float64")
    scale = max(_extent(x, center), _extent(others, center))
    indices = np.empty((len(x), count), "int64")
    distances = np.empty((len(x), count))
    # [−2 q, 1] · [o, |o|²] is the squared distance but for |q|², which is the same along a row.
    table = np.empty((x.shape[1] + 1, len(others)), "float32")
    largest = 0.0
    for start in range(0, len(others), 1024):
        part = _scaled(others[start : start + 1024], center, scale)
        norms = np.einsum("ij,ij->i", part, part)
        table[:-1, start : start + 1024] = part.T
        table[-1, start : start + 1024] = norms
        largest = max(largest, float(norms.max()))
    rows = max(1, min(len(x), _BLOCK // len(others)))
    block = np.empty((rows, len(others)), "float32")
    # Every sum has d + 1 products; rounding the factors adds a few units more.
    unit = (x.shape[1] + 8) * float(np.finfo("float32").eps)
    for start in range(0, len(x), rows):
        part = _scaled(x[start : start + rows], center, scale)
        query = np.column_stack([-2 * part, np.ones(len(part))]).astype("float32")
        near = np.matmul(query, table, out=block[: len(part)])
        if alone:
            own = np.arange(len(part))
            near[own, start + own] = np.inf
        last = near.min(1) if count == 1 else np.partition(near, count - 1, 1)[:, count - 1]
        lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
        bound = unit * (largest + 2 * lengths * np.sqrt(largest)) + 1e-37
        limit = np.nextafter((last + 2 * bound).astype("float32"), np.float32(np.inf))
        row, column = np.divmod(np.flatnonzero(near <= limit[:, None]), len(others))
        squares = _squares(x, others, row + start, column)
        order = np.lexsort((column, squares, row))
        first = np.searchsorted(row[order], np.arange(len(part)))
        chosen = order[first[:, None] + np.arange(count)]
        indices[start : start + rows] = column[chosen]
        distances[start : start + rows] = np.sqrt(squares[chosen])
    return indices, distances


def distances_to(row, others):
    """Exact Euclidean distances of one row to each of `others`."""
    result = np.empty(len(others))
    step = max(1, _EXACT // max(1, others.shape[1]))
    for start in range(0, len(others), step):
        difference = others[start : start + step] - row.astype("float64")
        result[start : start + step] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return result


def _extent(x, center):
    return max(float((x.max(0) - center).max()), float((center - x.min(0)).max()))


def _scaled(x, center, scale):
    return (x - center) / (scale or 1.0)


def _squares(x, others, rows, columns):
    """Exact squared distances of pairs."""
    squares = np.empty(len(rows))
    step = max(1, _EXACT // max(1, x.shape[1]))
    for start in range(0, len(rows), step):
        pair = slice(start, start + step)
        difference = x[rows[pair]].astype("float64") - others[columns[pair]]
        squares[pair] = np.einsum("ij,ij->i", difference, difference)
    return squares
