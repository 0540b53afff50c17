"""Every object at once: the maps of classes that a network with an MS-ROI head sees."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.attribution.places import find_layers
from keras_saliency.attribution.registry import register_method
from keras_saliency.graph.gradients import without_gradients
from keras_saliency.graph.listening import listening
from keras_saliency.layers.convolution.ms_roi import MSROI


@register_method("ms_roi", layered=True)
def ms_roi(batch, layer=None, threshold=None, top=5, join="sum", augmented=0, noise=0.05, seed=0):
    """Maps of several classes in one (Prakash (2019), equation 2.5 and section 3.4).

    Args:
        batch: The inputs, as for every method.
        layer: The `layers.MSROI` that is read, where a model has several.
        threshold: Number. The maps of all classes are added whose logit is above it.
        top: Int. Without a threshold: the `top` highest classes count, the last of them once, the
            one before twice and so on, over the sum of these.
        join: `"sum"`, the source's, adds the maps as they are. `"max"` divides each class's map by
            its own maximum and takes the highest at every position, so that a faint object next to
            a bright one has a peak of its own.
        augmented: Int. The mean of so many maps, with noise on the input and on what every stage
            passes on: softer, and harder to mislead. 0 is one map without noise.
        noise: Number. The noise's standard deviation, of the range of what it is added to.
        seed: Int. An input's noise depends on it and on the input's position alone.
    """
    top = validation.integer("top", top)
    threshold = validation.number("threshold", threshold, optional=True)
    join = validation.choice("join", join, ("sum", "max"))
    augmented = validation.integer("augmented", augmented, 0)
    noise = validation.number("noise", noise, 0)
    target = batch.passes.target
    if target.callable or hasattr(target.value, "masks"):
        raise ValueError(
            "`method='ms_roi'` looks at the highest classes, or at those of an integer `target`. "
            f"Received: target={target.value!r}"
        )
    chosen = None if target.value is None else target.value[batch.chosen]
    head = _head(batch.passes.model, layer)
    total = 0
    for copy in range(max(augmented, 1)):
        drawn = _Noise(batch, noise, seed, copy) if augmented else None
        logits, maps = _look(batch, head, drawn)
        total = total + _joined(logits, maps, chosen, threshold, top, join)
    return [(total / max(augmented, 1)).astype("float32")]


def _head(model, layer):
    """The one MS-ROI layer that is meant."""
    within = model._flatten_layers(include_self=False)
    found = find_layers(model, layer) if layer is not None else within
    found = list(dict.fromkeys(x for x in found if isinstance(x, MSROI)))
    if len(found) != 1:
        raise ValueError(
            "`method='ms_roi'` reads one keras_saliency.layers.MSROI, as models.MSROI has it; "
            "where there are several, name it with `layer=`; of other models 'robust_cam' joins "
            f"the maps of several classes. Received: {len(found)} such layers"
        )
    return found[0]


def _joined(logits, maps, chosen, threshold, top, join):
    """One map of the maps of all classes, `(rows, *space, classes)`."""
    rows, classes = logits.shape
    if chosen is not None:
        weights = np.eye(classes)[chosen]
    elif threshold is not None:
        weights = (logits > threshold).astype("float64")
    else:
        top = min(top, classes)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        weights = np.zeros((rows, classes))
        ranks = np.arange(top, 0, -1) / (top * (top + 1) / 2)
        np.put_along_axis(weights, order, np.broadcast_to(ranks, order.shape), axis=1)
    if join == "max":
        highest = maps.max(axis=tuple(range(1, maps.ndim - 1)), keepdims=True)
        maps = maps / np.where(highest > 0, highest, 1)
    maps = maps * weights.reshape(rows, *[1] * (maps.ndim - 2), classes)
    return maps.max(axis=-1) if join == "max" else maps.sum(axis=-1)


def _look(batch, head, drawn):
    """One pass: the logits and the maps of the head, in float64."""
    passes = batch.passes
    seen = []

    def watched(call, args, kwargs):
        logits, maps = call(*args, **{**kwargs, "return_maps": True})
        seen.append((logits, maps))
        return (logits, maps) if kwargs.get("return_maps") else logits

    handlers = {head: watched}
    flat = [x[batch.chosen] for x in passes.inputs]
    if drawn is not None:
        vectors = {}
        for i, x, mask in zip(passes.moving, batch.values, batch.masks, strict=True):
            x = drawn(x, mask)
            vectors.update(dict.fromkeys(passes.embeddings[i], x))
            flat[i] = flat[i] if passes.embeddings[i] else x
        stages = [x for x in passes.layers_within() if x is not head and _ends_a_stage(x)]
        handlers.update(dict.fromkeys(stages, drawn.handler))
        for embedding in {call[0] for call in vectors}:
            handlers[embedding] = _giving(embedding, vectors)
    with listening(handlers), keras.StatelessScope(), without_gradients():
        passes._call_model([ops.convert_to_tensor(x) for x in flat])
    if not seen:
        raise ValueError(f"`layer`: '{head.name}' is not used when the model is called.")
    return tuple(ops.convert_to_numpy(ops.cast(x, "float32")).astype("float64") for x in seen[-1])


def _giving(layer, vectors):
    """A handler that returns these vectors in the order of the layer's calls."""
    numbers = itertools.count()

    def handler(call, args, kwargs):
        number = next(numbers)
        if (layer, number) not in vectors:
            return call(*args, **kwargs)
        return ops.convert_to_tensor(vectors[layer, number], layer.compute_dtype)

    return handler


def _ends_a_stage(layer):
    """Whether a layer pools, or convolves with strides."""
    strided = hasattr(layer, "kernel_size") and np.max(getattr(layer, "strides", 1)) > 1
    return hasattr(layer, "pool_size") or strided


class _Noise:
    """Noise of one copy: on the inputs, then on the outputs of stages, in the order of calls."""

    def __init__(self, batch, noise, seed, copy):
        self.noise = noise
        self.generators = [np.random.default_rng([seed, int(i), copy]) for i in batch.chosen]

    def __call__(self, x, mask=None):
        result = []
        for i, (row, generator) in enumerate(zip(x, self.generators, strict=True)):
            here = row if mask is None else row[mask[i]]
            spread = self.noise * np.ptp(here) if here.size else 0.0
            noisy = row.copy()
            if mask is None:
                noisy += generator.normal(0, spread, row.shape)
            else:
                noisy[mask[i]] += generator.normal(0, spread, here.shape)
            result.append(noisy)
        return np.stack(result)

    def handler(self, call, args, kwargs):
        outputs = call(*args, **kwargs)
        values = ops.convert_to_numpy(ops.cast(outputs, "float32"))
        return ops.cast(ops.convert_to_tensor(self(values)), outputs.dtype)
