"""What the heads of an XM2A layer look at, who talks to whom, and what parameters buy."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_saliency import validation
from keras_saliency.layers.attention.xm2a import XM2AHeads
from keras_saliency.typing import ArrayLike, DataFrame, Figure, Tensor


def plot_heads(
    model: keras.Model | XM2AHeads,
    series: ArrayLike,
    layer: XM2AHeads | str | int | None = None,
    mask: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Plot where each head of an `XM2AHeads` layer looks in one series, and the pairs of heads.

    Three panels: the series; the attention of each head over time, the mean over its kernels of
    the masks summed over the partners, in multiples of even attention; and for every pair of
    heads how sharply the queries of the row attend through the keys of the column.

    Args:
        model: A model that contains `XM2AHeads`, or such a layer.
        series: Array of shape `(time, variates)`, the input of `model`.
        layer: The layer, its name, or its number among the `XM2AHeads` of the model, -1 for the
            last. Default: the first.
        mask: Optional boolean array of shape `(time,)`, for a layer alone; a model makes its own.
        names: Optional names of the variates.
        title: Optional title.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `series` has the wrong rank, or `layer` cannot be found.

    Example:

    ```python
    import numpy as np
    from keras_saliency.models import XM2A
    from keras_saliency.visualization import plot_heads

    model = XM2A((100, 6), num_classes=4, depth=2)
    figure = plot_heads(model, np.random.normal(size=(100, 6)))
    figure.savefig("heads.png")
    ```
    """
    from matplotlib import pyplot as plt

    series = _checked(series)
    names = None if names is None else validation.items("names", names)
    title = validation.text("title", title)
    attention, features, mask = _inside(model, series, layer, mask)
    _, scores = attention(features, mask=mask, return_attention_scores=True)
    scores = keras.ops.convert_to_numpy(keras.ops.cast(scores, "float32"))[0].mean(-1)
    steps = len(series) if mask is None else int(np.sum(keras.ops.convert_to_numpy(mask)))
    share = scores * steps / scores.sum(1, keepdims=True).clip(1e-12)
    focus = pair_focus(attention, features, mask)[0]

    figure = plt.figure(figsize=(11, 6), layout="constrained")
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.75, 1])
    top, bottom = left.subplots(2, 1, sharex=True, height_ratios=[1, 1.4])
    many = series.shape[1] > 8
    lines = top.plot(series, linewidth=1, alpha=0.6 if many else 0.9)
    if names is not None and not many:
        top.legend(lines, names, fontsize="small", ncols=4, loc="upper right")
    top.set_ylabel("series")
    top.set_title(title or f"{attention.name}: {attention.variant}, talk: {attention.talk}")
    exists = share[share > 0]
    weakest, strongest = (exists.min(), exists.max()) if exists.size else (0.0, 1.0)
    image = bottom.imshow(
        share,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="magma",
        vmin=weakest,
        vmax=max(strongest, weakest + 1e-3),
        extent=(-0.5, len(series) - 0.5, 0.5, attention.num_heads + 0.5),
    )
    bottom.set_yticks(range(1, attention.num_heads + 1))
    bottom.set_yticklabels(
        [f"{h}  ({pool + kernel - 1})" for h, (pool, kernel) in enumerate(attention.windows, 1)]
    )
    bottom.set_xlabel("time step")
    bottom.set_ylabel("head (steps it sees)")
    figure.colorbar(image, ax=bottom, label="attention, 1 = even", pad=0.01)

    axes = right.subplots()
    matrix = axes.imshow(focus, origin="lower", cmap="viridis", vmin=0, vmax=max(focus.max(), 1e-3))
    ticks = range(attention.num_heads)
    axes.set_xticks(ticks, [f"{h + 1}" for h in ticks])
    axes.set_yticks(ticks, [f"{h + 1}" for h in ticks])
    axes.set_xlabel("key of head")
    axes.set_ylabel("query of head")
    axes.set_title("How sharply pairs attend, in %")
    if attention.num_heads <= 10:
        middle = focus.max() * 0.55
        for (row, column), value in np.ndenumerate(focus):
            color = "black" if value > middle else "white"
            axes.text(
                column, row, f"{100 * value:.2g}", ha="center", va="center", color=color, size=7
            )
    right.colorbar(matrix, ax=axes, shrink=0.6, label="focus: 0 = even, 1 = a single step")
    plt.close(figure)
    return figure


def pair_focus(layer: XM2AHeads, inputs: Tensor, mask: Tensor = None) -> np.ndarray:
    """Return how sharply each pair of heads attends, the mean over kernels of 1 - H(M) / log T.

    H(M) is the entropy over time of the mask M of the pair (G 7.8) and T the number of steps: 0 if
    all steps weigh alike, 1 if one step takes everything. Pairs that the layer's `talk` does not
    use are given too, since the descriptors of the heads define them.

    Args:
        layer: An `XM2AHeads` layer.
        inputs: Array or tensor of shape `(batch, time, variates)`, the input of the layer.
        mask: Optional boolean array of shape `(batch, time)`.

    Returns:
        Array of shape `(batch, num_heads, num_heads)`: queries by keys.

    Example:

    ```python
    import keras
    from keras_saliency import XM2AHeads
    from keras_saliency.visualization import pair_focus

    focus = pair_focus(XM2AHeads(4, 8), keras.random.normal((2, 100, 6)))
    ```
    """
    queries, keys = layer.describe(inputs, mask=mask)
    queries = np.asarray(keras.ops.convert_to_numpy(queries), "float64")
    keys = np.asarray(keras.ops.convert_to_numpy(keys), "float64")
    if mask is None:
        mask = np.ones(keys.shape[:2], bool)
    mask = np.asarray(keras.ops.convert_to_numpy(mask)).astype(bool)
    focus = np.zeros((len(keys), layer.num_heads, layer.num_heads))
    for i, (query, key, exists) in enumerate(zip(queries, keys, mask, strict=True)):
        key = key[exists]
        if len(key) < 2:
            continue
        for column in range(layer.num_heads):
            logits = query[:, :, None] * key[:, column]
            logits -= logits.max(-1, keepdims=True)
            weights = np.exp(logits)
            total = weights.sum(-1)
            entropy = np.log(total) - (weights * logits).sum(-1) / total
            focus[i, :, column] = 1 - (entropy / np.log(len(key))).mean(-1)
    return focus.clip(0, 1)


def plot_parameters(results: DataFrame, title: str | None = None) -> Figure:
    """Plot accuracy against the number of parameters, one point per model (G figure 7.4).

    Args:
        results: A frame with columns `model`, `parameters` and `accuracy`, and optionally `error`
            (the half width of an interval) and `group` (what is drawn in one color). Accuracy
            as a share, 0 to 1.
        title: Optional title.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If a column is missing or there is no row.

    Example:

    ```python
    import pandas as pd
    from keras_saliency.visualization import plot_parameters

    rows = {"model": ["A", "B"], "parameters": [2e4, 5e4], "accuracy": [0.91, 0.89]}
    figure = plot_parameters(pd.DataFrame(rows))
    ```
    """
    from matplotlib import pyplot as plt

    missing = {"model", "parameters", "accuracy"} - set(results.columns)
    if missing or len(results) == 0:
        raise ValueError(
            "`results` must have rows and the columns model, parameters and accuracy. "
            f"Received: {len(results)} rows with columns {list(results.columns)}"
        )
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    groups = results["group"] if "group" in results else results["model"]
    cycle = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    colors = {g: cycle[i % len(cycle)] for i, g in enumerate(dict.fromkeys(groups))}
    span = np.ptp(results["accuracy"]) or 0.02
    placed = []
    rows = results.assign(_color=groups.map(colors)).sort_values("parameters")
    for row in rows.to_dict("records"):
        x, y = row["parameters"], row["accuracy"]
        axes.errorbar(x, y, yerr=row.get("error"), fmt="o", color=row["_color"], capsize=3, ms=7)
        # Labels that would touch an earlier one go below their point instead of above.
        near = [p for p in placed if abs(np.log(p[0] / x)) < 0.25 and abs(p[1] - y) < 0.12 * span]
        placed.append((x, y))
        offset = (6, -13) if len(near) % 2 else (6, 6)
        axes.annotate(row["model"], (x, y), offset, textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.margins(0.15, 0.15)
    axes.set_xlabel("parameters")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    if "group" in results:
        handles = [plt.Line2D([], [], marker="o", ls="", color=c) for c in colors.values()]
        axes.legend(handles, list(colors), fontsize="small")
    axes.set_title(title or "What parameters buy")
    plt.close(figure)
    return figure


def _checked(series) -> np.ndarray:
    series = validation.array("series", series, ranks=(2, 3)).astype("float32")
    if series.ndim == 3 and len(series) == 1:
        series = series[0]
    if series.ndim != 2 or 0 in series.shape:
        raise ValueError(
            f"`series` must be one series, (time, variates). Received: shape={series.shape}"
        )
    return series


def _inside(model, series, layer, mask):
    """Return the layer, its input for the series, and its mask."""
    from keras_saliency.layers import XM2AHeads

    batch = keras.ops.convert_to_tensor(series[None])
    if mask is not None:
        mask = validation.array("mask", mask, ranks=(1,)).astype(bool)
    if isinstance(model, XM2AHeads):
        mask = None if mask is None else keras.ops.convert_to_tensor(np.asarray(mask, bool)[None])
        return model, batch, mask
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"`model` must be a keras.Model or an XM2AHeads. Received: {type(model).__name__}"
        )
    found = [x for x in model._flatten_layers() if isinstance(x, XM2AHeads)]
    names = [x.name for x in found]
    if layer is None:
        layer = 0
    if isinstance(layer, str):
        chosen = found[names.index(layer)] if layer in names else None
    elif isinstance(layer, XM2AHeads):
        chosen = layer if any(layer is x for x in found) else None
    elif isinstance(layer, int) and -len(found) <= layer < len(found):
        chosen = found[layer]
    else:
        chosen = None
    if chosen is None:
        raise ValueError(
            "`layer` must be an `XM2AHeads` of the model, its name or its number. Received: "
            f"layer={layer!r}; the model has {names}"
        )
    # Listening at the layer works in any model: functional, nested, subclassed.
    heard, original = [], chosen.call

    def listen(inputs, *args, mask=None, **kwargs):
        heard.append((inputs, mask))
        return original(inputs, *args, mask=mask, **kwargs)

    chosen.call = listen
    try:
        model(batch, training=False)
    finally:
        del chosen.call
    if not heard:
        raise ValueError(f"The model does not call its layer {chosen.name!r} on this series.")
    return chosen, *heard[0]
