"""Masks for layers that have no masked twin of their own, and for layers made of layers."""

import contextlib
import functools

import keras

from keras_saliency.layers.masked.base import MaskedKernels, mask_attribute
from keras_saliency.layers.masked.layers import TWINS

_CLASSES = {}


class MaskedLayer(MaskedKernels):
    """What a layer becomes when something in it that Keras would not save as masked is masked.

    An LSTM holds a cell, an attention layer holds projections, a user's block or model holds any
    layers, and none of their configs says that those are masked. Such a layer keeps its object,
    its attributes and its class (`isinstance` still holds); its config gains one entry,
    `"masked"`: which kernels of which sublayers have masks. So it saves, loads and clones.

    Made by `mask_layer` and by `keras.saving.load_model`, never by hand.
    """

    plain_class = None

    def get_config(self):
        return super().get_config()  # the classes made for a layer class add `"masked"`

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        masked = config.pop("masked")
        if cls.plain_class is None:
            layer = keras.saving.deserialize_keras_object({**masked["layer"], "config": config})
        else:
            layer = cls.plain_class.from_config(config)
        become_masked(layer, masked["kernels"], complete=False)
        # The sublayers get their masks when there are kernels to mask.
        build = layer.build

        @functools.wraps(build)
        def build_and_mask(*args, **kwargs):
            build(*args, **kwargs)
            layer._mask_sublayers()

        layer.build = build_and_mask
        if layer.built:  # a functional subclass is built by its constructor
            layer._mask_sublayers()
        return layer

    # A layer without a `build` of its own makes its weights when it is first called.
    def build_from_config(self, config):
        super().build_from_config(config)
        self._mask_sublayers()

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        if not self._masks_complete:
            self._mask_sublayers()
        return outputs

    def _mask_sublayers(self):
        complete = True
        for path, kernels in self._masked_kernels.items():
            owner = sublayer(self, path)
            if owner is None or not owner.built:
                complete = False
            elif owner is self:
                if not hasattr(self, mask_attribute(kernels[0])):
                    _add_masks(self)
            elif not isinstance(owner, MaskedKernels):
                _adopt(owner, kernels)
                _tell_the_rnn(self, path, kernels)
        if complete and not self._masks_complete:
            self._mask_containers()
        self.__dict__["_masks_complete"] = complete

    def _mask_containers(self):
        """Give what lies between this layer and the masked ones the class that was saved."""
        inside = {}
        for path, kernels in self._masked_kernels.items():
            steps = path.split("/")
            for i in range(1, len(steps)):
                inside.setdefault("/".join(steps[:i]), {})["/".join(steps[i:])] = kernels
        for path, kernels in inside.items():
            container = sublayer(self, path)
            if not isinstance(container, MaskedKernels) and not describes_itself(container):
                become_masked(container, kernels)

    @contextlib.contextmanager
    def masking(self):
        """While open, the kernels are masked; those of a recurrent layer's cell for all steps, and
        those that a user's class may read from the layers in it (tied weights)."""
        if isinstance(self, keras.layers.RNN):
            inner = getattr(self.cell, "cells", [self.cell])
        elif type(self).plain_class.__module__.startswith(("keras.", "keras_saliency.")):
            inner = []
        else:
            inner = [sublayer(self, path) for path in self._masked_kernels if path]
        with contextlib.ExitStack() as stack:
            stack.enter_context(super().masking())
            for item in inner:
                if isinstance(item, MaskedKernels):
                    stack.enter_context(item.masking())
            yield


keras.saving.register_keras_serializable(package="keras_saliency")(MaskedLayer)


def mask_layer(layer, kernels):
    """Give kernels of a built layer masks, in place; the layer computes the same as before.

    Args:
        layer: A built Keras layer or model.
        kernels: The attribute names of its kernels: a list, or, for kernels of layers inside it,
            a dict from the path of a sublayer to such a list. A path counts the sublayers in the
            order of their creation: `"2/0"` is the first sublayer of the third, `""` the layer.

    Returns:
        `layer`, now of the masked class.

    Raises:
        ValueError: If the layer is not built, or has no such kernel or sublayer.
    """
    if not isinstance(kernels, dict):
        kernels = {"": list(kernels)}
    for path, names in kernels.items():
        owner = sublayer(layer, path)
        if owner is None or not owner.built:
            raise ValueError(
                f"Layer {layer.name!r} has no built sublayer {path!r}. Received: kernels={kernels}"
            )
        for name in names:
            if not isinstance(
                getattr(owner, f"_{name}", getattr(owner, name, None)), keras.Variable
            ):
                raise ValueError(
                    f"Argument `kernels` must name variables of layer {owner.name!r}. "
                    f"Received: {name!r}"
                )
    if set(kernels) == {""}:
        if not isinstance(layer, MaskedKernels):
            _adopt(layer, kernels[""])
        return layer
    for path, names in kernels.items():
        owner = sublayer(layer, path)
        if path and not isinstance(owner, MaskedKernels):
            _adopt(owner, names)
            _tell_the_rnn(layer, path, names)
    become_masked(layer, kernels)
    if "" in kernels:
        _add_masks(layer)
    return layer


def sublayer(layer, path):
    """The layer at a path such as `"2/0"` inside `layer`, or `None`."""
    for index in path.split("/") if path else ():
        children = _children(layer)
        if int(index) >= len(children):
            return None
        layer = children[int(index)]
    return layer


def _children(layer):
    return layer.layers if isinstance(layer, keras.Model) else layer._layers


def sublayer_paths(layer):
    """Yield `(path, sublayer)` for everything inside `layer`, the layer itself first."""
    stack = [("", layer)]
    while stack:
        path, item = stack.pop()
        yield path, item
        for i, child in reversed(list(enumerate(_children(item)))):
            stack.append((f"{path}/{i}" if path else str(i), child))


def plain_config(config):
    """A layer's config with every masked class in it, however deep, replaced by Keras's class."""
    if isinstance(config, (list, tuple)):
        return type(config)(plain_config(item) for item in config)
    if not isinstance(config, dict):
        return config
    config = {key: plain_config(value) for key, value in config.items()}
    inner = config.get("config")
    if isinstance(inner, dict) and "masked" in inner:
        inner = {key: value for key, value in inner.items() if key != "masked"}
        return {**config, **config["config"]["masked"]["layer"], "config": inner}
    registered = config.get("registered_name")
    for plain, twin in TWINS.items():
        if registered == f"keras_saliency>{twin.__name__}":
            return {**config, **_class_config(plain)}
    return config


def _class_config(cls):
    """How Keras writes a class into a config."""
    if cls.__module__.startswith("keras.src.") and hasattr(keras.layers, cls.__name__):
        return {"module": "keras.layers", "class_name": cls.__name__, "registered_name": None}
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "registered_name": keras.saving.get_registered_name(cls),
    }


def _config_with_masks(cls):
    # Wrapped, so that Keras still sees whether the user's class has a `get_config` of its own.
    @functools.wraps(cls.get_config)
    def get_config(self):
        masked = {"layer": _class_config(cls), "kernels": self._masked_kernels}
        return {**cls.get_config(self), "masked": masked}

    return get_config


def _masked_class(cls, kernels):
    """The subclass of `cls` that masks `kernels` and has a config that says so."""
    key = (cls, tuple(kernels))
    if key not in _CLASSES:
        name = f"Masked{cls.__name__}"
        masked = type(
            name,
            (MaskedLayer, cls),
            {
                "kernels": tuple(kernels),
                "get_config": _config_with_masks(cls),
                "__module__": __name__,
                "__doc__": cls.__doc__,
            },
        )
        register = keras.saving.register_keras_serializable(
            package="keras_saliency", name="MaskedLayer"
        )
        register(masked)
        # All share one `from_config`; the name stands for the class that needs no example.
        register(MaskedLayer)
        _CLASSES[key] = masked
    return _CLASSES[key]


def _adopt(layer, kernels):
    """Make a built layer the masked twin of its class and add masks of ones."""
    twin = TWINS.get(type(layer))
    if twin is None or not set(kernels) <= set(twin.kernels):
        become_masked(layer, {"": list(kernels)})
    else:
        layer.__class__ = twin
        _route_quantize(layer)
    _add_masks(layer)


def _tell_the_rnn(layer, path, kernels):
    """A recurrent layer may compute with its cell's kernels itself: it opens the cell's masks."""
    around, _, index = path.rpartition("/")
    rnn = sublayer(layer, around)
    if rnn is not layer and isinstance(rnn, keras.layers.RNN) and not isinstance(rnn, MaskedLayer):
        become_masked(rnn, {index: kernels})


def describes_itself(container):
    """Whether the container's config holds the configs of the layers in it."""
    if isinstance(container, MaskedLayer):
        return False
    if isinstance(container, keras.Model):
        return _is_standard(container)
    return (
        isinstance(container, (keras.layers.Wrapper, keras.layers.StackedRNNCells))
        or type(container) is keras.layers.RNN
    )


def _is_standard(model):
    """Whether the config is a list of layers: Sequential, or `Model(inputs, outputs)`."""
    if isinstance(model, MaskedLayer):
        return False
    if isinstance(model, keras.Sequential):
        return type(model) is keras.Sequential or "layers" in model.get_config()
    return hasattr(model, "_nodes_by_depth") and "input_layers" in model.get_config()


def become_masked(layer, kernels, complete=True):
    """Change the class of a layer so that its config tells of the masks in it.

    Args:
        layer: The layer.
        kernels: Dict from the paths of sublayers to the names of their masked kernels.
        complete: Whether they are masked already; else they are as soon as they are built.
    """
    if not isinstance(layer, MaskedLayer):
        _change_class(layer, _masked_class(type(layer), kernels.get("", ())))
        _route_quantize(layer)
    # Not through `setattr`, which would wrap the dict for tracking.
    layer.__dict__["_masked_kernels"] = {path: list(names) for path, names in kernels.items()}
    layer.__dict__["_masks_complete"] = complete


def _change_class(layer, cls):
    try:
        layer.__class__ = cls
    except TypeError as error:
        if "layout" not in str(error):
            raise
        # Under NNX the roots of Keras's layers and models differ.
        raise ValueError(
            f"In NNX mode the model '{layer.name}' of the class {cls.plain_class.__name__} cannot "
            "say in its config what is masked in it. Pass masked=False, whose zeros stand in plain "
            "kernels and are kept by `KeepSparsity` and `iSparseCallback`, or build the model "
            "without KERAS_NNX_ENABLED."
        ) from error


def _add_masks(layer):
    layer._tracker.unlock()
    try:
        with layer._open_name_scope():
            layer._add_masks()
    finally:
        layer._tracker.lock()


def _route_quantize(layer):
    """Keras binds `quantize` to the object when it is made: bind it to the masked class."""
    stock = layer.quantize

    def quantize(mode=None, config=None, **kwargs):
        layer._before_quantize(mode)
        stock(mode, config=config, **{**kwargs, "type_check": False})

    layer.quantize = quantize
