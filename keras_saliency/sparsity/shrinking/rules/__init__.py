"""How channels pass through Keras's layers and operations: shrink rules, one file a family."""

from keras_saliency.sparsity.shrinking.rules import (
    activation,
    attention,
    convolution,
    dense,
    merging,
    normalization,
    recurrent,
    shape,
)

__all__ = [
    "activation",
    "attention",
    "convolution",
    "dense",
    "merging",
    "normalization",
    "recurrent",
    "shape",
]
