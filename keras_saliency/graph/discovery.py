"""Find, in a Keras graph, the layer whose features a tensor holds, and that layer's input."""

import inspect

import keras

_FEATURE_LAYERS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.MultiHeadAttention,
    keras.layers.RNN,
    # The public convolutions have private bases, which subclasses of users share.
    *{
        base
        for cls in (
            keras.layers.Conv2D,
            keras.layers.Conv2DTranspose,
            keras.layers.DepthwiseConv2D,
            keras.layers.SeparableConv2D,
        )
        for base in cls.__mro__
        if base.__name__.startswith("Base")
    },
)
# They may have weights of several axes, and yet only rescale.
_RESCALING_LAYERS = (
    keras.layers.LayerNormalization,
    keras.layers.PReLU,
    keras.layers.RMSNormalization,
)
# Operations of `keras.ops` that do what such a layer does.
_FEATURE_OPERATIONS = {
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "Dot",
    "Einsum",
    "Matmul",
    "SeparableConv",
    "Tensordot",
}


def is_attention_layer(layer):
    """Whether `layer` reweighs its (first) input: its `call` offers `return_attention_scores`."""
    return (
        isinstance(layer, keras.layers.Layer)
        and not isinstance(layer, _FEATURE_LAYERS)
        and "return_attention_scores" in inspect.signature(layer.call).parameters
    )


def is_feature_layer(layer):
    """Whether `layer` makes new features: a convolution, recurrence, dense, or another kernel.

    A layer of an unknown class counts if one of its weights has two axes or more; attention,
    normalization and activation layers only rescale what they get and do not count. `layer`
    must be built.
    """
    if isinstance(layer, keras.layers.Wrapper):
        return isinstance(layer, keras.layers.Bidirectional) or is_feature_layer(layer.layer)
    if isinstance(layer, _FEATURE_LAYERS):
        return True
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).__name__ in _FEATURE_OPERATIONS
    if is_attention_layer(layer) or isinstance(layer, _RESCALING_LAYERS):
        return False
    return any(len(w.shape) > 1 for w in layer.trainable_weights)


def producer(tensor):
    """Return (operation, input tensors) of the node of the graph that made a `KerasTensor`."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].input_tensors


def find_features(tensor):
    """Walk back from `tensor` to the layer that made the features it holds.

    The walk passes layers with one input that only transform (normalization, activation,
    dropout, pooling, padding, ...) and attention layers, along their first input. A nested model
    with one feature layer is that feature layer.

    Args:
        tensor: A `KerasTensor`.

    Returns:
        `(layer, input)`: the feature layer (or `keras.ops` operation) and its input, a
        `KerasTensor` of the same graph. For `tensor` made by `Conv2D` and `ReLU`, these are the
        convolution and what it was applied to.

    Raises:
        ValueError: If the walk meets the model's input, a layer with several inputs (a residual
            merge), or a nested model with several feature layers.
    """
    start = tensor
    while True:
        operation, inputs = producer(tensor)
        if not inputs:
            raise _nothing_found(start, f"{operation.name!r} is an input of the model")
        if isinstance(operation, keras.Model):
            inside = _feature_layers(operation)
            if len(inside) > 1:
                raise _nothing_found(
                    start,
                    f"the nested model {operation.name!r} holds {len(inside)} feature layers",
                )
            found = bool(inside)
        else:
            found = is_feature_layer(operation)
        if found:
            return operation, inputs[0]
        if len(inputs) > 1 and not is_attention_layer(operation):
            raise _nothing_found(start, f"{operation.name!r} has {len(inputs)} inputs")
        tensor = inputs[0]


def _feature_layers(model):
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += _feature_layers(layer)
        elif is_feature_layer(layer):
            found.append(layer)
    return found


def _nothing_found(tensor, reason):
    return ValueError(
        "No feature layer (convolution, recurrent or dense) was found behind the output of "
        f"{producer(tensor)[0].name!r}, of shape {tuple(tensor.shape)}: {reason}."
    )
