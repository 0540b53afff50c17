"""Layers called on symbolic tensors, to see what they do, and left as they were."""

import contextlib
import threading

import keras
from keras import tree
from keras.src.ops.node import Node


def sublayers(layer):
    """The layers directly inside a layer or model, without the ones that hold no place in it."""
    if isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential):
        return list(layer.layers)
    return [
        child
        for child in layer._layers
        if not isinstance(child, keras.Model) or child is not getattr(layer, "_functional", None)
    ]


def is_composite(layer):
    """Whether what the layer does is done by layers in it."""
    return any(child.weights for child in sublayers(layer)) or isinstance(layer, keras.Model)


def symbolic_inputs(model, data):
    """Symbolic arguments with the shapes that a model without a graph was built with."""
    if data is not None:
        inputs = tree.map_structure(
            lambda x: keras.KerasTensor(
                (None, *x.shape[1:]), keras.backend.standardize_dtype(x.dtype)
            ),
            data,
        )
        return (inputs,), {}
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise ValueError(
            f"The model '{model.name}' ({type(model).__name__}) is subclassed and does not know "
            "its input shape. Pass `data`, a batch of its inputs, or call the model on one first."
        )
    shapes = dict(shapes)

    def symbolic(shape):
        if shape is None:
            return None
        if isinstance(shape, dict):
            return {key: symbolic(value) for key, value in shape.items()}
        if isinstance(shape, (list, tuple)) and not all(
            extent is None or isinstance(extent, int) for extent in shape
        ):
            return type(shape)(symbolic(part) for part in shape)
        return keras.KerasTensor((None, *tuple(shape)[1:]), keras.config.floatx())

    if len(shapes) == 1:
        return (symbolic(next(iter(shapes.values()))),), {}
    return (), {key.removesuffix("_shape"): symbolic(shape) for key, shape in shapes.items()}


# Tracing a layer leaves nodes on it until it is done, which a second thread must not see.
_TRACING = threading.RLock()


@contextlib.contextmanager
def traceable(layer, is_leaf, inline):
    """While open, `layer.call` takes symbolic tensors and leaves nodes; none stays behind.

    Args:
        layer: A layer or model.
        is_leaf: Function of a layer: whether it is one call whatever it is made of.
        inline: Whether layers made of layers are replaced by what their `call` does, for those of
            which Keras cannot tell what they return.

    Yields:
        A context for the call alone.
    """
    with _TRACING, _forgotten_nodes(layer):
        yield _lenient_calls(layer, is_leaf, inline)


@contextlib.contextmanager
def _lenient_calls(layer, is_leaf, inline):
    """Let layers inside `layer` be called on symbolic tensors where Keras cannot tell their spec.

    Arguments that are `None` are left out, which a `compute_output_spec` of a parent class may not
    know. With `inline`, layers made of layers are replaced by what their `call` does, and leaves
    among them may return `None` among their tensors.
    """

    def lenient(symbolic_call):
        def call(*args, **kwargs):
            return symbolic_call(*args, **{k: v for k, v in kwargs.items() if v is not None})

        return call

    inside = {id(x): x for x in layer._flatten_layers(include_self=False)}.values()
    opened = [x for x in inside if inline and is_composite(x) and not isinstance(x, keras.Model)]
    opened = [(x, type(x)) for x in opened]
    for child in inside:
        child.__dict__["symbolic_call"] = lenient(child.symbolic_call)
    for child, cls in opened:
        call = _noted if is_leaf(child) else _inlined
        object.__setattr__(child, "__class__", type(cls.__name__, (cls,), {"__call__": call}))
    # Without it JAX leaves `array & symbol` to the symbol, as the other backends do.
    jax_array = keras.KerasTensor.__dict__.get("__jax_array__") if inline else None
    if jax_array is not None:
        del keras.KerasTensor.__jax_array__
    try:
        yield
    finally:
        if jax_array is not None:
            keras.KerasTensor.__jax_array__ = jax_array
        for child, cls in opened:
            object.__setattr__(child, "__class__", cls)
        for child in inside:
            child.__dict__.pop("symbolic_call", None)


def _inlined(layer, *args, **kwargs):
    return layer.call(*args, **{key: value for key, value in kwargs.items() if value is not None})


def _noted(layer, *args, **kwargs):
    """A call on symbolic tensors, of whose results those count that are tensors."""
    given = {key: value for key, value in kwargs.items() if value is not None}
    outputs = layer.compute_output_spec(*args, **given)
    tensors = [x for x in tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]
    Node(operation=layer, call_args=args, call_kwargs=given, outputs=tensors)
    return outputs


@contextlib.contextmanager
def _forgotten_nodes(layer):
    """Leave no trace of symbolic calls on the user's layers: `layer.output` must stay unique."""
    layers = layer._flatten_layers()
    layers = {id(x): x for part in layers for x in (part, *getattr(part, "_operations", ()))}
    layers = layers.values()
    before = [(x, len(x._inbound_nodes), len(x._outbound_nodes)) for x in layers]
    try:
        yield
    finally:
        for x, inbound, outbound in before:
            del x._inbound_nodes[inbound:]
            del x._outbound_nodes[outbound:]
