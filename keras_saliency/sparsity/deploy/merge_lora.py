"""LoRA updates of a pruned model, merged without losing its zeros."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_saliency.graph import lora
from keras_saliency.graph.copying import check_built


def merge_lora(model: keras.Model) -> keras.Model:
    """Write the LoRA updates of a model into its kernels, under their zeros, in place.

    Keras adds an update to the kernel when it saves, which fills the zeros of a pruned kernel. Here
    what was 0 in the frozen kernel stays 0, or what a mask hides; LoRA is off afterwards.

    Args:
        model: A built `keras.Model`. Layers without LoRA stay as they are.

    Returns:
        `model`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If it is not built.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude")
    sparse.layers[0].enable_lora(2)
    sparse.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
    keras_saliency.merge_lora(sparse)
    assert (sparse.layers[0].get_weights()[0] == 0).sum() == 16
    ```
    """
    check_built(model)
    for layer in lora.lora_layers(model):
        frozen = ops.convert_to_numpy(lora.kernel_variable(layer))
        merged = lora.merged_kernel(layer)
        if not getattr(layer, "masks", None) and (frozen != 0).any():
            merged = np.where(frozen == 0, 0, merged)
        lora.merge(layer, merged)
    return model
