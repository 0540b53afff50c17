"""Keeps the mapping between the kernels of a rack up to date during training (G 3.4.6.2)."""

from __future__ import annotations

import numbers
from typing import Literal

import keras
import numpy as np
from keras import ops

from keras_saliency.layers.recurrent.recurrent_conv import RecurrentConv2D, kernel_pattern


def most_similar(kernels, others):
    """Index of the pattern in `others` with the largest cosine similarity to each in `kernels`.

    Args:
        kernels: float array (kernel height, kernel width, n).
        others: float array (kernel height, kernel width, m).

    Returns:
        int array (n,), values in [0, m). The earlier one on a tie, to 5 digits; 0 for a pattern
        of zeros.
    """
    a = np.reshape(np.asarray(kernels, "float64"), (-1, np.shape(kernels)[-1]))
    b = np.reshape(np.asarray(others, "float64"), (-1, np.shape(others)[-1]))
    a = a / np.maximum(np.linalg.norm(a, axis=0), 1e-12)
    b = b / np.maximum(np.linalg.norm(b, axis=0), 1e-12)
    similarity = a.T @ b
    # Kernels that follow the same one have the same pattern up to rounding: those are ties.
    return np.argmax(similarity > similarity.max(axis=1, keepdims=True) - 1e-5, axis=1)


def _sharing_layers(model):
    return [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, RecurrentConv2D) and layer.mapping is not None
    ]


def update_kernel_sharing(model: keras.Model) -> int:
    """Maps every sharing kernel of `model` to the most similar one of the layer before it.

    Kernels of different depth are compared by the cosine of their means over the input channels.

    Args:
        model: a built `keras.Model` with `RecurrentConv2D` layers that share weights, as
            `RACKNet.build(..., network="rcnn")` makes it.

    Returns:
        The number of kernels whose mapping changed. A model that shares nothing is left alone.

    Example:

    >>> import keras_saliency
    >>> from keras_saliency.callbacks import update_kernel_sharing
    >>> stats = keras_saliency.DatasetStatistics.from_counts([[2, 3]], (9, 9, 1), num_classes=2)
    >>> model = keras_saliency.RACKNet.from_statistics(stats, budget=10, network="rcnn")
    >>> update_kernel_sharing(model)  # a new model is up to date; after own changes of weights
    0

    Source: G 3.4.6.2.
    """
    patterns = {}

    def pattern_of(layer):
        if layer not in patterns:
            before = source(layer)
            shared = None if before is None else pattern_of(before)
            patterns[layer] = kernel_pattern(layer.shared_kernel(shared))
        return patterns[layer]

    def source(layer):
        if layer.mapping is None:
            return None
        return layer.input[1]._keras_history.operation

    changed = 0
    # Layers come in the order of the graph, so that a pattern is only taken after its update.
    for layer in _sharing_layers(model):
        own = ops.convert_to_numpy(kernel_pattern(ops.convert_to_tensor(layer.kernel)))
        mapping = most_similar(own, ops.convert_to_numpy(pattern_of(source(layer))))
        changed += int(np.sum(mapping != ops.convert_to_numpy(layer.mapping)))
        layer.mapping.assign(mapping.astype("int32"))
    return changed


class KernelSharingCallback(keras.callbacks.Callback):
    """Refreshes, during `fit`, which kernel of the layer before each sharing kernel follows.

    The patterns that kernels have learnt change in training, so the mapping of the most similar
    ones is computed again before the first batch and then every `frequency`. Harmless on a model
    that shares nothing.

    Args:
        frequency: `"epoch"`, `"batch"`, or an int, a number of batches.

    Raises:
        ValueError: when `frequency` is none of these.

    Example:

    ```python
    import numpy as np
    from keras_saliency import DatasetStatistics, RACKNet
    from keras_saliency.callbacks import KernelSharingCallback

    x, y = np.random.uniform(size=(32, 9, 9, 1)), np.arange(32) % 2
    stats = DatasetStatistics.from_counts([[2, 3]], (9, 9, 1), num_classes=2)
    model = RACKNet.from_statistics(stats, budget=10, network="rcnn", steps=1)
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, callbacks=[KernelSharingCallback()])
    ```

    Source: G 3.4.6.2.
    """

    def __init__(self, frequency: int | Literal["epoch", "batch"] = "epoch"):
        super().__init__()
        if isinstance(frequency, str):
            valid = frequency in ("epoch", "batch")
        else:
            whole = isinstance(frequency, numbers.Integral) and not isinstance(frequency, bool)
            valid = whole and frequency >= 1
        if not valid:
            raise ValueError(
                '`frequency` must be "epoch", "batch", or a number of batches >= 1. '
                f"Received: frequency={frequency!r}"
            )
        self.frequency = frequency
        self._batches = None if frequency == "epoch" else 1 if frequency == "batch" else frequency
        self._seen = 0

    def on_train_begin(self, logs=None):
        self._seen = 0
        update_kernel_sharing(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self._seen += 1
        if self._batches and self._seen % self._batches == 0:
            update_kernel_sharing(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if self._batches is None:
            update_kernel_sharing(self.model)
