"""What a channel adds to telling the classes apart."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import ChannelCriterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class Discriminant(ChannelCriterion):
    """The discriminant information that is lost without a channel (Hou and Kung, 2020).

    Features are averaged over positions. With their total scatter `S` and the scatter `B` between
    classes the information is the trace of `(S + ridge)⁻¹ B`.

    Args:
        ridge: Float, in units of the mean variance of the features.
    """

    name = "discriminant"
    needs = "xy"

    def __init__(self, ridge: float = 1e-2):
        self.ridge = ridge

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        features = kernel.activations.mean(1, dtype="float64")
        labels = kernel.labels[: len(features)]
        features = features - features.mean(0)
        S = features.T @ features / len(features)
        B = np.zeros_like(S)
        for label in np.unique(labels):
            mean = features[labels == label].mean(0)
            B += np.outer(mean, mean) * np.mean(labels == label)
        A = np.linalg.inv(S + (self.ridge * np.trace(S) / len(S) + 1e-12) * np.eye(len(S)))
        # By the inverse of a matrix without one row and column.
        return kernel.by_units(np.diag(A @ B @ A) / np.diag(A))
