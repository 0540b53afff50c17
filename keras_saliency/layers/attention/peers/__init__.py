"""Attention mechanisms of other authors, with one vocabulary of arguments."""

from keras_saliency.layers.attention.peers.bam import BAM
from keras_saliency.layers.attention.peers.cbam import CBAM
from keras_saliency.layers.attention.peers.coordinate import CoordinateAttention
from keras_saliency.layers.attention.peers.dstp import DSTP
from keras_saliency.layers.attention.peers.efficient_channel import EfficientChannelAttention
from keras_saliency.layers.attention.peers.fusatnet import FusAtNet
from keras_saliency.layers.attention.peers.msmsa import MSMSA
from keras_saliency.layers.attention.peers.parameter_free import ParameterFreeAttention
from keras_saliency.layers.attention.peers.recurrent_attention import RecurrentAttention
from keras_saliency.layers.attention.peers.scse import ConcurrentSpatialChannelSE
from keras_saliency.layers.attention.peers.self_attention import SelfAttention
from keras_saliency.layers.attention.peers.simam import SimAM
from keras_saliency.layers.attention.peers.squeeze_excite import SqueezeExcite
from keras_saliency.layers.attention.peers.transformer import TransformerBlock

__all__ = [
    "BAM",
    "CBAM",
    "DSTP",
    "MSMSA",
    "ConcurrentSpatialChannelSE",
    "CoordinateAttention",
    "EfficientChannelAttention",
    "FusAtNet",
    "ParameterFreeAttention",
    "RecurrentAttention",
    "SelfAttention",
    "SimAM",
    "SqueezeExcite",
    "TransformerBlock",
]
