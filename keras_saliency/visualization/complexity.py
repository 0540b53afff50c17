"""Where a network does its work: the separation index from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_saliency.typing import Axes, DataFrame, Figure


def plot_layer_separation(
    frame: DataFrame | Mapping[str, DataFrame], ax: Axes | None = None
) -> Figure:
    """The separation index behind each layer, the first at the top (K figures 10 to 12).

    Args:
        frame: What `keras_saliency.complexity.layer_separation` returned; or a dict from a title
            to such frames of the same layers, networks before and after training say.
        ax: Axes to draw on. Default: a new figure.

    Returns:
        The matplotlib figure. The best layer of each frame has a filled marker.

    Raises:
        TypeError: If `frame` is neither a frame nor a dict of frames.
        ValueError: If a frame lacks a column, or the frames differ in their layers.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency.complexity import layer_separation
    from keras_saliency.visualization import plot_layer_separation

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    x, y = np.random.normal(size=(30, 4)), np.arange(30) % 2
    plot_layer_separation(layer_separation(model, x, y)).savefig("layers.png")
    ```

    Source: Kalhor (2023), chapter 3.2.
    """
    import matplotlib.pyplot as plt

    frames: Mapping[str, Any] = frame if isinstance(frame, dict) else {"": frame}
    names = None
    for title, one in frames.items():
        if not hasattr(one, "columns"):
            raise TypeError(
                "`frame` must be what `layer_separation` returns, or a dict of such frames. "
                f"Received: {type(one).__name__}"
            )
        missing = {"layer", "index"} - set(one.columns)
        if missing or not len(one):
            raise ValueError(
                "`frame` must have rows, and the columns `layer` and `index`, as "
                f"`layer_separation` gives them. Received: {len(one)} rows, {list(one.columns)}"
            )
        names = list(one["layer"]) if names is None else names
        if list(one["layer"]) != names:
            raise ValueError(f"The frames of `frame` must have the same layers: {title!r} differs.")
    if names is None:
        raise ValueError("`frame` must hold a frame. Received an empty dict.")
    if ax is None:
        height = 1.3 + 0.24 * len(names)
        _, ax = plt.subplots(figsize=(6, height), layout="constrained")
    places = range(len(names))
    for title, one in frames.items():
        values = one["index"].to_numpy()
        best = int(values.argmax())
        highest = f"{values[best]:.3f}"
        label = f"{title}, at most {highest}" if title else None
        (line,) = ax.plot(values, places, marker="o", ms=5, mfc="white", label=label)
        ax.plot(values[best], best, marker="o", ms=7, color=line.get_color())
        if not title:  # of several lines, the numbers could lie on each other
            at = (values[best], best)
            ax.annotate(highest, at, (0, 7), textcoords="offset points", ha="center")
    projected = set().union(*(one.attrs.get("projected", {}) for one in frames.values()))
    ax.set_yticks(places, [f"{name} *" if name in projected else name for name in names])
    ax.set_ylim(len(names) - 0.5, -0.7)
    ax.set(
        xlabel="separation index: share whose nearest neighbor is of their class"
        + ("\n* projected to fewer features" if projected else ""),
        title="Where the network separates the classes",
    )
    ax.grid(alpha=0.25)
    if any(frames):
        ax.legend(frameon=False, fontsize=9)
    return ax.figure.figure  # the whole one, where the axes lie in a subfigure
