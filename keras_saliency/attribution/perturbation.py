"""Methods that change the input and watch the score; they need no gradient."""

import itertools

import numpy as np

from keras_saliency import validation
from keras_saliency.attribution.registry import register_method
from keras_saliency.attribution.resizing import resize


def _per_axis(name, value, space, default):
    if value is None:
        return tuple(default)
    if not isinstance(value, (list, tuple)):
        value = (value,) * len(space)
    if len(value) != len(space):
        raise ValueError(f"`{name}` must be an int or {len(space)} of them. Received: {value}")
    value = tuple(validation.integer(name, n) for n in value)
    return tuple(min(n, extent) for n, extent in zip(value, space, strict=True))


def _filled(batch, fill, position):
    """The value that stands for 'nothing', for one input row."""
    i = batch.passes.moving[position]
    if batch.passes.embeddings[i]:
        whole = isinstance(fill, float) and fill.is_integer()  # as the default is
        fill = validation.integer("fill", int(fill) if whole else fill, minimum=0)
        return batch.embedded(i, np.full((1, 1), fill), "fill")[0, 0]
    return np.float32(validation.number("fill", fill))


@register_method("occlusion")
def occlusion(batch, window=None, stride=None, fill=0.0, segments=None):
    """The fall of the score under a sliding window (Zeiler and Fergus, 2014).

    Of several inputs one at a time is covered.
    """
    if segments is not None and len(batch.values) > 1:
        raise ValueError(
            "`segments` needs a model with one input that has values. Leave it out, or fix the "
            "others in a model of your own."
        )
    return [
        _occluded(batch, position, window, stride, fill, segments)
        for position in range(len(batch.values))
    ]


def _occluded(batch, position, window, stride, fill, segments):
    x, space = batch.values[position], batch.space(position)
    fill = _filled(batch, fill, position)
    if segments is not None:
        regions = _labelled(segments, space, x.shape[1:])
    else:
        regions = _windows(space, window, stride)

    def make(j):
        if j == 0:
            return batch.values
        region = regions[j - 1][None]
        if region.shape[1:] == tuple(space):
            region = batch.over_channels(region, position)
        return batch.with_values(position, np.where(region, fill, x))

    scores = batch.scores(1 + len(regions), make).astype("float64")
    falls = scores[0] - scores[1:]
    extent = regions[0].shape
    regions = np.stack(regions).reshape(len(regions), -1)
    maps = falls.T @ regions / np.maximum(regions.sum(axis=0), 1)
    maps = maps.reshape(len(x), *extent)
    if extent != tuple(space):
        maps = maps.mean(axis=batch.passes.channels_of(batch.passes.moving[position]))
    return maps


def _windows(space, window, stride):
    window = _per_axis("window", window, space, [max(1, n // 8) for n in space])
    stride = _per_axis("stride", stride, space, [max(1, n // 2) for n in window])
    starts = []
    for extent, size, step in zip(space, window, stride, strict=True):
        places = list(range(0, extent - size + 1, step))
        if places[-1] != extent - size:
            places.append(extent - size)
        starts.append(places)
    regions = []
    for corner in itertools.product(*starts):
        region = np.zeros(space, bool)
        region[tuple(slice(a, a + n) for a, n in zip(corner, window, strict=True))] = True
        regions.append(region)
    return regions


def _labelled(segments, space, whole):
    segments = validation.array("segments", segments)
    if segments.dtype.kind not in "iu" or segments.shape not in (tuple(space), tuple(whole)):
        raise ValueError(
            f"`segments` must be integer labels of shape {tuple(space)}, that of an input, or "
            f"with its channels, {tuple(whole)}. Received: {segments.dtype} of shape "
            f"{segments.shape}"
        )
    return [segments == label for label in np.unique(segments)]


@register_method("rise")
def rise(batch, samples=1000, cells=8, keep=0.5, seed=0):
    """Random masks, each weighted by the score of what it leaves (Petsiuk et al., 2018).

    Weighted by how far that score lies above the mean score, so that logits, which may all be
    negative, do as well as probabilities. Of several inputs one at a time is masked.
    """
    samples = validation.integer("samples", samples)
    cells = validation.integer("cells", cells)
    keep = validation.number("keep", keep, minimum=0, maximum=1, above=True)
    return [
        _masked_at_random(batch, position, samples, cells, keep, seed)
        for position in range(len(batch.values))
    ]


def _masked_at_random(batch, position, samples, cells, keep, seed):
    x, space = batch.values[position], batch.space(position)
    generator = np.random.default_rng(seed)
    cell = [-(-n // cells) for n in space]
    masks = []

    def make(_):
        coarse = (generator.uniform(size=(1, *[cells + 1] * len(space))) < keep).astype("float32")
        wide = resize(coarse, [(cells + 1) * n for n in cell])[0]
        shift = [generator.integers(n) for n in cell]
        mask = wide[tuple(slice(a, a + n) for a, n in zip(shift, space, strict=True))]
        masks.append(mask)
        return batch.with_values(position, x * batch.over_channels(mask[None], position))

    # In sums, so that memory does not grow with the number of masks.
    scored, seen, total, first = 0.0, 0.0, 0.0, None
    for scores in batch.scores_by_parts(samples, make):
        scores = scores.astype("float64")
        first = scores[:1] if first is None else first
        scores = scores - first  # a constant goes, and with it the rounding of large ones
        flat = np.stack(masks[: len(scores)]).reshape(len(scores), -1).astype("float64")
        masks.clear()
        scored, seen, total = scored + scores.T @ flat, seen + flat.sum(0), total + scores.sum(0)
    maps = (scored - np.outer(total / samples, seen)) / (samples * keep)
    return maps.reshape(len(x), *space)
