"""Operations are counted once, and rightly, for the report, `count_operations` and `shrink_to`."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_saliency.layers import MSMSA, RecurrentConv2D, SaliencySeries, SANAttention, XM2AHeads
from keras_saliency.sparsity import count_operations, shrink_to, sparsify, sparsity_report
from keras_saliency.sparsity.shrinking.cost import operations
from keras_saliency.sparsity.shrinking.groups import ChannelGroups


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def attending(layer):
    x = keras.Input((6, 8))
    return keras.Model(x, layer(x, x))


class Mixer(layers.Layer):
    """A layer of one's own, with a product that merges batch and time."""

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], 4), name="w")

    def call(self, x):
        flat = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), self.w)
        return ops.reshape(flat, (-1, x.shape[1], 4))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(3)
        self.second = layers.Dense(2)

    def call(self, x):
        return self.second(ops.relu(self.first(x)))


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 5), "float32"))
    return model


def san():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, padding="same")(x)
    return keras.Model(x, SANAttention(kernel_size=3)([y, x]))


# What a layer multiplies for one sample, kernel by kernel, and the products of two tensors.
COUNTED = {
    "recurrent": (
        lambda: sequential(
            (5, 4), layers.Bidirectional(layers.LSTM(3, return_sequences=True)), layers.GRU(2)
        ),
        [5 * 4 * 12, 5 * 3 * 12, 5 * 4 * 12, 5 * 3 * 12, 5 * 6 * 6, 5 * 2 * 6],
        0,
    ),
    "cells": (
        lambda: sequential((5, 4), layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)])),
        [5 * 4 * 12, 5 * 3 * 12, 5 * 3 * 2, 5 * 2 * 2],
        0,
    ),
    "recurrent convolution": (
        lambda: sequential((4, 6, 7, 2), layers.ConvLSTM2D(3, 3)),
        [4 * 4 * 5 * 9 * 2 * 12, 4 * 4 * 5 * 9 * 3 * 12],
        0,
    ),
    "attention": (
        lambda: attending(layers.MultiHeadAttention(2, 4)),
        [6 * 8 * 8] * 4,
        6 * 6 * 2 * (4 + 4),
    ),
    "grouped queries": (
        lambda: attending(layers.GroupQueryAttention(4, 4, 2)),
        [6 * 8 * 16, 6 * 8 * 8, 6 * 8 * 8, 6 * 16 * 8],
        6 * 6 * 4 * (4 + 4),
    ),
    "dot product": (lambda: attending(lambda x, y: layers.Attention()([x, y])), [], 2 * 6 * 6 * 8),
    "convolutions": (
        lambda: sequential(
            (9, 9, 4),
            layers.Conv2D(6, 3, strides=2, groups=2),
            layers.SeparableConv2D(4, 2),
            layers.DepthwiseConv2D(2, depth_multiplier=2),
            layers.Conv2DTranspose(2, 3, strides=2),
        ),
        [16 * 9 * 2 * 6, 9 * 4 * 6, 9 * 6 * 4, 4 * 4 * 8, 4 * 9 * 8 * 2],
        0,
    ),
    "shared": (
        lambda: sequential(
            (4, 6),
            layers.TimeDistributed(layers.Dense(3)),
            layers.EinsumDense("abc,cd->abd", (4, 5)),
        ),
        [4 * 6 * 3, 4 * 3 * 5],
        0,
    ),
    "table": (lambda: sequential((4,), layers.Embedding(7, 3), layers.Dense(2)), [0, 4 * 3 * 2], 0),
    "subclassed": (subclassed, [5 * 3, 3 * 2], 0),
    "scale space": (san, [64 * 9 * 3 * 4, 64 * 9 * 4 * 4], 0),
    "recurrent steps": (
        lambda: sequential((5, 6, 2), RecurrentConv2D(4, 3, steps=3)),
        [30 * 9 * 2 * 4, 3 * 30 * 9 * 4 * 4],
        0,
    ),
    "salient events": (
        lambda: sequential((6, 3), SaliencySeries(), layers.LSTM(2)),
        [6 * 3 * 8, 6 * 2 * 8],
        0,
    ),
    "talking heads": (
        lambda: sequential((6, 3), XM2AHeads(num_heads=2, key_dim=4, output_dim=5)),
        None,
        0,
    ),
    "heads of windows": (
        lambda: sequential((6, 3), MSMSA(num_heads=2, key_dim=4, output_dim=5)),
        None,
        2 * 6 * 6 * 8,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_every_product_is_counted_once(name):
    make, kernels, products = COUNTED[name]
    model = make()
    report = sparsity_report(model)
    flops = report["flops"].tolist() if len(report) else []
    if kernels is not None:
        assert flops == [2 * count for count in kernels]
    assert count_operations(model) == sum(flops) + 2 * products > 0


def test_layers_of_ones_own_are_opened():
    assert count_operations(sequential((6, 8), Mixer())) == 2 * 6 * 8 * 4


def test_a_fixed_batch_counts_as_one_sample():
    x = keras.Input(batch_shape=(5, 6, 8))
    assert count_operations(keras.Model(x, layers.Dense(3)(x))) == 2 * 6 * 8 * 3


def test_masks_do_not_change_the_count():
    model = COUNTED["attention"][0]()
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32")
    masked = sparsify(model, 0.5, data=x, masked=True, method="magnitude", verbose=False)
    assert count_operations(masked) == count_operations(model)
    report = sparsity_report(masked)
    assert 0 < report["kept"].sum() < report["size"].sum()
    kept = report["kept"] / report["size"]
    np.testing.assert_allclose(report["flops_sparse"], report["flops"] * kept)


@pytest.mark.parametrize(
    "name", ["recurrent", "attention", "grouped queries", "convolutions", "shared", "table"]
)
def test_what_channels_cost_adds_up_to_the_count(name):
    model = COUNTED[name][0]()
    groups = ChannelGroups(model)
    everything = np.ones(groups.count, bool)
    assert operations(groups, everything, groups.every_call) == count_operations(model)


def test_layers_that_stay_count_for_the_budget():
    x = keras.Input((6, 8))
    y = layers.GroupQueryAttention(4, 4, 2, name="stays")(x, x)
    y = layers.Dense(64, activation="relu", name="wide")(y)
    model = keras.Model(x, layers.Dense(8, name="head")(y))
    small = shrink_to(model, flops=0.7, method="magnitude", round_to=1, verbose=False)
    share = count_operations(small) / count_operations(model)
    assert 0.65 < share <= 0.7
