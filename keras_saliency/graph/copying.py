"""Exact copies of models: weights, state outside weights, shared and tied weights, flags, names."""

import contextlib
import inspect
import tempfile

import keras
import numpy as np
from keras import ops

from keras_saliency.graph.compiling import copy_compile
from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.reading import read

# In place of a value: the copy has no such variable.
LEFT_OUT = object()


class CannotCopy(ValueError):
    """The model cannot be copied; the message names the layer and the reason."""


def copy_model(model, make=None, values=None):
    """A copy of a model that computes the same and shares nothing with it.

    Kept are weights, state outside weights (adapted `Normalization`, vocabularies, whatever a
    layer saves), shared layers and tied weights, `trainable` flags, dtype policies, LoRA and
    quantized layers, names, and the compile settings with losses and metrics of the user's own.
    The copy is compared with the model before it is handed over.

    Args:
        model: A built `keras.Model`.
        make: Function of a layer that returns a new, unbuilt layer to stand for it. Default: one
            of the same class and config.
        values: Dict from the `id` of a variable of `model` to what the copy gets in its place: an
            array, a function that returns one, or `LEFT_OUT`.

    Returns:
        A new model of the same class.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or cannot be copied.
    """
    check_built(model)
    copier = Copier(make or same_layer, values or {})
    try:
        with copier.without_initializers():
            copy = copier.model(model)
        copier.copy_state(model, zip_layers(model, copy))
    except Exception as error:
        raise CannotCopy(
            f"The model '{model.name}' of the class {type(model).__name__} cannot be copied: "
            f"{error} Change the model itself with `inplace=True`, or give the class that is named "
            "a `get_config` from which `from_config` makes it again."
        ) from error
    copy_compile(model, copy)
    return copy


def check_built(model):
    """Raise unless `model` is a Keras model that has its weights."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built, so it has no weights yet. Call "
            "`model.build(input_shape)`, or call it on a batch of data, first."
        )


def same_layer(layer):
    """A new layer, or operation, of the same class and config."""
    if type(layer) is keras.layers.Lambda:
        # `from_config` refuses functions of unknown origin; this one is already running here.
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            **keras.layers.Layer.get_config(layer),
        )
    check_config(layer)
    return type(layer).from_config(layer.get_config())


def check_config(layer):
    """Refuse what Keras would make again with default arguments, without a word."""
    if not getattr(layer.get_config, "_is_default", False):
        return
    if not isinstance(layer, keras.Model):
        return
    parameters = inspect.signature(type(layer).__init__).parameters.values()
    lost = [
        p.name
        for p in list(parameters)[1:]
        if p.name not in ("name", "dtype", "trainable")
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if lost:
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) has no `get_config`, and Keras does not "
            f"record its constructor arguments {lost}."
        )


def is_graph(layer):
    """Whether the layer is a model that its layers and their connections describe completely."""
    if not is_functional(layer):
        return False
    if isinstance(layer, keras.Sequential):
        return type(layer).__init__ is keras.Sequential.__init__
    return "input_layers" in layer.get_config()


class Copier:
    """Makes copies of layers and models, each once, and then gives them the state."""

    def __init__(self, make, values):
        self.make = make
        self.values = values
        self.copies = {}  # id of an operation -> (the operation, its copy)
        self._initializers = []

    def model(self, model):
        if id(model) in self.copies:
            return self.copies[id(model)][1]
        if not is_graph(model):
            copy = self.layer(model)
            if not copy.built:
                copy.build_from_config(model.get_build_config() or {})
        elif isinstance(model, keras.Sequential):
            copy = self._sequential(model)
        else:
            copy = self._functional(model)
        self.copies[id(model)] = model, copy
        return copy

    def layer(self, layer):
        """The copy of a layer or operation, made when it is first asked for."""
        if id(layer) in self.copies:
            return self.copies[id(layer)][1]
        if is_graph(layer):
            return self.model(layer)
        if isinstance(layer, keras.layers.Layer):
            try:
                copy = self.make(layer)
            except NotImplementedError as error:
                raise ValueError(
                    f"the layer '{layer.name}' cannot be made again: its class "
                    f"{type(layer).__name__} needs a `get_config`."
                ) from error
            except Exception as error:
                raise ValueError(
                    f"the layer '{layer.name}' ({type(layer).__name__}) cannot be made again from "
                    f"its config: {error}"
                ) from error
            self._forget_initializers(copy)
        else:
            copy = type(layer).from_config(layer.get_config())
        self.copies[id(layer)] = layer, copy
        return copy

    def _sequential(self, model):
        first = model._functional.inputs[0]._keras_history.operation
        layers = [self.layer(layer) for layer in model.layers]
        entry = keras.layers.InputLayer(
            batch_shape=first.batch_shape,
            dtype=first.dtype,
            name=first.name,
            **({"optional": True} if first.optional else {}),
            **({"sparse": True} if getattr(first, "sparse", False) else {}),
        )
        return type(model)([entry, *layers], name=model.name)

    def _functional(self, model):
        known = {}
        for x in model.inputs:
            layer = x._keras_history.operation
            known[id(x)] = type(layer).from_config(layer.get_config()).output
        nodes = model._nodes_by_depth
        for depth in sorted(nodes, reverse=True):
            for node in nodes[depth]:
                if node.is_input:
                    continue
                args, kwargs = node.arguments.fill_in(known)
                outputs = self.layer(node.operation)(*args, **kwargs)
                for x, y in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                    known[id(x)] = y

        def new(x):
            return known[id(x)]

        inputs = keras.tree.map_structure(new, model._inputs_struct)
        outputs = keras.tree.map_structure(new, model._outputs_struct)
        return type(model)(inputs, outputs, name=model.name)

    # Initializers.

    def _forget_initializers(self, layer):
        for part in layer._flatten_layers():
            for name, value in list(vars(part).items()):
                if isinstance(value, keras.initializers.Initializer):
                    self._initializers.append((part, name, value))
                    object.__setattr__(part, name, Zeros())

    @contextlib.contextmanager
    def without_initializers(self):
        """Build with zeros: drawing numbers that are overwritten costs most of the time."""
        try:
            yield
        finally:
            for part, name, value in self._initializers:
                object.__setattr__(part, name, value)

    # State.

    def copy_state(self, model, pairs):
        """Give the copies what the layers of `model` hold; `pairs` are the layers, old and new."""
        made = {}  # id of a variable of the model -> its copy
        for old, new in pairs:
            self._enable_lora(old, new)
            self._copy_variables(old, new, made)
            new._trainable = old._trainable
            if new.name != old.name:  # layers inside a subclassed model were named anew
                new.name = old.name
            new.built = new.built or old.built
            if own_variables(old) and any(id(v) in self.values for v in own_variables(old)):
                continue
            copy_saved_state(old, new)
        lost = [v.path for v in model.variables if not self._has_copy(v, made)]
        if lost:
            raise ValueError(f"nothing in the copy stands for its weights {lost[:5]}.")
        self._compare(model, made)

    def _enable_lora(self, old, new):
        """A layer that another one makes starts without LoRA, whatever its original has."""
        if not getattr(old, "lora_enabled", False) or getattr(new, "lora_enabled", False):
            return
        if not any(self.values.get(id(v)) is LEFT_OUT for v in own_variables(old)):
            new.enable_lora(old.lora_rank, lora_alpha=old.lora_alpha)

    def _has_copy(self, variable, made):
        return (
            id(variable) in made
            or self.values.get(id(variable)) is LEFT_OUT
            or not hasattr(variable, "path")
            or variable.path.startswith(("metrics/", "optimizer/"))
            or "seed_generator" in variable.path
        )

    def _copy_variables(self, old, new, made):
        wanted = [v for v in own_variables(old) if self.values.get(id(v)) is not LEFT_OUT]
        found = own_variables(new)
        shapes = [tuple(v.shape) for v in wanted]
        if shapes != [tuple(v.shape) for v in found]:
            named = {v.name: v for v in found}  # LoRA and quantization add in another order
            found = [named.get(v.name) for v in wanted]
            if len(named) != len(wanted) or shapes != [
                None if v is None else tuple(v.shape) for v in found
            ]:
                raise ValueError(
                    f"made again from its config, the layer '{old.name}' ({type(old).__name__}) "
                    f"has {len(named)} weights where it has {len(wanted)}, or others."
                )
        for variable, target in zip(wanted, found, strict=True):
            if id(variable) in made:
                if made[id(variable)] is not target:
                    _tie(new, target, made[id(variable)])
                continue
            made[id(variable)] = target
            target.assign(self._value(variable))
            target.trainable = variable.trainable

    def _value(self, variable):
        value = self.values.get(id(variable), variable)
        if value is variable:
            # A copy of its own: JAX gives the memory of a trained model's variables away.
            return ops.copy(variable.value)
        # In NNX mode a variable can be called, like what it holds.
        function = callable(value) and not isinstance(value, keras.Variable)
        return value() if function else value

    def _compare(self, model, made):
        for variable in model.variables:
            target = made.get(id(variable))
            if target is None or id(variable) in self.values:
                continue
            a, b = read(variable), read(target)
            if not np.array_equal(a, b) and not _equal_with_nan(a, b):
                raise ValueError(f"the weight '{variable.path}' of the copy has other values.")


def layers_of(model):
    """The layers of a model, itself first, each once, in an order that its copies share."""
    found, seen = [], set()
    for layer in model._flatten_layers():
        if id(layer) not in seen:
            seen.add(id(layer))
            found.append(layer)
    return found


def zip_layers(old, new):
    """The layers of a layer or model with those of its copy."""
    olds, news = layers_of(old), layers_of(new)
    if len(olds) != len(news):
        raise ValueError(
            f"made again from its config, '{old.name}' has {len(news)} layers where it has "
            f"{len(olds)}."
        )
    return list(zip(olds, news, strict=True))


def own_variables(layer):
    """The variables that a layer holds itself, not those of the layers in it."""
    return layer._trainable_variables + layer._non_trainable_variables + _seeds(layer)


def _seeds(layer):
    return [generator.state for generator in getattr(layer, "_seed_generators", ())]


def _equal_with_nan(a, b):
    return a.dtype.kind in "fc" and np.array_equal(a, b, equal_nan=True)


def copy_saved_state(old, new):
    """What a layer saves besides its variables: statistics made final, vocabularies, assets."""
    stock = type(old).load_own_variables is keras.layers.Layer.load_own_variables
    core = getattr(old, "quantization_mode", None) or getattr(old, "lora_enabled", False)
    if not stock and not core:  # Keras writes a LoRA update into the kernel that it saves
        state = {}
        old.save_own_variables(state)
        if state:
            new.load_own_variables({k: np.array(ops.convert_to_numpy(v)) for k, v in state.items()})
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def _tie(layer, variable, other):
    """Make `layer` use `other` where it made a `variable` of its own."""
    for name, value in list(vars(layer).items()):
        if value is variable:
            object.__setattr__(layer, name, other)
    for variables in (layer._trainable_variables, layer._non_trainable_variables):
        for i, value in enumerate(list(variables)):
            if value is variable:
                list.__setitem__(variables, i, other)


class Zeros(keras.initializers.Initializer):
    """Zeros in no time: of the backend, or on JAX from NumPy, where it has nothing to compile."""

    def __call__(self, shape, dtype=None):
        dtype = keras.backend.standardize_dtype(dtype)
        if keras.backend.backend() != "jax":  # where taking NumPy's in takes longer
            return ops.zeros(shape, dtype)
        zeros = np.zeros(shape, "float32" if "float" in dtype else dtype)
        return ops.convert_to_tensor(zeros, dtype=dtype)

    def get_config(self):
        return {}
