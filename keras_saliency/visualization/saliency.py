"""Pictures of time series, their events and their saliency (G figures 2.4, 6.3 and 6.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_saliency import validation
from keras_saliency.typing import ArrayLike, DataFrame, Figure

_COLORS = ("#2a6fbb", "#d1495b", "#66a182", "#edae49", "#8d6a9f", "#00798c", "#9c6644", "#555555")
_GREY = "#3c3c3c"


def _one_series(series, sample, name="series"):
    array = validation.array(name, series, ranks=(1, 2, 3)).astype("float64")
    sample = validation.integer("sample", sample, minimum=None)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 3:
        if not -len(array) <= sample < len(array):
            raise ValueError(f"`sample` must be below {len(array)}. Received: sample={sample}")
        array = array[sample]
    return array


def _title(value):
    return validation.text("title", value)


def _names(names, count):
    """Names of all variates, or None."""
    if names is None:
        return None
    found = validation.items("names", names)
    if len(found) < count:
        raise validation.wrong("names", f"{count} names, or None", names)
    return [str(name) for name in found]


def _style(axis):
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.tick_params(labelsize=8, color="#999999")
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#999999")


def plot_saliency(
    series: ArrayLike,
    events: DataFrame | None = None,
    saliency: ArrayLike | None = None,
    sample: int = 0,
    variates: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
    **kwargs: Any,
) -> Figure:
    """Draw a series with its events and their scopes, and the saliency below (G figure 6.3).

    Args:
        series: Array (batch, time, variates), (time, variates) or (time,).
        events: The frame that `temporal_events(series, **kwargs)` returned; found here by default.
        saliency: The saliency, of the shape of `series`; by default the sum over `events`.
        sample: Which series of a batch.
        variates: Which variates, by number. Default: the first eight.
        names: Names of all variates.
        title: Title of the figure.
        **kwargs: Arguments of `temporal_events`, if `events` is not given.

    Returns:
        A matplotlib figure: a row per variate with the series, a dot per event, and shaded scopes
        of 3 sigma whose darkness counts how many overlap; then the saliency of all variates.

    Example:

    ```python
    import numpy as np
    from keras_saliency.scale_space import temporal_events
    from keras_saliency.visualization import plot_saliency

    series = np.cumsum(np.random.randn(1, 200, 3), axis=1)
    figure = plot_saliency(series, temporal_events(series))
    figure.savefig("saliency.png")
    ```
    """
    import matplotlib.pyplot as plt

    from keras_saliency.scale_space import temporal_events

    x = _one_series(series, sample)
    names, title = _names(names, x.shape[1]), _title(title)
    if events is None:
        frame, sample_of_frame = temporal_events(x, **kwargs), 0
    else:
        if kwargs:
            raise ValueError(f"With `events` given, {sorted(kwargs)} have no use.")
        frame, sample_of_frame = events, sample
        if not hasattr(events, "columns"):
            raise validation.wrong("events", "a frame of `temporal_events`", events)
        given = validation.array("series", series)
        if given.ndim == 3 and sample < 0:
            sample_of_frame = len(given) + sample
    missing = {"batch", "variate", "time", "sigma", "amplitude"} - set(frame.columns)
    if missing:
        raise ValueError(f"`events` must be a frame of `temporal_events`; it lacks {missing}.")
    frame = frame[frame.batch == sample_of_frame]
    steps = np.arange(len(x))
    chosen = range(min(8, x.shape[1])) if variates is None else variates
    chosen = validation.items("variates", chosen)
    chosen = [validation.integer("variates", v, 0) for v in chosen]
    unknown = [v for v in chosen if not 0 <= v < x.shape[1]]
    if unknown or not chosen:
        raise ValueError(f"`variates` must lie in 0 .. {x.shape[1] - 1}. Received: {variates}")
    if saliency is None:
        curves = np.zeros_like(x)
        for v, group in frame.groupby("variate"):
            t, s, a = (group[c].to_numpy() for c in ("time", "sigma", "amplitude"))
            bells = np.exp(-((steps[:, None] - t) ** 2) / (2 * s**2))
            curves[:, v] = bells @ a
    else:
        curves = _one_series(saliency, sample, "saliency")
        if curves.shape != x.shape:
            raise ValueError(
                f"`saliency` must have the shape of the series, {x.shape}. Received: {curves.shape}"
            )
    rows = len(chosen)
    figure, axes = plt.subplots(
        rows + 1,
        1,
        sharex=True,
        figsize=(9, 1.1 * rows + 2.4),
        height_ratios=[1] * rows + [1.8],
        layout="constrained",
        squeeze=False,
    )
    for row, v in enumerate(chosen):
        axis, color = axes[row, 0], _COLORS[row % len(_COLORS)]
        mine = frame[frame.variate == v]
        scopes = np.zeros(len(x))
        for t, s in zip(mine.time, mine.sigma, strict=True):
            scopes += np.abs(steps - t) <= 3 * s
        if scopes.max() > 0:
            axis.imshow(
                scopes[None] / scopes.max(),
                aspect="auto",
                extent=(-0.5, len(x) - 0.5, 0, 1),
                transform=axis.get_xaxis_transform(),
                cmap=_fade(color),
                vmin=0,
                vmax=1,
                zorder=0,
            )
        axis.plot(steps, x[:, v], color=_GREY, linewidth=1.0, zorder=2)
        height = np.interp(mine.time, steps, x[:, v])
        axis.scatter(
            mine.time, height, s=6 + 5 * mine.sigma, color=color, alpha=0.8, linewidth=0, zorder=3
        )
        axis.set_ylabel(names[v] if names is not None else f"variate {v}", fontsize=8, color=color)
        axis.set_xlim(-0.5, len(x) - 0.5)
        low, high = np.nanmin(x[:, v], initial=np.inf), np.nanmax(x[:, v], initial=-np.inf)
        if np.isfinite([low, high]).all():
            pad = 0.08 * (high - low) or 1.0
            axis.set_ylim(low - pad, high + pad)
        axis.locator_params(axis="y", nbins=3)
        _style(axis)
        axis.tick_params(bottom=False)
        axis.spines["bottom"].set_visible(False)
    below = axes[-1, 0]
    for row, v in enumerate(chosen):
        below.plot(
            steps,
            curves[:, v],
            color=_COLORS[row % len(_COLORS)],
            linewidth=1.3,
            label=names[v] if names is not None else f"variate {v}",
        )
    below.axhline(0, color="#bbbbbb", linewidth=0.7, zorder=0)
    below.set_ylabel("saliency", fontsize=9)
    below.set_xlabel("time (steps)", fontsize=9)
    _style(below)
    axes[0, 0].set_title(
        title
        or f"{int(frame.variate.isin(chosen).sum())} events: dots grow with their scale, "
        "shading shows their scopes",
        fontsize=10,
        loc="left",
    )
    return figure


def _fade(color):
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    rgb = to_rgb(color)
    return LinearSegmentedColormap.from_list("fade", [(*rgb, 0.0), (*rgb, 0.4)])


def plot_scale_space(
    series: ArrayLike, sample: int = 0, variate: int = 0, title: str | None = None, **kwargs: Any
) -> Figure:
    """Draw the scale space of one variate as a scalogram, its extrema marked (G figures 2.4, 6.5).

    Args:
        series: Array (batch, time, variates), (time, variates) or (time,).
        sample: Which series of a batch.
        variate: Which variate.
        title: Title of the figure.
        **kwargs: Arguments of `temporal_events`, such as `octaves`, `scales` and `sigma0`.

    Returns:
        A matplotlib figure: the series above; below, the difference of Gaussians over time and
        scale (fine at the bottom), a triangle at every maximum and every minimum.

    Example:

    ```python
    import numpy as np
    from keras_saliency.visualization import plot_scale_space

    figure = plot_scale_space(np.cumsum(np.random.randn(300)), octaves=4)
    figure.savefig("scale_space.png")
    ```
    """
    import matplotlib.pyplot as plt

    from keras_saliency.scale_space import temporal_events, temporal_scale_space

    x = _one_series(series, sample)
    variate = validation.integer("variate", variate, 0, x.shape[1] - 1)
    title = _title(title)
    x = x[:, variate]
    events = temporal_events(x, **kwargs)
    shared = {k: v for k, v in kwargs.items() if k in ("octaves", "scales", "sigma0", "missing")}
    space = temporal_scale_space(x, **shared)
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(9, 5), height_ratios=[1, 2.2], layout="constrained"
    )
    steps = np.arange(len(x))
    above.plot(steps, x, color=_GREY, linewidth=1.0)
    above.set_ylabel("series", fontsize=9)
    above.set_title(
        title or "Difference of Gaussians over time and scale, with its extrema",
        fontsize=10,
        loc="left",
    )
    _style(above)
    bands, edges = [], []
    for octave, (d, times) in enumerate(zip(space.differences, space.times, strict=True)):
        for s in range(1, d.shape[1] - 1):
            bands.append(np.interp(steps, times, d[0, s, :, 0]))
            edges.append(space.sigmas[octave, s])
    if bands:
        ratio = edges[1] / edges[0] if len(edges) > 1 else 2.0
        borders = np.array([*edges, edges[-1] * ratio]) / np.sqrt(ratio)
        image = np.array(bands)
        limit = np.nanquantile(np.abs(image), 0.99) or 1.0
        mesh = below.pcolormesh(
            np.arange(len(x) + 1) - 0.5,
            borders,
            image,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            rasterized=True,
        )
        bar = figure.colorbar(mesh, ax=below, pad=0.01, aspect=30)
        bar.set_label("difference of Gaussians", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        signs = _signs(events, space)
        for sign, marker, label in ((1, "^", "maximum"), (-1, "v", "minimum")):
            mine = events[signs == sign]
            below.scatter(
                mine.time,
                mine.sigma,
                s=22,
                marker=marker,
                facecolor="white",
                edgecolor="black",
                linewidth=0.7,
                label=f"{label} ({len(mine)})",
            )
        below.set_yscale("log", base=2)
        below.set_ylim(borders[0], borders[-1])
        below.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        figure.legend(
            *below.get_legend_handles_labels(),
            loc="outside lower right",
            ncols=2,
            fontsize=8,
            frameon=False,
        )
    below.set_xlim(-0.5, len(x) - 0.5)
    below.set_xlabel("time (steps)", fontsize=9)
    below.set_ylabel("scale sigma (steps)", fontsize=9)
    _style(below)
    return figure


def _signs(events, space):
    """+1 where an event is a maximum of the difference of Gaussians, -1 where a minimum."""
    signs = np.zeros(len(events), int)
    for i, (time, octave, scale) in enumerate(
        zip(events.time, events.octave, events.scale, strict=True)
    ):
        step = round((time - (2**octave - 1) / 2) / 2**octave)
        signs[i] = 1 if space.differences[octave][0, scale, step, 0] > 0 else -1
    return signs
