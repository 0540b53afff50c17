"""The k lowest of many scores, exactly, in linear time and almost no memory."""

import numpy as np

# So many candidates are collected and partitioned; more are first narrowed down by radix.
COLLECT = 1 << 22


def drop_lowest(items, count):
    """Mark the `count` lowest scores of several score arrays, ranked together.

    On a tie the earlier item, and in it the earlier position, counts as lower. The order of
    non-negative floats is the order of their bit patterns, so a few passes that count 16 bits
    each close in on the threshold: no sort, no copy of the scores.

    Args:
        items: Objects with `size` and `blocks()`, which yields `(start, stop, scores)`, pieces of
            float64 scores >= 0 in order, as often as it is called. `EdgeScores` is one.
        count: How many to mark.

    Returns:
        A list with a flat boolean array per item, `True` for the `count` lowest.

    Raises:
        ValueError: If a score is NaN or negative.
    """
    total = sum(item.size for item in items)
    if not 0 <= count <= total:
        raise ValueError(f"`count` must lie in [0, {total}]. Received: count={count}")
    if count in (0, total):
        return [np.full(item.size, count > 0) for item in items]
    threshold, ties = _threshold(items, count, total)
    marks = []
    for item in items:
        mark = np.empty(item.size, dtype=bool)
        for start, stop, bits in _bits(item):
            np.less(bits, threshold, out=mark[start:stop])
            if ties:
                equal = np.flatnonzero(bits == threshold)[:ties]
                mark[start + equal] = True
                ties -= len(equal)
        marks.append(mark)
    return marks


def _bits(item):
    for start, stop, block in item.blocks():
        block = np.asarray(block, dtype=np.float64).reshape(-1)
        if not (block >= 0).all():
            raise ValueError(
                "Scores must be >= 0, and not NaN: does the model hold weights that are NaN?"
            )
        yield start, stop, (block + 0.0).view(np.uint64)  # + 0.0 makes -0.0 the same as 0.0


def _threshold(items, count, total):
    """The bits of the count-th lowest score, and how many that are equal to it are marked."""
    prefix, candidates = np.uint64(0), total
    for shift in (48, 32, 16, 0):
        if candidates <= COLLECT:
            break
        above = np.uint64(min(shift + 16, 63))
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for item in items:
            for _, _, bits in _bits(item):
                if shift < 48:
                    bits = bits[(bits >> above) == prefix]
                digits = (bits >> np.uint64(shift)) & np.uint64(0xFFFF)
                histogram += np.bincount(digits.astype(np.intp), minlength=1 << 16)
        reached = np.cumsum(histogram)
        digit = int(np.searchsorted(reached, count))
        count -= int(reached[digit] - histogram[digit])
        candidates = int(histogram[digit])
        prefix = (prefix << np.uint64(16)) | np.uint64(digit)
    else:
        return prefix, count
    if candidates == total:
        kept = [bits for item in items for _, _, bits in _bits(item)]
    else:
        shift = np.uint64(shift + 16)
        kept = [bits[(bits >> shift) == prefix] for item in items for _, _, bits in _bits(item)]
    kept = np.concatenate(kept)
    kept.partition(count - 1)
    threshold = kept[count - 1]
    return threshold, count - int(np.count_nonzero(kept[: count - 1] < threshold))


def neighbours_to_drop(scores, axes, n, m):
    """Flat boolean array: in every m neighbors along the inputs, the m - n lowest."""
    rest = [axis for axis in range(scores.ndim) if axis not in axes]
    moved = scores.transpose([*rest, *axes])
    groups = moved.reshape(-1, m)
    drop = np.empty(groups.shape, dtype=bool)
    for begin in range(0, len(groups), COLLECT // m):
        block = groups[begin : begin + COLLECT // m]
        rank = np.zeros(block.shape, dtype=np.int32)
        for i in range(m):
            for j in range(m):
                if i != j:  # on a tie the earlier position is the lower one
                    below = block[:, j] <= block[:, i] if j < i else block[:, j] < block[:, i]
                    rank[:, i] += below
        drop[begin : begin + COLLECT // m] = rank < m - n
    back = np.argsort([*rest, *axes])
    return np.ascontiguousarray(drop.reshape(moved.shape).transpose(back)).reshape(-1)
