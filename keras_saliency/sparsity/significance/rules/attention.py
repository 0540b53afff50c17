"""Attention.

Values carry significance as in any product of matrices. Queries and keys only decide where to look:
all entries of a head's query and key are as significant as the head's values.
"""

import numpy as np
from keras import layers

from keras_saliency.graph.trace import Tensor
from keras_saliency.layers.attention.convolution_heads import ConvolutionHeads
from keras_saliency.layers.attention.san import SANAttention
from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.common import (
    argument,
    collect,
    only_first,
    operations,
    register,
    sum_scores,
)
from keras_saliency.sparsity.significance.scores import on_axis, spread, total


def multi_head_attention(call):
    layer = call.layer
    arguments = dict(zip(("query", "value", "key"), call.args, strict=False))
    arguments.update({k: v for k, v in call.kwargs.items() if k in ("query", "value", "key")})
    query, value = arguments["query"], arguments["value"]
    key = arguments.get("key")
    key = value if key is None else key
    results = []

    def lead(projection, tensor, score, heads):
        if score is None:
            return
        output = Tensor((*tensor.shape[:-1], *heads), tensor.dtype)
        (result,) = call.delegate(projection, [tensor], [output], [score])
        results.append((tensor, result))

    width = tuple(layer._value_dense._kernel.shape[1:])  # (heads of values, their size)
    key_width = tuple(layer._key_dense._kernel.shape[1:])
    query_width = tuple(layer._query_dense._kernel.shape[1:])
    heads = query_width[0]
    attended = Tensor((*query.shape[:-1], heads, width[1]), query.dtype)
    (score,) = call.delegate(
        layer._output_dense, [attended], call.outputs[:1], call.output_scores[:1]
    )
    score = spread(total(score, (-2, -1)), (*(1,) * (score.ndim - 2), heads, width[1]))
    if getattr(layer, "_gate_dense", None) is not None:
        lead(layer._gate_dense, query, score, (heads, width[1]))
    # Grouped queries: consecutive heads share a key and a value.
    shape = (*score.shape[:-2], width[0], heads // width[0], width[1])
    grouped = score.reshape(shape).sum(axis=-2)
    rank = len(value.shape)
    lead(layer._value_dense, value, grouped.reshape((1,) * (rank - 1) + width), width)
    of_head = score.sum(axis=-1).reshape(-1)
    if len(call.outputs) > 1:  # The attention scores, (batch, heads, queries, keys), are used.
        of_head = of_head + call.scores(1, output=1)
    of_query = np.repeat(of_head[:, None] / query_width[1], query_width[1], axis=1)
    lead(
        layer._query_dense,
        query,
        of_query.reshape((1,) * (len(query.shape) - 1) + query_width),
        query_width,
    )
    of_key = of_query.reshape(key_width[0], -1, key_width[1]).sum(axis=1)
    lead(layer._key_dense, key, of_key.reshape((1,) * (len(key.shape) - 1) + key_width), key_width)
    return collect(call, results)


register((layers.MultiHeadAttention, layers.GroupQueryAttention), multi_head_attention)


def _convolution_heads_kernels(layer):
    heads = range(1, layer.num_heads + 1)
    kernels = {f"{role}_kernel_{h}": (1, 2) for role in layer.roles for h in heads}
    kernels["output_kernel"] = (0, 1)
    if getattr(layer, "talk", None) == "input":
        kernels["input_kernel"] = (0, 1)
    return kernels


@register_significance_rule(ConvolutionHeads, kernels=_convolution_heads_kernels)
def convolution_heads(call):
    """Heads that look through convolutions: `XM2AHeads` and `MSMSA`.

    A query decides dimension by dimension where its head looks (7.5); a key is the same for all
    of them, and in `XM2AHeads` with cross-talk for all heads.
    """
    layer = call.layer
    output = call.scores()
    call.edges("output_kernel", output)
    values = call.contract("output_kernel", output.reshape(1, -1), keep=(0,))
    values = values.reshape(layer.num_heads, layer.key_dim)
    gates = values
    if len(call.outputs) > 1:  # The attention scores are used; their axis 1 is that of the heads.
        gates = gates + call.scores(1, output=1)[:, None] / layer.key_dim
    if getattr(layer, "talk", "self") == "scale":
        keys = np.full_like(gates, gates.mean())
    else:
        keys = np.repeat(gates.mean(axis=1, keepdims=True), layer.key_dim, axis=1)
    of_role = {"value": values, "query": gates, "key": keys}
    if "query" not in layer.roles:  # One convolution is value, query and key.
        of_role["value"] = values + gates + keys
    inputs = 0.0
    for role in layer.roles:
        for h, scores in enumerate(of_role[role], start=1):
            name = f"{role}_kernel_{h}"
            call.edges(name, scores)
            inputs = inputs + call.contract(name, on_axis(scores, 2, 3), keep=(1,))
    if getattr(layer, "talk", None) == "input":  # It is query and key of all heads.
        scores = gates.sum(axis=0) + gates.sum() / layer.key_dim
        call.edges("input_kernel", scores)
        inputs = inputs + call.contract("input_kernel", scores.reshape(1, -1), keep=(0,))
    return only_first(call, inputs)


def attention(call):
    """`Attention` and `AdditiveAttention` on `[query, value, key]`; the key may be missing."""
    inputs = call.args[0] if call.args else call.kwargs["inputs"]
    query, value, *key = inputs
    key = key[0] if key else value
    channels = call.output_scores[0]
    share = total(channels, ())
    if len(call.outputs) > 1:
        share = share + total(call.output_scores[1], ())
    scale = getattr(call.layer, "scale", None)
    of_query = of_key = share.reshape(1, 1, 1)
    if scale is not None and len(scale.shape) == 1:  # Additive attention weighs its dimensions.
        weights = call.magnitude("scale")
        if weights.sum() > 0:
            of_query = of_key = share.reshape(1, 1, 1) * (weights / weights.sum())
    return collect(call, ((value, total(channels, (-1,))), (query, of_query), (key, of_key)))


register(
    (layers.Attention, layers.AdditiveAttention),
    attention,
    kernels=(),
    reason="its only weights are scales, no edges",
)


@register_significance_rule(SANAttention)
def san_attention(call):
    """`y * mask`: `y` and its mask count alike; the mask comes from `|y - y_prev|`, smoothed."""
    layer = call.layer
    y, previous = call.args[0] if call.args else call.kwargs["inputs"]
    rank = len(y.shape)
    axis = layer._channel_axis % rank
    score = total(call.output_scores[0], (axis,))
    gate = score if len(call.outputs) == 1 else score + total(call.output_scores[1], (axis,))
    if layer.smoothing is not None:
        (gate,) = call.delegate(layer.smoothing_layer, [y], [y], [gate])
    before = total(gate, ()) if layer.align_channels else gate  # of the mean over channels
    return collect(call, ((y, sum_scores(score, gate)), (previous, before)))


@operations("DotProductAttention")
def dot_product_attention_op(call):
    """(batch, time, heads, size): values as in a product, queries and keys evenly per head."""
    query, key, value = (
        argument(call, i, name) for i, name in enumerate(("query", "key", "value"))
    )
    score = total(call.output_scores[0], (2, 3))
    heads = query.shape[2]
    score = spread(score, (1, 1, heads, score.shape[3]))
    of_head = total(score, (2,))
    results = []
    for tensor, part in ((value, score), (query, of_head), (key, of_head)):
        groups = tensor.shape[2]
        part = part.reshape(1, 1, groups, heads // groups, part.shape[3]).sum(axis=3)
        results.append((tensor, part))
    return collect(call, results)
