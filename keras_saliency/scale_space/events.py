"""Temporal events and scale spaces of arrays: what `SaliencySeries` computes, to look at."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.scale_space import temporal
from keras_saliency.scale_space.gaussian import scale_sigmas
from keras_saliency.scale_space.temporal import Amplitude, Missing
from keras_saliency.typing import ArrayLike, DataFrame, Tensor

COLUMNS = ("batch", "variate", "time", "octave", "scale", "sigma", "amplitude")


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Series as they can be analyzed in single precision.

    Attributes:
        series: Float tensor (batch, time, variates), less `level`.
        mask: Bool tensor (batch, time), or `None`.
        level: float64 array (batch, 1, variates), the first finite value of each variate: beside a
            large one, float32 would have no digits left for what happens.
    """

    series: Tensor
    mask: Tensor | None
    level: np.ndarray

    @classmethod
    def of(cls, series, mask=None, empty=True):
        if getattr(getattr(series, "index", None), "nlevels", 1) > 1:
            if mask is not None:
                raise ValueError(
                    "`mask` must be None where `series` has an index of (instance, time): the "
                    "index says how long each series is."
                )
            series, mask = _instances(series)
        series = validation.array("series", series, ranks=(1, 2, 3), empty=empty)
        if series.ndim == 1:
            series = series[:, None]
        series = series if series.ndim == 3 else series[None]
        wide = series.astype("float64")
        finite = np.isfinite(wide)
        if mask is not None:
            mask = validation.array("mask", mask, ranks=(1, 2), empty=True).astype(bool)
            mask = mask[None] if mask.ndim == 1 else mask
            if mask.shape != series.shape[:2]:
                raise ValueError(
                    "`mask` must have the shape (batch, time) of the series, "
                    f"{series.shape[:2]}. Received: shape={mask.shape}"
                )
            finite &= mask[..., None]
        level = np.zeros((len(wide), 1, wide.shape[2]))
        if wide.size:
            first = finite.argmax(axis=1)[:, None]
            level = np.take_along_axis(wide, first, axis=1)
            level[~finite.any(axis=1, keepdims=True)] = 0.0
        dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        tensor = ops.convert_to_tensor((wide - level).astype(dtype), dtype)
        return cls(tensor, None if mask is None else ops.convert_to_tensor(mask, "bool"), level)


def _instances(frame):
    """Series and mask of a pandas object whose index is (instance, time)."""
    if frame.index.nlevels != 2:
        raise ValueError(
            "`series` must have an index of two levels at most, (instance, time). "
            f"Received: {frame.index.nlevels} levels"
        )
    groups = [group.sort_index(level=1) for _, group in frame.groupby(level=0, sort=False)]
    parts = [validation.array("series", group, ranks=(1, 2)) for group in groups]
    parts = [part.reshape(len(part), -1) for part in parts]
    if not parts:
        return np.zeros((0, 0, frame.shape[-1] if frame.ndim == 2 else 1)), None
    longest = max(map(len, parts))
    series = np.zeros((len(parts), longest, parts[0].shape[1]))
    mask = np.zeros(series.shape[:2], bool)
    for i, part in enumerate(parts):
        series[i, : len(part)], mask[i, : len(part)] = part, True
    return series, None if mask.all() else mask


def temporal_events(
    series: ArrayLike,
    octaves: int = 3,
    scales: int = 3,
    sigma0: float = 0.5,
    contrast_threshold: float = 0.005,
    theta: float = 1.0,
    amplitude: Amplitude = "mean",
    cut: bool = False,
    missing: Missing | None = None,
    mask: ArrayLike | None = None,
) -> DataFrame:
    """Find the salient events of time series: extrema over time and scale (G 2.1.2, 6.4.2).

    Every variate is smoothed at growing scales, neighboring scales are subtracted, and a point
    that is larger, or smaller, than its 8 neighbors in time and scale is an event (6.7).
    `SaliencySeries` with the same arguments is the sum of
    `amplitude * exp(-(t - time)**2 / (2 * sigma**2))` over the rows (6.8 to 6.11).

    Args:
        series: Array or tensor (batch, time, variates); (time, variates) and (time,) are one
            series. A pandas frame of variates is one series, or with an index of (instance, time)
            several, which may differ in length. At any level, 1e9 say, the same events are found.
            A variate that holds NaN or infinity has no events, unless `missing` fills it.
        octaves: How often the time resolution is halved, plus one. An octave with fewer than
            three steps has no events.
        scales: Scales per octave.
        sigma0: Finest smoothing in steps, at least 0.3. The smallest events that can be found
            have `sigma0 * 2**(1 / scales)`.
        contrast_threshold: Smallest |difference of Gaussians| of an event, in the series' units.
        theta: An event exceeds `theta` times the largest of its neighbors; below 1 more are
            found, above 1 fewer.
        amplitude: `"mean"` of the series' own steps within 3 sigma, its value at the `"center"`,
            `"unit"` (1), or `"scale-space"`, the smoothed series (6.4) at the center.
        cut: Accepted so that the arguments are `SaliencySeries`'s; events do not depend on it.
        missing: `"interpolate"` fills NaN and infinity on straight lines first.
        mask: Bool (batch, time), `False` where a series is padded.

    Returns:
        A pandas frame sorted by batch, variate and time, with the columns `batch`, `variate`,
        `time` (a float: step `t` of octave `o` lies at `2**o * t + (2**o - 1) / 2`), `octave`
        (from 0), `scale` (1 to `scales`), `sigma = sigma0 * 2**(octave + scale / scales)` in
        input steps, and `amplitude`.

    Example:

    ```python
    import numpy as np
    from keras_saliency.scale_space import temporal_events

    t = np.arange(200)
    series = np.stack([np.exp(-((t - 60) ** 2) / 8), np.sin(t / 9)], axis=1)
    print(temporal_events(series, octaves=4))
    ```
    """
    import pandas as pd

    settings = temporal.Settings(
        octaves, scales, sigma0, contrast_threshold, theta, amplitude, cut, missing
    )
    given = _Batch.of(series, mask)
    batch, steps, variates = given.series.shape
    per_slab = max(1, temporal.SLAB // max(1, steps * variates))
    found = [np.zeros((0, len(COLUMNS)))]
    for start in range(0, batch if steps * variates else 0, per_slab):
        part = slice(start, start + per_slab)
        octaves = temporal.fused(_octaves)(
            settings, given.series[part], None if given.mask is None else given.mask[part]
        )
        for rows in _rows_of_octaves(settings, octaves, variates):
            rows[:, 0] += start
            found.append(rows)
    values = np.concatenate(found)
    if amplitude != "unit":
        values[:, 6] += given.level[values[:, 0].astype(int), 0, values[:, 1].astype(int)]
    order = np.lexsort([values[:, 5], values[:, 2], values[:, 1], values[:, 0]])
    frame = pd.DataFrame(values[order], columns=COLUMNS)
    return frame.astype(dict.fromkeys(("batch", "variate", "octave", "scale"), "int64"))


def _octaves(settings, series, mask):
    """Return the first valid steps and, per octave, where events are and their amplitudes."""
    prepared = temporal.prepare(settings, series, mask)
    octaves = []
    for octave, events, _, _, amplitude in temporal.analyse(settings, prepared):
        if settings.amplitude == "scale-space":
            amplitude = [
                temporal.smoothed(settings, octave, scale, prepared)
                for scale in range(1, settings.scales + 1)
            ]
        octaves.append((events, amplitude))
    return prepared.first, octaves


def _rows_of_octaves(settings, found, variates):
    """Yield the frame's rows, an array of events by `COLUMNS` per octave and scale."""
    first, octaves = keras.tree.map_structure(
        lambda x: None if x is None else ops.convert_to_numpy(x), found
    )
    for octave, (events, amplitude) in enumerate(octaves):
        for scale in range(1, settings.scales + 1):
            row, block, inner = np.nonzero(events[:, :, scale - 1])
            step = block * events.shape[3] + inner
            time = 2.0**octave * step + (2**octave - 1) / 2
            if settings.amplitude == "unit":
                value = np.ones(len(row))
            elif settings.amplitude == "scale-space":
                smooth = amplitude[scale - 1]
                low, high = np.floor(time).astype(int), np.ceil(time).astype(int)
                value = (smooth[row, low] + smooth[row, high]) / 2
            else:
                value = amplitude[row, block, min(scale, amplitude.shape[2]) - 1, inner]
            sample = row // variates
            if first is not None:
                time = time + first[sample]
            n = len(row)
            yield np.stack(
                [
                    sample,
                    row % variates,
                    time,
                    np.full(n, octave),
                    np.full(n, scale),
                    np.full(n, settings.sigma(scale) * 2**octave),
                    value,
                ],
                axis=1,
            ).astype("float64")


@dataclasses.dataclass(frozen=True)
class TemporalScaleSpace:
    """The Gaussian scale space of a batch of series, one entry per octave.

    Attributes:
        smoothed: List of arrays (batch, scales + 3, time / 2**octave, variates).
        differences: List of arrays (batch, scales + 2, time / 2**octave, variates), each scale
            less the one below it (G equations 2.15, 6.5).
        times: List of arrays: where the steps of each octave lie, in input steps.
        sigmas: Array (octaves, scales + 3): standard deviations in input steps. Difference `s`
            belongs to `sigmas[:, s]`; events have `s` from 1 to `scales`.

    Example:

    ```python
    import numpy as np
    from keras_saliency.scale_space import TemporalScaleSpace, temporal_scale_space

    space: TemporalScaleSpace = temporal_scale_space(np.random.rand(100))
    print(space.sigmas)
    ```
    """

    smoothed: list
    differences: list
    times: list
    sigmas: np.ndarray


def temporal_scale_space(
    series: ArrayLike,
    octaves: int = 3,
    scales: int = 3,
    sigma0: float = 0.5,
    missing: Missing | None = None,
) -> TemporalScaleSpace:
    """Smooth time series at growing scales (G 2.1.2.1, 6.4.2.1).

    At each octave the series is halved by averaging pairs (2.16); within one, `scales + 3`
    smoothings make `scales + 2` differences, so that every reported scale has both neighbors.
    Borders replicate the edge value.

    Args:
        series: As for `temporal_events`; all series must be of one length.
        octaves, scales, sigma0, missing: As for `temporal_events`.

    Returns:
        A `TemporalScaleSpace` of NumPy arrays. Octaves with fewer than three steps are left out.

    Example:

    ```python
    import numpy as np
    from keras_saliency.scale_space import temporal_scale_space

    space = temporal_scale_space(np.random.rand(2, 100, 4), octaves=2)
    print([a.shape for a in space.smoothed])  # [(2, 6, 100, 4), (2, 6, 50, 4)]
    ```
    """
    settings = temporal.Settings(octaves, scales, sigma0, missing=missing)
    given = _Batch.of(series, empty=False)
    batch, _, variates = given.series.shape
    smoothed, differences, times = [], [], []
    for octave, planes in enumerate(temporal.fused(_planes)(settings, given.series)):
        planes = ops.convert_to_numpy(planes)
        planes = planes.reshape(batch, variates, *planes.shape[1:])
        planes = np.moveaxis(planes, 1, 3)
        differences.append(np.diff(planes, axis=1))
        smoothed.append(planes + given.level[:, None])
        times.append(2.0**octave * np.arange(planes.shape[2]) + (2**octave - 1) / 2)
    sigmas = scale_sigmas(octaves, scales, sigma0)[: len(smoothed)]
    return TemporalScaleSpace(smoothed, differences, times, sigmas)


def _planes(settings, series):
    """Return per octave the smoothings (rows, scales + 3, time)."""
    prepared = temporal.prepare(settings, series)
    base = ops.expand_dims(prepared.base + prepared.poison, 1)
    octaves = temporal.pyramid(settings, prepared.rows - prepared.base)
    return [base + temporal.smooth_octave(settings, *octave) for octave in octaves]


def temporal_extrema(
    differences: ArrayLike, contrast_threshold: float = 0.005, theta: float = 1.0
) -> np.ndarray:
    """Mark the extrema of differences of Gaussians over time and scale (G 2.1.2.2, eq. 6.7).

    Args:
        differences: Array (batch, scales + 2, time, variates): one octave of
            `TemporalScaleSpace.differences`.
        contrast_threshold, theta: As for `temporal_events`.

    Returns:
        A bool array (batch, scales, time, variates). The first and the last step lack neighbors
        and are never extrema, nor is a difference of 0. Values that agree to one part in 10^5 are
        equal: of them, the earliest step at the finest scale is the extremum.

    Example:

    ```python
    import numpy as np
    from keras_saliency.scale_space import temporal_extrema, temporal_scale_space

    space = temporal_scale_space(np.random.rand(1, 100, 2))
    print([temporal_extrema(d).sum() for d in space.differences])
    ```
    """
    differences = validation.array("differences", differences, empty=True)
    if differences.dtype.kind != "f":
        differences = differences.astype("float32")
    if differences.ndim != 4 or differences.shape[1] < 3:
        raise ValueError(
            "`differences` must have shape (batch, at least 3 scales, time, variates). "
            f"Received: shape={differences.shape}"
        )
    batch, planes, steps, variates = differences.shape
    settings = temporal.Settings(
        scales=planes - 2, contrast_threshold=contrast_threshold, theta=theta
    )
    result = np.zeros((batch, planes - 2, steps, variates), bool)
    if steps < 3:
        return result
    rows = ops.convert_to_tensor(np.moveaxis(differences, 3, 1))
    found = ops.convert_to_numpy(temporal.extrema(rows, settings))
    result[:, :, 1:-1] = np.moveaxis(found, 1, 3)
    return result
