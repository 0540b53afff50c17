"""What type checkers see of the public names; mypy reads this, nobody runs it.

Each `type: ignore` is a wrong use that must be found: one that is not needed is an error.
"""

from pathlib import Path
from typing import assert_type

import keras
import numpy as np

import keras_saliency
from keras_saliency import attribution, imaging, layers, models


def prune(model: keras.Model, x: np.ndarray) -> None:
    keras_saliency.sparsify(model, 0.9, data=x).fit(x, callbacks=[keras_saliency.KeepSparsity()])
    keras_saliency.sparsify(model, {"dense": 0.5}, x, "magnitude", granularity=(2, 4))
    keras_saliency.sparsify(model, 0.9, order="sideways")  # type: ignore[arg-type]
    keras_saliency.sparsify(model, "half")  # type: ignore[arg-type]
    keras_saliency.sparsify(model, 0.9, dta=x)  # type: ignore[call-arg]
    keras_saliency.shrink_to(model, flops=0.5, data=x)
    keras_saliency.shrink_to(model, flops="half")  # type: ignore[arg-type]
    model.fit(x, callbacks=[keras_saliency.iSparseCallback(0.9, schedule="cosine")])
    keras_saliency.iSparseCallback("much")  # type: ignore[arg-type]
    assert_type(keras_saliency.save_compressed(model, Path("model.keras")), int)


def look(model: keras.Model, x: np.ndarray) -> None:
    keras_saliency.saliency_map(model, x, "integrated_gradients", target=3, steps=16)
    keras_saliency.saliency_map(model, x, resize="no")  # type: ignore[arg-type]
    attribution.deletion_insertion(model, x, np.zeros((2, 8, 8)), steps=8)
    assert_type(imaging.semantic_jpeg(x[0], np.zeros((8, 8))), bytes)


def build(x: np.ndarray, y: np.ndarray) -> None:
    keras.Sequential([layers.SANAttention(kernel_size=5), keras_saliency.SDMACrossAttention(8)])
    layers.SANAttention(start="anywhere")  # type: ignore[arg-type]
    models.XM2A((100, 3), 2, descriptor="loudest")  # type: ignore[arg-type]
    assert_type(keras_saliency.separation_index(x, y), float)
