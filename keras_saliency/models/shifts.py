"""Shift attention that has been trained, made into shifts."""

from __future__ import annotations

import keras

from keras_saliency.graph.compiling import copy_compile
from keras_saliency.graph.copying import check_built, same_layer
from keras_saliency.layers.convolution.shift import ShiftAttention2D


def freeze_shifts(model: keras.Model) -> keras.Model:
    """Make plain shifts and convolutions of window 1 of the shift attention in a trained model.

    Every `ShiftAttention2D` gives way to a `ShiftConv2D` of the same name, with the place of each
    channel that has the most attention. At the end of the schedule that place has nearly all of
    it, and the outputs hardly change; before, they do.

    Args:
        model: A built Sequential or functional model; nested models are looked into.

    Returns:
        A new model, compiled as `model` is.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If it is not built, is subclassed, or has no `ShiftAttention2D`.

    Example:

    ```python
    import keras
    from keras_saliency import ShiftAttention2D
    from keras_saliency.models import freeze_shifts

    model = keras.Sequential([keras.Input((8, 8, 3)), ShiftAttention2D(4, 3)])
    print(model.count_params(), freeze_shifts(model).count_params())
    ```
    """
    check_built(model)
    pairs = []

    def make(layer):
        if isinstance(layer, ShiftAttention2D):
            new, weights = layer.frozen()
        else:
            new, weights = same_layer(layer), layer.get_weights()
        pairs.append((layer, new, weights))
        return new

    try:
        frozen = keras.models.clone_model(model, clone_function=make, recursive=True)
    except ValueError as error:
        raise ValueError(
            "`model` must be Sequential or functional, so that its layers can be exchanged. "
            f"Received: model of the class {type(model).__name__}: {error}"
        ) from error
    if not any(isinstance(layer, ShiftAttention2D) for layer, _, _ in pairs):
        raise ValueError(
            f"`model` must have a ShiftAttention2D layer. Received: model={model.name!r} with "
            f"layers of the classes {sorted({type(layer).__name__ for layer, _, _ in pairs})}"
        )
    for layer, new, weights in pairs:
        new.set_weights(weights)
        new.trainable = layer.trainable
    copy_compile(model, frozen)
    return frozen
