"""The saliency series of time series, as a layer without weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.layers.precision import wide_dtype
from keras_saliency.scale_space import temporal
from keras_saliency.scale_space.temporal import Amplitude, Missing


@keras.saving.register_keras_serializable(package="keras_saliency")
class SaliencySeries(keras.layers.Layer):
    """Turns time series into their saliency: where, and at which scale, something happens.

    Each variate is smoothed at growing scales; the extrema over time and scale of the differences
    are its events; every event adds a Gaussian bell of its own width, as high as the series is
    around it (G 6.4.2, 6.4.3). `keras_saliency.scale_space.temporal_events` returns the events
    themselves.

    The layer has no weights. It runs inside a model, on plain arrays, and in a `tf.data` pipeline
    (`dataset.map(SaliencySeries())`) whatever the backend. Events are counted, so the gradient
    flows through their amplitudes alone.

    Args:
        octaves: How often the time resolution is halved, plus one. An octave in which fewer than
            three steps are left has no events.
        scales: Scales per octave.
        sigma0: Finest smoothing in steps, at least 0.3.
        contrast_threshold: Smallest |difference of Gaussians| of an event, in the series' units.
        theta: An event exceeds `theta` times the largest of its 8 neighbors.
        amplitude: Height of an event's bell. `"mean"`: mean of the series' own steps within
            3 sigma; `"center"`: its value at the event (between two steps, their mean); `"unit"`:
            1; `"scale-space"`: no bell, within 3 sigma the smoothed series (6.4) itself. With
            `cut`, these are the seven strategies of G table 6.3.
        cut: Whether a bell stops at 3 sigma (G figure 6.8). `"scale-space"` always does.
        missing: What to do with NaN and infinity. `None`: the saliency of that variate of that
            series is NaN; `"interpolate"`: fill them on straight lines between what is there
            (at the ends, with the nearest value), unless nothing is.

    Call arguments:
        inputs: Tensor (batch, time, variates) of any real dtype; integers count as float32.
        mask: Bool tensor (batch, time). The valid part of a series is treated as if it stood
            alone; masked steps inside it are filled on straight lines and hold no event.

    Input shape:
        `(batch, time, variates)`; batch and time may be unknown.

    Output shape:
        As the input. Computed in float32 (float64 for a float64 layer), 0 where masked.

    Example:

    ```python
    import numpy as np
    from keras_saliency import SaliencySeries

    series = np.zeros((1, 64, 1), "float32")
    series[0, 28:36] = 1.0
    saliency = SaliencySeries()(series)
    ```
    """

    def __init__(
        self,
        octaves: int = 3,
        scales: int = 3,
        sigma0: float = 0.5,
        contrast_threshold: float = 0.005,
        theta: float = 1.0,
        amplitude: Amplitude = "mean",
        cut: bool = False,
        missing: Missing | None = None,
        **kwargs: Any,
    ):
        # Half precision would round the series before it is analyzed.
        super().__init__(**{"autocast": False, **kwargs})
        self._settings = temporal.Settings(
            octaves, scales, sigma0, contrast_threshold, theta, amplitude, cut, missing
        )
        self.octaves = octaves
        self.scales = scales
        self.sigma0 = sigma0
        self.contrast_threshold = contrast_threshold
        self.theta = theta
        self.amplitude = amplitude
        self.cut = cut
        self.missing = missing
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def __call__(self, inputs, *args, **kwargs):
        if keras.backend.backend() != "tensorflow" and _is_tensorflow(inputs):
            return self._call_in_tensorflow(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def _call_in_tensorflow(self, inputs):
        """Run this backend's code on a tensor of a `tf.data` pipeline."""
        import tensorflow as tf

        if inputs.shape.rank != 3:
            raise ValueError(
                "`inputs` must have shape (batch, time, variates): batch the dataset before "
                f"`map`. Received: shape={inputs.shape}"
            )
        result = tf.numpy_function(
            lambda x: ops.convert_to_numpy(self(x)).astype(self.compute_dtype),
            [inputs],
            self.compute_dtype,
        )
        result.set_shape(inputs.shape)
        return result

    def call(self, inputs, mask=None):
        self._check_mask(mask, inputs)
        dtype = wide_dtype(self.compute_dtype)
        result = temporal.saliency(self._settings, ops.cast(inputs, dtype), mask)
        return ops.cast(result, self.compute_dtype)

    @staticmethod
    def _check_mask(mask, inputs):
        check_mask(mask, inputs.shape, "The layer takes one series.")

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs, mask=None):
        self._check_mask(mask, inputs)
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "octaves": self.octaves,
            "scales": self.scales,
            "sigma0": self.sigma0,
            "contrast_threshold": self.contrast_threshold,
            "theta": self.theta,
            "amplitude": self.amplitude,
            "cut": self.cut,
            "missing": self.missing,
        }


def _is_tensorflow(value):
    return type(value).__module__.startswith("tensorflow.")
