"""Layers that hand scores on entry by entry, and those at which significance ends."""

import numpy as np
from keras import layers

from keras_saliency.graph.trace import Whole
from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.significance.rules.common import (
    existing,
    operations,
    register,
    times,
    unchanged,
)
from keras_saliency.sparsity.significance.scores import spread

_UNCHANGED = existing(
    "Activation",
    "ActivityRegularization",
    "AlphaDropout",
    "AutoContrast",
    "Dropout",
    "ELU",
    "ContrastLimitedAdaptiveHistogramEqualization",
    "Equalization",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "LeakyReLU",
    "Masking",
    "MixUp",
    "Mosaic",
    "ReLU",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomErasing",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPosterization",
    "RandomSaturation",
    "RandomSharpness",
    "Solarization",
    "Softmax",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "UnitNormalization",
    "CutMix",
    "AugMix",
    "RandAugment",
)


register(_UNCHANGED, unchanged)


register_significance_rule(
    layers.PReLU, kernels=(), reason="the slopes of an activation are no edges"
)(unchanged)


for _name in ("FlexibleActivation", "FractionalActivation"):
    register_significance_rule(
        f"keras_saliency>{_name}", kernels=(), reason="the numbers of an activation are no edges"
    )(unchanged)


register_significance_rule(Whole)(unchanged)


@register_significance_rule(layers.Rescaling)
def rescaling(call):
    return times(call.output_scores[0], np.asarray(call.layer.scale, dtype=np.float64))


@register_significance_rule(
    "keras>LayerScale", kernels=(), reason="its weights scale channels, no edges"
)
def layer_scale(call):
    return times(call.output_scores[0], call.magnitude("gamma"))


register_significance_rule(
    "keras>LayerScale", kernels=(), reason="its weights scale channels, no edges"
)(layer_scale)


@operations("Glu")
def glu_op(call):
    score, axis = call.output_scores[0], call.layer.axis
    score = spread(
        score,
        [
            n if i == axis % score.ndim else s
            for i, (n, s) in enumerate(zip(call.outputs[0].shape, score.shape, strict=True))
        ],
    )
    return np.concatenate([score, score], axis=axis)


# What these take in are no neurons, or they ask what there is, not how much.


def ends(call):
    return [None] * len(call.inputs)


_ENDS = existing(
    "CategoryEncoding",
    "Discretization",
    "HashedCrossing",
    "Hashing",
    "InputLayer",
    "IntegerLookup",
    "MelSpectrogram",
    "STFTSpectrogram",
    "StringLookup",
    "TextVectorization",
    "MaxNumBoundingBoxes",
)


register(
    _ENDS,
    ends,
    kernels=(),
    reason="it prepares data and learns no edges",
)


@operations(
    "All",
    "Any",
    "Argmax",
    "Argmin",
    "Argsort",
    "Bincount",
    "CountNonzero",
    "Digitize",
    "Equal",
    "Greater",
    "GreaterEqual",
    "InTopK",
    "IsIn",
    "Isclose",
    "Isfinite",
    "Isinf",
    "Isnan",
    "Less",
    "LessEqual",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "MultiHot",
    "Ndim",
    "NotEqual",
    "OneHot",
    "OnesLike",
    "SearchSorted",
    "Size",
    "ZerosLike",
    "EmptyLike",
    "FullLike",
)
def ends_op(call):
    return [None] * len(call.inputs)
