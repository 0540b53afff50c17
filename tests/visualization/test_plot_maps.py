"""Overlays and grids of saliency maps."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_saliency
from keras_saliency import visualization


def test_an_overlay_shows_the_map_where_it_is_high_and_the_image_elsewhere():
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype("uint8")
    map = np.zeros((12, 10))
    map[3, 4] = 2.0
    picture = visualization.overlay(image, map, alpha=1)
    assert picture.dtype == np.uint8 and picture.shape == (12, 10, 3)
    changed = (picture.astype(int) != image).any(axis=-1)
    assert changed[3, 4] and changed.sum() == 1
    np.testing.assert_array_equal(visualization.overlay(image, np.zeros((3, 2))), image)
    np.testing.assert_array_equal(visualization.overlay(image / 255, map, alpha=0), image)
    grey = visualization.overlay(np.linspace(-3, 3, 16).reshape(4, 4), np.zeros((4, 4)))
    assert grey.min() == 0 and grey.max() == 255 and (grey[..., 0] == grey[..., 2]).all()
    with pytest.raises(ValueError, match="`map`"):
        visualization.overlay(image, np.full((3, 3), np.nan))


def test_a_grid_of_images_says_what_was_predicted():
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(3, 3, activation="relu", name="conv2d"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    x = np.random.default_rng(0).uniform(size=(2, 12, 12, 1))
    figure = visualization.plot_saliency_maps(
        model, x, methods=("layer_cam", "gradient"), class_names=["cat", "dog"]
    )
    titles = [a.get_title() for a in figure.axes]
    best = model.predict(x, verbose=0).argmax(axis=1)
    assert titles[0].startswith(["cat", "dog"][best[0]]) and titles[0].endswith("%")
    assert titles[1:3] == ["layer cam", "gradient"]
    figure = visualization.plot_saliency_maps(
        model, x, ["grad_cam", "occlusion"], layer="conv2d", window=12, fill=0.5
    )
    covered = keras_saliency.saliency_map(model, x, "occlusion", window=12, fill=0.5)
    drawn = figure.axes[2].images[0].get_array()
    np.testing.assert_array_equal(drawn, visualization.overlay(x[0], covered[0], alpha=0.75))
    twice = visualization.plot_saliency_maps(model, x, ["gradient", "gradient"])
    assert [a.get_title() for a in twice.axes][1:3] == ["gradient", "gradient"]
    with pytest.raises(ValueError, match="takes 'steps'"):
        visualization.plot_saliency_maps(model, x, ["grad_cam", "occlusion"], steps=3)
    with pytest.raises(ValueError, match="`class_names` must hold 2"):
        visualization.plot_saliency_maps(model, x, "gradient", class_names=["cat"])


def test_series_and_words():
    series = keras.Sequential([keras.Input((9, 2)), layers.LSTM(3), layers.Dense(1)])
    figure = visualization.plot_saliency_maps(series, np.ones((2, 9, 2)), "gradient")
    assert len(figure.axes) == 3 and figure.axes[0].get_title().startswith("output")
    words = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(9, 3)])
    words.add(layers.LSTM(3))
    words.add(layers.Dense(2))
    tokens = [["what", "a", "good", "day"]]
    figure = visualization.plot_saliency_maps(
        words, np.ones((1, 4), int), "gradient", tokens=tokens
    )
    assert [t.get_text().split("\n")[0] for t in figure.axes[0].texts] == tokens[0]
    with pytest.raises(ValueError, match="`tokens`"):
        visualization.plot_saliency_maps(words, np.ones((1, 4), int), "gradient", tokens=[["a"]])
