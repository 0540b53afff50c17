"""Attention mechanisms of other authors, with one vocabulary of arguments."""

from keras_saliency.layers.peers.bam import BAM
from keras_saliency.layers.peers.cbam import CBAM
from keras_saliency.layers.peers.dstp import DSTP
from keras_saliency.layers.peers.fusatnet import FusAtNet
from keras_saliency.layers.peers.msmsa import MSMSA
from keras_saliency.layers.peers.parameter_free import ParameterFreeAttention
from keras_saliency.layers.peers.recurrent_attention import RecurrentAttention
from keras_saliency.layers.peers.scse import ConcurrentSpatialChannelSE
from keras_saliency.layers.peers.self_attention import SelfAttention
from keras_saliency.layers.peers.squeeze_excite import SqueezeExcite
from keras_saliency.layers.peers.transformer import TransformerBlock

__all__ = [
    "BAM",
    "CBAM",
    "DSTP",
    "MSMSA",
    "ConcurrentSpatialChannelSE",
    "FusAtNet",
    "ParameterFreeAttention",
    "RecurrentAttention",
    "SelfAttention",
    "SqueezeExcite",
    "TransformerBlock",
]
