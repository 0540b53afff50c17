"""What is left is repaired: weights, biases and statistics are fitted to the dense network."""

from keras_saliency.sparsity.reconstruction.polish import polish
from keras_saliency.sparsity.reconstruction.recalibrate import recalibrate

__all__ = ["polish", "recalibrate"]
