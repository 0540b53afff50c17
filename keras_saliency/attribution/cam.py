"""Class activation maps: features of a layer, weighted by what they do for the score."""

import numpy as np

from keras_saliency import validation
from keras_saliency.attribution.registry import register_method
from keras_saliency.attribution.resizing import resize


def _space(x):
    return tuple(range(1, x.ndim - 1))


def _mean(g, mask):
    """Mean over positions, those that are masked left out."""
    if mask is None:
        return g.mean(axis=_space(g), keepdims=True)
    mask = mask[..., None].astype(g.dtype)
    return (g * mask).sum(axis=1, keepdims=True) / np.maximum(mask.sum(axis=1, keepdims=True), 1)


def _layered(name):
    """Register a method that is a function of features, gradients and mask of one layer."""

    def register(function):
        @register_method(name, layered=True)
        def method(batch, layer=None, grid=None):
            maps = [
                _masked(function(f, g, mask), mask) for f, g, mask in batch.features(layer, grid)
            ]
            return batch.placed(maps)

        return function

    return register


def _masked(values, mask):
    return values if mask is None else values * mask


@_layered("grad_cam")
def grad_cam(f, g, mask):
    """Features weighted by their mean gradient (Selvaraju et al., 2017)."""
    return np.maximum((_mean(g, mask) * f).sum(axis=-1), 0)


@_layered("hires_cam")
def hires_cam(f, g, mask):
    """Features times gradients, position by position (Draelos and Carin, 2020)."""
    return np.maximum((g * f).sum(axis=-1), 0)


@_layered("layer_cam")
def layer_cam(f, g, mask):
    """As HiResCAM, with positive gradients alone (Jiang et al., 2021)."""
    return np.maximum((np.maximum(g, 0) * f).sum(axis=-1), 0)


@_layered("grad_cam_plus_plus")
def grad_cam_plus_plus(f, g, mask):
    """Positions weighted before they are averaged (Chattopadhyay et al., 2018); 0/0 counts 0."""
    f, g = f.astype("float64"), g.astype("float64")
    total = (f if mask is None else f * mask[..., None]).sum(axis=_space(f), keepdims=True)
    below = 2 * g**2 + total * g**3
    alpha = np.divide(g**2, below, out=np.zeros_like(below), where=below != 0)
    weights = np.maximum(g, 0) * alpha
    if mask is not None:
        weights = weights * mask[..., None]
    weights = weights.sum(axis=_space(f), keepdims=True)
    return np.maximum((weights * f).sum(axis=-1), 0)


@_layered("eigen_cam")
def eigen_cam(f, g, mask):
    """The first principal direction of the features (Muhammad and Yeasin, 2020); no class."""
    flat = f.reshape(len(f), -1, f.shape[-1]).astype("float64")
    if mask is not None:
        flat = flat * mask[..., None]
    direction = np.linalg.svd(flat, full_matrices=False)[2][:, :1]
    return np.abs((flat * direction).sum(axis=-1)).reshape(f.shape[:-1])


@register_method("cam", layered=True)
def cam(batch, layer=None, grid=None):
    """Features weighted by the class's weights (Prakash (2019), equation 2.2; Zhou et al., 2016).

    Where the head is global average pooling and a dense layer, the derivative of the class's score
    by a feature is its weight over the number of positions, everywhere.
    """
    maps = []
    for f, g, mask in batch.features(layer, grid):
        mean = _mean(g, mask)
        here = np.ones(g.shape[:-1], bool) if mask is None else mask
        spread = np.abs((g - mean) * here[..., None]).max(initial=0)
        if spread > 1e-3 * max(np.abs(mean).max(initial=0), 1e-30):
            raise ValueError(
                "`method='cam'` needs global average pooling and a dense layer right behind the "
                "features. Use 'grad_cam', which is the same there and works elsewhere."
            )
        positions = here.reshape(len(f), -1).sum(axis=1).reshape(-1, *[1] * (f.ndim - 1))
        maps.append(_masked((positions * mean * f).sum(axis=-1), mask))
    return batch.placed(maps)


@register_method("robust_cam", layered=True)
def robust_cam(batch, layer=None, grid=None, top=5):
    """Maps of the highest classes, each half the weight of the one before (Prakash, eq. 4.5)."""
    top = validation.integer("top", top)
    if batch.passes.target.value is not None:
        raise ValueError("`method='robust_cam'` looks at the highest classes: leave `target=None`.")
    order = np.argsort(-batch.outputs(), axis=-1, kind="stable")[:, :top].astype("int32")
    total = None
    for i in range(order.shape[1]):
        with batch.scoring(order[:, i]):
            parts = batch.features(layer, grid)
        maps = [_masked(grad_cam(*part), part[2]) / 2 ** (i + 1) for part in parts]
        total = maps if total is None else [a + b for a, b in zip(total, maps, strict=True)]
    return batch.placed(total)


@register_method("score_cam", layered=True)
def score_cam(batch, layer=None, grid=None, channels=None):
    """Features weighted by the score of the input seen through them (Wang et al., 2020)."""
    channels = validation.integer("channels", channels, optional=True)
    maps = []
    found = batch.features(layer, grid)
    for (f, _, mask), position in zip(found, batch.positions, strict=True):
        x = batch.values[position]
        flat = f.reshape(len(f), -1, f.shape[-1])
        order = np.argsort(-flat.var(axis=1), axis=1, kind="stable")[:, :channels]
        chosen = np.take_along_axis(flat, order[:, None], axis=2)
        chosen = chosen.reshape(*f.shape[:-1], -1)
        low = chosen.min(axis=_space(f), keepdims=True)
        span = chosen.max(axis=_space(f), keepdims=True) - low
        scaled = np.divide(chosen - low, span, out=np.zeros_like(chosen), where=span > 0)

        def seen(j, scaled=scaled, x=x, position=position):
            if j == 0:
                return batch.with_values(position, np.zeros_like(x))
            through = resize(scaled[..., j - 1], batch.space(position))
            return batch.with_values(position, x * batch.over_channels(through, position))

        scores = batch.scores(1 + chosen.shape[-1], seen)
        weights = ((scores[1:] - scores[0]).T).reshape(len(f), *[1] * (f.ndim - 2), -1)
        weights = np.where(span > 0, weights, 0)
        maps.append(_masked(np.maximum((weights * chosen).sum(axis=-1), 0), mask))
    return batch.placed(maps)
