"""How channels pass through Keras's layers and operations: one shrink rule per class."""

import keras
import numpy as np
from keras import layers

from keras_saliency.sparsity.shrinking.channels import (
    _RULES,
    Channels,
    apply_elementwise,
    is_elementwise,
    register_shrink_rule,
)

_NAN = float("nan")


def register(*classes):
    def decorator(rule):
        for layer_class in classes:
            register_shrink_rule(layer_class)(rule)
        return rule

    return decorator


def positions(shape, axis):
    """How many entries of one sample share the weights: all axes but the batch and `axis`."""
    rest = [extent for i, extent in enumerate(shape) if i not in (0, axis % len(shape))]
    return None if None in rest else int(np.prod(rest, dtype="int64"))


# Kernels


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
        values = np.full(len(ids), _NAN)
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


def _pads(layer):
    return layer.padding in ("same", "causal") and any(size > 1 for size in layer.kernel_size)


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(call):
    layer = call.layer
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    where = positions(call.output_shapes[0], axis)
    if layer.groups > 1:
        return _grouped(call, x, axis, where)
    ids = call.new(layer.filters)
    call.configure(filters=ids)
    values = call.edges("kernel", x, ids, padded=_pads(layer), add_bias=True, positions=where)
    return call.output(ids, axis, call.activate(layer.activation, ids, values))


def _grouped(call, x, axis, where):
    """A group of channels, all that goes in and all that comes out, leaves together."""
    layer = call.layer
    ids = call.new(layer.filters)
    inputs, outputs = x.ids.reshape(layer.groups, -1), ids.reshape(layer.groups, -1)
    for block in (inputs, outputs):
        call.tie(block[:, 1:], np.repeat(block[:, :1], block.shape[1] - 1, axis=1))
    call.tie(inputs[:, 0], outputs[:, 0])
    call.slice("kernel", {-1: ids})
    call.slice("bias", {0: ids})
    call.costs("kernel", where)
    call.configure(filters=ids, groups=outputs[:, 0])
    kernel = call.read("kernel")
    kernel = kernel.reshape(-1, kernel.shape[-2], kernel.shape[-1])
    known = x.values if not _pads(layer) else np.where(x.values == 0, 0, _NAN)
    incoming = np.repeat(known.reshape(layer.groups, -1).T, outputs.shape[1], axis=1)
    values = np.where((kernel == 0).all(0), 0, incoming * kernel.sum(0, dtype="float64")).sum(0)
    if layer.use_bias:
        values = values + call.read("bias")
    return call.output(ids, axis, call.activate(layer.activation, ids, values))


def _depthwise(call, x, kernel, where):
    """Channels and constants behind a depthwise kernel, before the bias."""
    weight = call.read(kernel)
    weight = weight.reshape(-1, *weight.shape[-2:])
    call.slice(kernel, {-2: x.ids})
    call.costs(kernel, where)
    known = np.where(x.values == 0, 0, _NAN) if _pads(call.layer) else x.values
    total = weight.sum(0, dtype="float64")
    values = np.where((weight == 0).all(0), 0, known[:, None] * total)
    return np.repeat(x.ids, total.shape[1]), values.ravel()


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(call):
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    ids, values = _depthwise(call, x, "kernel", positions(call.output_shapes[0], axis))
    if call.layer.use_bias:
        call.slice("bias", {0: ids})
        values = values + call.read("bias")
    return call.output(ids, axis, call.activate(call.layer.activation, ids, values))


@register(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(call):
    layer = call.layer
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    where = positions(call.output_shapes[0], axis)
    middle, values = _depthwise(call, x, "depthwise_kernel", where)
    ids = call.new(layer.filters)
    call.configure(filters=ids)
    values = call.edges(
        "pointwise_kernel", Channels(axis, middle, values), ids, add_bias=True, positions=where
    )
    return call.output(ids, axis, call.activate(layer.activation, ids, values))


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(call):
    layer = call.layer
    axis = call.channel_axis(len(call.input_shapes[0]))
    x = call.input(axis=axis)
    ids = call.new(layer.filters)
    call.configure(filters=ids)
    # A constant input is no constant in the output: positions get different parts of the kernel.
    values = call.edges(
        "kernel",
        x,
        ids,
        input_axes=-1,
        output_axes=-2,
        padded=True,
        positions=positions(call.input_shapes[0], axis),
    )
    return call.output(ids, axis, call.activate(layer.activation, ids, values))


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
    return call.output(ids, values=np.where(constant, table[0], _NAN))


# Recurrent layers


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
    hidden = np.full(units, _NAN)
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
    from keras_saliency.sparsity.shrinking.channels import find_rule

    inner = call.layer.layer
    rule = None if isinstance(inner, keras.Model) else find_rule(inner)
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


# Attention


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


# Normalisation


@register(layers.BatchNormalization)
def batch_normalization(call):
    layer = call.layer
    x = call.input(axis=layer.axis)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        call.slice(name, {0: x.ids})
    scale = 1.0 / np.sqrt(call.read("moving_variance").astype("float64") + layer.epsilon)
    if layer.scale:
        scale = scale * call.read("gamma")
    values = (x.values - call.read("moving_mean")) * scale
    values[scale == 0] = 0.0
    if layer.center:
        values = values + call.read("beta")
    return Channels(x.axis, x.ids, values)


def _affine(call, x, axes, name_scale, name_offset):
    """Weights of a norm over `axes`, and its constants: where the scale is 0."""
    values = np.full(len(x), _NAN)
    place = axes.index(x.axis)
    scale, offset = call.read(name_scale), call.read(name_offset) if name_offset else None
    for name, weight in ((name_scale, scale), (name_offset, offset)):
        if weight is not None:
            call.slice(name, {place: x.ids})
    if len(axes) == 1 and scale is not None:
        values[scale == 0] = 0.0
        if offset is not None:
            values = values + offset
    return values


@register(layers.LayerNormalization, layers.RMSNormalization)
def layer_normalization(call):
    layer = call.layer
    given = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    rank = len(call.input_shapes[0])
    axes = [axis % rank for axis in given]
    x = call.inputs[0]
    if x is None:
        call.keep("the number of its input channels is not known")
    if x.axis not in axes:
        return Channels(x.axis, x.ids)
    call.pin(x.ids, "it normalises over the channels", statistics=True)
    if isinstance(layer, layers.LayerNormalization):
        values = _affine(call, x, axes, "gamma", "beta")
    else:
        values = _affine(call, x, axes, "scale", None)
    return Channels(x.axis, x.ids, values)


@register(layers.UnitNormalization)
def unit_normalization(call):
    x = call.inputs[0]
    if x is None:
        call.keep("the number of its input channels is not known")
    call.pin(x.ids, "it normalises over the channels", statistics=True)
    return Channels(x.axis, x.ids)


@register(layers.GroupNormalization)
def group_normalization(call):
    """Whole groups leave: the statistics of the others do not see them."""
    layer = call.layer
    x = call.input(axis=layer.axis)
    block = x.ids.reshape(layer.groups, -1)
    call.tie(block[:, 1:], np.repeat(block[:, :1], block.shape[1] - 1, axis=1))
    call.configure(groups=block[:, 0])
    values = np.full(len(x), _NAN)
    scale, offset = call.read("gamma"), call.read("beta")
    for name, weight in (("gamma", scale), ("beta", offset)):
        if weight is not None:
            call.slice(name, {0: x.ids})
    same = x.values.reshape(block.shape)
    values[np.repeat((same == same[:, :1]).all(1), block.shape[1])] = 0.0
    if scale is not None:
        values[scale == 0] = 0.0
    return Channels(x.axis, x.ids, values if offset is None else values + offset)


# Layers that treat every number, or every channel, by itself


@register(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
    layers.Identity,
)
def unchanged(call):
    return call.inputs[0]


@register(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Rescaling)
def elementwise(call):
    """A layer without weights that treats every number by itself."""
    x = call.inputs[0]
    if x is None or np.isnan(x.values).all():
        return x
    if isinstance(call.layer, layers.Rescaling) and not np.isscalar(call.layer.scale):
        return Channels(x.axis, x.ids)
    return Channels(x.axis, x.ids, apply_elementwise(call.layer.call, x.values))


@register(layers.Activation)
def activation(call):
    x = call.inputs[0]
    if x is None:
        return None
    return Channels(x.axis, x.ids, call.activate(call.layer.activation, x.ids, x.values))


@register(layers.PReLU)
def prelu(call):
    x = call.inputs[0]
    alpha = call.read("alpha")
    if x is None or alpha.shape[x.axis - 1] not in (1, len(x)):
        call.keep("the number of its input channels is not known")
    if alpha.shape[x.axis - 1] == len(x):
        call.slice("alpha", {x.axis - 1: x.ids})
    values = np.where(x.values >= 0, x.values, _NAN)
    if alpha.size == len(x):
        values = np.where(x.values < 0, x.values * alpha.ravel(), values)
    return Channels(x.axis, x.ids, values)


@register(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
)
def spatial(call):
    return call.input(axis=call.channel_axis(len(call.input_shapes[0])))


@register(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
def zero_padding(call):
    x = call.input(axis=call.channel_axis(len(call.input_shapes[0])))
    if not np.any(call.layer.padding):
        return x
    return Channels(x.axis, x.ids, np.where(x.values == 0, 0, _NAN))


@register(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def global_pooling(call):
    x = call.input(axis=call.channel_axis(len(call.input_shapes[0])))
    axis = x.axis if len(call.output_shapes[0]) > 2 else 1
    return Channels(axis, x.ids, x.values)


# Reshaping


@register(layers.Flatten)
def flatten(call):
    shape = call.input_shapes[0]
    x = call.inputs[0]
    if x is None or None in shape[1:]:
        call.keep("the size of what it flattens is not known")
    order = list(range(1, len(shape)))
    if call.layer.data_format == "channels_first" and len(shape) > 2:
        order = [*range(2, len(shape)), 1]

    def spread(vector):
        full = [1] * len(shape)
        full[x.axis] = len(x)
        array = np.broadcast_to(vector.reshape(full), (1, *shape[1:]))
        return array.transpose([0, *order]).ravel()

    return Channels(1, spread(x.ids), spread(x.values))


@register(layers.Reshape)
def reshape(call):
    return _reshape(call, lambda target: call.configure(target_shape=target))


def _reshape(call, configure):
    old, new = call.input_shapes[0][1:], call.output_shapes[0][1:]
    x = call.inputs[0]
    if x is None:
        call.keep("the number of its input channels is not known")
    if None in old or None in new:
        # Only positions are joined or split, the last axis is the same.
        if x.axis != len(old) or new[-1] != old[-1] or new.count(None) > 1:
            call.keep("the size of what it reshapes is not known")
        ids, values, axis = x.ids, x.values, len(new) - 1
    else:
        full = [1] * len(old)
        full[x.axis - 1] = len(x)
        ids = np.broadcast_to(x.ids.reshape(full), old).reshape(new)
        values = np.broadcast_to(x.values.reshape(full), old).reshape(new)
        axis = _channel_axis_of(ids)
        rows = np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])
        seen = np.moveaxis(values, axis, -1).reshape(rows.shape)
        call.tie(rows[1:], np.repeat(rows[:1], len(rows) - 1, axis=0))
        same = (seen == seen[:1]).all(0)
        ids, values = rows[0], np.where(same, seen[0], _NAN)

    def target(count):
        shape = [-1 if extent is None else extent for extent in new]
        shape[axis] = count(ids)
        return tuple(shape)

    configure(target)
    return Channels(axis + 1, ids, values)


def _channel_axis_of(ids):
    """The axis along which `ids` differ while they are the same along all others."""
    for axis in reversed(range(ids.ndim)):
        rows = np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])
        if ids.shape[axis] > 1 and (rows == rows[:1]).all():
            return axis
    return ids.ndim - 1


@register(layers.Permute)
def permute(call):
    x = call.inputs[0]
    if x is None:
        return None
    return Channels(1 + list(call.layer.dims).index(x.axis), x.ids, x.values)


@register(layers.RepeatVector)
def repeat_vector(call):
    x = call.input()
    return Channels(2, x.ids, x.values)


# Merging


def merge(call, combine, zero_wins=False):
    """Tensors combined number by number: equal channels go together, single ones broadcast."""
    ranks = {len(shape) for shape in call.input_shapes}
    known = [x for x in call.inputs if x is not None]
    if len(ranks) > 1 or not known:
        call.keep("its inputs have different ranks")
    size = call.output_shapes[0][known[0].axis]
    axis = next((x.axis for x in known if len(x) == size and size != 1), known[0].axis)
    xs = [call.input(index, axis) for index in range(len(call.inputs))]
    width = max(len(x) for x in xs)
    wide = [x for x in xs if len(x) == width]
    for x in wide[1:]:
        call.tie(wide[0].ids, x.ids)
    for x in xs:
        if len(x) != width:
            call.pin(x.ids, "it is one channel that is spread over all")
    values = [x.values if len(x) == width else np.repeat(x.values, width) for x in xs]
    result = combine(values)
    if zero_wins:
        result = np.where(np.any([v == 0 for v in values], axis=0), 0.0, result)
    return Channels(axis, wide[0].ids, result)


@register(layers.Add)
def add(call):
    return merge(call, sum)


@register(layers.Multiply)
def multiply(call):
    return merge(call, lambda values: np.prod(values, axis=0), zero_wins=True)


@register(layers.Average)
def average(call):
    return merge(call, lambda values: sum(values) / len(values))


@register(layers.Subtract)
def subtract(call):
    return merge(call, lambda values: values[0] - values[1])


@register(layers.Maximum)
def maximum(call):
    return merge(call, lambda values: np.max(values, axis=0))


@register(layers.Minimum)
def minimum(call):
    return merge(call, lambda values: np.min(values, axis=0))


@register(layers.Concatenate)
def concatenate(call):
    return _concatenate(call, call.layer.axis)


def _concatenate(call, axis):
    rank = len(call.output_shapes[0])
    axis %= rank
    known = [x for x in call.inputs if x is not None]
    if len(known) < len(call.inputs):
        call.keep("the number of its input channels is not known")
    if all(x.axis != axis for x in known):
        return merge(call, lambda values: np.where(np.ptp(values, axis=0) == 0, values[0], _NAN))
    xs = [call.input(index, axis) for index in range(len(known))]
    return Channels(
        axis, np.concatenate([x.ids for x in xs]), np.concatenate([x.values for x in xs])
    )


# Layers that keras.applications brings along, by name, since they are no public classes


def _layer_scale(call):
    x = call.input()
    gamma = call.read("gamma")
    call.slice("gamma", {0: x.ids})
    call.configure(projection_dim=x.ids)
    return Channels(x.axis, x.ids, np.where(gamma == 0, 0.0, x.values * gamma))


def _custom_scale(call):
    return merge(call, lambda values: values[0] + values[1] * call.layer.scale)


_RULES["keras.src.applications.convnext.LayerScale"] = _layer_scale
_RULES["keras.src.applications.convnext.StochasticDepth"] = unchanged
_RULES["keras.src.applications.inception_resnet_v2.CustomScaleLayer"] = _custom_scale


# Operations: `keras.ops` in a functional model, and `x + y`


def _single(call):
    """One tensor, and otherwise plain numbers."""
    others = [
        a for a in (*call.args, *call.kwargs.values()) if not isinstance(a, keras.KerasTensor)
    ]
    if any(np.ndim(a) for a in others if a is not None and not isinstance(a, str)):
        call.keep("it is called with an array")


def _unary_op(call):
    _single(call)
    x = call.inputs[0]
    if x is None or np.isnan(x.values).all():
        return x
    args = [None if isinstance(a, keras.KerasTensor) else a for a in call.args]

    def apply(value):
        return call.layer.call(*[value if a is None else a for a in args], **call.kwargs)

    if None in args and not any(isinstance(v, keras.KerasTensor) for v in call.kwargs.values()):
        return Channels(x.axis, x.ids, apply_elementwise(apply, x.values))
    return Channels(x.axis, x.ids)


def _binary_op(combine, zero_wins=False):
    def rule(call):
        if len(call.inputs) == 2:
            return merge(call, lambda values: combine(*values), zero_wins)
        return _unary_op(call)

    return rule


def _concatenate_op(call):
    return _concatenate(call, call.layer.axis)


_UNARY = (
    "numpy.Absolute numpy.Abs numpy.Exp numpy.Expm1 numpy.Log1p numpy.Negative numpy.Sqrt "
    "numpy.Square numpy.Tanh numpy.Sin numpy.Cos numpy.Clip numpy.Sign numpy.Maximum "
    "nn.Relu nn.Relu6 nn.Sigmoid nn.Softplus nn.Softsign nn.Silu nn.LeakyRelu nn.HardSigmoid "
    "nn.HardSilu nn.HardTanh nn.Elu nn.Selu nn.Gelu nn.Celu nn.LogSigmoid nn.Squareplus core.Cast"
)
_BINARY = {
    "Add": (np.add, False),
    "Subtract": (np.subtract, False),
    "Multiply": (np.multiply, True),
    "Divide": (lambda a, b: np.full(len(a), _NAN), False),
    "TrueDivide": (lambda a, b: np.full(len(a), _NAN), False),
    "Power": (lambda a, b: np.full(len(a), _NAN), False),
    "Maximum": (np.maximum, False),
    "Minimum": (np.minimum, False),
}
for _name in _UNARY.split():
    _RULES[f"keras.src.ops.{_name}"] = _unary_op
for _name, _form in _BINARY.items():
    _RULES[f"keras.src.ops.numpy.{_name}"] = _binary_op(*_form)
_RULES["keras.src.ops.numpy.Concatenate"] = _concatenate_op
