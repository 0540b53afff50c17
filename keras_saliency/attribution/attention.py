"""Methods that read a transformer's attention."""

import numpy as np

from keras_saliency import validation
from keras_saliency.attribution.registry import register_method


def _relayed(batch, step, token, grid):
    """`R` through the layers, and one row of it, or the mean over rows, as a map."""
    scores, gradients = batch.attention()
    relevance = None
    for a, g in zip(scores, gradients, strict=True):
        if relevance is None:
            relevance = np.tile(np.eye(a.shape[-1]), (len(a), 1, 1))
        relevance = step(a.astype("float64"), g, relevance)
    if token is None:
        row = relevance.mean(axis=1)
    else:
        count = relevance.shape[1]
        token = validation.integer("token", token, minimum=-count, maximum=count - 1)
        row = relevance[:, token]
    maps = [_laid(batch, row, grid, position) for position in range(len(batch.values))]
    if all(x is None for x in maps):
        batch.on_grid(row[..., None], grid)  # says what does not fit
    return maps


def _laid(batch, row, grid, position):
    """The tokens over an input that has as many, or that is an image of them; else `None`."""
    several = len(batch.values) > 1
    if several and len(batch.space(position)) == 1 and batch.space(position) != row.shape[1:]:
        return None
    try:
        return batch.on_grid(row[..., None], grid, position)[..., 0]
    except ValueError:
        if several:
            return None
        raise


@register_method("attention_rollout")
def attention_rollout(batch, token=None, grid=None):
    """The product over layers of `(A + I) / 2`, heads averaged (Abnar and Zuidema, 2020)."""

    def step(a, g, relevance):
        return (a.mean(axis=1) + np.eye(a.shape[-1])) / 2 @ relevance

    return _relayed(batch, step, token, grid)


@register_method("attention_relevance")
def attention_relevance(batch, token=None, grid=None):
    """Attention times its positive gradient, layer by layer (Chefer et al., 2021)."""

    def step(a, g, relevance):
        return relevance + np.maximum(a * g, 0).mean(axis=1) @ relevance

    return _relayed(batch, step, token, grid)
