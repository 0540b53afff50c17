"""Pictures of what RACKNet finds in a data set and makes of it."""

from __future__ import annotations

from collections.abc import Sequence

from keras_saliency import validation
from keras_saliency.racknet import DatasetStatistics, allocate
from keras_saliency.typing import Axes, Figure


def _statistics(statistics):
    if not isinstance(statistics, DatasetStatistics):
        raise TypeError(
            f"`statistics` must be a DatasetStatistics. Received: {type(statistics).__name__}"
        )
    return statistics


def _figure(ax, count=1, **kwargs):
    """(figure, list of axes): new ones, or those that were given."""
    import matplotlib.pyplot as plt

    if ax is None:
        figure, axes = plt.subplots(1, count, squeeze=False, **kwargs)
        return figure, list(axes[0])
    try:
        axes = list(ax)
    except TypeError:
        axes = [ax]
    if any(not hasattr(one, "figure") for one in axes):
        raise validation.wrong("ax", f"{count} axes of matplotlib, or None", ax)
    if len(axes) != count:
        raise ValueError(f"`ax` must be {count} axes. Received: {len(axes)}")
    return axes[0].figure, axes


def _colours(count):
    """`count` colors of rising lightness, the simplest component first."""
    import matplotlib
    import numpy as np

    return matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, max(count, 1)))


def plot_entropies(statistics: DatasetStatistics, ax: Sequence[Axes] | None = None) -> Figure:
    """How complex are the keypoints? Their entropies per octave, colored by component.

    Args:
        statistics: a `DatasetStatistics` with histograms, as from `RACKNet.analyze`.
        ax: a list of matplotlib axes, one per rack, or None for a new figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    ```python
    import numpy as np
    from keras_saliency import RACKNet
    from keras_saliency.visualization import plot_entropies

    images = np.random.default_rng(0).integers(0, 256, (80, 32, 32), "uint8")
    stats = RACKNet.analyze(images, n_jobs=1, verbose=0)
    figure = plot_entropies(stats)
    figure.savefig("entropies.png")
    ```

    Source: G figure 3.4.
    """
    import numpy as np

    racks = [octave for octave in _statistics(statistics).racks if octave.histogram]
    if not racks:
        raise ValueError(
            "`statistics` must hold entropy histograms. Received statistics from plain numbers"
        )
    figure, axes = _figure(ax, len(racks), figsize=(4.2 * len(racks), 2.8), layout="constrained")
    for axis, octave in zip(axes, racks, strict=True):
        counts = np.asarray(octave.histogram)
        # Bins of 0.01 bits are finer than the eye: ten are drawn as one.
        step = max(1, round(0.1 / statistics.bin_size))
        counts = np.pad(counts, (0, -len(counts) % step)).reshape(-1, step).sum(1)
        width = step * statistics.bin_size
        centres = (np.arange(len(counts)) + 0.5) * width
        colours = _colours(len(octave.components))
        densities = [
            c.weight * np.exp(-((centres - c.mean) ** 2) / (2 * c.std**2)) / c.std
            for c in octave.components
        ]
        owner = np.argmax(densities, axis=0)
        axis.bar(centres, counts, width, color=colours[owner])
        fine = np.linspace(0, centres[-1] + width, 400)
        for colour, c in zip(colours, octave.components, strict=True):
            curve = c.weight * np.exp(-((fine - c.mean) ** 2) / (2 * c.std**2))
            curve *= octave.keypoints * width / (c.std * np.sqrt(2 * np.pi))
            axis.plot(fine, curve, color=colour * [0.7, 0.7, 0.7, 1.0], label=f"{c.clusters}")
        first = np.flatnonzero(counts)[0]
        axis.set_xlim(max(0, centres[first] - 2 * width), centres[-1] + 2 * width)
        axis.set_title(f"octave {octave.index}: {octave.keypoints} keypoints", fontsize="medium")
        axis.set_xlabel("entropy (bits)")
        axis.legend(title="clusters", fontsize="small", title_fontsize="small", frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("keypoints")
    return figure


def plot_keypoints(statistics: DatasetStatistics, ax: Sequence[Axes] | None = None) -> Figure:
    """Where are the keypoints? Sample images with a circle of each keypoint's sigma.

    Args:
        statistics: a `DatasetStatistics` with sample images, as from `RACKNet.analyze`.
        ax: a list of matplotlib axes, one per sample (at most four), or None.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    ```python
    import numpy as np
    from keras_saliency import RACKNet
    from keras_saliency.visualization import plot_keypoints

    images = np.random.default_rng(0).integers(0, 256, (80, 32, 32), "uint8")
    stats = RACKNet.analyze(images, n_jobs=1, verbose=0)
    figure = plot_keypoints(stats)
    figure.savefig("keypoints.png")
    ```
    """
    from matplotlib.patches import Circle

    samples = _statistics(statistics).samples
    if not samples:
        raise ValueError(
            "`statistics` must hold sample images. Received statistics from plain numbers"
        )
    figure, axes = _figure(
        ax, len(samples), figsize=(2.6 * len(samples), 2.9), layout="constrained"
    )
    colours = _octave_colours()
    seen = {}
    for axis, sample in zip(axes, samples, strict=True):
        axis.imshow(sample.to_array(), cmap="gray", vmin=0, vmax=255)
        for x, y, sigma, octave in sample.keypoints:
            colour = colours[octave % len(colours)]
            seen[octave] = axis.add_patch(
                Circle((x, y), sigma, fill=False, color=colour, linewidth=1.2)
            )
        axis.set_xticks([])
        axis.set_yticks([])
    if seen:
        octaves = sorted(seen)
        handles, names = [seen[o] for o in octaves], [f"octave {o}" for o in octaves]
        style = {"fontsize": "x-small", "frameon": False, "loc": "upper left"}
        axes[-1].legend(handles, names, bbox_to_anchor=(1, 1), **style)
    return figure


def _octave_colours():
    return ("tab:orange", "tab:cyan", "tab:pink", "tab:olive", "tab:purple", "tab:red")


def plot_design(
    statistics: DatasetStatistics | Sequence[Sequence[int]],
    budget: int = 400,
    strategy: str = "racknet",
    ax: Axes | None = None,
) -> Figure:
    """Which network comes out? A bar per convolutional layer, as high as it has kernels.

    Args:
        statistics: a `DatasetStatistics`, or the nested list of clusters.
        budget: int, kernels of the network.
        strategy: str, how they are shared, see `RACKNet.allocate`.
        ax: a matplotlib axis, or None.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    ```python
    from keras_saliency.visualization import plot_design

    figure = plot_design([[3, 5], [2, 2, 4]], budget=64)
    figure.savefig("design.png")
    ```
    """
    kernels = allocate(statistics, budget, strategy)
    layers = sum(map(len, kernels))
    figure, (axis,) = _figure(ax, figsize=(1.6 + 0.7 * layers, 2.8), layout="constrained")
    colours = _octave_colours()
    at, ticks, names = 0.0, [], []
    for i, rack in enumerate(kernels):
        if i:
            axis.axvline(at - 0.5, color="0.6", linestyle="--", linewidth=1)
            axis.text(
                at - 0.5,
                1.0,
                "pool",
                transform=axis.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize="small",
                color="0.4",
            )
            at += 0.4
        for j, count in enumerate(rack):
            bar = axis.bar(at, count, 0.8, color=colours[i % len(colours)])
            axis.bar_label(bar, fontsize="small")
            ticks.append(at)
            names.append(f"{i + 1}.{j + 1}")
            at += 1
        at += 0.2
    axis.set_xticks(ticks, names)
    axis.set_xlabel("rack.layer")
    axis.set_ylabel("kernels")
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def plot_statistics(
    statistics: DatasetStatistics, budget: int = 400, strategy: str = "racknet"
) -> Figure:
    """Everything in one picture: entropies, keypoints on samples, and the network.

    Args:
        statistics: a `DatasetStatistics`.
        budget: int, kernels of the network.
        strategy: str, how they are shared, see `RACKNet.allocate`.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    ```python
    import numpy as np
    from keras_saliency import RACKNet
    from keras_saliency.visualization import plot_statistics

    images = np.random.default_rng(0).integers(0, 256, (80, 32, 32), "uint8")
    stats = RACKNet.analyze(images, n_jobs=1, verbose=0)
    figure = plot_statistics(stats, budget=64)
    figure.savefig("statistics.png")
    ```
    """
    import matplotlib.pyplot as plt

    racks = [octave for octave in _statistics(statistics).racks if octave.histogram]
    samples = statistics.samples
    rows = ["entropies"] * bool(racks) + ["keypoints"] * bool(samples) + ["design"]
    layers = sum(map(len, statistics.clusters))
    width = max(4.2 * len(racks), 2.6 * len(samples), 1.6 + 0.7 * layers)
    figure = plt.figure(figsize=(width, 3.1 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        if row == "entropies":
            plot_entropies(statistics, list(part.subplots(1, len(racks), squeeze=False)[0]))
        elif row == "keypoints":
            plot_keypoints(statistics, list(part.subplots(1, len(samples), squeeze=False)[0]))
        else:
            plot_design(statistics, budget, strategy, part.subplots())
            part.suptitle(f"{budget} kernels, {strategy}", fontsize="medium")
    return figure
