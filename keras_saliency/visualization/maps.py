"""Pictures of what a model looks at."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_saliency import validation
from keras_saliency.attribution import saliency_map
from keras_saliency.attribution.registry import method_named
from keras_saliency.attribution.resizing import resize
from keras_saliency.graph.data import read_inputs
from keras_saliency.typing import ArrayLike, Data, Figure, Image

_MAP = "inferno"


def overlay(image: Image | ArrayLike, map: ArrayLike, alpha: float = 0.5) -> np.ndarray:
    """Lay a saliency map over its image, in color.

    Args:
        image: Array `(height, width)` or `(height, width, channels)` in any range, of which the
            first three channels are shown, or a `PIL.Image`.
        map: Array `(height, width)` of any extent; values are scaled by their maximum, negative
            ones count 0.
        alpha: Float in [0, 1]. How much of the picture is the map where the map is at its highest.

    Returns:
        A uint8 array `(height, width, 3)`.

    Raises:
        ValueError: If an array has other axes, or values that are not finite.

    Example:

    ```python
    import numpy as np
    from keras_saliency import visualization

    picture = visualization.overlay(np.zeros((8, 8, 1)), np.eye(4))
    assert picture.shape == (8, 8, 3)
    ```
    """
    import matplotlib

    alpha = validation.number("alpha", alpha, minimum=0, maximum=1)
    picture = _rgb(np.asarray(image))
    positive = np.maximum(validation.array("map", map, ranks=(2,), finite=True), 0)
    values = resize(positive[None].astype("float32"), picture.shape[:2])[0]
    values = values / values.max() if values.max() > 0 else values
    colours = matplotlib.colormaps[_MAP](values)[..., :3]
    share = (alpha * np.sqrt(values))[..., None]
    return np.round(255 * ((1 - share) * picture + share * colours)).astype("uint8")


def _options(methods, options):
    """For each method the options that it takes."""
    general = set(inspect.signature(saliency_map).parameters) - {"layer", "options"}
    accepted = {method: method_named(method).accepted | general for method in methods}
    for name in options:
        if not any(name in names for names in accepted.values()):
            raise ValueError(f"`options`: none of the methods {methods} takes {name!r}.")
    for method in methods:
        yield {name: value for name, value in options.items() if name in accepted[method]}


def _rgb(image):
    """An image as floats in [0, 1], three channels."""
    image = validation.array("image", image, ranks=(2, 3), finite=True)
    scale = 255.0 if image.dtype == np.uint8 else None
    image = image.astype("float64")
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    if scale is None:
        low, high = image.min(), image.max()
        if low >= 0 and high <= 1:
            return image
        if low >= 0 and high <= 255 and high > 1:
            low, high = 0.0, 255.0
        return (image - low) / max(high - low, 1e-12)
    return image / scale


def plot_saliency_maps(
    model: keras.Model,
    inputs: Data,
    methods: Sequence[str] = ("grad_cam", "occlusion"),
    class_names: Sequence[str] | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    **options: Any,
) -> Figure:
    """Inputs with what was predicted, and beside each its maps, one column per method.

    Args:
        model: A built `keras.Model`.
        inputs: Array of images `(inputs, height, width, channels)`, series `(inputs, time,
            variates)` or token ids `(inputs, time)`; a handful.
        methods: Names of attribution methods.
        class_names: Optional list of strings, the names of the model's classes.
        tokens: Optional list of lists of strings: the words of token ids.
        **options: Of `saliency_map`; `layer` and the options of methods (`steps`, `window`) go
            to the methods that take them.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If a method does not exist, if no method has an option, or if `class_names` or
            `tokens` are too few.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import visualization

    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 1))
    figure = visualization.plot_saliency_maps(model, images)
    ```
    """
    from matplotlib.figure import Figure

    methods = [methods] if isinstance(methods, str) else list(methods)
    if not methods:
        raise ValueError("`methods` must name at least one attribution method.")
    x = np.asarray(read_inputs(model, inputs))
    taken = _options(methods, options)
    maps = [saliency_map(model, x, m, **own) for m, own in zip(methods, taken, strict=True)]
    if maps[0].ndim > 3:
        raise ValueError(f"Volumes cannot be drawn. Received: maps of shape {maps[0].shape}")
    if tokens is not None and [len(t) for t in tokens] != [x.shape[1]] * len(x):
        raise ValueError(
            f"`tokens` must be {len(x)} lists of {x.shape[1]} strings, those of the ids."
        )
    titles = _predictions(model, x, class_names)
    pictures = maps[0].ndim == 3
    columns = len(methods) + pictures
    width, height = (2.1, 2.3) if pictures else (5.5, 1.7)
    figure = Figure(figsize=(columns * width + 0.7, len(x) * height + 0.4), layout="constrained")
    axes = figure.subplots(len(x), columns, squeeze=False)
    for row, title in enumerate(titles):
        if pictures:
            axes[row, 0].imshow(_rgb(x[row]))
            axes[row, 0].set_title(title, fontsize=9)
        for column, (method, values) in enumerate(zip(methods, maps, strict=True)):
            place = axes[row, column + pictures]
            label = method.replace("_", " ")
            if pictures:
                place.imshow(overlay(x[row], values[row], alpha=0.75))
            elif tokens is not None or x.ndim == 2:
                words = tokens[row] if tokens is not None else [str(n) for n in x[row]]
                _draw_words(place, words, values[row])
            else:
                _draw_series(place, x[row], values[row])
            if not pictures:
                label = f"{title}: {label}" if column == 0 else label
            if row == 0 or not pictures:
                place.set_title(label, fontsize=9)
    for place in axes.ravel():
        place.tick_params(labelsize=7)
        if pictures or x.ndim == 2:
            place.set_axis_off()
    import matplotlib.cm
    import matplotlib.colors

    colours = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), _MAP)
    bar = figure.colorbar(colours, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("saliency, of each map's maximum", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def _predictions(model, x, class_names):
    outputs = np.asarray(model.predict(x, verbose=0))
    if outputs.ndim != 2:
        return [f"input {i}" for i in range(len(x))]
    if outputs.shape[1] == 1:
        return [f"output {value:.3g}" for value in outputs[:, 0]]
    if class_names is not None and len(class_names) != outputs.shape[1]:
        raise ValueError(
            f"`class_names` must hold {outputs.shape[1]} names. Received: {len(class_names)}"
        )
    titles = []
    for row in outputs:
        best = int(row.argmax())
        name = class_names[best] if class_names is not None else f"class {best}"
        sure = (row >= 0).all() and math.isclose(row.sum(), 1, abs_tol=1e-3)
        titles.append(f"{name}, {row[best]:.0%}" if sure else f"{name}, {row[best]:.3g}")
    return titles


def _draw_series(axes, series, values):
    """Every variate as a line whose background is colored by the saliency of its time steps."""
    time = np.arange(len(series) + 1) - 0.5
    low, high = float(series.min()), float(series.max())
    room = 0.05 * max(high - low, 1e-12)
    axes.pcolormesh(
        time, [low - room, high + room], values[None], cmap=_MAP, vmin=0, vmax=1, alpha=0.6
    )
    for variate in np.asarray(series).T[:8]:
        axes.plot(variate, color="#1b1b1b", linewidth=0.9)
    axes.set_xlim(-0.5, len(series) - 0.5)
    axes.set_ylim(low - room, high + room)
    axes.set_xlabel("time step", fontsize=8)


def _draw_words(axes, words, values):
    """Words in boxes of color, eight to a line."""
    import matplotlib

    per_line = 8
    lines = -(-len(words) // per_line)
    for i, (word, value) in enumerate(zip(words, values, strict=True)):
        colour = matplotlib.colormaps[_MAP](float(value))
        dark = np.dot(colour[:3], (0.3, 0.6, 0.1)) < 0.5
        axes.text(
            (i % per_line + 0.5) / per_line,
            1 - (i // per_line + 0.5) / lines,
            f"{word[:10]}\n{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
            bbox={"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.3"},
        )
