"""plot_attention draws what the layers compute, and leaves the model as it was."""

import keras
import numpy as np
import pytest
from compat import to_numpy
from keras import layers

from keras_saliency import CBAM, SANAttention
from keras_saliency.visualization import plot_attention

IMAGE = np.random.default_rng(0).random((12, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [
            keras.Input((12, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            SANAttention(name="first"),
            layers.MaxPooling2D(),
            layers.Conv2D(5, 3, padding="same"),
            CBAM(ratio=2, name="second"),
            layers.GlobalAveragePooling2D(),
        ]
    )


def panels(figure, shape):
    """The images of this shape that the figure shows, in the order of drawing."""
    shown = [np.asarray(i.get_array()) for axes in figure.axes for i in axes.images]
    return [array for array in shown if array.shape == shape]


def titles(figure):
    return [a.get_title() or a.get_title("left") for a in figure.axes]


def test_panels_show_the_stages_of_the_layer(model, tmp_path):
    figure = plot_attention(model, IMAGE, layers="first", channels=[2])
    y = model.layers[0](IMAGE[None])
    attention = model.get_layer("first")
    expected = {k: to_numpy(v)[0, ..., 2] for k, v in attention.stages([y, IMAGE[None]]).items()}
    y = to_numpy(y)[0, ..., 2]
    wanted = [
        IMAGE.mean(-1),
        y,
        *(expected[name] for name in ("difference", "extrema", "smoothed", "mask")),
        y * expected["mask"],
    ]
    shown = panels(figure, (12, 8))
    for image in wanted:
        assert any(np.allclose(image, other, atol=1e-5) for other in shown)
    attended = to_numpy(attention([model.layers[0](IMAGE[None]), IMAGE[None]]))[0, ..., 2]
    np.testing.assert_allclose(y * expected["mask"], attended, atol=1e-6)
    assert {"difference", "soft extrema", "smoothed", "mask", "first"} <= set(titles(figure))
    figure.savefig(tmp_path / "attention.png")
    assert (tmp_path / "attention.png").stat().st_size > 5000


def test_all_layers_are_drawn_and_the_model_is_untouched(model):
    before = to_numpy(model(IMAGE[None]))
    figure = plot_attention(model, IMAGE[None])
    assert [t for t in titles(figure) if t in ("first", "second")] == ["first", "second"]
    # Three channels each; the columns that only SAN has stay empty for CBAM.
    assert len(panels(figure, (6, 4))) == 3 * 3 + 1
    assert all("call" not in vars(layer) for layer in model.layers)
    np.testing.assert_array_equal(to_numpy(model(IMAGE[None])), before)


def test_switched_off_stages_have_no_column():
    convolution = layers.Conv2D(4, 3, padding="same")
    attention = SANAttention(extrema=False, smoothing=None)
    model = keras.Sequential([keras.Input((12, 8, 3)), convolution, attention])
    found = titles(plot_attention(model, IMAGE))
    assert "difference" in found and "soft extrema" not in found and "smoothed" not in found


def test_series_in_a_nested_model():
    block = keras.Sequential(
        [keras.Input((None, 3)), layers.LSTM(5, return_sequences=True), SANAttention()]
    )
    series = keras.Input((None, 3))
    model = keras.Model(series, layers.GlobalMaxPooling1D()(block(series)))
    figure = plot_attention(model, np.random.default_rng(0).normal(size=(9, 3)), channels=2)
    drawn = [line for axes in figure.axes for line in axes.lines if len(line.get_ydata()) == 9]
    assert len(drawn) >= 2 * 6 + 1


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv3D(3, 3, padding="same")
        self.attention = SANAttention(smoothing="depthwise")

    def call(self, x):
        return self.attention([self.convolution(x), x])


def test_middle_slice_of_a_volume_in_a_subclassed_model():
    model = Subclassed()
    model(np.zeros((1, 3, 6, 5, 1), "float32"))
    figure = plot_attention(model, np.random.default_rng(0).random((1, 3, 6, 5, 1)), channels=1)
    assert len(panels(figure, (6, 5))) >= 7


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"layers": "third"}, ["third", "first", "second"]),
        ({"layers": ["first", "conv2d"]}, ["conv2d"]),
        ({"channels": 0}, ["channels", "0"]),
        ({"channels": [4]}, ["channels", "3", "[4]"]),
        ({"image": np.zeros((2, 12, 8, 3))}, ["image", "(2, 12, 8, 3)"]),
        ({"image": np.zeros((12, 8))}, ["image", "(12, 8)"]),
    ],
)
def test_bad_arguments_are_named(model, kwargs, words):
    arguments = {"image": IMAGE, "layers": "first", **kwargs}
    with pytest.raises(ValueError) as error:
        plot_attention(model, **arguments)
    for word in words:
        assert word in str(error.value)


def test_model_without_attention():
    plain = keras.Sequential([keras.Input((12, 8, 3)), layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="no attention layer"):
        plot_attention(plain, IMAGE)
    with pytest.raises(TypeError, match="`model` must be"):
        plot_attention(layers.Dense(2), IMAGE)
