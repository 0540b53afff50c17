"""Maps where scores are negative, and of attention that is no matrix of tokens."""

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
