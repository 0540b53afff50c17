"""What do the attention layers of a model look at?"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.graph.discovery import is_attention_layer
from keras_saliency.layers.attention.san import SANAttention
from keras_saliency.typing import ArrayLike, Figure, Layer

_COLUMNS = {
    "previous": "layer before\n(mean)",
    "features": "features",
    "difference": "difference",
    "extrema": "soft extrema",
    "smoothed": "smoothed",
    "mask": "mask",
    "attended": "features × mask",
}
_SIGNED, _POSITIVE, _MASK = "RdBu_r", "magma", "viridis"


def plot_attention(
    model: keras.Model,
    image: ArrayLike,
    layers: Layer | str | Sequence[Layer | str] | None = None,
    channels: int | Sequence[int] = 3,
) -> Figure:
    """Draw, for one image, how the attention layers of a model come to their masks.

    One row per channel, a block of rows per attention layer. For `SANAttention` the columns are
    the features before and after the layer it watches, their difference, its soft extrema, the
    smoothed extrema, the mask, and the attended features (G figure 5.4); for the other attention
    layers the features, the mask, and the attended features. On the left the image, and the
    image with the mask, averaged over channels, laid over it.

    Difference and extrema of a row share one scale, so that one sees what the extrema suppress;
    the masks of a layer share another, shown beside them. Signed values are white at 0.

    Args:
        model: A `keras.Model` with attention layers, anywhere in it; subclassed models too.
        image: Array `(height, width, channels)`, with or without a batch axis of length 1. A
            series `(steps, channels)` is drawn as lines, of a volume the middle slice is shown.
        layers: Attention layers or their names; `None` for all, in the order of their calls.
        channels: How many channels to show of each layer, those whose output varies most;
            or a list of their indices.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the model has no (such) attention layer, or `image` is not one sample.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency
    from keras_saliency.visualization import plot_attention

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(8, 5, padding="same", activation="relu"),
            keras_saliency.SANAttention(),
        ]
    )
    figure = plot_attention(model, np.random.rand(28, 28, 1))
    figure.savefig("attention.png")
    ```

    Reference: Y. Garg, dissertation, 2020, figures 5.4 and 5.8.
    """
    from matplotlib.figure import Figure

    chosen = _chosen_layers(model, layers)
    image = _one_sample(model, image)
    blocks = [_block(layer, call) for layer, call in _recorded(model, image, chosen)]
    rows = [(block, c) for block in blocks for c in _chosen_channels(block["attended"], channels)]
    names = [name for name in _COLUMNS if any(name in block for block in blocks)]
    picture = _displayable(image[0])

    figure = Figure(figsize=(1.35 * (len(names) + 1) + 0.9, 1.35 * len(rows) + 0.8))
    grid = figure.add_gridspec(
        len(rows),
        len(names) + 2,
        width_ratios=[1.0] * (len(names) + 1) + [0.07],
        left=0.02,
        right=1 - 0.55 / figure.get_figwidth(),
        top=1 - 0.65 / figure.get_figheight(),
        bottom=0.06 / figure.get_figheight(),
        wspace=0.08,
        hspace=0.12,
    )
    first_row = 0
    for block in blocks:
        count = sum(b is block for b, _ in rows)
        _draw_block(figure, grid, first_row, rows[first_row : first_row + count], names)
        _draw_picture(figure, grid, first_row, count, picture, block)
        first_row += count
    for column, name in enumerate(names, start=1):
        axes = figure.add_subplot(grid[0, column], frameon=False)
        axes.set_title(_COLUMNS[name], fontsize=9)
        axes.set_axis_off()
    return figure


# ---- what is drawn -------------------------------------------------------------------------------


def _chosen_layers(model, layers):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    available = [layer for layer in model._flatten_layers() if is_attention_layer(layer)]
    if not available:
        raise ValueError(
            f"Model {model.name!r} has no attention layer (a layer whose `call` takes "
            "`return_attention_scores`). `keras_saliency.add_attention` makes one that has."
        )
    if layers is None:
        return available
    layers = layers if isinstance(layers, (list, tuple)) else [layers]
    if not all(isinstance(x, str | keras.layers.Layer) for x in layers):
        raise validation.wrong("layers", "attention layers of the model, or their names", layers)
    chosen = [a for a in available if any(a is x or a.name == x for x in layers)]
    missing = [x for x in layers if not any(a is x or a.name == x for a in chosen)]
    if missing or not chosen:
        raise ValueError(
            f"`layers` must name attention layers of model {model.name!r}: "
            f"{[layer.name for layer in available]}. "
            f"Received: {[getattr(x, 'name', x) for x in missing]}"
        )
    return chosen


def _one_sample(model, image) -> np.ndarray:
    image = validation.array("image", image)
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, list):
        raise ValueError(f"`model` must have one input. Received: {len(shape)} inputs")
    ndim = len(shape) if shape is not None else max(image.ndim, 3)
    if image.ndim == ndim - 1:
        image = image[None]
    known = zip(image.shape[1:], (shape or image.shape)[1:], strict=False)
    if image.ndim != ndim or image.shape[0] != 1 or any(b not in (None, a) for a, b in known):
        raise ValueError(
            f"`image` must be one sample for inputs of shape {shape}, with or without a batch axis "
            f"of length 1. Received: shape {image.shape}"
        )
    return image


def _recorded(model, image, layers):
    """Run `model` on `image`; return [(layer, (inputs, mask))] of each layer's first call."""
    calls = {}
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_recording(layer, calls))
        model(ops.convert_to_tensor(image), training=False)
    by_id = {id(layer): layer for layer in layers}
    if not calls:
        raise ValueError(f"Model {model.name!r} called none of its attention layers.")
    return [(by_id[key], call) for key, call in calls.items()]


@contextlib.contextmanager
def _recording(layer, calls):
    original = layer.call

    def call(inputs, *args, **kwargs):
        calls.setdefault(id(layer), (inputs, kwargs.get("mask")))
        return original(inputs, *args, **kwargs)

    # An attribute of the instance hides the method; Keras's own bookkeeping of attributes is
    # for layers and variables.
    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


def _block(layer, call):
    """Return {column: array (*space, channels)} of one attention layer, and its name."""
    inputs, mask = call
    if isinstance(layer, SANAttention):
        maps = layer.stages(inputs, mask=mask)
        maps = {"previous": inputs[1], "features": inputs[0], **maps}
        if layer.smoothing is None:
            del maps["smoothed"]
        if not layer.extrema:
            del maps["extrema"]
    else:
        features = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        kwargs = {} if mask is None else {"mask": mask}
        _, scores = layer(inputs, return_attention_scores=True, **kwargs)
        maps = {"features": features, "mask": scores}
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    block = {}
    for name, tensor in maps.items():
        array = ops.convert_to_numpy(ops.cast(tensor, "float32"))[0]
        block[name] = np.moveaxis(array, 0, -1) if first else array
    shape = block["features"].shape
    block["mask"] = np.broadcast_to(block["mask"].reshape(_aligned(block["mask"], shape)), shape)
    if "previous" in block:
        block["previous"] = block["previous"].mean(-1, keepdims=True)
    block["attended"] = block["features"] * block["mask"]
    block = {name: _sliced(array) for name, array in block.items()}
    return {**block, "name": layer.name}


def _aligned(scores, shape):
    """Return the shape in which `scores` broadcast to `shape`."""
    if scores.ndim == len(shape):
        return scores.shape
    # One score per channel, or one per place.
    if scores.shape == shape[-1:]:
        return (*[1] * (len(shape) - 1), shape[-1])
    return (*scores.shape, *[1] * (len(shape) - scores.ndim))


def _sliced(array):
    """Return the middle slice of a volume, anything else as it is."""
    return array[array.shape[0] // 2] if array.ndim == 4 else array


def _chosen_channels(maps, channels):
    count = maps.shape[-1]
    if isinstance(channels, (list, tuple)):
        if not channels or not all(isinstance(c, int) and 0 <= c < count for c in channels):
            raise ValueError(
                f"`channels` must be indices from 0 to {count - 1}. Received: channels={channels}"
            )
        return list(channels)
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(
            f"`channels` must be a positive integer or a list. Received: channels={channels!r}"
        )
    spread = maps.reshape(-1, count).std(0)
    return sorted(np.argsort(-spread, kind="stable")[:channels].tolist())


def _displayable(sample):
    """Return an array that can be shown: (steps, channels), (h, w) or (h, w, 3) in [0, 1]."""
    if keras.config.image_data_format() == "channels_first" and sample.ndim > 2:
        sample = np.moveaxis(sample, 0, -1)
    sample = _sliced(np.asarray(sample, "float64"))
    if sample.ndim == 3 and sample.shape[-1] != 3:
        sample = sample.mean(-1)
    low, high = np.nanmin(sample), np.nanmax(sample)
    return (sample - low) / (high - low) if high > low else np.zeros_like(sample)


# ---- how -----------------------------------------------------------------------------------------


def _draw_block(figure, grid, first_row, rows, names):
    block, shown = rows[0][0], [channel for _, channel in rows]
    low, high = float(block["mask"][..., shown].min()), float(block["mask"][..., shown].max())
    if high - low < 1e-3:
        low, high = max(0.0, low - 0.05), min(1.0, high + 0.05)
    bar = None
    for row, channel in enumerate(shown, start=first_row):
        top = 1.0
        if "difference" in block:
            top = float(np.nanmax(np.abs(block["difference"][..., channel]), initial=0)) or 1.0
        limits = {"mask": (low, high), "difference": (0, top), "extrema": (0, top)}
        for column, name in enumerate(names, start=1):
            if name not in block or (name == "previous" and row > first_row):
                continue
            axes = figure.add_subplot(grid[row, column])
            values = block[name][..., 0 if name == "previous" else channel]
            drawn = _draw(axes, values, *_colors(name, values, limits.get(name)))
            if name == "features":
                _note(axes, f"channel {channel}")
            if name == "mask":
                _note(axes, f"{values.min():.2f} to {values.max():.2f}")
                bar = drawn if values.ndim == 2 else None
    if bar is not None:
        cax = figure.add_subplot(grid[first_row : first_row + len(rows), -1])
        bar = figure.colorbar(bar, cax=cax)
        bar.ax.tick_params(labelsize=7)
        bar.set_label("mask", fontsize=7)
        bar.outline.set_visible(False)


def _note(axes, text):
    box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    axes.text(0.03, 0.96, text, fontsize=6, va="top", transform=axes.transAxes, bbox=box)


def _colors(name, values, limits):
    """Return the color map and its limits."""
    if name == "mask":
        return _MASK, limits
    top = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    if np.nanmin(values, initial=0) < 0:
        top = limits[1] if limits is not None else top
        return _SIGNED, (-top, top)
    return (_POSITIVE, limits) if limits is not None else ("gray", (0, top))


def _draw(axes, values, colors, limits):
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    if values.ndim == 1:
        margin = 0.08 * (limits[1] - limits[0])
        axes.set_ylim(limits[0] - margin, limits[1] + 2 * margin)
        return axes.plot(values, linewidth=0.9, color="tab:blue")
    return axes.imshow(values, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="equal")


def _draw_picture(figure, grid, first_row, count, picture, block):
    """Draw the image once, and the image under the mean mask for every layer."""
    mean = block["mask"].mean(-1)
    series = mean.ndim == 1
    plain = first_row == 0 and count > 1 and not series
    for row in range(first_row, first_row + 1 + plain):
        axes = figure.add_subplot(grid[row, 0])
        axes.set_xticks([])
        axes.set_yticks([])
        if row == first_row:
            axes.set_title(block["name"], fontsize=8, fontweight="bold", loc="left", pad=3)
        if series:
            lines = picture if picture.ndim == 2 else picture.reshape(len(picture), -1)
            axes.plot(np.linspace(0, 1, len(lines)), lines, linewidth=0.6, alpha=0.7)
            axes.plot(np.linspace(0, 1, len(mean)), mean, color="black", linewidth=1.2)
            axes.set_xlabel("input; mean mask in black", fontsize=6, labelpad=2)
        elif plain and row == first_row:
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        else:
            grey = picture if picture.ndim == 2 else picture.mean(-1)
            extent = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
            axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
            axes.imshow(mean, cmap=_MASK, alpha=0.6, extent=extent, interpolation="bilinear")
            axes.set_xlabel("mean mask", fontsize=7, labelpad=1)
