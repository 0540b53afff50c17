"""How much the filters of a layer point where others point."""

from __future__ import annotations

import keras

from keras_saliency.layers.masked.base import MaskedKernels
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel, Measurements
from keras_saliency.sparsity.criteria.orthogonality import overlap
from keras_saliency.sparsity.kernels import has_filters, maskable_kernels
from keras_saliency.typing import DataFrame, Layers


def filter_overlap(
    model: keras.Model, layers: Layers | None = None, exclude: Layers | None = None
) -> DataFrame:
    """How much each filter overlaps with the others of its layer.

    A filter's `|cosine|` to every other filter of its layer, summed and divided by the number of
    filters: 0 where it is orthogonal to all of them, near 1 where all point the same way. A filter
    of zeros overlaps with none. Filters are those of convolutions, transposed ones too, and the
    units of dense layers; depthwise, separable and grouped convolutions are left out, since
    their filters read different inputs.

    Args:
        model: A built `keras.Model`, plain or masked.
        layers, exclude: Which layers; see `sparsity.maskable_kernels`. Default: all.

    Returns:
        A pandas frame with a row per filter and the columns `layer` (see `maskable_kernels`),
        `filter` (its number in the layer) and `overlap`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built, no chosen layer has filters, or a weight is not
            finite.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import filter_overlap

    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.Conv2D(6, 3)]
    )
    print(filter_overlap(model).groupby("layer")["overlap"].mean())
    ```

    Source: Prakash (2019), equations 5.1 and 5.2.
    """
    import numpy as np
    import pandas as pd

    kernels = [kernel for kernel in maskable_kernels(model, layers, exclude) if has_filters(kernel)]
    if not kernels:
        raise ValueError(
            f"No chosen layer of '{model.name}' has filters to compare: convolutions without "
            "groups and dense layers have."
        )
    measurements = Measurements(model, kernels)
    frames = []
    for kernel in kernels:
        mask = None
        if isinstance(kernel.owner, MaskedKernels):
            mask = next((m for v, m in kernel.owner.kernel_masks() if v is kernel.variable), None)
            mask = None if mask is None else keras.ops.convert_to_numpy(mask)
        measured = MeasuredKernel(kernel, measurements, mask=mask)
        values = measured.values
        if not np.isfinite(values).all():
            raise ValueError(f"The weights of {kernel.key!r} are not finite.")
        found = overlap(measured.by_channel(values).T)
        columns = {"layer": kernel.key, "filter": np.arange(len(found)), "overlap": found}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
