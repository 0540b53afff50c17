"""Judges of maps, on a model whose answer is known."""

import keras
import numpy as np
import pytest
import scipy.integrate
from keras import layers

from keras_saliency import attribution

# The first class is the sum of the first two positions, the second that of the last two.
KERNEL = np.array([[4, 0], [4, 0], [0, 0], [0, 0], [0, 4], [0, 4]], "float32")


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential(
        [keras.Input((6, 1)), layers.Flatten(), layers.Dense(2, activation="softmax")]
    )
    model.set_weights([KERNEL, np.zeros(2)])
    return model


X = np.array([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]], "float32")[..., None]


def test_deletion_and_insertion_are_areas(model):
    good = attribution.saliency_map(model, X, "gradient_x_input")
    frame = attribution.deletion_insertion(model, X, good, steps=6)
    p = 1 / (1 + np.exp(-4.0 * np.array([2, 1, 0, 0, 0, 0, 0])))
    np.testing.assert_allclose(frame["deletion"], scipy.integrate.trapezoid(p, dx=1 / 6), rtol=1e-5)
    p = 1 / (1 + np.exp(-4.0 * np.array([0, 1, 2, 2, 2, 2, 2])))
    np.testing.assert_allclose(
        frame["insertion"], scipy.integrate.trapezoid(p, dx=1 / 6), rtol=1e-5
    )
    bad = attribution.deletion_insertion(model, X, -good, steps=6)
    assert (bad["deletion"] > frame["deletion"]).all()
    assert (bad["insertion"] < frame["insertion"]).all()
    for fill in ("mean", "blur"):
        assert attribution.deletion_insertion(model, X, good, fill=fill).shape == (2, 2)


def test_average_drop(model):
    p = 1 / (1 + np.exp(-8.0))
    nothing = attribution.average_drop(model, X, np.zeros((2, 6)))
    np.testing.assert_allclose(nothing["drop"], (p - 0.5) / p, rtol=1e-5)
    assert not nothing["increase"].any()
    found = attribution.average_drop(model, X, np.zeros((2, 6)), target=[1, 0])
    assert found["increase"].all() and (found["drop"] == 0).all()


def test_pointing_game():
    maps = np.zeros((3, 5, 5))
    maps[0, 1, 1] = maps[0, 4, 4] = 1  # the first of two equals counts
    maps[1, 4, 4], maps[1, 0, 0] = 3, 1
    frame = attribution.pointing_game(maps, [[(0, 0, 2, 2)], [(0, 0, 4, 4)], [(0, 0, 5, 5)]])
    assert frame["hit"].tolist() == [True, False, False]
    np.testing.assert_allclose(frame["share"], [0.5, 0.25, 0])


def test_maps_of_the_model_change_with_its_weights_and_noise_does_not(model):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.Conv2D(4, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )
    before = net.get_weights()
    frame = attribution.randomization_check(net, images, "gradient", reduce="sum")
    assert frame["layer"].tolist() == ["head", "second", "first"]
    assert abs(frame["similarity"].iloc[-1]) < 0.5
    noise = attribution.randomization_check(net, images, "random")
    np.testing.assert_allclose(noise["similarity"], 1)
    for a, b in zip(before, net.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_logit_is_read_alike_at_every_step():
    # The whole input's logit is 0.4, the empty one's -0.4: read by batch, one would be a share.
    logits = keras.Sequential([keras.Input((2, 1)), layers.Flatten(), layers.Dense(1)])
    logits.set_weights([np.array([[0.2], [0.6]]), np.array([-0.4])])
    x = np.ones((1, 2, 1), "float32")
    maps = np.array([[0.0, 1.0]])
    frame = attribution.deletion_insertion(logits, x, maps, steps=2)
    p = 1 / (1 + np.exp(-np.array([0.4, -0.2, -0.4])))
    np.testing.assert_allclose(frame["deletion"], scipy.integrate.trapezoid(p, dx=0.5), rtol=1e-5)

    class Own(keras.Model):  # whose end cannot be seen: the clean inputs tell, once
        def call(self, x):
            return logits(x)

    own = Own()
    own(np.ones((1, 2, 1), "float32"))
    x = np.stack([x[0], -4 * x[0]])
    frame = attribution.deletion_insertion(own, x, np.repeat(maps, 2, axis=0), steps=2)
    np.testing.assert_allclose(
        frame["deletion"][0], scipy.integrate.trapezoid(p, dx=0.5), rtol=1e-5
    )


def test_labels_that_do_not_compete_are_probabilities_as_they_are():
    several = keras.Sequential(
        [keras.Input((6, 1)), layers.Flatten(), layers.Dense(2, activation="sigmoid")]
    )
    several.set_weights([KERNEL, np.array([-3.0, -1.0])])
    frame = attribution.average_drop(several, X[:1], np.full((1, 6), 0.5))
    whole, seen = 1 / (1 + np.exp(-(8 - 3.0))), 1 / (1 + np.exp(-(4 - 3.0)))
    np.testing.assert_allclose(frame["drop"], (whole - seen) / whole, rtol=1e-5)


def test_what_cannot_be_judged(model):
    with pytest.raises(ValueError, match="`maps` must have the shape"):
        attribution.deletion_insertion(model, X, np.zeros((2, 5)))
    with pytest.raises(ValueError, match="`maps`"):
        attribution.deletion_insertion(model, X, np.full((2, 6), np.nan))
    with pytest.raises(ValueError, match="`fill`"):
        attribution.deletion_insertion(model, X, np.zeros((2, 6)), fill="grey")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        attribution.average_drop(model, X, np.full((2, 6), 2.0))
    with pytest.raises(ValueError, match="one list per map"):
        attribution.pointing_game(np.zeros((2, 4, 4)), [[]])
    with pytest.raises(ValueError, match="top, left"):
        attribution.pointing_game(np.zeros((1, 4, 4)), [[(3, 0, 1, 2)]])
