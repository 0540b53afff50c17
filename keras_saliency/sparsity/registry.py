"""Which rule carries significance through a layer, and which of its weights are edges."""

from dataclasses import dataclass

import keras

_RULES = {}
_KERNELS = {}
_REASONS = {}


@dataclass(frozen=True)
class KernelAxes:
    """Where a kernel's inputs and outputs lie among its axes; the remaining axes are positions."""

    inputs: tuple
    outputs: tuple


def register_significance_rule(layer_class, kernels=None, reason=None):
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
        layer_class: A `keras.Layer` subclass.
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
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Operation)):
        raise TypeError(
            "`layer_class` must be a class of layers (or of Keras operations). "
            f"Received: layer_class={layer_class!r}"
        )

    def decorator(rule):
        if not callable(rule):
            raise TypeError(f"A significance rule must be callable. Received: {rule!r}")
        _RULES[layer_class] = rule
        if kernels is not None:
            _KERNELS[layer_class] = kernels if callable(kernels) else _axes(kernels)
        if reason is not None:
            _REASONS[layer_class] = reason
        return rule

    return decorator


def register_internal_rule(name, operation=False, kernels=None, reason=None):
    """Register a rule for a class of Keras that Keras does not export, by its name.

    Args:
        name: Name of the class.
        operation: Whether it is one of `keras.ops` (a layer may have the same name).
        kernels, reason: As in `register_significance_rule`.
    """

    def decorator(rule):
        _RULES[name, operation] = rule
        if kernels is not None:
            _KERNELS[name, operation] = _axes(kernels)
        if reason is not None:
            _REASONS[name, operation] = reason
        return rule

    return decorator


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


def _lookup(table, layer):
    operation = not isinstance(layer, keras.layers.Layer)
    for cls in type(layer).__mro__:
        if cls in table:
            return table[cls]
        if cls.__module__.split(".")[0] == "keras" and (cls.__name__, operation) in table:
            return table[cls.__name__, operation]
    return None


def find_rule(layer):
    """Returns the rule of the layer's class or of its nearest ancestor, or `None`."""
    return _lookup(_RULES, layer)


def has_rule(layer):
    """Whether a rule is known for the layer, so that nobody need look into it."""
    return find_rule(layer) is not None


# What to do about a layer without a rule that cannot be looked into.
ADVICE = (
    "Register a rule for it: `@keras_saliency.sparsity.register_significance_rule({name}, "
    "kernels=(...))`; its docstring shows how."
)


def find_kernels(layer):
    """Returns `{attribute name: KernelAxes}` of the layer, or `None` for an unknown class."""
    kernels = _lookup(_KERNELS, layer)
    if callable(kernels):
        return _axes(kernels(layer))
    if kernels is None and find_rule(layer) is not None:
        return {}
    return kernels


def find_reason(layer):
    """Returns why nothing of the layer is masked, or `None`."""
    return _lookup(_REASONS, layer)
