"""Every layer of the library. Importing this package registers them with Keras."""

from keras_saliency.layers.factory import get_attention
from keras_saliency.layers.peers import (
    BAM,
    CBAM,
    ConcurrentSpatialChannelSE,
    RecurrentAttention,
    SqueezeExcite,
)
from keras_saliency.layers.san import SANAttention

__all__ = [
    "BAM",
    "CBAM",
    "ConcurrentSpatialChannelSE",
    "RecurrentAttention",
    "SANAttention",
    "SqueezeExcite",
    "get_attention",
]
