import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_saliency import DatasetStatistics, RACKNet
from keras_saliency.visualization import (
    plot_design,
    plot_entropies,
    plot_keypoints,
    plot_statistics,
)


@pytest.fixture(scope="module")
def stats():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return RACKNet.analyze(load_digits().images[:150] / 16, verbose=0, n_jobs=1)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_the_bars_of_the_entropies_are_the_keypoints(stats):
    figure = plot_entropies(stats)
    assert len(figure.axes) == len(stats.racks)
    for axis, octave in zip(figure.axes, stats.racks, strict=True):
        assert sum(bar.get_height() for bar in axis.patches) == octave.keypoints
        assert len(axis.lines) == len(octave.components)
        colours = {bar.get_facecolor() for bar in axis.patches if bar.get_height()}
        assert len(colours) == len(octave.components)


def test_a_circle_per_keypoint(stats):
    figure = plot_keypoints(stats)
    assert len(figure.axes) == 4
    for axis, sample in zip(figure.axes, stats.samples, strict=True):
        assert len(axis.patches) == len(sample.keypoints)
        np.testing.assert_array_equal(axis.images[0].get_array(), sample.to_array())


def test_a_bar_per_layer():
    figure = plot_design([[3, 5], [2, 2, 4]], budget=40)
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == [10, 6, 9, 9, 6]
    assert [t.get_text() for t in axis.get_xticklabels()] == ["1.1", "1.2", "2.1", "2.2", "2.3"]


def test_everything_in_one_picture(stats, tmp_path):
    figure = stats.plot(budget=50)
    assert len(figure.axes) == len(stats.racks) + 4 + 1
    figure.savefig(tmp_path / "all.png")
    plain = plot_statistics(DatasetStatistics.from_counts([[1, 2]], (9, 9, 1)), budget=9)
    assert len(plain.axes) == 1


def test_pictures_fit_into_given_axes(stats):
    _, ax = plt.subplots()
    assert plot_design(stats, 50, ax=ax) is ax.figure
    with pytest.raises(ValueError, match="`ax` must be 4 axes"):
        plot_keypoints(stats, ax=ax)


def test_what_cannot_be_drawn_is_said():
    plain = DatasetStatistics.from_counts([[1, 2]], (9, 9, 1))
    with pytest.raises(ValueError, match="entropy histograms"):
        plot_entropies(plain)
    with pytest.raises(ValueError, match="sample images"):
        plot_keypoints(plain)
    with pytest.raises(TypeError, match="`statistics` must be"):
        plot_entropies([[1, 2]])
