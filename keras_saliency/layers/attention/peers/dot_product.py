"""Dot-product attention of a series with itself."""

import math

from keras import ops

from keras_saliency.layers.precision import wide_dtype


def attend(query, key, value, mask=None, scale=None, dropout=None, scores=False):
    """Softmax of the dot products of every step with every other: quadratic in time.

    Args:
        query, key, value: Tensors of shape `(batch, time, heads, size)`.
        mask: Optional boolean tensor of shape `(batch, time)`.
        scale: Float that multiplies the dot products. Default: 1 / sqrt(size).
        dropout: Optional callable applied to the scores.
        scores: Whether to return the scores too, `(batch, heads, time, time)`, float32 or
            wider.

    Returns:
        A tensor of the shape of `query`, or `(tensor, scores)`. Rows of steps that do not exist
        are finite and mean nothing; a series without any step attends to nothing and gives 0.
    """
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    wide = wide_dtype(query.dtype)
    if mask is None and dropout is None and not scores and wide == "float32":
        # The backend's fused kernel, where it has one; its softmax is in float32.
        return ops.dot_product_attention(query, key, value, scale=scale)
    logits = ops.einsum("bqhd,bkhd->bhqk", query * scale, key)
    logits = ops.cast(logits, wide)
    if mask is None:
        weights = ops.softmax(logits, axis=-1)
    else:
        mask = ops.cast(mask, "bool")[:, None, None]
        weights = ops.softmax(ops.where(mask, logits, -3e38), axis=-1)
        weights = weights * ops.cast(mask, wide)
    dropped = weights if dropout is None else dropout(weights)
    result = ops.einsum("bhqk,bkhd->bqhd", ops.cast(dropped, value.dtype), value)
    # On PyTorch, Keras returns float32 products of float64.
    result = ops.cast(result, value.dtype)
    return (result, weights) if scores else result
