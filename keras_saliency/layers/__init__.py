"""Every layer of the library. Importing this package registers them with Keras."""

from keras_saliency.layers.factory import get_attention
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

__all__ = [
    "BAM",
    "CBAM",
    "ConcurrentSpatialChannelSE",
    "Maxout",
    "RecurrentAttention",
    "RecurrentConv2D",
    "SANAttention",
    "SqueezeExcite",
    "get_attention",
]
