"""What the reference networks share: checked sizes, heads, and attention at the end."""

import keras

from keras_saliency import validation
from keras_saliency.layers.attention.factory import attention_factory
from keras_saliency.layers.attention.start import StartingLayer
from keras_saliency.models.attach import add_attention

TOP = {
    "include_top": validation.boolean,
    "classifier_activation": validation.activation,
    "name": validation.text,
}


def image_input(input_shape, smallest):
    """Return an `Input`, if its extents are known and large enough."""
    channels_first = keras.config.image_data_format() == "channels_first"
    shape = validation.shape("input_shape", input_shape, ("height", "width", "channels"))
    extents = shape[1:] if channels_first else shape[:2]
    channels = shape[0] if channels_first else shape[2]
    if channels is None or any(n is not None and n < smallest for n in extents):
        raise ValueError(
            "`input_shape` must be (height, width, channels) in Keras's image data format, each "
            f"extent at least {smallest}. Received: input_shape={input_shape}"
        )
    return keras.Input(shape, name="images")


def extents(x):
    """Return height and width of images in Keras's image data format."""
    first = keras.config.image_data_format() == "channels_first"
    return x.shape[2:] if first else x.shape[1:-1]


def scaled(filters, width_multiplier):
    """Return a number of filters times the width multiplier, at least 1."""
    width_multiplier = validation.number("width_multiplier", width_multiplier, 0, 100, above=True)
    return max(1, round(filters * width_multiplier))


def end_of_backbone(x, pooling):
    """Return the features of a model without its top."""
    if pooling is None:
        return x
    layers = {
        "avg": keras.layers.GlobalAveragePooling2D,
        "max": keras.layers.GlobalMaxPooling2D,
    }
    validation.choice("pooling", pooling, (None, *layers))
    return layers[pooling](name=f"{pooling}_pool")(x)


def classifier(x, num_classes, activation):
    """Return the output layer's tensor; it is float32 under mixed precision."""
    layer = keras.layers.Dense(
        validation.integer("num_classes", num_classes),
        activation=activation,
        dtype="float32",
        name="predictions",
    )
    return layer(x)


def finished(inputs, outputs, name, attention, placement, attention_kwargs):
    """Return the model, with attention if it is wanted."""
    kwargs = validation.arguments_of("attention_kwargs", attention_kwargs)
    model = keras.Model(inputs, outputs, name=name)
    if attention is None:
        if kwargs:
            raise ValueError(
                f"`attention_kwargs` need an `attention`. Received: {attention_kwargs}"
            )
        return model
    factory = attention_factory(attention) if isinstance(attention, str) else attention
    made = getattr(factory, "func", factory)
    bound = getattr(factory, "keywords", {})
    if isinstance(made, type) and issubclass(made, StartingLayer) and "start" not in bound:
        kwargs.setdefault("start", "paper")  # nothing is trained yet that it could harm
    return add_attention(model, attention, placement, **kwargs)
