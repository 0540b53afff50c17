"""Layers whose weights are a matrix from input channels to output channels."""

import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.rules.common import (
    NAN,
    positions,
    register,
)


@register(layers.Dense)
def dense(call):
    x = call.input()
    ids = call.new(call.layer.units)
    call.configure(units=ids)
    values = call.edges(
        "kernel", x, ids, add_bias=True, positions=positions(call.output_shapes[0], -1)
    )
    return call.output(ids, values=call.activate(call.layer.activation, ids, values))


@register(layers.EinsumDense)
def einsum_dense(call):
    inputs, rest = call.layer.equation.replace(" ", "").split(",")
    weight, outputs = rest.split("->")
    rank = len(call.input_shapes[0])
    # An ellipsis stands for the leading axes; counted from the end, letters keep their places.
    entering = [c for c in weight if c in inputs and c not in outputs]
    leaving = [c for c in weight if c in outputs and c not in inputs]
    if len(entering) != 1 or not leaving:
        call.keep("its equation does not contract exactly one axis")
    x = call.input(axis=_place(inputs, entering[0], rank))
    letter = leaving[-1]
    axis = _place(outputs, letter, len(call.output_shapes[0]))
    ids = call.new(call.output_shapes[0][axis])
    old = tuple(call.layer.partial_output_shape)
    place = axis - len(call.output_shapes[0]) + len(old)
    if not 0 <= place < len(old):
        call.keep("its output shape does not name its channels")
    call.configure(
        output_shape=lambda count: (*old[:place], count(ids), *old[place + 1 :]),
    )
    simple = len(weight) == 2 and call.layer.bias_axes == letter
    values = call.edges(
        "kernel",
        x,
        ids,
        input_axes=weight.index(entering[0]),
        output_axes=weight.index(letter),
        bias="bias" if simple else None,
        padded=not simple,
        positions=positions(call.output_shapes[0], axis),
    )
    if not simple:
        values = np.full(len(ids), NAN)
        if call.layer.bias_axes:
            order = [c for c in outputs.replace("...", "") if c in call.layer.bias_axes]
            if letter in order:
                shape = call.read("bias").shape
                # The bias has one axis per letter of `bias_axes`, and ones between them.
                call.slice("bias", {axis - len(call.output_shapes[0]) + len(shape): ids})
    return call.output(ids, axis, call.activate(call.layer.activation, ids, values))


def _place(letters, letter, rank):
    if "..." in letters:
        before, after = letters.split("...")
        if letter in before:
            return before.index(letter)
        return rank - len(after) + after.index(letter)
    return letters.index(letter)


@register(layers.Embedding)
def embedding(call):
    ids = call.new(call.layer.output_dim)
    call.configure(output_dim=ids)
    call.slice("embeddings", {1: ids})
    for channels in call.inputs:
        if channels is not None:
            call.pin(channels.ids, "they are indices")
    table = call.read("embeddings")
    constant = (table == table[:1]).all(0)
    return call.output(ids, values=np.where(constant, table[0], NAN))
