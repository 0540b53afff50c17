"""Every layer of the library. Importing this package registers them with Keras."""

from keras_saliency.layers.factory import get_attention
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
from keras_saliency.layers.maxout import Maxout
from keras_saliency.layers.peers import (
    BAM,
    CBAM,
    ConcurrentSpatialChannelSE,
    RecurrentAttention,
    SqueezeExcite,
)
from keras_saliency.layers.recurrent_conv import RecurrentConv2D
from keras_saliency.layers.san import SANAttention
from keras_saliency.layers.xm2a import XM2AHeads

__all__ = [
    "BAM",
    "CBAM",
    "ConcurrentSpatialChannelSE",
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
    "Maxout",
    "RecurrentAttention",
    "RecurrentConv2D",
    "SANAttention",
    "SqueezeExcite",
    "XM2AHeads",
    "get_attention",
]
