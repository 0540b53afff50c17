"""Filters of unit length, softly: norm loss."""

from __future__ import annotations

import keras
from keras import ops

from keras_saliency import validation


@keras.saving.register_keras_serializable(package="keras_saliency")
class NormLoss(keras.regularizers.Regularizer):
    """Pulls the length of every filter to 1, where weight decay pulls it to 0.

        factor * sum over filters of (1 - |w|)^2

    Source: T. Georgiou, S. Schmitt, T. Bäck, W. Chen, M. Lew, "Norm Loss: An Efficient yet
    Effective Regularization Method for Deep Neural Networks", ICPR 2020 (arXiv:2103.06583): the
    squared distance of the weight matrix from the oblique manifold, whose columns have length 1.
    Only its abstract could be had; `factor` is a choice.

    Args:
        factor: Number >= 0.
        axis: The axis of the filters, the last one of Keras's dense and convolution kernels (-2 of
            a depthwise one). Everything else of a filter enters its length.

    Raises:
        ValueError: If an argument is not of the kind above.

    Example:

    >>> import numpy as np
    >>> loss = NormLoss(factor=0.5)
    >>> round(float(loss(np.array([[3.0, 1.0], [0.0, 0.0]]))), 3)
    2.0
    """

    def __init__(self, factor: float = 0.01, axis: int = -1):
        self.factor = validation.number("factor", factor, 0)
        self.axis = validation.integer("axis", axis, minimum=None)

    def __call__(self, x):
        x = ops.convert_to_tensor(x)
        rank = len(x.shape)
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"`axis` must be an axis of the weight. Received: axis={self.axis} for a weight "
                f"of shape {tuple(x.shape)}"
            )
        if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16"):
            x = ops.cast(x, "float32")
        others = tuple(i for i in range(rank) if i != self.axis % rank)
        # The root's slope is infinite at 0: the smallest number that is not lost keeps it finite.
        length = ops.sqrt(ops.sum(ops.square(x), axis=others) + 1e-12)
        return self.factor * ops.sum(ops.square(1.0 - length))

    def get_config(self):
        return {"factor": self.factor, "axis": self.axis}
