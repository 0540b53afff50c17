"""Every layer of the library. Importing this package registers them with Keras."""

from keras_saliency.layers.factory import get_attention
from keras_saliency.layers.peers import (
    BAM,
    CBAM,
    ConcurrentSpatialChannelSE,
    RecurrentAttention,
    SqueezeExcite,
)

__all__ = [
    "BAM",
    "CBAM",
    "ConcurrentSpatialChannelSE",
    "RecurrentAttention",
    "SqueezeExcite",
    "get_attention",
]
