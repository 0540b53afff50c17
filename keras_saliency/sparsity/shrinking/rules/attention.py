"""Attention: heads leave as wholes."""

import keras
import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import (
    Channels,
)
from keras_saliency.sparsity.shrinking.rules.common import (
    positions,
    register,
)


@register(layers.MultiHeadAttention)
def multi_head_attention(call):
    """Heads leave as wholes; input and output channels leave like a dense layer's."""
    layer = call.layer
    count = len(call.inputs)
    if layer._output_shape is not None and len(layer._output_shape) != 1:
        call.keep("its output has several channel axes")
    if getattr(layer, "_use_gate", False) or count not in (2, 3):
        call.keep("of its inputs other than query, value and key")
    # Keras passes query, value, key; masks arrive by keyword and have no channels.
    if any(isinstance(call.kwargs.get(k), keras.KerasTensor) for k in ("attention_mask",)):
        call.keep("it is called with an attention mask")
    query, value = call.input(0), call.input(1)
    key = call.input(2) if count == 3 else value
    heads = call.new(layer.num_heads, rounded=False)
    if len(call.output_shapes) > 1:
        call.pin(heads, "its attention scores are returned")
    length = positions(call.input_shapes[0], -1)
    memory = positions(call.input_shapes[1], -1)
    pairs = None if None in (length, memory) else length * memory
    width = layer.key_dim + layer.value_dim
    call.costs_each(heads, None if pairs is None else pairs * width)
    bias = "bias" if layer.use_bias else None

    def project(name, channels, size, where):
        return call.edges(
            f"{name}.kernel",
            channels,
            np.repeat(heads, size),
            input_axes=0,
            output_axes=(1, 2),
            bias=f"{name}.{bias}" if bias else None,
            positions=where,
        )

    project("_query_dense", query, layer.key_dim, length)
    project("_key_dense", key, layer.key_dim, memory)
    values = project("_value_dense", value, layer.value_dim, memory)
    size = call.output_shapes[0][-1]
    ids = call.new(size)
    call.configure(num_heads=heads, output_shape=lambda kept: (kept(ids),))
    # Attention weights sum to one: what is constant before them is constant behind them.
    result = call.edges(
        "_output_dense.kernel",
        Channels(-1, np.repeat(heads, layer.value_dim), values),
        ids,
        input_axes=(0, 1),
        output_axes=2,
        bias=f"_output_dense.{bias}" if bias else None,
        positions=length,
    )
    outputs = [call.output(ids, values=result)]
    for index in range(1, len(call.output_shapes)):
        outputs.append(call.output(heads, 1, None, index))
    return outputs


@register(layers.GroupQueryAttention)
def group_query_attention(call):
    """A key and value leave with the queries that read them; the output is as wide as the query."""
    layer = call.layer
    count = len(call.inputs)
    if getattr(layer, "_use_gate", False) or getattr(layer, "use_gate", False):
        call.keep("its gate has heads of its own")
    if count not in (2, 3) or len(call.output_shapes) > 1:
        call.keep("of its inputs other than query, value and key, or of the scores it returns")
    if isinstance(call.kwargs.get("attention_mask"), keras.KerasTensor):
        call.keep("it is called with an attention mask")
    query, value = call.input(0), call.input(1)
    key = call.input(2) if count == 3 else value
    size, repeats = layer.head_dim, layer.num_query_heads // layer.num_key_value_heads
    groups = call.new(layer.num_key_value_heads, rounded=False)
    heads = np.repeat(groups, repeats)
    length = positions(call.input_shapes[0], -1)
    memory = positions(call.input_shapes[1], -1)
    pairs = None if None in (length, memory) else length * memory
    call.costs_each(heads, None if pairs is None else pairs * 2 * size)
    bias = "bias" if layer.use_bias else None

    def edges(name, channels, ids, axes, where):
        return call.edges(
            f"{name}.kernel",
            channels,
            ids,
            *axes,
            bias=f"{name}.{bias}" if bias else None,
            positions=where,
        )

    into = (0, (1, 2))
    edges("_query_dense", query, np.repeat(heads, size), into, length)
    edges("_key_dense", key, np.repeat(groups, size), into, memory)
    values = edges("_value_dense", value, np.repeat(groups, size), into, memory)
    values = np.repeat(values.reshape(-1, size), repeats, axis=0).ravel()
    ids = call.new(call.output_shapes[0][-1])
    call.tie(ids, query.ids)
    call.configure(num_query_heads=heads, num_key_value_heads=groups)
    attended = Channels(-1, np.repeat(heads, size), values)
    result = edges("_output_dense", attended, ids, ((0, 1), 2), length)
    return call.output(ids, values=result)
