"""What the rules of several families share."""

import keras
import numpy as np

from keras_saliency.sparsity.registry import register_shrink_rule
from keras_saliency.sparsity.shrinking.channels import (
    Channels,
    apply_elementwise,
)

NAN = float("nan")


def register(*classes):
    def decorator(rule):
        for layer_class in classes:
            register_shrink_rule(layer_class)(rule)
        return rule

    return decorator


def operations(*names):
    """A decorator that registers a rule for operations of `keras.ops`."""
    return register(*(f"keras.ops>{name}" for name in names))


def positions(shape, axis):
    """How many entries of one sample share the weights: all axes but the batch and `axis`."""
    rest = [extent for i, extent in enumerate(shape) if i not in (0, axis % len(shape))]
    return None if None in rest else int(np.prod(rest, dtype="int64"))


def unchanged(call):
    return call.inputs[0]


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


def single(call):
    """One tensor, and otherwise plain numbers."""
    others = [
        a for a in (*call.args, *call.kwargs.values()) if not isinstance(a, keras.KerasTensor)
    ]
    if any(np.ndim(a) for a in others if a is not None and not isinstance(a, str)):
        call.keep("it is called with an array")


def unary(call):
    single(call)
    x = call.inputs[0]
    if x is None or np.isnan(x.values).all():
        return x
    args = [None if isinstance(a, keras.KerasTensor) else a for a in call.args]

    def apply(value):
        return call.layer.call(*[value if a is None else a for a in args], **call.kwargs)

    if None in args and not any(isinstance(v, keras.KerasTensor) for v in call.kwargs.values()):
        return Channels(x.axis, x.ids, apply_elementwise(apply, x.values))
    return Channels(x.axis, x.ids)
