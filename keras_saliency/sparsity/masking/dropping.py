"""Which positions go: limits on what may be dropped, and what must be."""

import numpy as np

from keras_saliency.sparsity.masking.channels import others
from keras_saliency.sparsity.ranking import drop_lowest, neighbours_to_drop


class Limited:
    """Scores of which only the positions in `allowed` may be dropped."""

    def __init__(self, scores, allowed=None):
        self.size = scores.size
        self._scores = scores
        self._allowed = allowed

    def blocks(self):
        for start, stop, block in self._scores.blocks():
            if self._allowed is not None:
                # Even an infinite score that is allowed stays below the ones that are not.
                block = np.minimum(block, np.finfo(np.float64).max)
                block = np.where(self._allowed[start:stop], block, np.inf)
            yield start, stop, block


def drop_with(items, forced, count):
    """`drop_lowest`, where what is `forced` goes in any case and counts."""
    if all(mark is None for mark in forced):
        return drop_lowest(items, count)
    forced = [
        np.zeros(item.size, bool) if mark is None else mark
        for item, mark in zip(items, forced, strict=True)
    ]
    count = max(count - sum(int(mark.sum()) for mark in forced), 0)
    free = [Limited(item, ~mark) for item, mark in zip(items, forced, strict=True)]
    drops = drop_lowest(free, count)
    return [drop | mark for drop, mark in zip(drops, forced, strict=True)]


def drop_all_but_one(items, forced, count):
    """`drop_with`, where the best of every item stays."""
    best = [np.arange(item.size) != int(np.argmax(item.array())) for item in items]
    count = min(count, sum(item.size - 1 for item in items))
    return drop_with([Limited(i, b) for i, b in zip(items, best, strict=True)], forced, count)


def drop_edges(kernel, scores, count, forced, options):
    """Flat boolean array of the edges of one kernel that go."""
    allowed = None
    if isinstance(options.granularity, tuple):
        allowed = neighbours_to_drop(scores.array(), kernel.input_axes, *options.granularity)
        count = min(count, int(np.count_nonzero(allowed)))
    elif options.criterion.within_outputs and forced is None:
        return _within_outputs(kernel, scores, count)
    elif options.min_edges:
        allowed = _spared(kernel, scores, count, options.min_edges, forced)
    if forced is not None:
        allowed = ~forced if allowed is None else allowed & ~forced
        count = min(max(count - int(np.count_nonzero(forced)), 0), int(allowed.sum()))
    items = [scores if allowed is None else Limited(scores, allowed)]
    (drop,) = drop_lowest(items, count)
    return drop if forced is None else drop | forced


def drop_globally(pairs, count, forced, granularity):
    """Flat boolean arrays of the edges that go, ranked over all kernels together."""
    allowed = [
        neighbours_to_drop(scores.array(), kernel.input_axes, *granularity)
        if isinstance(granularity, tuple)
        else None
        for kernel, scores, _ in pairs
    ]
    items = [Limited(scores, allow) for (_, scores, _), allow in zip(pairs, allowed, strict=True)]
    if isinstance(granularity, tuple):
        count = min(count, sum(int(allow.sum()) for allow in allowed))
    fixed = [forced.get(kernel.key) for kernel, _, _ in pairs]
    drops = drop_with(items, fixed, count)
    for i, (_, scores, _) in enumerate(pairs):
        if drops[i].all():  # no kernel loses everything: its best edge stays
            best = np.ones(scores.size, bool)
            best[np.argmax(scores.array())] = False
            items[i] = Limited(scores, best if allowed[i] is None else best & allowed[i])
    if any(drop.all() for drop in drops):
        drops = drop_with(items, fixed, count)
    return drops


def _columns(kernel, array):
    """(edges, outputs) and a function that turns such an array back, flat."""
    order = [*others(kernel), *kernel.output_axes]
    outputs = int(np.prod([kernel.shape[axis] for axis in kernel.output_axes]))
    shape = [kernel.shape[axis] for axis in order]

    def back(columns):
        return columns.reshape(shape).transpose(np.argsort(order)).reshape(-1)

    return array.transpose(order).reshape(-1, outputs), back


def _within_outputs(kernel, scores, count):
    """The same number of every output's edges, its lowest."""
    columns, back = _columns(kernel, scores.array())
    edges = len(columns)
    each = min(round(count / kernel.size * edges), edges - 1)
    drop = np.zeros(columns.shape, bool)
    lowest = np.argsort(columns, axis=0, kind="stable")[:each]
    np.put_along_axis(drop, lowest, True, axis=0)
    return np.ascontiguousarray(back(drop))


def _spared(kernel, scores, count, min_edges, forced=None):
    """Flat boolean array: all edges but the `min_edges` best of each output, where the share
    leaves so many."""
    outputs = int(np.prod([kernel.shape[axis] for axis in kernel.output_axes]))
    least = min(min_edges, (kernel.size - count) // max(outputs, 1))
    if not least:
        return None
    array = scores.array()
    if forced is not None:  # what goes in any case takes nobody's place
        array = np.where(forced.reshape(kernel.shape), -np.inf, array)
    columns, back = _columns(kernel, array)
    best = np.argsort(-columns, axis=0, kind="stable")[:least]
    allowed = np.ones(columns.shape, bool)
    np.put_along_axis(allowed, best, False, axis=0)
    return back(allowed)
