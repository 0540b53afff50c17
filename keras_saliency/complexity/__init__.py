"""How hard are these data, for this layer: separation and smoothness (Kalhor, chapter 3.2)."""

from keras_saliency.complexity.confidence import NeighborConfidence
from keras_saliency.complexity.indices import separation_index, smoothness_index
from keras_saliency.complexity.networks import layer_separation, rank_models
from keras_saliency.complexity.selection import select_features

__all__ = [
    "NeighborConfidence",
    "layer_separation",
    "rank_models",
    "select_features",
    "separation_index",
    "smoothness_index",
]
