"""What is known of a layer class: one registry behind both kinds of rules, and the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_saliency.typing import Layer


class Registry:
    """Values by class of layer or operation.

    What is looked up for a layer is what was registered for its class, or else for the nearest
    ancestor along `__mro__`: at each class first for the class itself, then for its name. A name is
    the one under which the class is registered with Keras, `"keras_hub>TransformerEncoder"`, so
    that a rule needs no import of the package that it is about; a class that is not registered goes
    by the package it comes from, `"keras_hub>LlamaLayerNorm"`, one of Keras that Keras does not
    export is `"keras>LayerScale"`, one of `keras.ops` `"keras.ops>Matmul"`.

    Args:
        what: What the values are, for errors.
        same_call: Whether a subclass inherits only as long as it does not write its own `call`
            (it may compute something else); otherwise it always inherits.
    """

    def __init__(self, what, same_call=False):
        self.what = what
        self.same_call = same_call
        self._values = {}

    def set(self, layer_class, value):
        """Register `value` for a class, or for the name of one."""
        self._values[_checked(layer_class)] = value

    def decorator(self, layer_class, then=lambda: None):
        """A decorator that registers a function for a class; `then` is called afterwards."""
        _checked(layer_class)

        def decorate(rule):
            if not callable(rule):
                raise TypeError(f"A {self.what} must be callable. Received: {rule!r}")
            self.set(layer_class, rule)
            then()
            return rule

        return decorate

    def find(self, layer):
        """What is registered for the layer's class or its nearest ancestor, or `None`."""
        own = type(layer)
        for cls in own.__mro__:
            for key in (cls, _name(cls)):
                if key in self._values:
                    inherited = not self.same_call or cls.call is own.call
                    return self._values[key] if inherited else None
        return None


def _checked(layer_class):
    is_class = isinstance(layer_class, type) and issubclass(layer_class, keras.Operation)
    if not is_class and not (isinstance(layer_class, str) and ">" in layer_class):
        raise TypeError(
            "`layer_class` must be a class of layers (or of Keras operations), or the name under "
            "which one is registered with Keras, 'package>Name'. "
            f"Received: layer_class={layer_class!r}"
        )
    return layer_class


def _name(cls):
    package = cls.__module__.split(".")[0]
    if package == "keras":
        return f"keras{'' if issubclass(cls, keras.layers.Layer) else '.ops'}>{cls.__name__}"
    name = keras.saving.get_registered_name(cls)
    return name if ">" in name else f"{package}>{name}"


_SIGNIFICANCE_RULES = Registry("significance rule")
_KERNELS = Registry("kernels")
_REASONS = Registry("reason")
_SHRINK_RULES = Registry("shrink rule", same_call=True)


@dataclass(frozen=True)
class KernelAxes:
    """Where a kernel's inputs and outputs lie among its axes; the remaining axes are positions."""

    inputs: tuple
    outputs: tuple


def register_significance_rule(
    layer_class: type | str,
    kernels: str
    | Iterable[str]
    | Mapping[str, Any]
    | Callable[[Layer], Mapping[str, Any]]
    | None = None,
    reason: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register how significance walks backwards through a layer class (G 4.4.2, equation 4.8).

    A rule is called once for every call of such a layer in the model, with one `call` object:

    - `call.layer`: the layer; `call.inputs`, `call.outputs`: one object with `shape` and `dtype`
      per tensor, the batch axis included.
    - `call.scores(axis=-1)`: the significance of the entries of one axis of the first output, a
      float64 vector (all other axes are summed). `call.output_scores[i]`: all of output i, an
      array of the output's rank whose axes have the output's size, or size 1 where the score
      is the total over that axis.
    - `call.magnitude(name)`: `|kernel|` in float64, as the layer uses it (times its mask).
    - `call.edges(name, factor)`: reports the edge scores `|kernel| * factor` (equation 4.6);
      `factor` broadcasts against the kernel.

    It returns the significance of the layer's input, or a list with one for each input tensor: a
    vector over the input's last axis, an array of the input's rank (as above), or `None` for no
    significance at all.

    Rules are looked up along the layer's `__mro__`, so that a subclass inherits them.

    Args:
        layer_class: A `keras.Layer` subclass, or the name under which one is registered with
            Keras, such as `"keras_hub>RotaryEmbedding"`.
        kernels: The weights that are edges: attribute names of the layer, or a dict
            `{name: (input axes, output axes)}`, or a function that returns such a dict for a
            layer; names alone take the axes -2 and -1. `None` inherits from the parent class, `()`
            declares that nothing may be masked.
        reason: Why nothing of the layer is ever masked, for reports, when `kernels` is `()`.

    Returns:
        A decorator, which returns the rule unchanged.

    Raises:
        TypeError: If `layer_class` is not a layer class, or the rule cannot be called.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import edge_significance, register_significance_rule


    class Mixer(keras.layers.Layer):
        def build(self, input_shape):
            self.w = self.add_weight(shape=(input_shape[-1], 4))

        def call(self, x):
            return keras.ops.matmul(x, self.w)


    @register_significance_rule(Mixer, kernels=("w",))
    def mixer(call):
        significance = call.scores()
        call.edges("w", significance)
        return call.magnitude("w") @ significance


    model = keras.Sequential([keras.Input((3,)), Mixer(name="mixer"), keras.layers.Dense(2)])
    assert edge_significance(model, scores="identity")["mixer"].shape == (3, 4)
    ```
    """

    def then():
        if kernels is not None:
            _KERNELS.set(layer_class, kernels if callable(kernels) else _axes(kernels))
        if reason is not None:
            _REASONS.set(layer_class, reason)

    return _SIGNIFICANCE_RULES.decorator(layer_class, then)


def _axes(kernels):
    if isinstance(kernels, str):
        kernels = (kernels,)
    if not isinstance(kernels, dict):
        kernels = dict.fromkeys(kernels, (-2, -1))
    return {
        name: KernelAxes(
            *((axes,) if isinstance(axes, int) else tuple(axes) for axes in both),
        )
        for name, both in kernels.items()
    }


def find_significance_rule(layer):
    """Returns the rule of the layer's class or of its nearest ancestor, or `None`."""
    return _SIGNIFICANCE_RULES.find(layer)


def has_rule(layer):
    """Whether a rule is known for the layer, so that nobody need look into it."""
    return find_significance_rule(layer) is not None


# What to do about a layer without a rule that cannot be looked into.
ADVICE = (
    "Register a rule for it: `@keras_saliency.sparsity.register_significance_rule({name}, "
    "kernels=(...))`; its docstring shows how."
)


def find_kernels(layer):
    """Returns `{attribute name: KernelAxes}` of the layer, or `None` for an unknown class."""
    kernels = _KERNELS.find(layer)
    if callable(kernels):
        return _axes(kernels(layer))
    if kernels is None and find_significance_rule(layer) is not None:
        return {}
    return kernels


def find_reason(layer):
    """Returns why nothing of the layer is masked, or `None`."""
    return _REASONS.find(layer)


def register_shrink_rule(
    layer_class: type | str,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register which channels of a layer class go together, for `shrink` and `shrink_to`.

    A rule is called once for every call of such a layer in the model, with one `call` object:

    - `call.layer`, `call.args`, `call.kwargs`, `call.input_shapes`, `call.output_shapes`.
    - `call.input(index=0, axis=-1)`: the `Channels` of one axis of an input tensor.
    - `call.new(size)`: numbers for channels that the layer creates.
    - `call.edges(weight, channels, ids, ...)`: a kernel from input to output channels; returns the
      values of the outputs that are constant.
    - `call.slice(weight, {axis: ids})`: a weight that loses entries with its channels.
    - `call.configure(argument=ids)`: a constructor argument that counts channels.
    - `call.tie(a, b)`: channels that must go together.
    - `call.activate(function, ids, values)`: what an activation makes of constants.
    - `call.keep(reason)`: gives up; the layer and the channels around it stay as they are.

    It returns the `Channels` of the output, or a list with one entry for each output tensor.

    Rules are looked up along the layer's `__mro__`. A subclass with a `call` of its own does not
    inherit its parent's rule, since it may do something else.

    Args:
        layer_class: A `keras.Layer` subclass, a `keras.Operation` subclass, or the name under
            which one is registered with Keras, such as `"keras_hub>RotaryEmbedding"`.

    Returns:
        A decorator, which returns the rule unchanged.

    Raises:
        TypeError: If `layer_class` is not a layer class, or the rule cannot be called.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import register_shrink_rule


    class Mixer(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, input_shape):
            self.w = self.add_weight(shape=(input_shape[-1], self.units))

        def call(self, x):
            return keras.ops.matmul(x, self.w)

        def get_config(self):
            return {**super().get_config(), "units": self.units}


    @register_shrink_rule(Mixer)
    def mixer(call):
        x = call.input()
        ids = call.new(call.layer.units)
        call.configure(units=ids)
        values = call.edges("w", x, ids, bias=None)
        return call.output(ids, values=values)
    ```
    """
    return _SHRINK_RULES.decorator(layer_class)


def find_shrink_rule(layer):
    """Returns the rule of the layer's class or of an ancestor whose `call` it shares, or `None`."""
    return _SHRINK_RULES.find(layer)
