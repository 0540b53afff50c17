"""Scale space, extrema and saliency of batched time series (G 2.1.2, 6.4.2, 6.4.3), in `keras.ops`.

Everything linear here (smoothing, halving, means, the bells around events) is a product of
overlapping windows with a banded matrix: one dense product handles all scales, all series and
all variates. On CPU that is several times faster than depthwise convolutions or FFTs, it is what
a GPU does best, and its cost is linear in length. Time is the last axis inside this module:
a row is one variate of one series.

Series are continued by their edge values. Octave `o` is kept with a margin beyond which it is
constant, so a padded series gives what the series alone gives.
"""

import dataclasses
import functools
import itertools
import math
from typing import Literal, get_args

import numpy as np
from keras import ops
from keras.config import backend

from keras_saliency import validation
from keras_saliency.scale_space.gaussian import kernel_of_variance

Amplitude = Literal["mean", "center", "unit", "scale-space"]
AMPLITUDES = get_args(Amplitude)
Missing = Literal[None, "interpolate"]
MISSING = get_args(Missing)

# Steps per block. Smaller wastes memory on overlaps, larger wastes products with zeros.
_BLOCK = 32
# Values of the series that are worked on at a time.
SLAB = 2**16
# Bells are cut where they have fallen to exp(-18) = 1.5e-8 of their peak.
_REACH = 6.0
# Two values of the differences that are this close, relatively, are equal: rounding does not
# decide between them, the earlier step does, then the finer scale.
_TIE = 1e-5


@dataclasses.dataclass(frozen=True)
class Settings:
    """Validated arguments that `SaliencySeries` and the functions of this package share."""

    octaves: int = 3
    scales: int = 3
    sigma0: float = 0.5
    contrast_threshold: float = 0.005
    theta: float = 1.0
    amplitude: str = "mean"
    cut: bool = False
    missing: str | None = None

    def __post_init__(self):
        for name, most in (("octaves", 60), ("scales", 100)):
            validation.integer(name, getattr(self, name), 1, most)
        for name, low, high in (
            ("sigma0", 0.3, 1e4),
            ("contrast_threshold", 0.0, None),
            ("theta", 0.0, None),
        ):
            value = getattr(self, name)
            # Averaging pairs alone smooths by 0.3 steps.
            validation.number(name, value, low, high, above=name == "theta")
        validation.choice("amplitude", self.amplitude, AMPLITUDES)
        validation.choice("missing", self.missing, MISSING)
        validation.boolean("cut", self.cut)

    def sigma(self, scale):
        """Standard deviation of a scale in steps of its own octave."""
        return self.sigma0 * 2.0 ** (scale / self.scales)


# ---- kernels as banded matrices (NumPy, float64, cached) ---------------------------------------


def _banded(kernels, offset, width, count, stride=1, first=0):
    """Return the matrix `(width, F * count)` that applies `F` kernels to a window.

    Output `i` of kernel `f` is `sum_k kernels[f][k] * window[first + i * stride + k - offset[f]]`.
    """
    matrix = np.zeros((width, len(kernels), count))
    for f, kernel in enumerate(kernels):
        for i in range(count):
            start = first + i * stride - offset[f]
            matrix[start : start + len(kernel), f, i] = kernel
    return matrix.reshape(width, -1)


def _finer(octave):
    """How many steps of the series that an octave is computed from make one of its own."""
    return 1 if octave == 0 else 2


@functools.lru_cache(maxsize=128)
def _octave_kernels(settings, octave):
    """Smoothing kernels of one octave, all of one length, and their offset.

    They read the octave below, twice as fine: an octave's own series is too coarse for its
    smallest scales, where anything narrow would look like a spike of one step and peak at the same
    scale. The average of each pair (2.16) smooths by a variance of 1/4; the Gaussian does the rest.
    """
    s0 = settings.sigma0**2
    inherited = 0.0 if octave < 2 else s0
    kernels = []
    for s in range(settings.scales + 3):
        variance = settings.sigma(s) ** 2
        if octave == 0:
            kernels.append(kernel_of_variance(variance))
        else:
            inner = kernel_of_variance(4.0 * variance - inherited - 0.25)
            kernels.append(np.convolve(inner, [0.5, 0.5]))
    length = max(map(len, kernels))
    kernels = [np.pad(k, (length - len(k)) // 2) for k in kernels]
    return kernels, (length - 1) // 2


def _octave_matrix(kernels, octave, offset, count):
    step = _finer(octave)
    width = (count - 1) * step + len(kernels[0])
    return _banded(kernels, [offset] * len(kernels), width, count, step, first=offset)


@functools.lru_cache(maxsize=128)
def _difference_matrix(settings, octave, block):
    """Differences of adjacent scales (2.15, 6.5), for a block and a step on either side."""
    kernels, offset = _octave_kernels(settings, octave)
    differences = [coarse - fine for fine, coarse in itertools.pairwise(kernels)]
    return _octave_matrix(differences, octave, offset, block + 2), offset + _finer(octave)


@functools.lru_cache(maxsize=128)
def _smoothing_matrix(settings, octave, block):
    kernels, offset = _octave_kernels(settings, octave)
    return _octave_matrix(kernels, octave, offset, block), offset


@functools.lru_cache(maxsize=128)
def _halving_matrix(settings, octave, block):
    """From the octave below to `octave`, at its finest scale."""
    kernels, offset = _octave_kernels(settings, octave)
    return _octave_matrix(kernels[:1], octave, offset, block), offset


@functools.lru_cache(maxsize=128)
def _half_widths(settings, octave):
    """Steps on either side of an event's center that lie within 3 sigma, per scale.

    In octave 0 the center is a step itself; further up it lies between two steps, and the number
    counts those on one side.
    """
    reach = [3.0 * settings.sigma(s) * 2**octave for s in range(1, settings.scales + 1)]
    slack = 1e-9  # 3 sigma may be a whole number of steps that rounding makes slightly smaller
    return [math.floor(r + slack) if octave == 0 else math.floor(r + 0.5 + slack) for r in reach]


@functools.lru_cache(maxsize=128)
def _amplitude_matrix(settings, octave, block):
    """Sums over an event's scope, or the value at its center, from windows of the series."""
    step, half = 2**octave, _half_widths(settings, octave)
    middle = step // 2 - 1 if octave else 0  # the center's step, or the left one of the two
    if settings.amplitude == "center":
        kernels = [np.ones(1)] if octave == 0 else [np.full(2, 0.5)]
        offsets = [-middle]
    elif octave == 0:
        kernels, offsets = [np.ones(2 * h + 1) for h in half], half
    else:
        kernels, offsets = [np.ones(2 * h) for h in half], [h - 1 - middle for h in half]
    before = max(0, *offsets) if len(offsets) > 1 else max(0, offsets[0])
    ends = [len(k) - o for k, o in zip(kernels, offsets, strict=True)]
    width = before + (block - 1) * step + max(ends)
    return _banded(kernels, offsets, width, block, step, first=before), before


def _bell(settings, distance, sigma):
    """The normalized Gaussian of 6.8 and 6.9 by distance to the center."""
    if settings.amplitude == "scale-space":
        return (np.abs(distance) <= 3.0 * sigma + 1e-9).astype(float)
    bell = np.exp(-(distance**2) / (2.0 * sigma**2))
    if settings.cut:
        bell[np.abs(distance) > 3.0 * sigma + 1e-9] = 0.0
    return bell


@functools.lru_cache(maxsize=128)
def _bell_matrix(settings, octave, block, scales):
    """Matrix from the impulses of a block (scales, steps) to the input steps they reach."""
    step = 2**octave
    limited = settings.cut or settings.amplitude == "scale-space"
    largest = settings.sigma(max(scales)) * step
    reach = math.ceil((3.0 if limited else _REACH) * largest)
    centers = step * np.arange(block) + (step - 1) / 2
    steps = np.arange(-reach, block * step + reach)
    distance = steps[None, :] - centers[:, None]
    rows = [_bell(settings, distance, settings.sigma(s) * step) for s in scales]
    return np.concatenate(rows), reach


# ---- windows of rows ---------------------------------------------------------------------------


def _ceil_div(a, b):
    return -(-a // b)


def _blocks(steps):
    """Split `steps` into equal blocks: (number, size); a number that is known when it runs."""
    if isinstance(steps, int):
        number = max(1, _ceil_div(steps, _BLOCK))
        return number, max(1, _ceil_div(steps, number))
    return ops.maximum(_ceil_div(steps, _BLOCK), 1), _BLOCK


def _extend(rows, before, after, value="edge"):
    """Add steps in front and behind: copies of the edge, or zeros. Counts below 0 crop."""

    def side(column, count):
        count = count if isinstance(count, int) else ops.maximum(count, 0)
        if isinstance(count, int) and count <= 0:
            return []
        column = column if value == "edge" else ops.zeros_like(column)
        return [ops.broadcast_to(column, (ops.shape(rows)[0], count))]

    steps = ops.shape(rows)[1]
    left, right = side(rows[:, :1], before), side(rows[:, -1:], after)
    static = isinstance(steps, int) and isinstance(after, int)
    if static:
        middle = rows[:, max(0, -before) : steps - max(0, -after)]
    else:
        middle = rows[:, max(0, -before) : steps - ops.maximum(-after, 0)]
    parts = [*left, middle, *right]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)


def _windows(rows, start, stride, width, number, value="edge"):
    """Return overlapping windows `(rows, number, width)`, the first at step `start`."""
    pieces = _ceil_div(width, stride)
    steps = ops.shape(rows)[1]
    covered = _extend(rows, -start, start + (number - 1 + pieces) * stride - steps, value)
    parts = []
    for i in range(pieces):
        part = covered[:, i * stride : (i + number) * stride]
        part = ops.reshape(part, (-1, number, stride))
        parts.append(part[:, :, : width - i * stride] if i == pieces - 1 else part)
    return parts[0] if pieces == 1 else ops.concatenate(parts, axis=2)


def _product(windows, matrix):
    return ops.matmul(windows, ops.convert_to_tensor(matrix, dtype=windows.dtype))


def _halve(settings, octave, rows, margin):
    """Return the rows of `octave` and their margin, from those of the octave below."""
    _, offset = _halving_matrix(settings, octave, 1)
    next_margin = (margin + offset) // 2 + 2
    steps = ops.shape(rows)[1] - 2 * margin
    count = steps // 2 + 2 * next_margin
    number, block = _blocks(count)
    matrix, offset = _halving_matrix(settings, octave, block)
    start = margin - 2 * next_margin - offset
    windows = _windows(rows, start, 2 * block, matrix.shape[0], number)
    halved = ops.reshape(_product(windows, matrix), (-1, number * block))
    return halved[:, :count], next_margin


def pyramid(settings, rows):
    """Yield `(octave, rows, margin)`, `rows` being those of the octave below, if there is one.

    Step 0 stands at `margin`. Octaves of fewer than three steps end it.

    Args:
        settings: `Settings`.
        rows: Tensor (rows, time).
    """
    margin, steps = 0, ops.shape(rows)[1]
    for octave in range(settings.octaves):
        if isinstance(steps, int) and steps // 2**octave < 3:
            return
        if octave >= 2:
            rows, margin = _halve(settings, octave - 1, rows, margin)
        yield octave, rows, margin


# ---- extrema -----------------------------------------------------------------------------------


def extrema(difference, settings):
    """Extrema of all scales (6.7): bool `(..., scales, time)` of `(..., scales + 2, time + 2)`."""
    finer, center, coarser = (
        difference[..., :-2, :],
        difference[..., 1:-1, :],
        difference[..., 2:, :],
    )
    value = center[..., 1:-1]
    # Times its sign, a minimum is a maximum; a difference of 0 is neither.
    sign = ops.sign(value)
    value = value * sign

    def greatest(*neighbours):
        return functools.reduce(ops.maximum, [x * sign for x in neighbours]) * settings.theta

    before = greatest(finer[..., :-2], center[..., :-2], coarser[..., :-2], finer[..., 1:-1])
    after = greatest(finer[..., 2:], center[..., 2:], coarser[..., 2:], coarser[..., 1:-1])
    found = ops.logical_and(value * (1 - _TIE) > before, value * (1 + _TIE) >= after)
    return ops.logical_and(found, value >= settings.contrast_threshold)


def find_events(settings, octave, rows, margin, lengths=None):
    """Return `(events, number, block)`: events are bool (rows, number, scales, block).

    Args:
        settings: `Settings`.
        octave: Which octave `rows` are.
        rows: Tensor (rows, time + 2 * margin) from `pyramid`, of the octave below.
        margin: Steps in front of step 0.
        lengths: Integer tensor (rows,), the valid input steps of each row, or `None` for all.
    """
    step = _finer(octave)
    steps = (ops.shape(rows)[1] - 2 * margin) // step
    # One more than there are: halving drops up to a step's worth of input, which bells reach.
    number, block = _blocks(steps + 1)
    matrix, before = _difference_matrix(settings, octave, block)
    windows = _windows(rows, margin - before, block * step, matrix.shape[0], number)
    planes = settings.scales + 2
    difference = ops.reshape(_product(windows, matrix), (-1, number, planes, block + 2))
    # A first and a last step lack neighbors.
    time = ops.reshape(ops.arange(number * block, dtype="int32"), (1, number, 1, block))
    if lengths is None:
        inside = ops.logical_and(time >= 1, time <= steps - 2)
    else:
        last = ops.reshape(lengths // 2**octave - 2, (-1, 1, 1, 1))
        inside = ops.logical_and(time >= 1, time <= last)
    return ops.logical_and(extrema(difference, settings), inside), number, block


def _counts(settings, octave, number, block, steps, lengths, dtype):
    """Steps within each event's scope that exist, (1 or rows, number, scales, block)."""
    step = 2**octave
    half = ops.reshape(
        ops.convert_to_tensor(_half_widths(settings, octave), "int32"), (1, 1, settings.scales, 1)
    )
    middle = step // 2 - 1 if octave else 0
    time = ops.reshape(ops.arange(number * block, dtype="int32"), (1, number, 1, block))
    left = step * time + middle
    low = left - half + (1 if octave else 0)
    high = left + half
    last = (steps if lengths is None else ops.reshape(lengths, (-1, 1, 1, 1))) - 1
    count = ops.minimum(high, last) - ops.maximum(low, 0) + 1
    return ops.cast(ops.maximum(count, 1), dtype)


def amplitudes(settings, octave, rows, base, number, block, lengths=None):
    """Return the amplitude (6.4.2.3) that an event at each step of an octave would have.

    Args:
        settings: `Settings`.
        octave: The octave.
        rows: Tensor (rows, time), the series less `base`, zero from `lengths` on.
        base: Tensor (rows, 1).
        number, block: The octave's blocks, from `find_events`.
        lengths: Integer tensor (rows,) or `None`.

    Returns:
        A tensor (rows, number, scales or 1, block).
    """
    matrix, before = _amplitude_matrix(settings, octave, block)
    stride = block * 2**octave
    windows = _windows(rows, -before, stride, matrix.shape[0], number, value="zeros")
    planes = settings.scales if settings.amplitude == "mean" else 1
    value = ops.reshape(_product(windows, matrix), (-1, number, planes, block))
    if settings.amplitude == "mean":
        steps = ops.shape(rows)[1]
        value = value / _counts(settings, octave, number, block, steps, lengths, rows.dtype)
    return value + ops.reshape(base, (-1, 1, 1, 1))


def _overlap_add(parts, reach, stride, number, steps):
    """Add up `(rows, number, stride + 2 * reach)`, each part `reach` before its block."""
    width = stride + 2 * reach

    def moved(piece, by, left, right):
        # `by` blocks to the right, and into columns `left .. stride - right` of them.
        if not isinstance(number, int):
            piece = ops.pad(piece, ((0, 0), (abs(by), abs(by)), (left, right)))
            return piece[:, abs(by) - by : abs(by) - by + number]
        if abs(by) >= number:
            return None
        piece = piece[:, : number - by] if by > 0 else piece[:, -by:]
        return ops.pad(piece, ((0, 0), (max(by, 0), max(-by, 0)), (left, right)))

    total = parts[:, :, reach : reach + stride]
    for by in range(1, _ceil_div(reach, stride) + 1):
        begin = reach + by * stride
        end = min(begin + stride, width)
        tail = moved(parts[:, :, begin:end], by, 0, stride - (end - begin))
        end = reach - (by - 1) * stride
        begin = max(end - stride, 0)
        head = moved(parts[:, :, begin:end], -by, stride - (end - begin), 0)
        for piece in (tail, head):
            if piece is not None:
                total = total + piece
    rows = ops.reshape(total, (-1, number * stride))
    return _extend(rows, 0, steps - number * stride, value="zeros")


def _spread(settings, octave, impulses, scales, number, block, steps):
    """Put a bell on every impulse (6.8 to 6.11): `(rows, number, scales * block)` -> (rows, T)."""
    matrix, reach = _bell_matrix(settings, octave, block, scales)
    return _overlap_add(_product(impulses, matrix), reach, block * 2**octave, number, steps)


def smoothed(settings, octave, scale, rows):
    """The series smoothed to one scale (6.4), at every input step: (rows, time)."""
    kernel = kernel_of_variance((settings.sigma(scale) * 2**octave) ** 2)
    steps, radius = ops.shape(rows.rows)[1], len(kernel) // 2
    number, block = _blocks(steps)
    matrix = _banded([kernel], [radius], block + 2 * radius, block, first=radius)
    windows = _windows(rows.rows - rows.base, -radius, block, matrix.shape[0], number)
    smooth = ops.reshape(_product(windows, matrix), (-1, number * block))[:, :steps]
    return smooth + rows.base


def smooth_octave(settings, octave, rows, margin):
    """Return the smoothings of one octave, (rows, scales + 3, steps)."""
    step = _finer(octave)
    steps = (ops.shape(rows)[1] - 2 * margin) // step
    number, block = _blocks(steps)
    matrix, before = _smoothing_matrix(settings, octave, block)
    windows = _windows(rows, margin - before, block * step, matrix.shape[0], number)
    planes = ops.reshape(_product(windows, matrix), (-1, number, settings.scales + 3, block))
    planes = ops.transpose(planes, (0, 2, 1, 3))
    planes = ops.reshape(planes, (-1, settings.scales + 3, number * block))
    return planes[:, :, :steps]


# ---- gaps, padding, non-finite values ----------------------------------------------------------


def _neighbours(valid):
    """Return for each step the valid step at or before it, and the one at or after it.

    Where there is none on one side, both are the nearest on the other; without any, step 0.
    """
    steps = ops.shape(valid)[-1]
    time = ops.arange(steps, dtype="int32")
    positions = ops.sort(ops.where(valid, time, steps), axis=-1)
    rank = ops.cumsum(ops.cast(valid, "int32"), axis=-1)
    total = rank[..., -1:]
    last = ops.maximum(total - 1, 0)
    before = ops.take_along_axis(positions, ops.clip(rank - 1, 0, last), axis=-1)
    nth = ops.where(valid, rank - 1, rank)
    after = ops.take_along_axis(positions, ops.clip(nth, 0, last), axis=-1)
    return ops.minimum(before, steps - 1), ops.minimum(after, steps - 1)


def _interpolate(series, before, after, at):
    """Values at the steps `at`, on the lines between the steps `before` and `after`."""
    shape = ops.shape(series)
    left, right = (
        ops.take_along_axis(series, ops.broadcast_to(i, shape), axis=-1) for i in (before, after)
    )
    gap = ops.cast(ops.maximum(after - before, 1), series.dtype)
    share = ops.clip(ops.cast(at - before, series.dtype) / gap, 0.0, 1.0)
    return left + (right - left) * share


@dataclasses.dataclass
class Rows:
    """Rows that can be analyzed.

    Attributes:
        rows: (rows, time), finite, every row's valid part first, then copies of its last value.
        base: (rows, 1), the first value of each row.
        lengths: (rows,) valid steps, or `None`.
        allowed: (rows, time), steps where events may be, or `None`.
    """

    rows: object
    base: object
    lengths: object = None
    allowed: object = None


@dataclasses.dataclass
class Prepared(Rows):
    """`Rows` of a batch, and the way back.

    Attributes:
        poison: (rows, 1), 0, or NaN where the row held what is not finite.
        first: (batch,) the first valid step, or `None`.
        shape: (batch, variates, time).
    """

    poison: object = None
    first: object = None
    shape: tuple = ()


def prepare(settings, series, mask=None):
    """Make rows of a batch of series (batch, time, variates)."""
    batch, steps, variates = ops.shape(series)
    x = ops.transpose(series, (0, 2, 1))
    lengths = first = allowed = None
    time = ops.arange(steps, dtype="int32")
    if mask is not None:
        mask = ops.cast(mask, "bool")
        x = ops.where(mask[:, None], x, ops.zeros_like(x))
        some = ops.any(mask, axis=-1)
        first = ops.cast(ops.argmax(ops.cast(mask, "int32"), axis=-1), "int32")
        stop = ops.max(ops.where(mask, time + 1, 0), axis=-1)
        lengths = ops.where(some, stop - first, 0)
    poison = ops.sum(x * 0.0, axis=-1, keepdims=True)
    if settings.missing == "interpolate":
        valid = ops.isfinite(x)
        if mask is not None:
            valid = ops.logical_and(valid, mask[:, None])
        # Nothing to interpolate from: not finite if there are steps at all.
        hopeless = ops.logical_and(
            ops.logical_not(ops.any(valid, axis=-1, keepdims=True)), ops.isnan(poison)
        )
        poison = ops.where(hopeless, poison, ops.zeros_like(poison))
        x = ops.where(valid, x, ops.zeros_like(x))
    else:
        valid = None if mask is None else mask[:, None]
        x = ops.where(ops.isnan(poison), ops.zeros_like(x), x)
    if valid is not None:
        before, after = _neighbours(valid)
        at = time[None, None]
        if mask is not None:
            at = ops.clip(first[:, None] + time, 0, steps - 1)[:, None]
            before, after = (
                ops.take_along_axis(i, ops.broadcast_to(at, ops.shape(i)), axis=-1)
                for i in (before, after)
            )
        x = _interpolate(x, before, after, at)
    if mask is not None:
        seen = ops.take_along_axis(mask, at[:, 0], axis=-1)
        allowed = ops.logical_and(seen, time < lengths[:, None])
        lengths, allowed = _per_row(lengths, variates), _per_row(allowed, variates)
    rows = ops.reshape(x, (-1, steps))
    return Prepared(
        rows=rows,
        base=rows[:, :1],
        poison=ops.reshape(poison, (-1, 1)),
        lengths=lengths,
        allowed=allowed,
        first=first,
        shape=(batch, variates, steps),
    )


def _per_row(values, variates):
    return ops.repeat(values, variates, axis=0)


def _cells(allowed, octave, number, block):
    """Steps of an octave all of whose input steps are allowed, (rows, number, block)."""
    stride = number * block * 2**octave
    padded = _extend(ops.cast(allowed, "int32"), 0, stride - ops.shape(allowed)[1], value="zeros")
    cells = ops.reshape(padded, (-1, number, block, 2**octave))
    return ops.min(cells, axis=-1) > 0


def analyse(settings, prepared):
    """Yield `(octave, events, number, block, amplitude)` (see `find_events`, `amplitudes`)."""
    centred = prepared.rows - prepared.base
    constant = ops.stop_gradient(centred)
    steps = ops.shape(centred)[1]
    inside = centred
    if prepared.lengths is not None:
        valid = ops.arange(steps, dtype="int32") < prepared.lengths[:, None]
        inside = ops.where(valid, centred, ops.zeros_like(centred))
    for octave, rows, margin in pyramid(settings, constant):
        events, number, block = find_events(settings, octave, rows, margin, prepared.lengths)
        if prepared.allowed is not None:
            cells = _cells(prepared.allowed, octave, number, block)
            events = ops.logical_and(events, cells[:, :, None])
        amplitude = None
        if settings.amplitude in ("mean", "center"):
            amplitude = amplitudes(
                settings, octave, inside, prepared.base, number, block, prepared.lengths
            )
        yield octave, events, number, block, amplitude


def _saliency_of_rows(settings, rows):
    steps = ops.shape(rows.rows)[1]
    total = ops.zeros_like(rows.rows)
    every = tuple(range(1, settings.scales + 1))
    for octave, events, number, block, amplitude in analyse(settings, rows):
        if settings.amplitude == "scale-space":
            for scale in every:
                impulses = ops.cast(events[:, :, scale - 1], total.dtype)
                count = _spread(settings, octave, impulses, (scale,), number, block, steps)
                total = total + count * smoothed(settings, octave, scale, rows)
            continue
        if amplitude is None:
            impulses = ops.cast(events, total.dtype)
        else:
            impulses = ops.where(events, amplitude, ops.zeros_like(amplitude))
        # As a reshape of `impulses`, XLA would compute them value by value.
        impulses = ops.concatenate([impulses[:, :, s - 1] for s in every], axis=-1)
        total = total + _spread(settings, octave, impulses, every, number, block, steps)
    return total


def _in_slabs(function, rows, steps):
    """Run `function` on a few rows at a time where there are many.

    What is computed on the way is an order of magnitude larger than the series: this way it
    stays small, and on CPU in the cache.
    """
    number = ops.shape(rows.rows)[0]
    slab = max(1, SLAB // steps) if isinstance(steps, int) else number
    if not (isinstance(number, int) and isinstance(steps, int)) or number < 2 * slab:
        return function(rows)
    whole = number // slab * slab
    names = [n for n in ("rows", "base", "lengths", "allowed") if getattr(rows, n) is not None]
    values = [getattr(rows, n) for n in names]

    def one(values):
        return function(Rows(**dict(zip(names, values, strict=True))))

    first = [ops.reshape(v[:whole], (-1, slab, *v.shape[1:])) for v in values]
    result = ops.reshape(ops.map(one, first), (whole, steps))
    if whole == number:
        return result
    return ops.concatenate([result, one([v[whole:] for v in values])], axis=0)


def _outside_graphs(function):
    """Keep `torch.compile` out: it would trace the making of the tables, NumPy loop by loop."""
    if backend() == "torch":
        import torch

        return torch.compiler.disable(function)
    return function


@_outside_graphs
def saliency(settings, series, mask=None):
    """Return the saliency series (6.11) of a float32 or float64 tensor (batch, time, variates)."""
    if 0 in [n for n in ops.shape(series) if isinstance(n, int)]:
        return ops.zeros_like(series)
    return fused(_saliency)(settings, series, mask)


@functools.cache
def fused(function):
    """Return `function(settings, *tensors)` as one kernel where that is cheap to have.

    JAX without `jit` would compile its two hundred steps one by one, which takes ten times longer
    than to compile the whole.
    """
    if backend() == "jax":
        import jax

        return jax.jit(function, static_argnums=0)
    return function


def _saliency(settings, series, mask):
    prepared = prepare(settings, series, mask)
    _, variates, steps = prepared.shape
    total = _in_slabs(functools.partial(_saliency_of_rows, settings), prepared, steps)
    total = total + prepared.poison
    total = ops.reshape(total, (-1, variates, steps))
    if mask is not None:
        mask = ops.cast(mask, "bool")
        back = ops.arange(steps, dtype="int32") - prepared.first[:, None]
        back = ops.broadcast_to(ops.clip(back, 0, steps - 1)[:, None], ops.shape(total))
        total = ops.take_along_axis(total, back, axis=-1)
        total = ops.where(mask[:, None], total, ops.zeros_like(total))
    return ops.transpose(total, (0, 2, 1))
