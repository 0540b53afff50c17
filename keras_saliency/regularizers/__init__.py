"""Regularizers of weights."""

from keras_saliency.regularizers.norm_loss import NormLoss

__all__ = ["NormLoss"]
