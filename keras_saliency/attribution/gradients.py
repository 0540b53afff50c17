"""Methods that differentiate the score by the inputs, along paths and under noise."""

import warnings

import numpy as np

from keras_saliency import validation
from keras_saliency.attribution.registry import register_method


def _frozen(batch, values):
    """Masked steps stay as they are."""
    return [
        x if mask is None else np.where(mask[..., None], x, y)
        for x, y, mask in zip(values, batch.values, batch.masks, strict=True)
    ]


@register_method("gradient", reduce="max_abs")
def gradient(batch):
    """The derivative of the score (Simonyan et al., 2014)."""
    return batch.gradients()


@register_method("gradient_x_input", reduce="sum_abs")
def gradient_x_input(batch):
    """The derivative times the input."""
    return [g * x for g, x in zip(batch.gradients(), batch.values, strict=True)]


def _noisy(batch, noise, seed):
    """A function that returns the noisy copy of a number; an input's, whatever its batch is.

    What is padded takes no part: neither in the range of an input nor in the numbers drawn.
    """
    noise = validation.number("noise", noise, minimum=0)

    def spread(x, mask):
        x = x if mask is None else x[mask]
        return np.ptp(x) * noise if x.size else 0.0

    masks = [m if m is not None else [None] * len(batch) for m in batch.masks]
    spreads = [
        [spread(row, mask) for row, mask in zip(x, rows, strict=True)]
        for x, rows in zip(batch.values, masks, strict=True)
    ]

    def make(number):
        generators = [np.random.default_rng([seed, int(i), number]) for i in batch.chosen]
        values = [
            x + np.stack([g.normal(0, s, x.shape[1:]) for g, s in zip(generators, sd, strict=True)])
            for x, sd in zip(batch.values, spreads, strict=True)
        ]
        return _frozen(batch, values)

    return make


@register_method("smooth_grad", reduce="max_abs")
def smooth_grad(batch, samples=50, noise=0.15, statistic="mean", seed=0):
    """The mean of the derivative over noisy copies (Smilkov et al., 2017)."""
    samples = validation.integer("samples", samples)
    validation.choice("statistic", statistic, ("mean", "square", "variance"))
    first = [np.zeros(x.shape) for x in batch.values]
    second = [np.zeros(x.shape) for x in batch.values]
    for _, gradients in batch.copies(samples, _noisy(batch, noise, seed)):
        for total, squares, g in zip(first, second, gradients, strict=True):
            total += g
            squares += g.astype("float64") ** 2
    if statistic == "mean":
        return [x / samples for x in first]
    if statistic == "square":
        return [x / samples for x in second]
    return [
        np.maximum(s / samples - (m / samples) ** 2, 0) for m, s in zip(first, second, strict=True)
    ]


@register_method("smooth_taylor", reduce="sum_abs")
def smooth_taylor(batch, samples=50, noise=0.15, seed=0):
    """First-order Taylor expansions at noisy roots (Goh et al., 2020, SmoothTaylor)."""
    samples = validation.integer("samples", samples)
    totals = [np.zeros(x.shape) for x in batch.values]
    for roots, gradients in batch.copies(samples, _noisy(batch, noise, seed)):
        for total, x, z, g in zip(totals, batch.values, roots, gradients, strict=True):
            total += (x - z) * g
    return [x / samples for x in totals]


def _baselines(batch, baseline):
    """A baseline for every moving value, as an array that broadcasts against it."""
    passes = batch.passes
    parts = baseline
    if isinstance(baseline, dict):
        parts = [baseline[name] for name in passes.names()] if passes.names() else None
    if not isinstance(parts, (list, tuple)):
        parts = [baseline] * len(passes.moving)
    if len(parts) != len(passes.moving):
        raise ValueError(
            f"`baseline` must be a number, an array, or one of these per input, "
            f"{len(passes.moving)}. Received: {len(parts)} entries"
        )
    found = []
    for i, part, x in zip(passes.moving, parts, batch.values, strict=True):
        part = np.asarray(part)
        if part.dtype.kind not in "iuf":
            raise validation.wrong("baseline", "a number or an array of numbers", baseline)
        part = validation.array("baseline", part, finite=True)
        if passes.embeddings[i] and part.ndim and part.dtype.kind in "iu":
            ids = passes.inputs[i]
            part = np.broadcast_to(part, ids.shape)[batch.chosen]
            part = batch.embedded(i, part, "baseline")
        elif part.ndim == x.ndim and len(part) == passes.count and passes.count > 1:
            part = part[batch.chosen]
        try:
            found.append(np.broadcast_to(part, x.shape).astype(x.dtype))
        except ValueError:
            raise ValueError(
                f"`baseline` must broadcast against an input of shape {x.shape[1:]}, or have one "
                f"entry per input. Received: an array of shape {part.shape}"
            ) from None
    return _frozen(batch, found)


@register_method("integrated_gradients", reduce="sum_abs")
def integrated_gradients(batch, steps=50, baseline=0.0, verbose=False):
    """The derivative along the straight path from a baseline (Sundararajan et al., 2017)."""
    steps = validation.integer("steps", steps)
    base = _baselines(batch, baseline)
    pairs = list(zip(batch.values, base, strict=True))
    totals = [np.zeros(x.shape) for x in batch.values]

    def make(j):
        return [x0 + np.float32((j + 0.5) / steps) * (x - x0) for x, x0 in pairs]

    for _, gradients in batch.copies(steps, make):
        for total, g in zip(totals, gradients, strict=True):
            total += g
    result = [(x - x0) * t / steps for (x, x0), t in zip(pairs, totals, strict=True)]
    _completeness(batch, base, result, verbose)
    return result


def _completeness(batch, base, result, verbose):
    """What the values add up to must be the fall of the score from input to baseline."""
    ends = batch.scores(2, lambda j: batch.values if j == 0 else base)
    fall = (ends[0] - ends[1]).astype("float64")
    gap = np.abs(sum(x.reshape(len(x), -1).sum(axis=1) for x in result) - fall)
    if verbose:
        print(f"integrated_gradients: largest gap to completeness {gap.max():.3g}")
    if (gap > 0.05 * np.abs(fall) + 1e-6).any() and not batch.passes.told:
        batch.passes.told = True
        warnings.warn(
            "The integrated gradients miss the fall of the score by "
            f"{100 * (gap / np.maximum(np.abs(fall), 1e-12)).max():.0f} % for some input; more "
            "`steps` bring them closer.",
            stacklevel=2,
        )


@register_method("expected_gradients", reduce="sum_abs")
def expected_gradients(batch, background=None, samples=50, seed=0):
    """Integrated gradients from random baselines (Erion et al., 2021)."""
    samples = validation.integer("samples", samples)
    passes = batch.passes
    if background is None:
        raise ValueError(
            "`background` must be given: inputs that baselines are drawn from, for example "
            "`background=x_train[:200]`."
        )
    parts = background if isinstance(background, (list, tuple)) else [background]
    if len(parts) != len(passes.moving):
        raise ValueError(
            f"`background` must hold {len(passes.moving)} arrays. Received: {len(parts)}"
        )
    pools = []
    for i, part, x in zip(passes.moving, parts, batch.values, strict=True):
        part = validation.array("background", part, finite=True)
        if passes.embeddings[i]:
            part = batch.embedded(i, part, "background")
        if part.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"`background` must hold inputs of shape {x.shape[1:]}. Received: {part.shape[1:]}"
            )
        pools.append(part.astype(x.dtype))
    generators = [np.random.default_rng([seed, int(i)]) for i in batch.chosen]
    bases = []

    def make(_):
        drawn = [(g.integers(len(pools[0])), g.uniform()) for g in generators]
        chosen = [d[0] for d in drawn]
        base = _frozen(batch, [pool[chosen] for pool in pools])
        bases.append(base)
        return [
            x0
            + np.array([d[1] for d in drawn], x.dtype).reshape(-1, *[1] * (x.ndim - 1)) * (x - x0)
            for x, x0 in zip(batch.values, base, strict=True)
        ]

    totals = [np.zeros(x.shape) for x in batch.values]
    for _, gradients in batch.copies(samples, make):
        base = bases.pop(0)
        for total, x, x0, g in zip(totals, batch.values, base, gradients, strict=True):
            total += (x - x0) * g
    return [x / samples for x in totals]


@register_method("random", reduce="max_abs")
def random(batch, seed=0):
    """Uniform noise: the floor of every comparison."""
    return [
        np.stack(
            [np.random.default_rng([seed, int(i)]).uniform(size=x.shape[1:]) for i in batch.chosen]
        )
        for x in batch.values
    ]
