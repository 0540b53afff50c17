"""Attention for a model that exists already: a copy of its graph with attention in it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
import warnings
from collections.abc import Iterable
from typing import Any, Literal, get_args

import keras

from keras_saliency import validation
from keras_saliency.graph.compiling import copy_compile
from keras_saliency.graph.copying import Copier, same_layer, zip_layers
from keras_saliency.layers.attention.factory import attention_factory
from keras_saliency.layers.attention.san import SANAttention
from keras_saliency.models.placement import as_functional, data_format, is_nested, plan
from keras_saliency.typing import Attention

Placement = Literal["bottleneck", "full"]
PLACEMENTS = get_args(Placement)


class Placed(typing.NamedTuple):
    """One attention layer of a report: behind which layer it stands, and on which features."""

    layer: str
    attention: str
    shape: tuple


class LeftOut(typing.NamedTuple):
    """One place without attention, and the reason; `failed` if attention was tried there."""

    layer: str
    reason: str
    failed: bool


class AttentionReport:
    """What `add_attention` did; printing it shows a table.

    Attributes:
        placed: Tuple of `(layer, attention, shape)`: behind which layer which attention layer
            stands, and the shape of the features.
        left_out: Tuple of `(layer, reason, failed)`: places without attention; `failed` where it
            was tried and an error was the reason.
        start: `"identity"` if the copy computes what the model did, `"paper"`, or `None` if the
            attention takes no `start` and was placed as it is.

    Example:

    >>> import keras
    >>> from keras_saliency import add_attention
    >>> plain = keras.Sequential([
    ...     keras.Input((28, 28, 1)),
    ...     keras.layers.Conv2D(8, 3, activation="relu", name="features"),
    ...     keras.layers.MaxPooling2D(),
    ... ])
    >>> add_attention(plain, "se", ratio=4).attention_report
    attention at 1 places, start='identity'
      features: features_attention on (None, 26, 26, 8)
    """

    def __init__(
        self, placed: Iterable[Placed], left_out: Iterable[LeftOut], start: str | None = None
    ):
        self.placed = tuple(placed)
        self.left_out = tuple(left_out)
        self.start = start

    def __str__(self):
        start = f"start={self.start!r}" if self.start else "placed as it is: it takes no `start`"
        lines = [f"attention at {len(self.placed)} places, {start}"]
        lines += [f"  {p.layer}: {p.attention} on {p.shape}" for p in self.placed]
        if self.left_out:
            lines.append(f"none at {len(self.left_out)} places")
            lines += [f"  {x.layer}: {x.reason}" for x in self.left_out]
        return "\n".join(lines)

    __repr__ = __str__


def add_attention(
    model: keras.Model,
    attention: Attention = SANAttention,
    placement: Placement = "bottleneck",
    **kwargs: Any,
) -> keras.Model:
    """Return a copy of a model, weights included, with attention at its bottlenecks or everywhere.

    The given model is left as it is. The copy is a functional model of the same inputs, outputs
    and layer names; models nested in it are copied too. If the given model is compiled, so is
    the copy, with a fresh optimizer of the same settings. `copy.attention_report` lists each
    attention layer and each place without one, with the reason.

    A trained model computes after the act what it did before (`start="identity"`): the attention
    begins as a factor of 1 and is learned in further training, at the training rate; a tenth of
    it brings little. Masks as the papers start them, near 1/2, would halve every feature. Each
    kernel that makes a mask starts at zero, so that it has a gradient from the first step and
    what lies before it from the second; a layer without such a kernel is mixed in by a trained
    scalar that starts at 0. SAN's difference is signed then (`absolute=False`), unless
    `absolute` is given: that learned more in every run of five on Fashion-MNIST.

    Source: G 5.5.3, figures 5.2 and 5.7; the start is ours.

    Args:
        model: A functional or built sequential model.
        attention: A layer class, a name (see `get_attention`), or a callable that returns a new
            layer at every call. A layer with a true attribute `takes_previous`, as
            `SANAttention`, is called on `[y, y_prev]`, the features of a layer and those it was
            computed from; any other on `y` alone. It must keep the shape of `y`.
        placement: `"bottleneck"`: before every downsampling, that is pooling, a strided
            convolution, or a recurrent layer that returns its last step; where padding or
            dropout stands in between, before it. `"full"`: after every convolution and
            recurrent layer, behind its normalization and activation, and behind the merge at
            the end of a residual block.
        **kwargs: Arguments of `attention`. A class or a name also gets `name`, `dtype` and
            `data_format` of the layer it follows, where they are not given; a given `name` is
            a prefix. `start="identity"` is the default where the class takes it; `"paper"` is
            the layer as printed.

    Returns:
        A functional `keras.Model`. Attention behind a layer that is called several times is
        shared in the same way. Attention inside a frozen model is trainable.

    Raises:
        ValueError: If `model` is subclassed or not built, the placement or the name is unknown,
            there is no place for attention, attention fails at every place, or it changes the
            shape of the features.
        TypeError: If `model` is no model, `attention` cannot make layers, or `start` is given and
            `attention` takes none.

    Warns:
        UserWarning: Once, if attention failed at some places (two maps that cannot be aligned,
            say).

    Example:

    ```python
    import keras
    from keras_saliency import add_attention

    plain = keras.applications.MobileNetV2(input_shape=(64, 64, 3), weights=None, classes=10)
    attended = add_attention(plain, smoothing="depthwise")
    print(attended.attention_report)
    light = add_attention(plain, "se", placement="full", ratio=8)
    ```
    """
    copy, surgery = build_copy(model, attention, placement, kwargs)
    surgery.copy_state_of(model)
    copy.attention_report = AttentionReport(surgery.placed, surgery.left_out, surgery.start)
    complaints = [f"{x.layer}: {x.reason}" for x in surgery.left_out if x.failed]
    if complaints:
        complaints = [f"no attention at {len(complaints)} places ({'; '.join(complaints)})"]
    copy_compile(model, copy)
    if model.compiled and not copy.compiled:
        complaints.append("the copy is not compiled, since the settings do not copy")
    if complaints:
        warnings.warn(
            f"add_attention on {model.name!r}: {'. '.join(complaints)}. "
            "See `attention_report` of the returned model.",
            stacklevel=2,
        )
    return copy


def build_copy(model, attention, placement, kwargs):
    """Return `(copy, surgery)`: the copy with fresh weights, and what was done.

    It needs no values of weights: under `keras.StatelessScope(initialize_variables=False)` it
    tells in a moment where attention would stand in a model of any size.
    """
    make = _maker(attention, kwargs)
    _check(model, placement)
    source = as_functional(model)
    surgery = _Surgery(make)
    with surgery.without_initializers():
        copy = surgery.copy_model(source, plan(source, placement), type(model), path="")
    if not surgery.placed:
        raise ValueError(_nowhere(model, placement, surgery.left_out))
    return copy, surgery


def _check(model, placement):
    validation.choice("placement", placement, PLACEMENTS)
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {model!r}")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"`model` {model.name!r} has no graph yet: give it an `Input` as its first layer, or "
            "call `model.build(input_shape)` before."
        )
    if not is_nested(model) or not type(model).call.__module__.startswith("keras."):
        raise ValueError(
            f"`model` {model.name!r} is a subclassed model ({type(model).__name__}), whose graph "
            "is in its `call`. Attend the functional parts it is made of, or call the attention "
            "layer in `call`."
        )


def _maker(attention, kwargs):
    """Return a function (stage, name) -> new attention layer."""
    if isinstance(attention, keras.layers.Layer):
        raise TypeError(
            "`attention` must make a new layer for every place: pass the class, a name, or a "
            f"function that returns a layer. Received the layer {attention.name!r}"
        )
    factory = attention_factory(attention) if isinstance(attention, str) else attention
    cls = factory.func if isinstance(factory, functools.partial) else factory
    if not callable(factory):
        raise TypeError(f"`attention` must be a layer class, a name or a callable: {attention!r}")
    if not (inspect.isclass(cls) and issubclass(cls, keras.layers.Layer)):
        if "start" in kwargs and not _takes(factory, "start"):
            raise TypeError(_no_start(factory))

        def make(stage, name):
            layer = factory(**kwargs)
            if not isinstance(layer, keras.layers.Layer):
                raise TypeError(f"`attention` must return a layer. Received: {layer!r}")
            return layer

        return make

    accepted = {name for c in cls.__mro__ for name in inspect.signature(c.__init__).parameters}
    if "start" in kwargs and "start" not in accepted:
        raise TypeError(_no_start(cls))
    given_before = getattr(factory, "keywords", {})

    def make(stage, name):
        given = dict(kwargs)
        if "name" in kwargs:
            name = f"{kwargs['name']}_{name}"
        given["name"] = name
        if getattr(stage.dtype_policy, "quantization_mode", None) is None:
            given.setdefault("dtype", stage.dtype_policy)
        if "data_format" in accepted:
            given.setdefault("data_format", data_format(stage))
        if "start" in accepted and "start" not in given_before:
            given.setdefault("start", "identity")
        # Started as the identity, a signed difference learns more (`benchmarks/san_accuracy.py`).
        signed = "absolute" in accepted and "absolute" not in given_before
        if signed and given.get("start") == "identity":
            given.setdefault("absolute", False)
        return factory(**given)

    return make


def _takes(function, name):
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _no_start(attention):
    return (
        f"`attention` {getattr(attention, '__name__', attention)} takes no `start`, so what it "
        "computes at first is its own affair. Leave `start` away: it is placed as it is."
    )


def _nowhere(model, placement, left_out):
    reasons = "; ".join(f"{x.layer}: {x.reason}" for x in left_out[:5])
    other = next(p for p in PLACEMENTS if p != placement)
    return (
        f"No attention could be placed in {model.name!r} with placement={placement!r}. "
        + (f"Reasons: {reasons}. " if reasons else "It has no such place. ")
        + f"Try placement={other!r}, or call the attention layer where you want it."
    )


class _Surgery(Copier):
    """Copies a graph call by call, and adds attention to the tensors of a plan."""

    def __init__(self, make_attention):
        super().__init__(same_layer, {})
        self.make_attention = make_attention
        self.attention = {}
        self.start = None
        self.placed = []
        self.left_out = []

    def copy_model(self, model, plan, cls, path):
        graph = plan.graph
        self.left_out += [LeftOut(path + name, reason, False) for name, reason in plan.left_out]
        names = {operation.name for operation in model.operations}
        tensors = {}
        for old in model.inputs:
            layer = old._keras_history[0]
            tensors[id(old)] = type(layer).from_config(layer.get_config()).output
        for node in graph.calls:
            operation = node.operation
            args, kwargs = node.arguments.fill_in(tensors)
            outputs = self._copy(operation, plan, path)(*args, **kwargs)
            for old, new in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(old)] = new
            for old in node.outputs:
                if id(old) in plan.places:
                    place = plan.places[id(old)]
                    tensors[id(old)] = self._attend(place, tensors, names, path)
        inputs = keras.tree.map_structure(lambda t: tensors[id(t)], model.input)
        outputs = keras.tree.map_structure(lambda t: tensors[id(t)], model.output)
        if not _is_constructed_like_a_functional_model(cls):
            cls = keras.Model
        return cls(inputs, outputs, name=model.name)

    def _copy(self, operation, plan, path):
        if not is_nested(operation):
            with _cannot_copy():
                return self.layer(operation)
        if id(operation) not in self.copies:
            inside, path = plan.nested[id(operation)], f"{path}{operation.name}/"
            copy = self.copy_model(as_functional(operation), inside, type(operation), path)
            self.copies[id(operation)] = operation, copy
        return self.copies[id(operation)][1]

    def _attend(self, place, tensors, names, path):
        y, stage = tensors[id(place.tensor)], place.stage
        layer = self.attention.get(place.key)
        if layer is None:
            name, number = f"{stage.name}_attention", 1
            while name in names:
                number += 1
                name = f"{stage.name}_attention_{number}"
            layer = self.make_attention(stage, name)
        inputs = y
        if getattr(layer, "takes_previous", False):
            if place.previous is None:
                return self._fail(path + stage.name, "y_prev lies inside a nested model", y)
            inputs = [y, tensors[id(place.previous)]]
        try:
            outputs = layer(inputs)
        except ValueError as error:
            reason = " ".join(str(error).split("Arguments received")[0].split())
            return self._fail(path + stage.name, reason, y)
        if not isinstance(outputs, keras.KerasTensor) or outputs.shape != y.shape:
            shapes = keras.tree.map_structure(lambda t: tuple(t.shape), outputs)
            raise ValueError(
                f"`attention` must keep the shape of the features. {type(layer).__name__} turned "
                f"{tuple(y.shape)}, behind {path + stage.name!r}, into {shapes}"
            )
        self.attention[place.key] = layer
        names.add(layer.name)
        self.start = getattr(layer, "start", None)
        self.placed.append(Placed(path + stage.name, layer.name, tuple(y.shape)))
        return outputs

    def _fail(self, name, reason, y):
        self.left_out.append(LeftOut(name, reason, True))
        return y

    def copy_state_of(self, model):
        """Give each copied layer what its original holds."""
        with _cannot_copy():
            pairs = []
            for old, new in self.copies.values():
                if isinstance(old, keras.layers.Layer) and not is_nested(old):
                    pairs += zip_layers(old, new)
            self.copy_state(model, pairs)


@contextlib.contextmanager
def _cannot_copy():
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"`model` cannot be copied: {error} Mend the class that is named, or call the "
            "attention layer where you want it."
        ) from error


def _is_constructed_like_a_functional_model(cls):
    """Whether `cls(inputs, outputs, name=...)` works; a `Sequential` is rebuilt as a graph."""
    if issubclass(cls, keras.Sequential):
        return False
    parameters = list(inspect.signature(cls.__init__).parameters)
    return parameters[1:3] == ["inputs", "outputs"] or cls.__init__ is keras.Model.__init__
