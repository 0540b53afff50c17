"""Significance rules: how scores walk backwards through each kind of layer, one file a family.

A rule turns the significance of a layer's outputs into that of its inputs (Garg 2020, section
4.4.2, equation 4.8), and reports the edges of its kernels (equation 4.6). A gate, the other factor
of a product, is as significant as what it gates. Operations that work entry by entry, with or
without broadcasting, need no rule of their own.
"""

from keras_saliency.sparsity.significance.rules import (
    activation,
    attention,
    convolution,
    dense,
    keras_hub,
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
    "keras_hub",
    "merging",
    "normalization",
    "recurrent",
    "shape",
]
