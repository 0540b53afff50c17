import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keras_saliency import SaliencySeries
from keras_saliency.scale_space import temporal_events
from keras_saliency.visualization import plot_saliency, plot_scale_space


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def walk():
    return np.random.default_rng(0).normal(size=(2, 67, 3)).cumsum(axis=1).astype("float32")


def test_series_events_and_saliency_are_drawn():
    import keras

    x = walk()
    events = temporal_events(x)
    figure = plot_saliency(x, events, sample=1, variates=[2, 0], names=["a", "b", "c"])
    *rows, below = figure.axes
    assert [axis.get_ylabel() for axis in rows] == ["c", "a"]
    for axis, v in zip(rows, (2, 0), strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), x[1, :, v])
        mine = events[(events.batch == 1) & (events.variate == v)]
        drawn = axis.collections[0].get_offsets()
        np.testing.assert_allclose(drawn[:, 0], mine.time)
    saliency = keras.ops.convert_to_numpy(SaliencySeries()(x))
    for line, v in zip(below.lines, (2, 0), strict=False):
        np.testing.assert_allclose(line.get_ydata(), saliency[1, :, v], atol=1e-3)


def test_events_are_found_where_none_are_given(tmp_path):
    x = walk()
    figure = plot_saliency(x, octaves=2)
    assert len(figure.axes) == 4
    figure.savefig(tmp_path / "saliency.png")
    assert (tmp_path / "saliency.png").stat().st_size > 5000


def test_scalogram_marks_every_event():
    x = walk()
    figure = plot_scale_space(x, sample=1, variate=2, octaves=4)
    events = temporal_events(x[1, :, 2], octaves=4)
    marks = [c.get_offsets() for c in figure.axes[1].collections[1:]]
    assert sum(map(len, marks)) == len(events)
    np.testing.assert_allclose(
        np.sort(np.concatenate(marks)[:, 1]), np.sort(events.sigma), rtol=1e-6
    )


def test_a_constant_series_can_be_drawn():
    plot_saliency(np.ones(50))
    plot_scale_space(np.ones(50))


def test_bad_input():
    x = walk()
    with pytest.raises(ValueError, match="sample"):
        plot_saliency(x, sample=2)
    with pytest.raises(ValueError, match="variates"):
        plot_saliency(x, variates=[3])
    with pytest.raises(ValueError, match="variate"):
        plot_scale_space(x, variate=-1)
    with pytest.raises(ValueError, match="series"):
        plot_saliency(np.ones((1, 2, 3, 4)))
    with pytest.raises(ValueError, match="saliency"):
        plot_saliency(x, saliency=x[:, :5])
    with pytest.raises(ValueError, match="events"):
        plot_saliency(x, temporal_events(x).drop(columns="sigma"))
    with pytest.raises(ValueError, match="octaves"):
        plot_saliency(x, temporal_events(x), octaves=2)
