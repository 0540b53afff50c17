"""Recurrent layers, and layers that are applied to every time step."""

import keras
import numpy as np
from keras import layers

from keras_saliency.sparsity.registry import find_shrink_rule
from keras_saliency.sparsity.shrinking.channels import (
    Channels,
    apply_elementwise,
    is_elementwise,
)
from keras_saliency.sparsity.shrinking.rules.common import (
    NAN,
    register,
)


def _start(call, x_index, units):
    """A recurrent layer's input, and the initial states tied to its units."""
    if x_index:
        call.keep("its first input is not the sequence")
    for index in range(1, len(call.inputs)):
        state = call.input(index)
        if len(state) != len(units):
            call.keep("its initial state is not one vector of its units")
        call.tie(state.ids, units)
    return call.input(0)


def _recurrent(call, gates, prefix, candidate):
    """The units of a recurrent layer; one is constantly 0 if it starts there and is never fed."""
    layer = call.layer
    units = layer.units
    ids = call.new(units)
    x = _start(call, 0, ids)
    length = call.input_shapes[0][1]
    tiled = np.tile(ids, gates)
    pre = call.edges(
        f"{prefix}kernel",
        x,
        tiled,
        bias=f"{prefix}bias" if layer.use_bias else None,
        positions=length,
    )
    hidden = np.full(units, NAN)
    recurrent = call.read(f"{prefix}recurrent_kernel")
    columns = slice(candidate * units, (candidate + 1) * units)
    bias = call.read(f"{prefix}bias") if layer.use_bias else np.zeros((1, gates * units))
    silent = pre[columns] == 0
    if bias.ndim == 2 and len(bias) == 2:
        silent &= bias[1, columns] == 0
    silent &= apply_elementwise(layer.activation, np.zeros(units)) == 0
    if not is_elementwise(layer.activation) or len(call.inputs) > 1:
        silent[:] = False
    feeds = recurrent[:, columns] != 0
    while (fed := silent & feeds[~silent].any(0)).any():
        silent &= ~fed
    hidden[silent] = 0.0
    call.edges(
        f"{prefix}recurrent_kernel", Channels(-1, ids, hidden), tiled, bias=None, positions=length
    )
    if not (
        is_elementwise(layer.activation)
        and is_elementwise(getattr(layer, "recurrent_activation", None))
    ):
        call.pin(ids, "its activation mixes channels or is not known")
    return ids, hidden


_CELLS = {layers.SimpleRNN: (1, 0), layers.LSTM: (4, 2), layers.GRU: (3, 2)}


def _cell(layer):
    for cls, form in _CELLS.items():
        if isinstance(layer, cls):
            return form
    return None


@register(*_CELLS)
def recurrent(call):
    gates, candidate = _cell(call.layer)
    ids, values = _recurrent(call, gates, "cell.", candidate)
    call.configure(units=ids)
    return [call.output(ids, -1, values, index) for index in range(len(call.output_shapes))]


@register(layers.Bidirectional)
def bidirectional(call):
    layer = call.layer
    if _cell(layer.forward_layer) is None or type(layer.forward_layer) is not type(
        layer.backward_layer
    ):
        call.keep("it does not wrap two LSTM, GRU or SimpleRNN layers of one class")
    if len(call.inputs) > 1 or layer.return_state:
        call.keep("its states are passed in or out")
    gates, candidate = _cell(layer.forward_layer)
    found = []
    for name in ("forward_layer", "backward_layer"):
        part = call.inside(getattr(layer, name), name)
        found.append(_recurrent(part, gates, "cell.", candidate))
        call.absorb(part)
    (forward, forward_values), (backward, backward_values) = found
    call.configure("layer", "config", units=forward)
    call.configure("backward_layer", "config", units=backward)
    if layer.merge_mode is None:
        return [
            call.output(forward, -1, forward_values, 0),
            call.output(backward, -1, backward_values, 1),
        ]
    if layer.merge_mode == "concat":
        ids = np.concatenate([forward, backward])
        return call.output(ids, -1, np.concatenate([forward_values, backward_values]))
    call.tie(forward, backward)
    mode = {"sum": np.add, "mul": np.multiply, "ave": lambda a, b: (a + b) / 2}
    return call.output(forward, -1, mode[layer.merge_mode](forward_values, backward_values))


@register(layers.TimeDistributed)
def time_distributed(call):
    inner = call.layer.layer
    rule = None if isinstance(inner, keras.Model) else find_shrink_rule(inner)
    x = call.inputs[0]
    if rule is None or x is None or x.axis < 2 or len(call.inputs) != 1:
        call.keep("no rule is known for the layer that it wraps")

    part = call.inside(inner, "layer")
    steps = call.input_shapes[0][1]
    part.inputs = [Channels(x.axis - 1, x.ids, x.values)]
    part.input_shapes = [(shape[0], *shape[2:]) for shape in call.input_shapes]
    part.output_shapes = [(shape[0], *shape[2:]) for shape in call.output_shapes]
    result = rule(part)
    part.work = [(name, None if steps is None or n is None else n * steps) for name, n in part.work]
    arguments, part.arguments = part.arguments, {}
    call.absorb(part)
    for path, ids in arguments.items():
        call.arguments[("layer", "config", *path)] = ids
    return Channels(result.axis + 1, result.ids, result.values)
