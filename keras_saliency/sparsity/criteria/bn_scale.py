"""The factor of the batch norm behind a layer."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_saliency.sparsity.criteria.criterion import ChannelCriterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class BNScale(ChannelCriterion):
    """`|gamma|` of the batch norm right behind the layer (Liu et al., 2017)."""

    name = "bn_scale"

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        norm = kernel.norm
        if norm is None or norm.gamma is None:
            raise ValueError(
                f"`method='bn_scale'` reads the factor of a batch norm, but none stands right "
                f"behind {kernel.key!r}. Leave it out with exclude=[{kernel.key!r}], or take "
                "method='isparse'."
            )
        return np.abs(np.array(ops.convert_to_numpy(norm.gamma), "float64"))
