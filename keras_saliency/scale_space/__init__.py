"""Gaussian scale space, differences, extrema and the salient events they mark."""

from keras_saliency.scale_space.extrema import soft_extrema
from keras_saliency.scale_space.keypoints import ImageKeypoints, KeypointDetector, image_keypoints

__all__ = ["ImageKeypoints", "KeypointDetector", "image_keypoints", "soft_extrema"]
