"""Channels and heads that are masked while a model is trained, and removed when it is."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_saliency
from keras_saliency import iSparseCallback, shrink, sparsify

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(32, 9, 9, 2)).astype("float32")
SERIES = RNG.normal(size=(32, 5, 8)).astype("float32")
LABELS = RNG.integers(0, 3, 32)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def convolutional(masked=False):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((9, 9, 2)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(6, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="relu"),
            layers.Dense(3),
        ]
    )
    if masked:
        model = sparsify(model, 0.0, method="magnitude", masked=True)
    model.compile("adam", LOSS)
    return model


def fit(model, x, **options):
    callback = iSparseCallback(0.5, x, **options)
    history = model.fit(x, LABELS, epochs=4, batch_size=16, verbose=0, callbacks=[callback])
    return history.history["sparsity"]


@pytest.mark.parametrize("masked", [False, True])
def test_half_of_the_channels_go_and_shrink_removes_them(masked):
    model = convolutional(masked)
    sparsity = fit(model, IMAGES, granularity="channel")
    assert sparsity[0] == 0 and sparsity[-1] == 0.5
    small = shrink(model, verbose=False)
    assert [small.layers[i].kernel.shape for i in (0, 2, 4, 5)] == [
        (3, 3, 2, 4),
        (3, 3, 4, 3),
        (75, 5),
        (5, 3),
    ]
    one, other = (m.predict(IMAGES, verbose=0) for m in (model, small))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_half_of_the_heads_go_and_shrink_removes_them():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5, 8))
    h = layers.MultiHeadAttention(4, 3)(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(h)))
    model.compile("adam", LOSS)
    assert fit(model, SERIES, granularity="head")[-1] == 0.5
    small = shrink(model, verbose=False)
    assert small.layers[1].num_heads == 2
    one, other = (m.predict(SERIES, verbose=0) for m in (model, small))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_channel_of_every_layer_stays(scope):
    model = convolutional()
    sparse = sparsify(
        model, 0.95, method="magnitude", granularity="channel", scope=scope, reconstruct=False
    )
    small = shrink(sparse, verbose=False)
    assert [small.layers[i].kernel.shape[-1] for i in (0, 2, 4)] == [1, 1, 1]
    report = keras_saliency.sparsity_report(sparse)
    assert report["zeros"].tolist()[:3] == [7 * 18, 5 * 72, 9 * 150]


def test_a_head_stays():
    inputs = keras.Input((5, 8))
    h = layers.MultiHeadAttention(4, 3, name="mha")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(h)))
    for scope in ("layer", "global"):
        options = {"method": "magnitude", "granularity": "head", "scope": scope}
        sparse = sparsify(model, 0.95, reconstruct=False, **options)
        assert shrink(sparse, verbose=False).layers[1].num_heads == 1
