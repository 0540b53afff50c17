"""Zeros that stay while a pruned model is trained on."""

from __future__ import annotations

import keras

from keras_saliency.sparsity.training.sparse_training import SparseTraining
from keras_saliency.sparsity.training.sparsifier import Sparsifier
from keras_saliency.typing import Layers


class KeepSparsity(SparseTraining):
    """Keeps the zeros of a model while `fit()` trains it on.

    When training begins, the exact zeros of every maskable kernel that also has a nonzero become
    its mask, and they are 0 at each batch end, whatever the optimizer (momentum, weight decay,
    averages of the weights), inside the compiled step and on every backend. Kernels of zeros
    alone, as layers have that start at zero, are left to train and named in one warning, unless
    `layers` names them. Biases, norms and LoRA's factors are free. The epoch's logs gain
    `sparsity`.

    Args:
        layers, exclude: Which layers: objects, names, glob patterns, compiled regular expressions,
            or predicates, or a list of these; see `maskable_kernels`. Default: all.

    Raises:
        ValueError: When training begins, if no kernel has a zero to keep, or the model is not
            compiled with an optimizer.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    sparse = keras_saliency.sparsify(model, 0.75, data=x)
    sparse.fit(x, x[:, :3], verbose=0, callbacks=[keras_saliency.KeepSparsity()])
    assert keras_saliency.sparsity_report(sparse)["zeros"].sum() == 132  # of 176 edges
    ```
    """

    def __init__(self, layers: Layers | None = None, exclude: Layers | None = None):
        super().__init__()
        self._layers = layers
        self._exclude = exclude

    def make_sparsifier(self, model: keras.Model) -> Sparsifier:
        return Sparsifier.from_zeros(model, self._layers, self._exclude)
