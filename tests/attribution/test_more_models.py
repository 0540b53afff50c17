"""Maps of models that others stumble over: negative scores, equal inputs, odd masks, attention."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_saliency import saliency_map
from keras_saliency.layers import XM2AHeads


def test_rise_does_not_depend_on_a_constant_in_the_score():
    x = np.zeros((1, 8, 8, 1), "float32")
    x[0, 2:4, 5:7] = 1
    pool = layers.GlobalAveragePooling2D()
    head = layers.Dense(2)
    model = keras.Sequential([keras.Input((8, 8, 1)), pool, head])
    head.set_weights([np.array([[64.0, 32.0]]), np.array([-1000.0, -2000.0])])
    below = saliency_map(model, x, "rise", samples=200, target=0)
    head.set_weights([np.array([[64.0, 32.0]]), np.array([1000.0, 0.0])])
    above = saliency_map(model, x, "rise", samples=200, target=0)
    np.testing.assert_allclose(below, above, atol=1e-3)
    inside = x[0, ..., 0] > 0
    assert below[0][inside].min() > 3 * np.abs(below[0][~inside]).mean()


def test_attention_that_is_no_matrix_is_named():
    x = keras.Input((9, 3))
    h = XM2AHeads(2, 4, name="heads")(x)
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))
    with pytest.raises(ValueError, match=r"\['heads'\].*integrated_gradients.*plot_heads"):
        saliency_map(model, np.ones((1, 9, 3)), "attention_rollout")


def test_occlusion_of_entries_of_a_series():
    """Segments with channels: what goes at once may be one channel for some steps."""
    x = np.arange(1, 13, dtype="float32").reshape(1, 6, 2)
    model = keras.Sequential([keras.Input((6, 2)), layers.Flatten(), layers.Dense(1)])
    weights = np.linspace(-1, 2, 12).reshape(12, 1)
    model.set_weights([weights, np.zeros(1)])
    segments = np.array([[0, 1], [0, 1], [0, 1], [2, 3], [2, 3], [2, 3]])
    found = saliency_map(model, x, "occlusion", segments=segments, normalize=None)
    falls = np.array([(x[0] * weights.reshape(6, 2))[segments == k].sum() for k in range(4)])
    np.testing.assert_allclose(found[0], falls[segments].mean(axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(6,\).*with its channels, \(6, 2\)"):
        saliency_map(model, x, "occlusion", segments=np.zeros((2, 6), int))


def siamese(read):
    """One encoder for both inputs; the score counts the first twice and the second once."""
    inputs = [keras.Input((5, *read.shape), dtype=read.dtype) for _ in range(2)]
    encoder = keras.Sequential([read.layer(), layers.GlobalAveragePooling1D(), layers.Dense(1)])
    first, second = (encoder(x) for x in inputs)
    return keras.Model(inputs, layers.Concatenate()([2 * first + second, first]))


class Ids:
    shape, dtype = (), "int32"

    def layer():
        return layers.Embedding(7, 3, embeddings_initializer="normal")


class Steps:
    shape, dtype = (2,), "float32"

    def layer():
        return layers.Masking()


@pytest.mark.parametrize("read", [Ids, Steps])
def test_inputs_that_are_equal_in_the_first_row_have_maps_of_their_own(read):
    keras.utils.set_random_seed(0)
    model = siamese(read)
    a = np.random.default_rng(0).integers(1, 7, (2, 5, *read.shape)).astype(read.dtype)
    b = a.copy()
    if read is Steps:
        a[1, 3:] = 0  # masked in the first input alone
    else:
        b[1] = b[1][::-1]
    maps = saliency_map(model, [a, b], "gradient", target=0, normalize=None)
    swapped = saliency_map(model, [a[::-1], b[::-1]], "gradient", target=0, normalize=None)
    for found, expected in zip(maps, swapped, strict=True):
        np.testing.assert_allclose(found, expected[::-1], atol=1e-6)
    assert np.abs(maps[0]).max() > 1e-3
    np.testing.assert_allclose(maps[0][0], 2 * maps[1][0], rtol=1e-5)
    if read is Steps:
        np.testing.assert_array_equal(maps[0][1, 3:], 0)
        assert (maps[0][0] != 0).all() and (maps[1] != 0).all()


def test_masking_of_features_is_not_that_of_the_input():
    """`Masking` behind a layer: steps of the input are masked by what it makes of them."""
    x = keras.Input((4, 1))
    h = layers.Masking()(layers.ReLU()(x))
    model = keras.Model(x, layers.SimpleRNN(1)(h))
    keras.utils.set_random_seed(1)
    series = np.array([[[1.0], [0.0], [2.0], [1.0]]], "float32")
    gradient = saliency_map(model, series, "gradient", target=0, normalize=None)
    shifted = series.copy()
    shifted[0, 0] += 1e-2
    rise = (model.predict(shifted, verbose=0) - model.predict(series, verbose=0))[0, 0] / 1e-2
    np.testing.assert_allclose(gradient[0, 0], abs(rise), rtol=0.05)


def test_cross_attention_is_left_out_and_named():
    a, b = keras.Input((4, 3)), keras.Input((6, 3))
    h = layers.MultiHeadAttention(1, 2)(a, a)
    h = layers.MultiHeadAttention(1, 2)(h, b)
    model = keras.Model([a, b], layers.Dense(2)(layers.GlobalAveragePooling1D()(h)))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(2, n, 3)).astype("float32") for n in (4, 6)]
    with pytest.warns(UserWarning, match=r"Cross-attention .*4, 6"):
        saliency_map(model, inputs, "attention_rollout")
