"""What an edge or a channel is worth: one class for each method, and how to add one's own."""

from keras_saliency.sparsity.criteria.activations import (
    Activation,
    ActivationDensity,
    APoZ,
    HRank,
    MajorityVote,
)
from keras_saliency.sparsity.criteria.bn_scale import BNScale
from keras_saliency.sparsity.criteria.criterion import (
    ChannelCriterion,
    Criterion,
    register,
)
from keras_saliency.sparsity.criteria.discriminant import Discriminant
from keras_saliency.sparsity.criteria.fpgm import FPGM
from keras_saliency.sparsity.criteria.isparse import ISparse
from keras_saliency.sparsity.criteria.lamp import LAMP
from keras_saliency.sparsity.criteria.magnitude import Lottery, Magnitude
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel
from keras_saliency.sparsity.criteria.obs import OBS
from keras_saliency.sparsity.criteria.oracle import Oracle
from keras_saliency.sparsity.criteria.orthogonality import Orthogonality
from keras_saliency.sparsity.criteria.random import Random
from keras_saliency.sparsity.criteria.synflow import SynFlow
from keras_saliency.sparsity.criteria.taylor import SNIP, Taylor
from keras_saliency.sparsity.criteria.wanda import Wanda

__all__ = [
    "FPGM",
    "LAMP",
    "OBS",
    "SNIP",
    "APoZ",
    "Activation",
    "ActivationDensity",
    "BNScale",
    "ChannelCriterion",
    "Criterion",
    "Discriminant",
    "HRank",
    "ISparse",
    "Lottery",
    "Magnitude",
    "MajorityVote",
    "MeasuredKernel",
    "Oracle",
    "Orthogonality",
    "Random",
    "SynFlow",
    "Taylor",
    "Wanda",
    "register",
]
