"""Batch normalization inside other layers."""

import keras
from keras import ops


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras squeezes the masked moments of a single channel to scalars, which JAX refuses."""

    def _moments(self, inputs, mask):
        return [ops.reshape(moment, (-1,)) for moment in super()._moments(inputs, mask)]
