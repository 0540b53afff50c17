"""Every layer of the library. Importing this package registers them with Keras."""

from keras_saliency.layers.activations.attentional import AttentionalActivation
from keras_saliency.layers.activations.flexible import FlexibleActivation
from keras_saliency.layers.activations.fractional import FractionalActivation
from keras_saliency.layers.activations.highway import Highway
from keras_saliency.layers.activations.max_dropout import MaxDropout
from keras_saliency.layers.activations.maxout import Maxout
from keras_saliency.layers.attention.competitive import CompetitiveSqueezeExcite
from keras_saliency.layers.attention.factory import get_attention
from keras_saliency.layers.attention.graph_mix import GraphMix
from keras_saliency.layers.attention.peers import (
    BAM,
    CBAM,
    DSTP,
    MSMSA,
    ConcurrentSpatialChannelSE,
    CoordinateAttention,
    EfficientChannelAttention,
    FusAtNet,
    ParameterFreeAttention,
    RecurrentAttention,
    SelfAttention,
    SimAM,
    SqueezeExcite,
    TransformerBlock,
)
from keras_saliency.layers.attention.residual import ResidualAttention
from keras_saliency.layers.attention.saliency_series import SaliencySeries
from keras_saliency.layers.attention.san import SANAttention
from keras_saliency.layers.attention.sdma import SDMACrossAttention
from keras_saliency.layers.attention.xm2a import XM2AHeads
from keras_saliency.layers.convolution.ms_roi import MSROI
from keras_saliency.layers.convolution.quadratic import QuadraticConv2D
from keras_saliency.layers.convolution.shift import ShiftAttention2D, ShiftConv2D
from keras_saliency.layers.convolution.spectral import SpectralTransform2D
from keras_saliency.layers.imaging.pixel_deflection import PixelDeflection
from keras_saliency.layers.masked import (
    MaskedConv,
    MaskedConv1D,
    MaskedConv1DTranspose,
    MaskedConv2D,
    MaskedConv2DTranspose,
    MaskedConv3D,
    MaskedConv3DTranspose,
    MaskedConvTranspose,
    MaskedDense,
    MaskedDepthwiseConv,
    MaskedDepthwiseConv1D,
    MaskedDepthwiseConv2D,
    MaskedEinsumDense,
    MaskedEmbedding,
    MaskedGRUCell,
    MaskedLSTMCell,
    MaskedSeparableConv,
    MaskedSeparableConv1D,
    MaskedSeparableConv2D,
    MaskedSimpleRNNCell,
)
from keras_saliency.layers.memory.condensed import CondensedMemory
from keras_saliency.layers.normalization.filtered import FilteredBatchNormalization
from keras_saliency.layers.normalization.weight_align import WeightAlign
from keras_saliency.layers.recurrent.recurrent_conv import RecurrentConv2D
from keras_saliency.layers.recurrent.residual_add import ResidualAdd

__all__ = [
    "BAM",
    "CBAM",
    "DSTP",
    "MSMSA",
    "MSROI",
    "AttentionalActivation",
    "CompetitiveSqueezeExcite",
    "ConcurrentSpatialChannelSE",
    "CondensedMemory",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "FilteredBatchNormalization",
    "FlexibleActivation",
    "FractionalActivation",
    "FusAtNet",
    "GraphMix",
    "Highway",
    "MaskedConv",
    "MaskedConv1D",
    "MaskedConv1DTranspose",
    "MaskedConv2D",
    "MaskedConv2DTranspose",
    "MaskedConv3D",
    "MaskedConv3DTranspose",
    "MaskedConvTranspose",
    "MaskedDense",
    "MaskedDepthwiseConv",
    "MaskedDepthwiseConv1D",
    "MaskedDepthwiseConv2D",
    "MaskedEinsumDense",
    "MaskedEmbedding",
    "MaskedGRUCell",
    "MaskedLSTMCell",
    "MaskedSeparableConv",
    "MaskedSeparableConv1D",
    "MaskedSeparableConv2D",
    "MaskedSimpleRNNCell",
    "MaxDropout",
    "Maxout",
    "ParameterFreeAttention",
    "PixelDeflection",
    "QuadraticConv2D",
    "RecurrentAttention",
    "RecurrentConv2D",
    "ResidualAdd",
    "ResidualAttention",
    "SANAttention",
    "SDMACrossAttention",
    "SaliencySeries",
    "SelfAttention",
    "ShiftAttention2D",
    "ShiftConv2D",
    "SimAM",
    "SpectralTransform2D",
    "SqueezeExcite",
    "TransformerBlock",
    "WeightAlign",
    "XM2AHeads",
    "get_attention",
]
