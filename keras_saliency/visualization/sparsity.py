"""Pictures of sparse models: what is masked, what it costs, where the weights lie (G 4.2, 4.6)."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.typing import Axes, DataFrame, Figure, Layers

_KEPT_ONLY = "#2a7f3f"
_GONE_ONLY = "#c0392b"


def plot_masks(
    models: Mapping[str, keras.Model], layer: str, reference: str | None = None
) -> Figure:
    """Mask matrices of one layer side by side, a method each (G figure 4.9).

    Args:
        models: Dict from a title to a sparse model; plain models show their zeros.
        layer: Name of the layer (or kernel key, see `maskable_kernels`).
        reference: Title of the mask that the others are compared with: what only they keep is
            green, what only they mask is red.

    Returns:
        A matplotlib figure. Rows are inputs (window positions times channels), columns outputs;
        dark is masked.

    Raises:
        ValueError: If a model has no such layer, or `reference` is no title.

    Example:

    ```python
    import keras
    import keras_saliency
    from keras_saliency.visualization import plot_masks

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="first")])
    models = {
        method: keras_saliency.sparsify(model, 0.5, method=method)
        for method in ("magnitude", "random")
    }
    figure = plot_masks(models, "first", reference="magnitude")
    figure.savefig("masks.png")
    ```
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    if reference is not None and reference not in models:
        raise ValueError(f"`reference` must be one of {list(models)}. Received: {reference!r}")
    matrices = {title: _matrix(model, layer) for title, model in models.items()}
    rows, columns = next(iter(matrices.values())).shape
    # A wide kernel lies below the others, a tall one beside them.
    height = float(np.clip(2.4 * rows / columns, 2.0, 6.0))
    figure, axes = plt.subplots(
        1,
        len(matrices),
        figsize=(2.6 * len(matrices), height + 0.9),
        squeeze=False,
        layout="constrained",
        sharey=True,
    )
    for axis, (title, keep) in zip(axes[0], matrices.items(), strict=True):
        image = np.where(keep[..., None], 0.93, 0.18) * np.ones(3)
        if reference is not None and title != reference:
            other = matrices[reference]
            image[keep & ~other] = to_rgb(_KEPT_ONLY)
            image[~keep & other] = to_rgb(_GONE_ONLY)
        axis.imshow(image, aspect="auto", interpolation="nearest")
        axis.set_title(f"{title}\n{1 - keep.mean():.0%} masked", fontsize=10)
        axis.set_xlabel("output")
    axes[0, 0].set_ylabel("input")
    handles = [Patch(color="0.18", label="masked"), Patch(color="0.93", label="kept")]
    if reference is not None:
        handles += [
            Patch(color=_KEPT_ONLY, label=f"kept here, masked by {reference}"),
            Patch(color=_GONE_ONLY, label=f"masked here, kept by {reference}"),
        ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False
    )
    figure.suptitle(layer)
    return figure


def plot_accuracy(
    frame: DataFrame, value: str = "accuracy", by: str = "method", ax: Axes | None = None
) -> Figure:
    """Accuracy against sparsity, a line per method (G figures 4.5 and 4.6).

    Args:
        frame: A pandas frame with the columns `sparsity`, `by` and `value`, a row per
            measurement. Several rows of one point (seeds) give the mean and a band of one
            standard deviation. Rows without a method (NaN) are baselines: dotted lines.
        value: Column that is drawn.
        by: Column that tells the lines apart.
        ax: Axes to draw on. Default: a new figure.

    Returns:
        The matplotlib figure.

    Example:

    ```python
    import pandas as pd
    from keras_saliency.visualization import plot_accuracy

    rows = [
        ("isparse", 0.5, 0.97),
        ("isparse", 0.9, 0.91),
        ("magnitude", 0.5, 0.96),
        ("magnitude", 0.9, 0.82),
        (None, 0.0, 0.98),  # the dense model
    ]
    figure = plot_accuracy(pd.DataFrame(rows, columns=["method", "sparsity", "accuracy"]))
    figure.savefig("accuracy.png")
    ```
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    markers = "osD^vP*X"
    named = frame[frame[by].notna()]
    for i, (name, rows) in enumerate(named.groupby(by, sort=False)):
        points = rows.groupby("sparsity")[value].agg(["mean", "std", "count"]).sort_index()
        (line,) = ax.plot(
            points.index * 100, points["mean"], marker=markers[i % len(markers)], ms=4, label=name
        )
        if (points["count"] > 1).any():
            ax.fill_between(
                points.index * 100,
                points["mean"] - points["std"],
                points["mean"] + points["std"],
                color=line.get_color(),
                alpha=0.15,
                lw=0,
            )
    for level in frame.loc[frame[by].isna(), value]:
        ax.axhline(level, color="0.4", ls=":", lw=1, label="dense")
    ax.set(xlabel="masked edges (%)", ylabel=value)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=9)
    return ax.figure.figure  # the whole one, where the axes lie in a subfigure


def plot_weights(
    model: keras.Model, layers: Layers | None = None, bins: int = 101, ax: Axes | None = None
) -> Figure:
    """Distribution of a model's weights; what is masked is marked (G figure 4.2).

    Args:
        model: A built model, plain or masked.
        layers: Which layers; see `maskable_kernels`. Default: all.
        bins: Number of bins.
        ax: Axes to draw on. Default: a new figure.

    Returns:
        The matplotlib figure.

    Example:

    ```python
    import keras
    import keras_saliency
    from keras_saliency.visualization import plot_weights

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude")
    plot_weights(sparse).savefig("weights.png")
    ```
    """
    import matplotlib.pyplot as plt
    from keras import ops

    kept, gone = [], []
    for kernel in maskable_kernels(model, layers):
        values = ops.convert_to_numpy(kernel.variable).reshape(-1).astype("float64")
        keep = _keep(kernel).reshape(-1)
        kept.append(values[keep])
        gone.append(values[~keep])
    kept, gone = np.concatenate(kept), np.concatenate(gone)
    everything = np.concatenate([kept, gone])
    edge = np.quantile(np.abs(everything), 0.999) or 1.0
    edges = np.linspace(-edge, edge, bins + 1)
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.hist(
        [kept, gone],
        list(edges),
        stacked=True,
        color=["#3b6ea5", "#d98c3f"],
        label=[f"kept ({kept.size:,})", f"masked ({gone.size:,})"],
    )
    ax.set(xlabel="weight", ylabel="number of edges")
    ax.legend(frameon=False, fontsize=9)
    return ax.figure.figure  # the whole one, where the axes lie in a subfigure


def plot_sensitivity(frame: DataFrame, value: str | None = None, ax: Axes | None = None) -> Figure:
    """How a metric falls as one layer alone gets sparse, a line per layer.

    Args:
        frame: What `keras_saliency.sensitivity` returned.
        value: Column that is drawn. Default: `accuracy` if there is one, else `loss`, else the
            last column.
        ax: Axes to draw on. Default: a new figure.

    Returns:
        The matplotlib figure. Darker lines are layers nearer to the output.

    Raises:
        ValueError: If the frame has no such column.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency
    from keras_saliency.visualization import plot_sensitivity

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 8))
    frame = keras_saliency.sensitivity(model, (x, x[:, :3]), sparsities=(0.5, 0.9))
    plot_sensitivity(frame, value="loss").savefig("sensitivity.png")
    ```
    """
    import matplotlib.pyplot as plt

    if value is None:
        value = next((c for c in ("accuracy", "loss") if c in frame), frame.columns[-1])
    if value not in frame:
        raise ValueError(f"`value` must be one of {list(frame.columns)}. Received: {value!r}")
    names = list(dict.fromkeys(frame["layer"]))
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    colors = plt.get_cmap("viridis_r")(np.linspace(0.1, 1, len(names)))
    for name, color in zip(names, colors, strict=True):
        rows = frame[frame["layer"] == name].sort_values("sparsity")
        label = f"{name} ({rows['size'].iloc[0]:,})" if len(names) <= 20 else None
        ax.plot(rows["sparsity"] * 100, rows[value], color=color, marker=".", label=label)
    ax.set(xlabel="masked edges of the layer (%)", ylabel=value)
    ax.grid(alpha=0.25)
    if len(names) <= 20:
        ax.legend(
            title="layer (edges)",
            frameon=False,
            fontsize=8,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    return ax.figure.figure  # the whole one, where the axes lie in a subfigure


def _keep(kernel):
    from keras import ops

    for variable, mask in getattr(kernel.owner, "kernel_masks", tuple)():
        if variable is kernel.variable:
            return ops.convert_to_numpy(mask)
    return ops.convert_to_numpy(kernel.variable) != 0


def _matrix(model, layer):
    for kernel in maskable_kernels(model):
        if layer in (kernel.key, kernel.layer.name):
            keep = _keep(kernel)
            order = [a for a in range(keep.ndim) if a not in kernel.output_axes]
            outputs = int(np.prod([keep.shape[a] for a in kernel.output_axes]))
            return keep.transpose([*order, *kernel.output_axes]).reshape(-1, outputs)
    raise ValueError(
        f"The model '{model.name}' has no maskable layer {layer!r}. It has: "
        f"{', '.join(kernel.key for kernel in maskable_kernels(model))}"
    )
