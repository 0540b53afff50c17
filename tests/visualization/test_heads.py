"""Pictures of heads: the right layer is heard, and the numbers in the panels are right."""

import compat
import keras
import numpy as np
import pandas as pd
import pytest

from keras_saliency import XM2AHeads, models
from keras_saliency.visualization import pair_focus, plot_heads, plot_parameters


def small(**kwargs):
    return models.XM2A((None, 3), 2, depth=2, num_heads=2, key_dim=4, units=5, **kwargs)


def series(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def attention_panel(figure):
    return next(a.images[0] for a in figure.axes if "head (" in a.get_ylabel()).get_array()


def test_attention_panel_shows_the_scores_of_the_chosen_layer():
    model, x = small(), series(9, 3)
    features = keras.Model(model.input, model.get_layer("attention_2").input)(x[None])
    _, scores = model.get_layer("attention_2")(features, return_attention_scores=True)
    mean = compat.to_numpy(scores)[0].mean(-1)
    expected = mean * 9 / mean.sum(1, keepdims=True)
    for layer in ("attention_2", -1, 1, model.get_layer("attention_2")):
        shown = attention_panel(plot_heads(model, x, layer=layer))
        np.testing.assert_allclose(shown, expected, rtol=1e-4)


def test_plotting_leaves_the_model_as_it_was():
    model, x = small(), series(9, 3)
    before = compat.to_numpy(model(x[None]))
    plot_heads(model, x)
    assert "call" not in vars(model.get_layer("attention_1"))
    np.testing.assert_array_equal(compat.to_numpy(model(x[None])), before)


def test_padded_steps_are_dark():
    x = series(9, 3)
    x[6:] = -9
    shown = attention_panel(plot_heads(small(mask_value=-9.0), x))
    assert (shown[:, 6:] == 0).all()
    np.testing.assert_allclose(shown[:, :6].mean(1), 1, rtol=1e-5)


def test_layer_inside_a_subclassed_model_is_found():
    @keras.saving.register_keras_serializable(package="test_heads")
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.heads = XM2AHeads(2, 3)

        def call(self, x):
            return self.heads(2 * x)

    model = Mine()
    x = series(7, 3)
    model(x[None])
    np.testing.assert_allclose(
        attention_panel(plot_heads(model, x)), attention_panel(plot_heads(model.heads, 2 * x))
    )


def test_focus_is_zero_for_even_and_one_for_a_single_step():
    layer = XM2AHeads(2, 3)
    layer.build((None, 9, 1))
    for kernel in layer.head_kernels("key") + layer.head_kernels("query"):
        kernel.assign(np.zeros(kernel.shape))
    x = np.zeros((1, 9, 1), "float32")
    x[0, 4] = 9
    np.testing.assert_allclose(pair_focus(layer, x), 0, atol=1e-7)
    layer.head_kernels("query")[0].assign(100 * np.ones((1, 1, 3)))
    layer.head_kernels("key")[0].assign(np.ones((1, 1, 3)))
    focus = pair_focus(layer, x)[0]
    np.testing.assert_allclose(focus[0], [1, 0], atol=1e-6)
    np.testing.assert_allclose(focus[1], [0, 0], atol=1e-6)


def test_parameters_picture_has_a_point_and_a_label_per_model():
    frame = pd.DataFrame(
        {
            "model": ["XM2A", "MSMSA", "Transformer"],
            "parameters": [2e4, 4e4, 1e4],
            "accuracy": [0.9, 0.88, 0.85],
            "error": [0.01, 0.02, 0.01],
        }
    )
    axes = plot_parameters(frame).axes[0]
    assert {t.get_text() for t in axes.texts} == set(frame["model"])
    points = {c.lines[0].get_xydata()[0][0] for c in axes.containers}
    assert points == set(frame["parameters"])


def test_bad_input_is_named():
    model = small()
    with pytest.raises(ValueError, match=r"`series`.*Received"):
        plot_heads(model, series(2, 9, 3))
    for layer in ("attention_9", 5, keras.layers.Dense(1)):
        with pytest.raises(ValueError, match=r"`layer`.*attention_1"):
            plot_heads(model, series(9, 3), layer=layer)
    with pytest.raises(ValueError, match=r"`results`.*accuracy"):
        plot_parameters(pd.DataFrame({"model": ["a"]}))
