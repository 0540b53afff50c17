"""Methods without a peer that computes the same, beside a reference in NumPy and SciPy alone."""

import keras
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
from keras import layers

from keras_saliency import saliency_map


def drawn(model):
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def enlarged(x, factor):
    return scipy.ndimage.zoom(x, factor, order=1, mode="nearest", grid_mode=True)


@pytest.fixture(scope="module")
def model():
    model = drawn(
        keras.Sequential(
            [
                keras.Input((10, 8, 2)),
                layers.Conv2D(5, 3, 2, padding="same", activation="relu", name="features"),
                layers.Flatten(),
                layers.Dense(7, activation="tanh"),
                layers.Dense(3),
            ]
        )
    )
    kernel, bias = model.get_layer("features").get_weights()
    kernel[..., 3], bias[3] = 0, 0.5  # a channel without range
    model.get_layer("features").set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(2, 10, 8, 2)).astype("float32")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [None, 2])
def test_score_cam(model, images, channels):
    features = keras.Model(model.inputs, model.get_layer("features").output)
    expected = np.zeros((2, 5, 4))
    for i, (x, f) in enumerate(zip(images, features.predict(images, verbose=0), strict=True)):
        empty = model.predict(np.zeros_like(x)[None], verbose=0)[0, 1]
        for k in np.argsort(-f.var(axis=(0, 1)))[:channels]:
            span = np.ptp(f[..., k])
            if span == 0:
                continue
            through = enlarged((f[..., k] - f[..., k].min()) / span, 2)
            score = model.predict((x * through[..., None])[None], verbose=0)[0, 1]
            expected[i] += (score - empty) * f[..., k]
    assert (expected < 0).any() and (expected > 0).any()
    found = saliency_map(
        model, images, "score_cam", target=1, channels=channels, normalize=None, resize=False
    )
    close(found, np.maximum(expected, 0))


def test_rise(model, images):
    samples, cells, keep = 40, 2, 0.4
    generator = np.random.default_rng(3)
    masks = []
    for _ in range(samples):
        coarse = generator.uniform(size=(1, cells + 1, cells + 1))[0] < keep
        wide = enlarged(coarse.astype("float64"), (5, 4))
        a, b = generator.integers(5), generator.integers(4)
        masks.append(wide[a : a + 10, b : b + 8])
    masks = np.stack(masks)
    expected = []
    for x in images:
        scores = model.predict(x * masks[..., None], verbose=0)[:, 2].astype("float64")
        weights = (scores - scores.mean()) / (samples * keep)
        expected.append(np.einsum("n,nhw->hw", weights, masks))
    options = {"samples": samples, "cells": cells, "keep": keep, "seed": 3}
    found = saliency_map(model, images, "rise", target=2, normalize=None, **options)
    close(found, np.stack(expected))


class Transformer:
    """Two residual attentions, the mean over tokens, a dense layer: in Keras and in NumPy."""

    def __init__(self, heads=2, width=6, tokens=5):
        x = h = keras.Input((tokens, width))
        for i in range(2):
            h = h + layers.MultiHeadAttention(heads, 3, name=f"attention_{i}")(h, h)
        pooled = layers.GlobalAveragePooling1D()(h)
        self.model = drawn(keras.Model(x, layers.Dense(4, name="head")(pooled)))

    def scores(self, x, target, given=None):
        """The score and the attention of every layer; `given` replaces one of them."""
        h, seen = x.astype("float64"), []
        for i in range(2):
            query, a, key, b, value, c, out, d = (
                w.astype("float64") for w in self.model.get_layer(f"attention_{i}").get_weights()
            )
            q, k, v = (
                np.einsum("tc,chk->htk", h, kernel) + bias[:, None]
                for kernel, bias in ((query, a), (key, b), (value, c))
            )
            attention = scipy.special.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(3), axis=-1)
            if given is not None and given[0] == i:
                attention = given[1]
            seen.append(attention)
            h = h + np.einsum("hts,hsk,hkc->tc", attention, v, out) + d
        kernel, bias = self.model.get_layer("head").get_weights()
        return (h.mean(axis=0) @ kernel + bias)[target], seen

    def gradient(self, x, target, layer, attention, step=1e-5):
        """The derivative of the score by one layer's attention, by central differences."""
        found = np.zeros_like(attention)
        for place in np.ndindex(attention.shape):
            ends = []
            for sign in (1, -1):
                moved = attention.copy()
                moved[place] += sign * step
                ends.append(self.scores(x, target, (layer, moved))[0])
            found[place] = (ends[0] - ends[1]) / (2 * step)
        return found


@pytest.mark.parametrize("token", [None, 1])
def test_attention_relevance(token):
    network = Transformer()
    inputs = np.random.default_rng(2).normal(size=(2, 5, 6)).astype("float32")
    expected = []
    for x in inputs:
        _, seen = network.scores(x, 3)
        relevance = np.eye(5)
        for i, attention in enumerate(seen):
            weighted = attention * network.gradient(x, 3, i, attention)
            relevance = relevance + np.maximum(weighted, 0).mean(axis=0) @ relevance
        expected.append(relevance.mean(axis=0) if token is None else relevance[token])
    found = saliency_map(
        network.model, inputs, "attention_relevance", target=3, token=token, normalize=None
    )
    close(found, np.stack(expected))
