"""Remove dead channels: the step from zeros to a model that is smaller and faster."""

from __future__ import annotations

import keras

from keras_saliency.graph.compiling import copy_compile
from keras_saliency.graph.selection import selected
from keras_saliency.sparsity.shrinking.cost import count_parameters
from keras_saliency.sparsity.shrinking.groups import ChannelGroups
from keras_saliency.sparsity.shrinking.rebuild import rebuild
from keras_saliency.typing import Layers


def shrink(model: keras.Model, exclude: Layers | None = None, verbose: bool = True) -> keras.Model:
    """Remove the channels that masks or exact zeros have made dead (iSparse's masks: G 4.5).

    A channel is dead when no edge that is not zero leads from it to the outputs, or when it is
    one constant, because nothing that is not zero leads into it. What constant channels
    contributed goes into the biases of the layers that they entered. Where zero padding forbids
    that (a constant under a `"same"` convolution is no constant at the border), one constant
    channel stays and carries the weights of the others. Channels that are tied together by
    additions, products, norms and the like go together or not at all.

    No data and no forward pass are needed. The outputs equal those of `model` up to rounding.

    Args:
        model: A built Functional or Sequential model, masked layers included. It is not changed.
        exclude: Layers to keep as they are, with the channels around them: names, layers, glob
            patterns, compiled regular expressions, functions of a layer, or a list of these.
        verbose: Whether to print in one line how much was removed.

    Returns:
        A new model of plain Keras layers: the same inputs and outputs, weights copied, trainable
        flags and compile settings kept. The optimizer starts afresh.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the graph cannot be seen, a layer is shared or of an unknown type, or every
            channel of a layer is dead. The message names the layer and the way out. Nothing
            is built in that case.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    kernel = model.layers[0].get_weights()[0]
    kernel[:, :10] = 0
    model.layers[0].set_weights([kernel, np.zeros(16)])
    small = keras_saliency.shrink(model)
    assert small.layers[0].units == 6
    ```
    """
    bare, exclude = without_masks(model, exclude)
    groups = ChannelGroups(bare, exclude)
    live = groups.live()
    _refuse_empty(groups, live)
    small = rebuild(groups, live)
    copy_compile(model, small)
    if verbose:
        print(summary("shrink", groups, live, small))
    return small


def without_masks(model, exclude):
    """The model without masks, zeros in place of them, and `exclude` in terms of its layers."""
    if not isinstance(model, keras.Model):
        return model, exclude
    if not any(hasattr(layer, "kernel_masks") for layer in model._flatten_layers()):
        return model, exclude
    from keras_saliency.sparsity.masking.sparsify import strip_masks

    names = [layer.name for layer in selected(model, exclude, "exclude")]
    return strip_masks(model), names or None


def _refuse_empty(groups, live):
    for call in groups.calls.values():
        for ids in call.created:
            if not live[groups.labels[ids]].any():
                name = call.layer.name
                raise ValueError(
                    f"Every channel of the layer '{call.path}' is dead, so nothing of it would be "
                    "left: its output is constant, or nothing uses it. Lower its sparsity, take "
                    f"the layer out of the model, or keep it with `exclude=['{name}']`."
                )


def summary(name, groups, live, small):
    removed = total = 0
    for call in groups.calls.values():
        for ids in call.created:
            total += len(ids)
            removed += int((~live[groups.labels[ids]]).sum())
    share = removed / total if total else 0.0
    return (
        f"{name}: removed {removed} of {total} channels ({share:.1%}); parameters "
        f"{count_parameters(groups.model):,} -> {count_parameters(small):,}"
    )
