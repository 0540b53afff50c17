"""The network that an allocation describes (G 3.4.1, 3.4.6.2, 3.5.1)."""

import math
import numbers

import keras
from keras import layers

from keras_saliency import validation
from keras_saliency.layers.activations.maxout import Maxout
from keras_saliency.layers.recurrent.recurrent_conv import RecurrentConv2D
from keras_saliency.racknet.kernel_sharing import update_kernel_sharing
from keras_saliency.sparsity.shrinking import count_operations

_CHOICES = {
    "network": ("cnn", "rcnn"),
    "activation": ("relu", "maxout"),
    "pooling": ("average", "max"),
    "task": ("classification", "regression"),
    "normalization": (None, "batch"),
    "head": ("flatten", "pool"),
}
# Larger maps are pooled before the head: flattened, it would hold most of the network's weights.
MOST_POSITIONS = 64


def check_choice(name, value):
    return validation.choice(name, value, _CHOICES[name])


def check_count(name, value, minimum=1):
    return validation.integer(name, value, minimum)


def check_kernel_sizes(kernel_size, kernels):
    """One window per layer, from an int or from nested lists as those of the kernels."""
    if isinstance(kernel_size, numbers.Integral) and not isinstance(kernel_size, bool):
        sizes = [[kernel_size] * len(rack) for rack in kernels]
    else:
        sizes = kernel_size
    try:
        fits = [len(rack) for rack in sizes] == [len(rack) for rack in kernels]
        fits = fits and all(
            isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0
            for rack in sizes
            for n in rack
        )
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(
            '`kernel_size` must be a positive integer, "auto", or one positive integer per layer '
            f"in nested lists as those of the kernels. Received: kernel_size={kernel_size!r}"
        )
    return [[int(n) for n in rack] for rack in sizes]


def build_network(kernels, *args, **kwargs):
    """Builds the network of racks for a given allocation; see `assemble`."""
    model = assemble(kernels, *args, **kwargs)
    update_kernel_sharing(model)
    return model


def assemble(
    kernels,
    input_shape,
    num_classes,
    network="cnn",
    activation="relu",
    pooling="average",
    dropout=0.25,
    kernel_size=3,
    task="classification",
    steps=3,
    share_weights=True,
    normalization="batch",
    head="flatten",
    value_range=None,
    data_format=None,
    name="racknet",
):
    """Builds the network of racks for a given allocation, with weights of its own in every layer.

    Racks of same-padded convolutions; between two racks the images are halved by pooling, after
    every rack there is dropout; then a dense head.

    Args:
        kernels: list of racks, each a list of ints, as from `RACKNet.allocate`.
        input_shape: (height, width, channels), or channels first; None for an extent that
            differs from image to image.
        num_classes: int, units of the head: classes, or values to regress.
        network: `"cnn"`, or `"rcnn"` for `RecurrentConv2D` layers.
        activation: `"relu"` or `"maxout"` (of pairs of kernels).
        pooling: `"average"` or `"max"`.
        dropout: float in [0, 1).
        kernel_size: int, or nested lists of ints, one per layer.
        task: `"classification"` (softmax) or `"regression"` (linear).
        steps: int, recurrent steps of `"rcnn"`.
        share_weights: bool, whether the layers of a rack of `"rcnn"` share the patterns of their
            kernels (G 3.4.6.2). Layers share with the one before when the windows are the same.
        normalization: `"batch"` for batch normalization after every convolution of `"cnn"`, or
            None. The layers of `"rcnn"` normalize their responses themselves.
        head: `"flatten"`: the head reads every position of the last map, where it has at most 64 of
            them; larger maps, and those of unknown extent, are averaged. `"pool"`: always averaged.
        value_range: (low, high) of the pixels; they are rescaled to [0, 1] first unless they
            lie in [0, 1] or [-1, 1] already. None: no rescaling.
        data_format: `"channels_last"`, `"channels_first"`, or None for Keras's setting.
        name: str, name of the model.

    Returns:
        A functional `keras.Model`, not compiled.

    Raises:
        ValueError, TypeError: when an argument is none of the above.

    Source: G figure 3.1, 3.4.1, 3.5.1.
    """
    for choice, value in (
        ("network", network),
        ("activation", activation),
        ("pooling", pooling),
        ("task", task),
        ("normalization", normalization),
        ("head", head),
    ):
        check_choice(choice, value)
    num_classes = check_count("num_classes", num_classes)
    if task == "classification" and num_classes < 2:
        raise ValueError(
            "`num_classes` must be at least 2 for a classification. Received: "
            f'num_classes={num_classes}. For one number per image pass task="regression".'
        )
    steps = check_count("steps", steps, 0)
    dropout = validation.share("dropout", dropout)
    sizes = check_kernel_sizes(kernel_size, kernels)
    data_format = keras.config.image_data_format() if data_format is None else data_format
    channel_axis = -1 if data_format == "channels_last" else 1
    if input_shape[0 if channel_axis == 1 else 2] is None:
        raise ValueError(
            "The number of channels in `input_shape` must be known. "
            f"Received: input_shape={tuple(input_shape)}"
        )

    inputs = keras.Input(tuple(input_shape), name="images")
    x = inputs
    if value_range is not None and not -1 <= value_range[0] <= value_range[1] <= 1:
        low, high = value_range
        scale = 1.0 / max(high - low, 1e-12)
        x = layers.Rescaling(scale, offset=-low * scale, name="rescale")(x)
    pool = layers.AveragePooling2D if pooling == "average" else layers.MaxPooling2D
    for i, (rack, windows) in enumerate(zip(kernels, sizes, strict=True), 1):
        if i > 1:
            # Same padding: an image of 1x1 stays one, so that many racks do no harm.
            x = pool(2, padding="same", data_format=data_format, name=f"rack{i}_pool")(x)
        pattern = None
        for j, (filters, window) in enumerate(zip(rack, windows, strict=True), 1):
            common = {
                "filters": filters,
                "kernel_size": window,
                "padding": "same",
                "data_format": data_format,
                "kernel_initializer": "he_uniform",
                "name": f"rack{i}_conv{j}",
            }
            if network == "rcnn":
                before = windows[j - 2] if j > 1 else None
                follows = share_weights and j < len(rack) and windows[j] == window
                layer = RecurrentConv2D(
                    **common,
                    steps=steps,
                    pieces=2 if activation == "maxout" else 1,
                    activation="linear" if activation == "maxout" else "relu",
                    normalization="response",
                    return_pattern=follows,
                )
                x = layer([x, pattern] if pattern is not None and before == window else x)
                x, pattern = x if follows else (x, None)
                continue
            x = layers.Conv2D(use_bias=normalization is None, **common)(x)
            if normalization == "batch":
                # Keras's momentum of 0.99 needs hundreds of steps before a model can be judged.
                x = layers.BatchNormalization(
                    axis=channel_axis, momentum=0.9, name=f"rack{i}_norm{j}"
                )(x)
            if activation == "maxout":
                x = Maxout(2, axis=channel_axis, name=f"rack{i}_maxout{j}")(x)
            else:
                x = layers.Activation("relu", name=f"rack{i}_relu{j}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"rack{i}_dropout")(x)
    space = x.shape[2:] if channel_axis == 1 else x.shape[1:-1]
    if head == "flatten" and None not in space and math.prod(space) <= MOST_POSITIONS:
        x = layers.Flatten(data_format=data_format, name="flatten")(x)
    else:
        x = layers.GlobalAveragePooling2D(data_format=data_format, name="pool")(x)
    # The head computes in float32, whatever the policy: half precision loses probabilities.
    outputs = layers.Dense(
        num_classes,
        activation="softmax" if task == "classification" else None,
        dtype="float32",
        name="head",
    )(x)
    return keras.Model(inputs, outputs, name=name)


def fitting_budget(build, layers_count, limit, name):
    """The budget of kernels with which a network stays in a limit that one more would exceed.

    Args:
        build: Function of a budget that returns a model.
        layers_count: int, the least budget, a kernel a layer.
        limit: int, parameters of the model, or multiplications for one image.
        name: str, `"parameters"` or `"macs"`.
    """

    def cost(budget):
        # No value of a weight is needed, nor a random number drawn.
        with keras.StatelessScope(initialize_variables=False):
            model = build(budget)
            if name == "parameters":
                return model.count_params()
            count = count_operations(model)
        if count is None:
            raise ValueError(
                "`macs` needs images of a known size. Received statistics of images whose size "
                "differs. Give `parameters` or a `budget` of kernels."
            )
        return count // 2

    low = layers_count
    least = cost(low)
    if least > limit:
        raise ValueError(
            f"`{name}` must be at least {least}, what the network has with one kernel in each "
            f"layer. Received: {name}={limit}"
        )
    high = 2 * low
    while cost(high) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if cost(middle) <= limit:
            low = middle
        else:
            high = middle
    return low
