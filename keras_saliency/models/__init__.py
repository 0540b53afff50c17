"""Reference networks, and attention for models that exist already."""

from keras_saliency.models.attach import AttentionReport, add_attention
from keras_saliency.models.lenet import LeNet5
from keras_saliency.models.lstm import LSTM4
from keras_saliency.models.ms_roi import MSROI
from keras_saliency.models.residual_attention import ResidualAttentionNetwork
from keras_saliency.models.residual_lstm import ResidualLSTM, beam_search
from keras_saliency.models.resnet import ResNet18, ResNet50
from keras_saliency.models.sdma import SDMA
from keras_saliency.models.series import DeepNet, WideNet
from keras_saliency.models.shifts import freeze_shifts
from keras_saliency.models.vgg import VGG16, VGG19
from keras_saliency.models.xm2a import XM2A

__all__ = [
    "LSTM4",
    "MSROI",
    "SDMA",
    "VGG16",
    "VGG19",
    "XM2A",
    "AttentionReport",
    "DeepNet",
    "LeNet5",
    "ResNet18",
    "ResNet50",
    "ResidualAttentionNetwork",
    "ResidualLSTM",
    "WideNet",
    "add_attention",
    "beam_search",
    "freeze_shifts",
]
