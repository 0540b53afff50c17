"""Which positions of a sequence are padding, so that nothing is fitted to them."""

import numpy as np
from keras import ops
from keras.src.backend.common.masking import get_keras_mask

from keras_saliency.graph.functional import functional_of, is_functional
from keras_saliency.graph.steps import order_inputs


def given_masks(model, batch):
    """The model's inputs that mark padding: those called `padding_mask`, as KerasHub calls them.

    Returns:
        List of boolean arrays (samples, length), `False` at padding.
    """
    named = batch if isinstance(batch, dict) else {}
    if is_functional(model):
        names = [x.name for x in functional_of(model).inputs]
        named = dict(zip(names, order_inputs(model, batch), strict=True))
    masks = [np.asarray(x) for name, x in named.items() if name.endswith("padding_mask")]
    return [mask != 0 for mask in masks if mask.ndim == 2]


def carried_masks(tensors):
    """The masks that Keras hands along with tensors, say from `Embedding(mask_zero=True)`."""
    masks = [get_keras_mask(x) for x in tensors]
    masks = [np.asarray(ops.convert_to_numpy(x), bool) for x in masks if x is not None]
    return [mask for mask in masks if mask.ndim == 2]


def mask_for(x, places, masks):
    """The mask of `masks` that belongs to a layer's input, or `None`.

    Args:
        x: Array (samples, length, ...), channels last.
        places: How many positions of it the layer reads.
        masks: Boolean arrays (samples, length). Where different ones fit, say of an encoder and
            a decoder of one length, none is taken.
    """
    if places != x.shape[1]:
        return None
    fitting = [mask for mask in masks if mask.shape == x.shape[:2]]
    if not fitting or any((mask != fitting[0]).any() for mask in fitting):
        return None
    return fitting[0]


def draw(rng, samples, places, wanted, mask):
    """Positions to fit on, all of them where there are few, and which of them are no padding.

    Returns:
        Two arrays (samples, positions), of integers and booleans, or `None` for "all".
    """
    if places <= wanted:
        return None, mask
    if mask is None:
        return rng.integers(0, places, (samples, wanted)), None
    count = mask.sum(1, keepdims=True)
    chosen = rng.integers(0, np.maximum(count, 1), (samples, wanted))
    order = np.argsort(~mask, axis=1, kind="stable")  # tokens first, padding behind
    return np.take_along_axis(order, chosen, 1), np.broadcast_to(count > 0, chosen.shape)
