"""Gaussian scale space, differences, extrema and the salient events they mark."""

from keras_saliency.scale_space.events import (
    TemporalScaleSpace,
    temporal_events,
    temporal_extrema,
    temporal_scale_space,
)
from keras_saliency.scale_space.extrema import soft_extrema
from keras_saliency.scale_space.gaussian import gaussian_kernel, scale_sigmas
from keras_saliency.scale_space.keypoints import ImageKeypoints, KeypointDetector, image_keypoints

__all__ = [
    "ImageKeypoints",
    "KeypointDetector",
    "TemporalScaleSpace",
    "gaussian_kernel",
    "image_keypoints",
    "scale_sigmas",
    "soft_extrema",
    "temporal_events",
    "temporal_extrema",
    "temporal_scale_space",
]
