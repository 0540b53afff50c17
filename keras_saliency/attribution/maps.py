"""Saliency maps: what of an input a model looks at."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_saliency import validation
from keras_saliency.attribution import (  # noqa: F401 (register)
    attention,
    cam,
    gradients,
    ms_roi,
    perturbation,
)
from keras_saliency.attribution.batches import batches_of
from keras_saliency.attribution.passes import Passes, describe_outputs
from keras_saliency.attribution.registry import method_named
from keras_saliency.attribution.resizing import resize
from keras_saliency.attribution.targets import Region, Target
from keras_saliency.graph.data import read_inputs
from keras_saliency.typing import ArrayLike, Data, Layer


def saliency_map(
    model: keras.Model,
    inputs: Data,
    method: str = "grad_cam",
    *,
    target: ArrayLike | Callable[..., Any] | Region | None = None,
    layer: Layer | str | Sequence[Layer | str] | None = None,
    reduce: str | None = "auto",
    normalize: str | None = "max",
    resize: bool = True,
    logits: bool = True,
    batch_size: int = 32,
    seed: int = 0,
    verbose: bool = False,
    **options: Any,
) -> Any:
    """What a model looks at: one map per input, by a method of your choice.

    Works on Sequential, Functional, nested and subclassed models, on series, images, volumes and
    token ids, on TensorFlow, JAX and PyTorch. The model stays as it was: weights, compile
    settings, statistics, gradients and random states.

    Methods: `"gradient"`, `"gradient_x_input"`, `"smooth_grad"`, `"integrated_gradients"`,
    `"expected_gradients"`, `"smooth_taylor"` differentiate by the input; `"cam"`, `"grad_cam"`,
    `"grad_cam_plus_plus"`, `"hires_cam"`, `"layer_cam"`, `"score_cam"`, `"eigen_cam"` (blind to
    the class) and `"robust_cam"` read the features of a layer; `"ms_roi"` finds every object of a
    model that ends in `layers.MSROI`; `"attention_rollout"` and `"attention_relevance"` read a
    transformer's attention; `"occlusion"` and `"rise"` change the input and watch the score;
    `"random"` is the floor of every comparison.

    Args:
        model: A built `keras.Model`.
        inputs: Array `(inputs, *space, channels)`, channels first where the model has them so, or
            token ids `(inputs, time)`; a list or dict of these; a data set of batches.
        method: String. One of the methods above, or of your own (`attribution.register_method`).
        target: What is scored: `None`, each input's highest output; an int; one int per input; a
            function of the outputs that returns `(rows,)`; or `attribution.Region`.
        layer: For the maps of a layer: a layer, its name, a path into nested models such as
            `"backbone/conv5_block3_out"`, or a list of these, whose maps are averaged. Default is
            the deepest layer before whose end more than one position reaches the score.
        reduce: How channels become one value: `"max_abs"`, `"sum"`, `"sum_abs"`, or `None`: values
            of the inputs' shape, signed, neither normalized nor resized. Default is `"auto"`:
            `"sum_abs"` for attributions that add up, `"max_abs"` for gradients.
        normalize: `"max"` cuts negative values and divides by the maximum; `"minmax"`; `None`.
        resize: Bool. Whether maps have the inputs' extent, by linear interpolation.
        logits: Bool. Whether scores are taken before a softmax or sigmoid at the model's end.
        batch_size: Int. How many rows, copies included, pass through the model at once.
        seed: Int. Of methods that draw; an input's noise depends on it and its position alone.
        verbose: Bool. Whether a progress bar is shown.
        **options: Of the method: `samples`, `noise`, `steps`, `baseline`, `background`, `window`,
            `stride`, `fill`, `segments`, `cells`, `keep`, `channels`, `top`, `grid`, `token`,
            `statistic`, `threshold`, `augmented`.

    Returns:
        A float32 NumPy array `(inputs, *space)`; with several inputs a list or dict of these,
        `None` for inputs without values that can move.

    Raises:
        ValueError: If an argument names nothing that exists, if the model has no such score, or
            if the inputs are not finite. The message says what would do.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 1))
    maps = keras_saliency.saliency_map(model, images)
    assert maps.shape == (2, 16, 16)
    ```
    """
    chosen = method_named(method)
    _check(model, reduce, normalize, resize, logits, verbose)
    batch_size = validation.integer("batch_size", batch_size)
    options = _options(chosen, options, layer, seed, verbose)
    if reduce == "auto":
        reduce = chosen.reduce
    elif chosen.reduce is None and reduce is None:
        raise ValueError(
            f"`reduce=None` asks for values of the inputs' shape, and {method!r} makes maps "
            "without channels. Leave `reduce` out."
        )
    passes = _passes(model, inputs, target, logits, batch_size)
    import tqdm

    collected = [[] for _ in passes.moving]
    with tqdm.tqdm(total=passes.count, disable=not verbose, desc=method) as bar:
        for batch in batches_of(passes):
            for parts, values in zip(collected, chosen.function(batch, **options), strict=False):
                if values is not None:
                    parts.append(np.asarray(values, "float32"))
            bar.update(len(batch))
    arrays = [np.concatenate(parts) if parts else None for parts in collected]
    made = [x.reshape(passes.count, -1).any(axis=1).all() for x in arrays if x is not None]
    if chosen.layered and not all(made):
        warnings.warn(
            f"{method!r}: the map of some input is 0 everywhere. In the layer that it is read "
            "from nothing speaks for this score; look at another `target` or `layer`.",
            stacklevel=2,
        )
    maps = [None] * len(passes.inputs)
    for i, values in zip(passes.moving, arrays, strict=True):
        if values is not None:
            maps[i] = _finished(passes, i, values, chosen, reduce, normalize, resize)
    return maps[0] if len(maps) == 1 else tree.pack_sequence_as(passes.structure, maps)


def input_gradients(
    model: keras.Model,
    inputs: Data,
    target: ArrayLike | Callable[..., Any] | Region | None = None,
    logits: bool = True,
    batch_size: int = 32,
) -> Any:
    """The derivative of a score by the inputs, on every backend.

    Args:
        model: A built `keras.Model`.
        inputs: As for `saliency_map`.
        target: What is scored, as for `saliency_map`; each input's highest output by default.
        logits: Bool. Whether the score is taken before a softmax or sigmoid at the model's end.
        batch_size: Int. How many rows pass through the model at once.

    Returns:
        A float32 array of the inputs' shape, signed; of token ids, that of their embeddings. A
        list or dict for several inputs.

    Raises:
        ValueError: As `saliency_map`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import attribution

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    gradients = attribution.input_gradients(model, np.ones((4, 3)), target=1)
    kernel = model.layers[0].get_weights()[0]
    np.testing.assert_allclose(gradients[0], kernel[:, 1], rtol=1e-6)
    ```
    """
    return saliency_map(
        model, inputs, "gradient", target=target, logits=logits, batch_size=batch_size, reduce=None
    )


def _check(model, reduce, normalize, resize, logits, verbose):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built. Call it on a batch of inputs first."
        )
    if reduce is not None:
        validation.choice("reduce", reduce, ("auto", "max_abs", "sum", "sum_abs"))
    if normalize is not None:
        validation.choice("normalize", normalize, ("max", "minmax"))
    for name, value in {"resize": resize, "logits": logits, "verbose": verbose}.items():
        validation.boolean(name, value)


def _options(method, options, layer, seed, verbose):
    accepted = method.accepted
    unknown = sorted(set(options) - accepted)
    if unknown:
        known = sorted(accepted - {"layer", "seed", "verbose"})
        raise ValueError(
            f"`method={method.name!r}` has no option {unknown[0]!r}. Its options: {known}"
        )
    if layer is not None and "layer" not in accepted:
        raise ValueError(f"`layer`: {method.name!r} reads no layer. Leave it out.")
    general = {"layer": layer, "seed": validation.seed(seed), "verbose": verbose}
    return options | {name: value for name, value in general.items() if name in accepted}


def _passes(model, inputs, target, logits, batch_size):
    if inputs is None:
        raise TypeError("`inputs` must be what the model takes. Received: None")
    inputs = read_inputs(model, inputs, argument="inputs")
    flat = tree.flatten(inputs)
    if not len(flat[0]):
        raise ValueError("`inputs` holds no input: its first axis is empty.")
    shapes = [tuple(x.shape) for x in getattr(model, "inputs", None) or []]
    for x, shape in zip(flat, shapes, strict=False):
        if x.ndim == len(shape) - 1 and all(
            n in (None, m) for m, n in zip(x.shape, shape[1:], strict=True)
        ):
            raise ValueError(
                f"`inputs` has the shape {x.shape}, one input without its batch axis. Pass "
                "`inputs[None]`."
            )
    passes = Passes(model, inputs, Target(target, len(flat[0])), logits, batch_size)
    describe_outputs(passes)
    return passes


def _finished(passes, i, values, method, reduce, normalize, wanted):
    """Channels reduced, at the input's extent, normalized."""
    if reduce is None and method.reduce is not None:
        return values
    if method.reduce is not None:
        axis = values.ndim - 1 if passes.embeddings[i] else passes.channels_of(i)
        if values.ndim > 2:
            values = _reduced(values, reduce, axis)
        else:
            values = np.abs(values) if reduce != "sum" else values
    space = passes.space_of(i)
    if wanted and values.ndim == len(space) + 1:
        values = resize(values, space)
    mask = passes.input_mask(i, np.arange(passes.count))
    if mask is not None and mask.shape == values.shape:
        values = values * mask
    return _normalized(values, normalize)


def _reduced(values, reduce, axis):
    if reduce == "max_abs":
        return np.abs(values).max(axis=axis)
    return (np.abs(values) if reduce == "sum_abs" else values).sum(axis=axis)


def _normalized(maps, normalize):
    if normalize is None:
        return maps
    axes = tuple(range(1, maps.ndim))
    if normalize == "max":
        maps = np.maximum(maps, 0)
    else:
        maps = maps - maps.min(axis=axes, keepdims=True)
    top = maps.max(axis=axes, keepdims=True)
    return np.divide(maps, top, out=np.zeros_like(maps), where=top > 0)
