"""RACKNet: statistics of a data set decide racks, layers and kernels of a network."""

from keras_saliency.racknet.allocation import allocate
from keras_saliency.racknet.racknet import RACKNet
from keras_saliency.racknet.statistics import Component, DatasetStatistics, Octave, Sample

__all__ = ["Component", "DatasetStatistics", "Octave", "RACKNet", "Sample", "allocate"]
