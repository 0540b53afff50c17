"""The reference networks of G 5.5.2."""

import keras
import numpy as np
import pytest

from keras_saliency.models import LSTM4, VGG16, VGG19, LeNet5, ResNet18, ResNet50


def without_weights(make, *args, **kwargs):
    """Return a model whose weights have shapes and no values."""
    with keras.StatelessScope(initialize_variables=False):
        return make(*args, **kwargs)


def shapes(model):
    return [(v.path, tuple(v.shape)) for v in model.variables]


def test_lenet5_has_the_parameters_of_the_original():
    model = LeNet5()
    assert model.count_params() == 61706
    assert model.get_layer("pool2").output.shape == (None, 5, 5, 16)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (VGG16, keras.applications.VGG16),
        (VGG19, keras.applications.VGG19),
        (ResNet50, keras.applications.ResNet50),
    ],
)
def test_weights_of_keras_applications_fit(ours, theirs):
    a, b = without_weights(ours), without_weights(theirs, weights=None)
    assert shapes(a) == shapes(b)
    assert a.output_shape == b.output_shape


def test_resnet18_is_that_of_the_paper():
    model = without_weights(ResNet18, (64, 64, 3), 1000)
    # 11.69 million as reported everywhere, and biases before each normalization, as in Keras.
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert len(convolutions) == 17 + 3
    biases = sum(x.filters for x in convolutions)
    trainable = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert trainable - biases == 11_689_512


def test_lstm4_is_that_of_the_paper():
    model = without_weights(LSTM4, (11, 5), 3)
    lstms = [x for x in model.layers if isinstance(x, keras.layers.LSTM)]
    assert [x.units for x in lstms] == [64] * 4
    assert [x.name for x in model.layers] == [
        "series", "lstm1", "lstm2", "pool1", "lstm3", "lstm4", "pool2", "predictions",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape", "placement", "places"),
    [
        (LeNet5, (12, 12, 1), "bottleneck", ["conv1", "conv2"]),
        (LeNet5, (12, 12, 1), "full", ["conv1", "conv2"]),
        (VGG16, (32, 32, 3), "bottleneck", [f"block{i}_conv{2 + (i > 2)}" for i in range(1, 6)]),
        (
            ResNet18,
            (16, 16, 3),
            "bottleneck",
            [f"conv{i}_block2_2_conv" for i in range(2, 6)],
        ),
        (LSTM4, (7, 3), "bottleneck", ["lstm2", "lstm4"]),
        (LSTM4, (7, 3), "full", ["lstm1", "lstm2", "lstm3", "lstm4"]),
    ],
)
def test_attention_stands_where_the_chapter_has_it(make, shape, placement, places):
    options = {"width_multiplier": 0.05}
    model = make(shape, 4, attention="san", placement=placement, **options)
    placed = model.attention_report.placed
    # Features of one position, after many poolings of small images, have no extrema.
    expected = [p for p in places if model.get_layer(p).output.shape[1] > 1]
    assert [p.layer for p in placed] == expected
    assert not any(x.failed for x in model.attention_report.left_out)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    y = keras.ops.convert_to_numpy(model(x))
    assert y.shape == (2, 4)
    np.testing.assert_allclose(y.sum(1), 1.0, rtol=1e-5)


def test_full_resnet18_attends_every_convolution_but_shortcuts():
    model = ResNet18((32, 32, 3), 4, attention="se", placement="full", width_multiplier=0.05)
    assert len(model.attention_report.placed) == 17


@pytest.mark.parametrize("make", [LeNet5, VGG16, ResNet18])
def test_without_a_top(make):
    options = {"include_top": False, "width_multiplier": 0.05, "attention": "se"}
    maps = make((32, 32, 1), **options)
    assert len(maps.output_shape) == 4
    vectors = make((32, 32, 1), pooling="max", **options)
    assert vectors.output_shape == (None, maps.output_shape[-1])


def test_lstm4_forecasts():
    model = LSTM4((None, 3), 5, classifier_activation="linear", units=4)
    assert model.get_layer("predictions").activation is keras.activations.linear
    assert LSTM4((None, 3), 5, include_top=False, units=4).output_shape == (None, 4)


def test_extents_may_be_unknown():
    model = ResNet18((None, None, 3), 4, attention="se", width_multiplier=0.05)
    assert model.get_layer("conv1_conv").strides == (2, 2)
    for n in (64, 80):
        assert model(np.zeros((1, n, n, 3), "float32")).shape == (1, 4)


def test_stem_fits_the_size():
    assert ResNet18((32, 32, 3), width_multiplier=0.05).get_layer("conv1_conv").strides == (1, 1)
    big = ResNet18((32, 32, 3), width_multiplier=0.05, stem="imagenet")
    assert big.get_layer("conv1_conv").kernel_size == (7, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LeNet5((8, 8, 1)), "at least 12"),
        (lambda: LeNet5((28, 28)), "height, width, channels"),
        (lambda: VGG16((31, 32, 3)), "at least 32"),
        (lambda: VGG16((32, 32, 3), width_multiplier=0), "width_multiplier"),
        (lambda: ResNet18((32, 32, 3), stem="big"), "'big'"),
        (lambda: ResNet18((32, 32, 3), include_top=False, pooling="sum"), "'sum'"),
        (lambda: LSTM4((1, 3), 2), "at least 2 steps"),
        (lambda: LSTM4((5, 3, 1), 2), "steps, variates"),
        (lambda: LeNet5(attention="sen"), "Valid names"),
        (lambda: LeNet5(attention="san", placement="top"), "placement"),
        (lambda: LeNet5(attention_kwargs={"ratio": 2}), "need an `attention`"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
