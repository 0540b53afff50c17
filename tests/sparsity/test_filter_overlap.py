"""The overlap of filters, against NumPy."""

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

import keras_saliency
from keras_saliency.sparsity import filter_overlap
from keras_saliency.visualization import plot_filter_overlap


def model():
    return keras.Sequential(
        [
            keras.Input((7, 7, 2)),
            layers.Conv2D(5, 3, name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2DTranspose(3, 2, name="up"),
            layers.Flatten(),
            layers.Dense(4, name="head"),
        ]
    )


def reference(rows):
    found = []
    for i, a in enumerate(rows):
        cosines = [
            abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b) or 1)
            for j, b in enumerate(rows)
            if j != i
        ]
        found.append(sum(cosines) / len(rows))
    return found


def test_it_is_the_mean_cosine_to_the_others():
    net = model()
    frame = filter_overlap(net)
    assert list(frame.columns) == ["layer", "filter", "overlap"]
    assert list(dict.fromkeys(frame["layer"])) == ["conv", "up", "head"]
    axes = {"conv": (3, 0, 1, 2), "up": (2, 0, 1, 3), "head": (1, 0)}
    for name, order in axes.items():
        rows = net.get_layer(name).get_weights()[0].astype("float64").transpose(order)
        part = frame[frame["layer"] == name]
        assert list(part["filter"]) == list(range(len(rows)))
        expected = reference(rows.reshape(len(rows), -1))
        np.testing.assert_allclose(part["overlap"], expected, atol=1e-12)


def test_zero_filters_overlap_with_none_and_orthogonal_ones_neither():
    net = keras.Sequential([keras.Input((4,)), layers.Dense(4, use_bias=False)])
    net.set_weights([np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0.0]])])
    half = 0.5**0.5 / 4
    np.testing.assert_allclose(filter_overlap(net)["overlap"], [half, half, 0, 0], atol=1e-7)


def test_masked_models_count_what_is_in_use():
    net = model()
    options = {"method": "magnitude", "layers": ["conv"], "scope": "layer"}
    sparse = keras_saliency.sparsify(net, 0.5, **options)
    masked = keras_saliency.sparsify(net, 0.5, masked=True, **options)
    found = [filter_overlap(m, "conv")["overlap"] for m in (sparse, masked)]
    np.testing.assert_allclose(*found)
    assert not np.allclose(found[0], filter_overlap(net, "conv")["overlap"])


def test_what_has_no_filters_is_refused():
    with pytest.raises(ValueError, match="has filters to compare"):
        filter_overlap(model(), layers="depthwise")
    net = model()
    net.get_layer("conv").kernel.assign(np.full((3, 3, 2, 5), np.nan))
    with pytest.raises(ValueError, match="'conv' are not finite"):
        filter_overlap(net)


def test_the_picture_has_a_column_per_layer():
    import matplotlib.pyplot as plt

    frame = filter_overlap(model())
    (axis,) = plot_filter_overlap(frame).axes
    assert [t.get_text() for t in axis.get_xticklabels()] == ["conv", "up", "head"]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), frame["overlap"][:5])
    assert axis.lines[1].get_ydata()[0] == pytest.approx(frame["overlap"][:5].mean())
    with pytest.raises(ValueError, match="columns `layer` and `overlap`"):
        plot_filter_overlap(pd.DataFrame({"layer": []}))
    plt.close("all")
