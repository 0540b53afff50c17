"""Two models side by side: what one gains over the other, and what that costs."""

from __future__ import annotations

import os
import tempfile
import time

import keras
import numpy as np
from keras import tree

from keras_saliency.sparsity.shrinking.cost import count_operations, count_parameters
from keras_saliency.typing import Data, DataFrame


def compare(model: keras.Model, other: keras.Model, x: Data, repeats: int = 5) -> DataFrame:
    """Compare two models that do the same job, for instance before and after `shrink`.

    Args:
        model: A built `keras.Model`, the one that is compared with.
        other: A built `keras.Model` with the same inputs and outputs.
        x: A batch of inputs, as `model.predict_on_batch` takes it.
        repeats: Timed rounds; in each, both models run once.

    Returns:
        A pandas frame with the rows `model`, `other` and `ratio` (other over model) and the
        columns `parameters`; `flops`, operations of one sample in kernels and attention (NaN
        where the graph cannot be seen); `bytes` of the `.keras` file; `seconds`, the median of one
        `predict_on_batch`; `difference`, the largest difference of an output relative to the
        largest output; and `agreement`, the share of samples (and positions) with the same
        largest output, NaN where the outputs have fewer than two entries.

    Raises:
        TypeError: If one of them is not a `keras.Model`.
        ValueError: If their outputs have different shapes, or `repeats` is not positive.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    frame = keras_saliency.compare(model, keras.models.clone_model(model), np.ones((2, 8)))
    assert frame.loc["ratio", "parameters"] == 1
    ```
    """
    import pandas as pd

    for name, value in (("model", model), ("other", other)):
        if not isinstance(value, keras.Model):
            raise TypeError(f"`{name}` must be a Keras model. Received: {name}={value!r}")
    if not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"`repeats` must be a positive integer. Received: repeats={repeats!r}")
    models = {"model": model, "other": other}
    # The first round builds, compiles and gives the outputs.
    expected, found = (_outputs(value, x) for value in models.values())
    if [y.shape for y in expected] != [y.shape for y in found]:
        raise ValueError(
            "The models give outputs of different shapes: "
            f"{[y.shape for y in expected]} and {[y.shape for y in found]}."
        )
    seconds = {name: [] for name in models}
    for _ in range(repeats):
        for name, value in models.items():
            start = time.perf_counter()
            value.predict_on_batch(x)
            seconds[name].append(time.perf_counter() - start)
    frame = pd.DataFrame(
        {
            "parameters": [float(count_parameters(value)) for value in models.values()],
            "flops": [_operations(value, x) for value in models.values()],
            "bytes": [float(_file_size(value)) for value in models.values()],
            "seconds": [float(np.median(seconds[name])) for name in models],
        },
        index=list(models),
    )
    frame.loc["ratio"] = frame.loc["other"] / frame.loc["model"]
    frame["difference"] = [0.0, _difference(expected, found), np.nan]
    frame["agreement"] = [1.0, _agreement(expected, found), np.nan]
    return frame


def _outputs(model, x):
    return [keras.ops.convert_to_numpy(y) for y in tree.flatten(model.predict_on_batch(x))]


def _operations(model, x):
    try:
        count = count_operations(model, [(1, *np.shape(part)[1:]) for part in tree.flatten(x)])
    except ValueError:
        return np.nan
    return np.nan if count is None else float(count)


def _file_size(model):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        return os.path.getsize(path)


def _difference(expected, found):
    scale = max(float(np.abs(y).max()) for y in expected) or 1.0
    return max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)) / scale


def _agreement(expected, found):
    shares = [
        (a.argmax(-1) == b.argmax(-1)).mean()
        for a, b in zip(expected, found, strict=True)
        if a.ndim > 1 and a.shape[-1] > 1
    ]
    return float(np.mean(shares)) if shares else np.nan
