"""How many edges each kernel loses, so that the model loses its share exactly."""

import keras
import numpy as np
from keras import ops

from keras_saliency.sparsity.ranking import drop_lowest

SCOPES = ("layer", "global", "lamp", "erk")


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
    model decides how many of each kernel go.
    """
    items = []
    for kernel in kernels:
        values = np.abs(ops.convert_to_numpy(kernel.variable).astype("float32", copy=False))
        squares = np.square(np.sort(values, axis=None).astype("float64"))
        rest = np.cumsum(squares[::-1])[::-1]
        items.append(_Scores(np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0)))
        items[-1].array[-1] = np.inf  # the largest stays
    drops = drop_lowest(items, total_count(kernels, share))
    return {k.key: int(drop.sum()) for k, drop in zip(kernels, drops, strict=True)}


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
