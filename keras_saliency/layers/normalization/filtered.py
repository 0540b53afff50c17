"""Batch normalization whose statistics leave outliers out."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.normalization.batch import BatchNormalization


@keras.saving.register_keras_serializable(package="keras_saliency")
class FilteredBatchNormalization(BatchNormalization):
    """Batch normalization by the mean and variance of what is not out of distribution.

    The mean and the standard deviation of a channel are taken twice: over all of its activations,
    and again over those within `threshold` deviations of the mean. The second ones normalize, all
    activations alike, and enter the moving statistics. So a few activations of a selective
    neuron, however large, do not shrink all others.

    Source: A. Horváth, J. Al-Afandi, "Filtered Batch Normalization", ICPR 2020 (arXiv:2010.08251).
    Only its abstract could be had; filtering once, and at 3 deviations, is a choice.

    Significance and shrinking treat the layer as `keras.layers.BatchNormalization`.

    Args:
        threshold: Number > 1, in standard deviations.
        **kwargs: Arguments of `keras.layers.BatchNormalization`, `synchronized` excepted.

    Call arguments:
        inputs, mask, training: As in `keras.layers.BatchNormalization`.

    Output shape:
        That of `inputs`.

    Raises:
        ValueError: If an argument is not of the kind above.

    Example:

    ```python
    import keras
    from keras_saliency import FilteredBatchNormalization

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(16, 3, use_bias=False),
        FilteredBatchNormalization(threshold=3),
        keras.layers.ReLU(),
    ])
    ```
    """

    def __init__(self, threshold: float = 3.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.threshold = validation.number("threshold", threshold, 1, above=True)
        if self.synchronized:
            raise ValueError(
                "`synchronized` must be False: the statistics are filtered replica by replica. "
                "Received: synchronized=True"
            )

    def _moments(self, inputs, mask):
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        first = [ops.reshape(m, shape) for m in super()._moments(inputs, mask)]
        mean, variance = map(ops.stop_gradient, first)
        # Chebyshev: beyond more than one deviation never lies everything.
        near = ops.square(inputs - mean) <= self.threshold**2 * (variance + self.epsilon)
        if mask is not None:
            near = ops.logical_and(near, ops.expand_dims(ops.cast(mask, "bool"), -1))
        axes = self._reduction_axes
        count = ops.sum(ops.cast(near, inputs.dtype), axes, keepdims=True)
        count = ops.maximum(count, 1.0)  # a batch of padding alone
        mean = ops.sum(ops.where(near, inputs, ops.zeros_like(inputs)), axes, keepdims=True) / count
        centred = ops.where(near, inputs - mean, ops.zeros_like(inputs))
        variance = ops.sum(ops.square(centred), axes) / ops.reshape(count, (-1,))
        return ops.reshape(mean, (-1,)), variance

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}
