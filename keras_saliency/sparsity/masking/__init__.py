"""From scores to zeros: targets, granularities, masks, `sparsify` and `strip_masks`."""

from keras_saliency.sparsity.masking.sparsify import sparsify, strip_masks

__all__ = ["sparsify", "strip_masks"]
