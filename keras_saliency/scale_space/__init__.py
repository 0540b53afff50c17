"""Gaussian scale space, differences, extrema and the salient events they mark."""

from keras_saliency.scale_space.extrema import soft_extrema

__all__ = ["soft_extrema"]
