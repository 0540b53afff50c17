"""The zeros that a model has, as masks that never change."""

import warnings

import numpy as np
from keras import ops

from keras_saliency.layers.masked.base import MaskedKernels
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.options import MaskingOptions


class Kept:
    """Stands for what makes masks where they are those that the model has."""

    options = MaskingOptions()

    def __init__(self, kernels):
        self.kernels = kernels
        self.targets = {}


def kernels_with_zeros(model, layers=None, exclude=None):
    """The `Kernel` objects that hold zeros beside other values, and those of masked layers.

    Kernels of zeros alone are named in a warning, unless `layers` names them.

    Raises:
        ValueError: If there is none.
    """
    kernels, empty = [], []
    for kernel in maskable_kernels(model, layers, exclude):
        nonzero = int(np.count_nonzero(ops.convert_to_numpy(kernel.variable)))
        if nonzero == 0 and layers is None:
            empty.append(kernel.key)
        elif nonzero < kernel.size or isinstance(kernel.owner, MaskedKernels):
            kernels.append(kernel)
    if empty:
        warnings.warn(
            f"The kernels {empty} hold zeros alone, as layers do that start at zero: they are "
            "left to train. Name them in `layers` to keep them at zero.",
            stacklevel=3,
        )
    if not kernels:
        raise ValueError(
            f"No kernel of '{model.name}' that may be masked has a zero to keep. Prune it "
            "first, say with `keras_saliency.sparsify`."
        )
    return kernels
