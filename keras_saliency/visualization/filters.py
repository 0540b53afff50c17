"""How much filters overlap, layer by layer."""

from __future__ import annotations

from keras_saliency.typing import Axes, DataFrame, Figure


def plot_filter_overlap(frame: DataFrame, ax: Axes | None = None) -> Figure:
    """The overlap of every filter with the others of its layer, a column of points per layer.

    Args:
        frame: What `keras_saliency.sparsity.filter_overlap` returned.
        ax: Axes to draw on. Default: a new figure.

    Returns:
        The matplotlib figure. A bar marks the mean of each layer.

    Raises:
        ValueError: If the frame is empty or lacks a column.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import filter_overlap
    from keras_saliency.visualization import plot_filter_overlap

    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3)])
    plot_filter_overlap(filter_overlap(model)).savefig("overlap.png")
    ```

    Source: Prakash (2019), section 5.5.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    columns = list(getattr(frame, "columns", ()))
    if not {"layer", "overlap"} <= set(columns) or not len(frame):
        raise ValueError(
            "`frame` must have rows, and the columns `layer` and `overlap`, as `filter_overlap` "
            f"gives them. Received: {type(frame).__name__} with the columns {columns}"
        )
    groups = list(frame.groupby("layer", sort=False)["overlap"])
    if ax is None:
        width = 2.5 + 0.6 * len(groups)
        _, ax = plt.subplots(figsize=(width, 4), layout="constrained")
    for place, (_, values) in enumerate(groups):
        spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [0]
        ax.plot(place + np.asarray(spread), values, ".", ms=4, alpha=0.6)
        ax.plot([place - 0.35, place + 0.35], [values.mean()] * 2, color="0.2", lw=2)
    ax.set_xticks(range(len(groups)), [name for name, _ in groups], rotation=45, ha="right")
    ax.set(ylabel="overlap: mean |cosine| to the other filters", ylim=(0, None))
    ax.set_title("Filters that point where others point")
    ax.grid(axis="y", alpha=0.25)
    return ax.figure.figure  # the whole one, where the axes lie in a subfigure
