"""Maps of models of other makes: several inputs, shared layers, tables, KerasHub's transformers."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_saliency import saliency_map


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1, *shape)).astype("float32") for shape in ((8, 8, 2), (12, 3))]


def drawn(model):
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    return model


def two_branches():
    """An image and a series, whose means meet in a linear head."""
    a, b = keras.Input((8, 8, 2), name="a"), keras.Input((12, 3), name="b")
    f = layers.Conv2D(4, 3, activation="relu", name="of_a")(a)
    g = layers.Conv1D(5, 3, activation="relu", name="of_b")(b)
    means = layers.GlobalAveragePooling2D()(f), layers.GlobalAveragePooling1D()(g)
    head = layers.Dense(3, name="head")
    model = drawn(keras.Model([a, b], head(layers.Concatenate()(means)), name="two"))
    kernel, bias = head.get_weights()
    head.set_weights([np.abs(kernel), bias])  # so that every feature speaks for every class
    return model


def alone(model, data, i):
    """The model of one of the two inputs; what the other adds to the scores is in the bias."""
    feature = model.get_layer("of_b" if i else "of_a").output
    pool = layers.GlobalAveragePooling1D if i else layers.GlobalAveragePooling2D
    head = layers.Dense(3)
    single = keras.Model(model.inputs[i], head(pool()(feature)))
    kernel, bias = model.get_layer("head").get_weights()
    own = kernel[4:] if i else kernel[:4]
    head.set_weights([own, bias])
    difference = model.predict(data, verbose=0) - single.predict(data[i], verbose=0)
    head.set_weights([own, bias + difference[0]])
    return single


@pytest.mark.parametrize(
    "method, options",
    [
        ("cam", {}),
        ("grad_cam", {}),
        ("layer_cam", {}),
        ("eigen_cam", {}),
        ("score_cam", {}),
        ("occlusion", {"window": 2}),
        ("rise", {"samples": 20, "cells": 3}),
    ],
)
def test_each_of_several_inputs_has_the_map_that_it_has_alone(data, method, options):
    model = two_branches()
    options = {"target": 1, "normalize": None, **options}
    found = saliency_map(model, data, method, **options)
    for i in range(2):
        expected = saliency_map(alone(model, data, i), data[i], method, **options)
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found[i], expected, atol=1e-4 * np.abs(expected).max())


def test_a_named_layer_is_that_of_the_inputs_it_depends_on(data):
    model = two_branches()
    both = saliency_map(model, data, target=1, layer=["of_a", "of_b"])
    first, none = saliency_map(model, data, target=1, layer="of_a")
    assert none is None
    np.testing.assert_array_equal(first, both[0])
    np.testing.assert_array_equal(saliency_map(model, data, target=1)[1], both[1])
    with pytest.raises(ValueError, match=r"no such layer.*of_a"):
        saliency_map(model, data, layer="head")


@pytest.mark.filterwarnings("ignore:.*speaks for")
def test_a_layer_that_is_used_twice_has_a_map_for_each_input(data):
    a, b = keras.Input((8, 8, 2)), keras.Input((8, 8, 2))
    x = keras.Input((8, 8, 2))
    encoder = keras.Model(x, layers.Conv2D(4, 3, activation="relu", name="seen")(x), name="encoder")
    pool = layers.GlobalAveragePooling2D()
    apart = layers.Subtract()([pool(encoder(a)), pool(encoder(b))])
    model = drawn(keras.Model([a, b], layers.Dense(1, activation="sigmoid", name="head")(apart)))
    images = [data[0], data[0][:, ::-1].copy()]
    found = saliency_map(model, images, "grad_cam", normalize=None, resize=False)
    weights = model.get_layer("head").get_weights()[0][:, 0] / 36
    for sign, image, values in zip((1, -1), images, found, strict=True):
        features = encoder.predict(image, verbose=0)
        expected = np.maximum((sign * weights * features).sum(axis=-1), 0)
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_a_table_beside_an_image_has_no_map_of_a_layer(data):
    a, b = keras.Input((8, 8, 2)), keras.Input((3,))
    h = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(a))
    model = drawn(keras.Model([a, b], layers.Dense(2, name="head")(layers.Concatenate()([h, b]))))
    table = np.array([[1.0, -2.0, 3.0]], "float32")
    assert saliency_map(model, [data[0], table], "eigen_cam")[1] is None
    falls = saliency_map(model, [data[0], table], "occlusion", target=1, normalize=None)[1]
    kernel = model.get_layer("head").get_weights()[0]
    np.testing.assert_allclose(falls, table * kernel[4:, 1], atol=1e-5)


def test_a_model_of_tables_alone_says_what_would_do():
    a, b = keras.Input((3,)), keras.Input((2,))
    model = keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([a, b])))
    with pytest.raises(ValueError, match="integrated_gradients"):
        saliency_map(model, [np.ones((2, 3)), np.ones((2, 2))])


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_bert_of_keras_hub():
    models = pytest.importorskip("keras_hub").models
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 12, "intermediate_dim": 20}
    backbone = models.BertBackbone(vocabulary_size=31, max_sequence_length=8, **sizes)
    model = models.BertTextClassifier(backbone=backbone, num_classes=3, preprocessor=None)
    ids = np.random.default_rng(0).integers(1, 31, (2, 7)).astype("int32")
    mask = np.ones_like(ids)
    ids[0, -2:] = mask[0, -2:] = 0
    data = {"token_ids": ids, "padding_mask": mask, "segment_ids": np.zeros_like(ids)}
    for method in ("attention_rollout", "eigen_cam", "occlusion"):
        found = saliency_map(model, data, method)
        assert found["padding_mask"] is None
        assert found["token_ids"].shape == (2, 7)
        assert found["token_ids"].any(axis=1).all()
    rollout = saliency_map(model, data, "attention_rollout", token=0, normalize=None)["token_ids"]
    np.testing.assert_allclose(rollout[0, -2:], 0, atol=1e-6)  # what is padded is not looked at
    np.testing.assert_allclose(rollout.sum(axis=1), 1, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_vit_of_keras_hub():
    models = pytest.importorskip("keras_hub").models
    sizes = {"patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 20}
    backbone = models.ViTBackbone(image_shape=(16, 16, 3), **sizes)
    model = models.ViTImageClassifier(backbone=backbone, num_classes=3, preprocessor=None)
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    for method in ("attention_rollout", "eigen_cam"):
        found = saliency_map(model, images, method, resize=False)
        assert found.shape == (2, 4, 4)
        assert np.isfinite(found).all()
