"""How many edges each kernel loses, so that the model loses its share exactly."""

from typing import Literal, get_args

import keras
import numpy as np

from keras_saliency.graph.reading import read
from keras_saliency.sparsity.ranking import drop_lowest

Scope = Literal["layer", "global", "lamp", "erk"]
SCOPES = get_args(Scope)
_BINS = 1 << 15  # of float32 without its sign, by the leading 16 bits
_INFINITE = 0x7F80  # the bin where infinity and NaN begin


def is_table(kernel):
    """Whether a kernel is looked up, not multiplied with."""
    return isinstance(kernel.layer, keras.layers.Embedding)


def is_depthwise(kernel):
    """Whether each output of a kernel has one input channel of its own."""
    return not kernel.input_axes


def per_layer(kernels, shares):
    """Counts by a share for each kernel; no kernel loses all of its edges."""
    return {k.key: min(round(shares[k.key] * k.size), k.size - 1) for k in kernels}


def total_count(kernels, share):
    """How many edges the kernels lose together."""
    size = sum(k.size for k in kernels)
    return min(round(share * size), size - len(kernels))


def lamp(kernels, share):
    """Counts by the threshold of layer-adaptive magnitude (Lee et al., 2021).

    A weight scores `w² / sum of w'² over the layer's w' with w'² >= w²`, and one threshold over the
    model decides how many of each kernel go. The largest weight of a kernel stays.

    Magnitudes are counted by their leading bits first, which bounds the scores of each bin. Those
    of the few bins that the threshold may lie in are then sorted: no sort of all, no copy.
    """
    count = total_count(kernels, share)
    if not count:
        return {k.key: 0 for k in kernels}
    layers = [_Magnitudes(kernel) for kernel in kernels]
    sizes, low, high = (
        np.concatenate([getattr(layer, name) for layer in layers])
        for name in ("sizes", "low", "high")
    )
    first, last = (_reaching(bounds, sizes, count) for bounds in (low, high))
    gone = np.array([layer.sizes[layer.high < first].sum() for layer in layers], int)
    drops = drop_lowest(
        [_Scores(layer.scores(first, last)) for layer in layers], count - gone.sum()
    )
    return {k.key: int(n + drop.sum()) for k, n, drop in zip(kernels, gone, drops, strict=True)}


def _reaching(bounds, sizes, count):
    """The lowest bound up to which there are `count`."""
    order = np.argsort(bounds, kind="stable")
    return bounds[order[np.searchsorted(np.cumsum(sizes[order]), count)]]


class _Magnitudes:
    """A kernel's magnitudes in bins of the same leading 16 bits, lowest first, empty ones left out.

    Attributes:
        sizes: How many may go of each bin: all but the kernel's largest.
        low: A bound from below of the scores in it.
        high: A bound from above.
    """

    def __init__(self, kernel):
        values = read(kernel.variable).astype("float32", copy=False)
        self.values = values.reshape(-1)
        counts, squares = np.zeros(_BINS, np.int64), np.zeros(_BINS)
        for block in self._blocks():
            digits = (block.view(np.uint32) >> 16).astype(np.intp)
            counts += np.bincount(digits, minlength=_BINS)
            squares += np.bincount(digits, np.square(block, dtype="float64"), minlength=_BINS)
        bins = np.flatnonzero(counts)
        if bins[-1] >= _INFINITE:
            raise ValueError(
                f"The kernel {kernel.key!r} holds NaN or infinite weights, so it cannot be ranked."
            )
        squares = squares[bins]
        self.above = np.append(np.cumsum(squares[::-1])[::-1], 0)
        self.sizes = counts[bins]
        self.sizes[-1] -= 1
        self.floors, self.ceilings = (
            ((bins + step).astype(np.uint32) << 16).view(np.float32).astype("float64")
            for step in (0, 1)
        )
        # Sums in another order differ by rounding.
        rest = np.maximum(self.above[:-1], np.finfo("float64").tiny)
        self.low = np.square(self.floors) / rest * (1 - 1e-9)
        self.high = np.square(self.ceilings)
        self.high = self.high / (self.above[1:] + self.high) * (1 + 1e-9)

    def _blocks(self, length=1 << 18):
        for start in range(0, self.values.size, length):
            yield np.abs(self.values[start : start + length])

    def scores(self, first, last):
        """Those of the bins that may hold a score from `first` to `last`, ascending."""
        bins = np.flatnonzero((self.high >= first) & (self.low <= last))
        if not len(bins):
            return np.zeros(0)
        floor, ceiling = self.floors[bins[0]], self.ceilings[bins[-1]]
        found = [block[(block >= floor) & (block < ceiling)] for block in self._blocks()]
        squares = np.square(np.sort(np.concatenate(found)).astype("float64"))
        rest = self.above[bins[-1] + 1] + np.cumsum(squares[::-1])[::-1]
        scores = np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0)
        return scores[: self.sizes[bins].sum()]  # without the kernel's largest


def erdos_renyi(kernels, share):
    """Counts by density in proportion to the sum of a kernel's extents over their product.

    Evci et al. (2020) call it Erdős–Rényi-Kernel: large kernels get sparser than small ones.
    """
    size = np.array([k.size for k in kernels], "float64")
    raw = np.array([sum(k.shape) / k.size for k in kernels])
    keep = size.sum() - total_count(kernels, share)
    dense = np.zeros(len(kernels), bool)
    while True:
        free = ~dense
        scale = (keep - size[dense].sum()) / max((raw * size)[free].sum(), 1e-300)
        over = free & (scale * raw > 1)
        if not over.any():
            break
        dense |= over
    kept = np.where(dense, size, scale * raw * size)
    counts = _exactly(np.maximum(kept, 1), size, round(keep))
    return {k.key: k.size - int(n) for k, n in zip(kernels, counts, strict=True)}


def _exactly(wanted, size, total):
    """Integers near `wanted`, from 1 to `size`, that sum to `total`."""
    counts = np.clip(np.floor(wanted), 1, size)
    order = np.argsort(counts - wanted, kind="stable")
    missing = int(total - counts.sum())
    while missing:
        step = 1 if missing > 0 else -1
        room = counts < size if step > 0 else counts > 1
        for i in order if step > 0 else order[::-1]:
            if missing and room[i]:
                counts[i] += step
                missing -= step
    return counts


class _Scores:
    def __init__(self, array):
        self.array = array
        self.size = array.size

    def blocks(self):
        yield 0, self.size, self.array
