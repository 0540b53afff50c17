"""Pictures of sparse models show what is in them."""

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from keras import layers

import keras_saliency
from keras_saliency.visualization.sparsity import (
    plot_accuracy,
    plot_masks,
    plot_sensitivity,
    plot_weights,
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def models():
    model = keras.Sequential(
        [keras.Input((7, 7, 2)), layers.Conv2D(5, 3, name="conv"), layers.Dense(3, name="dense")]
    )
    return {
        m: keras_saliency.sparsify(model, 0.5, method=m, scope="layer", masked=True)
        for m in ("magnitude", "random")
    }


def test_mask_matrices_are_inputs_by_outputs_and_show_the_differences():
    both = models()
    figure = plot_masks(both, "conv", reference="magnitude")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["magnitude\n50% masked", "random\n50% masked"]
    shown = [np.asarray(axis.images[0].get_array()) for axis in panels]
    assert shown[0].shape == (18, 5, 3)
    keep = {
        name: keras.ops.convert_to_numpy(model.layers[0].mask).reshape(18, 5)
        for name, model in both.items()
    }
    np.testing.assert_array_equal(shown[0][..., 0] > 0.5, keep["magnitude"])
    colored = shown[1].max(-1) - shown[1].min(-1) > 0.1
    np.testing.assert_array_equal(colored, keep["magnitude"] != keep["random"])
    with pytest.raises(ValueError, match="other"):
        plot_masks(both, "other")
    with pytest.raises(ValueError, match="reference"):
        plot_masks(both, "conv", reference="lottery")


def test_accuracy_has_a_line_per_method_through_the_means():
    frame = pd.DataFrame(
        {
            "method": ["a", "a", "a", "b", None],
            "sparsity": [0.5, 0.5, 0.1, 0.5, 0.0],
            "accuracy": [0.8, 0.6, 0.9, 0.5, 0.95],
        }
    )
    axis = plot_accuracy(frame).axes[0]
    first, second, dense = axis.lines
    np.testing.assert_allclose(first.get_xydata(), [[10, 0.9], [50, 0.7]])
    np.testing.assert_allclose(second.get_xydata(), [[50, 0.5]])
    assert set(dense.get_ydata()) == {0.95}


def test_weights_count_kept_and_masked_edges():
    axis = plot_weights(models()["magnitude"], bins=11).axes[0]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["kept (52)", "masked (53)"]


def test_sensitivity_has_a_line_per_layer():
    frame = pd.DataFrame(
        {
            "layer": ["a", "a", "b", "b"],
            "sparsity": [0.0, 0.5, 0.0, 0.5],
            "size": [10, 10, 20, 20],
            "loss": [1.0, 2.0, 1.0, 5.0],
        }
    )
    axis = plot_sensitivity(frame).axes[0]
    assert [line.get_label() for line in axis.lines] == ["a (10)", "b (20)"]
    np.testing.assert_allclose(axis.lines[1].get_ydata(), [1, 5])
    with pytest.raises(ValueError, match="accuracy"):
        plot_sensitivity(frame, "accuracy")
