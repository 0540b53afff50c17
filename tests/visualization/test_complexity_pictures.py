"""The separation index from layer to layer, drawn."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from keras_saliency.visualization import plot_layer_separation


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def frame(*values):
    rows = {"layer": ["conv", "block/conv", "head"], "index": values}
    return pd.DataFrame(rows)


def test_a_line_a_frame_with_the_best_layer_filled():
    figure = plot_layer_separation({"before": frame(0.5, 0.25, 0.5), "after": frame(0.5, 1, 0.75)})
    (axis,) = figure.axes
    line, best = axis.lines[2:]
    assert list(line.get_xdata()) == [0.5, 1, 0.75]
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([1], [1])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["conv", "block/conv", "head"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first layer at the top
    assert [t.get_text() for t in axis.get_legend().get_texts()] == [
        "before, at most 0.500",
        "after, at most 1.000",
    ]
    assert not axis.texts  # the numbers could lie on each other
    alone = plot_layer_separation(frame(0.5, 1, 0.75)).axes[0]
    assert [t.get_text() for t in alone.texts] == ["1.000"]


def test_projected_layers_are_marked():
    one = frame(0.5, 0.25, 1)
    one.attrs["projected"] = {"conv": 5000}
    _, ax = plt.subplots()
    assert plot_layer_separation(one, ax=ax) is ax.figure
    assert [label.get_text() for label in ax.get_yticklabels()] == ["conv *", "block/conv", "head"]
    assert "projected" in ax.get_xlabel()
    assert ax.get_legend() is None


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="`frame` must be what `layer_separation` returns"):
        plot_layer_separation([0.5])
    with pytest.raises(ValueError, match="the columns `layer` and `index`"):
        plot_layer_separation(frame(1, 1, 1).drop(columns="index"))
    with pytest.raises(ValueError, match="same layers: 'b' differs"):
        plot_layer_separation({"a": frame(1, 1, 1), "b": frame(1, 1, 1)[:2]})
    with pytest.raises(ValueError, match="empty dict"):
        plot_layer_separation({})
