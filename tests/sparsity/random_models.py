"""Random graphs with random weights, and the zeros that channel masks leave."""

import keras
import numpy as np
from keras import layers


def randomise(model, seed=0, bias=0.4):
    """Fill every weight with numbers that a trained model could have."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        name, shape = variable.name, tuple(variable.shape)
        if "seed" in variable.path or not keras.backend.is_float_dtype(variable.dtype):
            continue
        if "variance" in name:
            value = rng.uniform(0.5, 2, shape)
        elif "gamma" in name or name == "scale":
            value = rng.uniform(0.5, 1.5, shape)
        elif "beta" in name or "mean" in name or "bias" in name or "alpha" in name:
            value = rng.normal(0, bias, shape)
        else:
            fan = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
            value = rng.normal(0, fan**-0.5, shape)
        variable.assign(value.astype("float32"))
    return model


def kernels(model):
    """The weights that link channels: at least two axes, no norms, no biases."""
    return [
        v
        for v in model.trainable_variables
        if len(v.shape) > 1 and "bias" not in v.name and "alpha" not in v.name
    ]


def zero_channels(model, share=0.5, seed=0, keep=()):
    """Zero a share of the output channels of every kernel that is not in the layers `keep`."""
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        if layer.name in keep or not layer._trainable_variables:
            continue
        for variable in layer._trainable_variables:
            if len(variable.shape) < 2 or "bias" in variable.name or "alpha" in variable.name:
                continue
            value = keras.ops.convert_to_numpy(variable).copy()
            axis = -1
            if isinstance(layer, (layers.DepthwiseConv2D, layers.Conv2DTranspose)):
                axis = -2
            count = value.shape[axis]
            gone = rng.permutation(count)[: round(share * count)]
            if len(gone) < count:
                np.moveaxis(value, axis, 0)[gone] = 0
            variable.assign(value)
    return model


def random_image_model(seed, data_format="channels_last"):
    """A graph of convolutions, norms, residual additions, concatenations, SE blocks, ..."""
    rng = np.random.default_rng(seed)
    first = data_format == "channels_first"
    axis = 1 if first else -1
    common = {"data_format": data_format}
    inputs = keras.Input((3, 11, 13) if first else (11, 13, 3))

    def conv(x, filters, kernel=None, **kwargs):
        kernel = kernel or int(rng.choice([1, 3]))
        padding = str(rng.choice(["same", "valid"])) if kernel == 1 else "same"
        activation = rng.choice(["relu", "linear", "tanh", "gelu"])
        return layers.Conv2D(
            filters,
            kernel,
            padding=padding,
            use_bias=bool(rng.random() < 0.6),
            activation=str(activation),
            **common,
            **kwargs,
        )(x)

    def normalise(x):
        kind = rng.integers(4)
        if kind == 0:
            return layers.BatchNormalization(axis=axis, scale=bool(rng.random() < 0.7))(x)
        if kind == 1:
            return layers.GroupNormalization(groups=x.shape[axis] // 2, axis=axis)(x)
        if kind == 2:
            return layers.LayerNormalization(axis=axis)(x)
        return layers.PReLU(shared_axes=[2, 3] if first else [1, 2])(x)

    x = conv(inputs, 6)
    for _ in range(4):
        width = x.shape[axis]
        kind = rng.integers(9)
        if kind == 0:
            y = normalise(conv(conv(x, 10), width))
            x = layers.Add()([x, y])
        elif kind == 1:
            x = layers.Concatenate(axis=axis)([conv(x, 4), x, conv(x, 6)])
        elif kind == 2:
            x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, **common)(x)
            x = conv(layers.ReLU(6.0)(normalise(x)), 8, 1)
        elif kind == 3:
            s = layers.GlobalAveragePooling2D(keepdims=True, **common)(x)
            s = layers.Conv2D(4, 1, activation="relu", **common)(s)
            s = layers.Conv2D(width, 1, activation="sigmoid", **common)(s)
            x = layers.Multiply()([x, s])
        elif kind == 4:
            x = layers.SeparableConv2D(8, 3, padding="same", activation="relu", **common)(x)
        elif kind == 5:
            x = layers.Conv2D(8, 3, groups=2, padding="same", **common)(conv(x, 6))
        elif kind == 6:
            x = layers.Conv2DTranspose(6, 3, padding="same", **common)(normalise(x))
        elif kind == 7:
            x = layers.ZeroPadding2D(1, **common)(keras.ops.relu(x) + 0.5)
            x = layers.Conv2D(8, 3, **common)(x)
        else:
            x = layers.Maximum()([normalise(conv(x, 8)), conv(x, 8)])
        if rng.random() < 0.3 and min(x.shape[1:]) > 3:
            pool = rng.choice([layers.MaxPooling2D, layers.AveragePooling2D])
            x = pool(2, padding="same", **common)(x)
    kind = rng.integers(3)
    if kind == 0:
        x = layers.Flatten(**common)(x)
    elif kind == 1:
        x = layers.GlobalMaxPooling2D(**common)(x)
    else:
        x = layers.GlobalAveragePooling2D(**common)(x)
    x = layers.Dense(10, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(layers.Dropout(0.3)(x)))


def random_sequence_model(seed):
    """A graph of recurrent layers, attention, norms, and dense layers over time."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input((7, 5))
    x = layers.Dense(6, activation="relu")(inputs)
    for _ in range(3):
        kind = rng.integers(7)
        if kind == 0:
            x = layers.LSTM(6, return_sequences=True)(x)
        elif kind == 1:
            x = layers.GRU(6, return_sequences=True, reset_after=bool(rng.random() < 0.5))(x)
        elif kind == 2:
            mode = str(rng.choice(["concat", "sum", "ave", "mul"]))
            x = layers.Bidirectional(layers.SimpleRNN(6, return_sequences=True), merge_mode=mode)(x)
        elif kind == 3:
            y = layers.MultiHeadAttention(3, 4)(x, x)
            x = layers.LayerNormalization()(layers.Add()([x, y]))
        elif kind == 4:
            x = layers.TimeDistributed(layers.Dense(8, activation="tanh"))(x)
        elif kind == 5:
            x = layers.Conv1D(8, 3, padding="causal", activation="relu")(x)
        else:
            x = layers.EinsumDense("btc,cd->btd", output_shape=(7, 8), bias_axes="d")(x)
    kind = rng.integers(3)
    if kind == 0:
        x = layers.LSTM(6)(x)
    elif kind == 1:
        x = layers.Flatten()(x)
    else:
        x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))
