"""Recurrent layers.

All gates of a unit are as significant as the unit: what it hands to the layers above, summed over
time. The recurrent kernel leads to the same units (Garg 2020, equation 4.6).
"""

import numpy as np
from keras import layers

from keras_saliency.graph.trace import Frames, Sequence, Tensor
from keras_saliency.layers.recurrent.recurrent_conv import RecurrentConv2D
from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.common import channel_axis, only_first, register
from keras_saliency.sparsity.significance.scores import on_axis, spread


def recurrent_cell(call):
    """Cells: the input and the state before lead to the gates of each unit."""
    cell = call.layer
    rank = len(call.outputs[0].shape)
    axis = channel_axis(cell, rank)
    scores = sum(call.scores(axis, output) for output in range(len(call.outputs)))
    gates = cell.kernel.shape[-1] // scores.size
    scores = np.tile(scores, gates)
    kernel_rank = len(cell.kernel.shape)
    factor = on_axis(scores, kernel_rank - 1, kernel_rank)
    call.edges("kernel", scores)
    call.edges("recurrent_kernel", scores)
    results = [on_axis(call.contract("kernel", factor, keep=(kernel_rank - 2,)), axis, rank)]
    if len(call.inputs) > 1:
        state = call.contract("recurrent_kernel", factor, keep=(kernel_rank - 2,))
        results += [on_axis(state, axis, rank)] * (len(call.inputs) - 1)
    return results


_CELL_KERNELS = {"kernel": (-2, -1), "recurrent_kernel": (-2, -1)}


register(
    (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell), recurrent_cell, kernels=_CELL_KERNELS
)


register_significance_rule("keras>ConvLSTMCell", kernels=_CELL_KERNELS)(recurrent_cell)


@register_significance_rule(layers.StackedRNNCells, kernels=())
def stacked_cells(call):
    """The first output is the last cell's; the others are the states of all cells in order."""
    cells = call.layer.cells
    counts = [
        len(cell.state_size) if isinstance(cell.state_size, (list, tuple)) else 1 for cell in cells
    ]
    states = list(zip(call.outputs[1:], call.output_scores[1:], strict=True))
    score = call.output_scores[0]
    results = []
    for index in reversed(range(len(cells))):
        cell = cells[index]
        size = _size(cell.output_size)
        own = states[sum(counts[:index]) : sum(counts[: index + 1])] if states else []
        output = Tensor((None, size), call.outputs[0].dtype)
        features = cells[index - 1].output_size if index else call.inputs[0].shape[-1]
        x = Tensor((None, _size(features)), call.outputs[0].dtype)
        inputs = [x, *call.inputs[1:][sum(counts[:index]) : sum(counts[: index + 1])]]
        score, *before = call.delegate(
            cell, inputs, [output] + [s[0] for s in own], [score] + [s[1] for s in own]
        )
        results = before + results
    return [score, *results]


def _size(size):
    return int(size[-1] if isinstance(size, (list, tuple)) else size)


@register_significance_rule(layers.RNN)
def recurrent(call):
    """All recurrent layers: the cell at every time step, its scores summed over time."""
    layer, cell = call.layer, call.layer.cell
    sequence = call.inputs[0]
    output, score = call.outputs[0], call.output_scores[0]
    if layer.return_sequences:
        score = score.sum(axis=1)
        output = Tensor((output.shape[0], *output.shape[2:]), output.dtype)
    step = Tensor((sequence.shape[0], *sequence.shape[2:]), sequence.dtype)
    score, *states = call.delegate(
        cell,
        [step, *call.inputs[1:]],
        [output, *call.outputs[1:]],
        [score, *call.output_scores[1:]],
    )
    return [None if score is None else np.expand_dims(score, 1), *states]


@register_significance_rule(layers.Bidirectional)
def bidirectional(call):
    layer = call.layer
    forward, backward = layer.forward_layer, layer.backward_layer
    outputs, scores = list(call.outputs), list(call.output_scores)
    if layer.merge_mode is None:
        (own, other), rest = zip(outputs[:2], scores[:2], strict=True), 2
    else:
        rest = 1
        output, score = outputs[0], scores[0]
        own = other = (output, score)
        if layer.merge_mode == "concat":
            half = output.shape[-1] // 2
            score = spread(score, [*score.shape[:-1], 2 * half])
            output = Tensor((*output.shape[:-1], half), output.dtype)
            own, other = (output, score[..., :half]), (output, score[..., half:])
    states = list(zip(outputs[rest:], scores[rest:], strict=True))
    initial = call.inputs[1:]
    results, befores = None, []
    for direction, (output, score), part, first in (
        (forward, own, states[: len(states) // 2], initial[: len(initial) // 2]),
        (backward, other, states[len(states) // 2 :], initial[len(initial) // 2 :]),
    ):
        result, *before = call.delegate(
            direction,
            [call.inputs[0], *first],
            [output, *(s[0] for s in part)],
            [score, *(s[1] for s in part)],
        )
        results = result if results is None else results + result
        befores += before
    return [results, *befores]


@register_significance_rule(
    RecurrentConv2D, kernels={"kernel": (-2, -1), "recurrent_kernel": (-2, -1)}
)
def recurrent_convolution(call):
    """Its few steps are walked through one by one; each is fed by the same convolution."""
    layer = call.layer
    axis = channel_axis(layer, 4)

    def each_piece(scores):  # of a maxout unit; the last one may be short
        return np.repeat(scores, layer.pieces)[: layer.filters]

    scores = each_piece(call.scores(axis))
    feed, recurrent = scores, 0.0
    for _ in range(layer.steps):
        recurrent = recurrent + scores
        before = call.contract("recurrent_kernel", on_axis(scores, 3, 4), keep=(2,))
        scores = each_piece(before)
        feed = feed + scores
    call.edges("kernel", feed)
    if layer.steps:
        call.edges("recurrent_kernel", recurrent)
    inputs = call.contract("kernel", on_axis(feed, 3, 4), keep=(2,))
    return only_first(call, on_axis(inputs, axis, 4))


@register_significance_rule(Frames)
def frames(call):
    return np.expand_dims(call.output_scores[0], 1)


@register_significance_rule(Sequence)
def sequence(call):
    return call.output_scores[0].sum(axis=1)
