"""Channels leave: the step from zeros to a model that is smaller and faster."""

from keras_saliency.sparsity.shrinking.cost import count_operations, count_parameters
from keras_saliency.sparsity.shrinking.shrink import shrink
from keras_saliency.sparsity.shrinking.shrink_to import shrink_to

__all__ = ["count_operations", "count_parameters", "shrink", "shrink_to"]
