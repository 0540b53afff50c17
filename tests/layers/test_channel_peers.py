"""ECA, SimAM and coordinate attention, against NumPy written from their papers' equations."""

import compat
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import CoordinateAttention, EfficientChannelAttention, SimAM, get_attention

SHARED = {
    "data_format": "channels_first",
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "kernel_constraint": "max_norm",
    "bias_constraint": "non_neg",
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def result(x, scores):
    return x * scores, np.broadcast_to(scores, x.shape)


def space(x):
    return tuple(range(1, x.ndim - 1))


def eca(inputs, w, kernel_size=None, use_bias=False):
    (x,) = inputs
    kernel = w["conv/kernel"][:, 0, 0]
    mean = x.mean(space(x))
    reach = len(kernel) // 2
    padded = np.pad(mean, [(0, 0), (reach, reach)])
    windows = np.stack([padded[:, i : i + len(kernel)] for i in range(mean.shape[1])], 1)
    scores = sigmoid(windows @ kernel + w.get("conv/bias", 0.0))
    return result(x, scores.reshape(len(x), *[1] * (x.ndim - 2), -1))


def simam(inputs, w, epsilon=1e-4):
    (x,) = inputs
    mean = x.mean(space(x), keepdims=True)
    variance = x.var(space(x), keepdims=True, ddof=1)
    return result(x, sigmoid((x - mean) ** 2 / (4 * (variance + epsilon)) + 0.5))


def coordinate(inputs, w, ratio=32, epsilon=1e-5):
    (x,) = inputs
    scores = 1.0
    for i, axis in enumerate(space(x)):
        profile = x.mean(tuple(a for a in space(x) if a != axis), keepdims=True)
        hidden = profile @ w["squeeze/kernel"] + w["squeeze/bias"]
        hidden = (hidden - w["norm/moving_mean"]) / np.sqrt(w["norm/moving_variance"] + epsilon)
        hidden = hidden * w["norm/gamma"] + w["norm/beta"]
        hidden = hidden * np.clip(hidden + 3, 0, 6) / 6
        scores = scores * sigmoid(hidden @ w[f"excite_{i}/kernel"] + w[f"excite_{i}/bias"])
    return result(x, scores)


def moving_statistics(layer):
    size = layer.norm.moving_mean.shape[0]
    layer.norm.moving_mean.assign(np.linspace(-0.3, 0.4, size))
    layer.norm.moving_variance.assign(np.linspace(0.5, 1.5, size))


SEQUENCE = {"inputs": [(3, 7, 5)], "mask": True, "data_format": True, "scores": True}
IMAGE = {"inputs": [(2, 5, 7, 6)], "data_format": True, "scores": True}


class TestEfficientChannelAttention(LayerTests):
    layer = EfficientChannelAttention
    config = {"kernel_size": 3, "use_bias": True, **SHARED}
    cases = [
        Case("sequence", {"use_bias": True}, reference=eca, **SEQUENCE),
        Case("image", {"kernel_size": 5}, reference=eca, **IMAGE),
    ]


class TestSimAM(LayerTests):
    layer = SimAM
    config = {"epsilon": 1e-3, "data_format": "channels_first"}
    cases = [
        Case("sequence", reference=simam, **SEQUENCE),
        Case("image", {"epsilon": 1e-2}, reference=simam, **IMAGE),
    ]
    # The energy is taken in single precision.
    wide_tolerance = 1e-5


class TestCoordinateAttention(LayerTests):
    layer = CoordinateAttention
    config = {
        "ratio": 3,
        "activation": "gelu",
        "momentum": 0.7,
        "epsilon": 1e-3,
        "use_bias": False,
        **SHARED,
    }
    cases = [
        Case("sequence", reference=coordinate, prepare=moving_statistics, **SEQUENCE),
        Case("image", reference=coordinate, prepare=moving_statistics, **IMAGE),
    ]
    # Keras normalizes in float32.
    wide_tolerance = 1e-5


@pytest.mark.parametrize(("channels", "size"), [(1, 1), (16, 3), (64, 3), (256, 5), (512, 5)])
def test_the_kernel_of_eca_grows_with_the_channels_as_in_the_paper(channels, size):
    layer = EfficientChannelAttention()
    layer.build((None, 4, channels))
    assert tuple(layer.conv.kernel.shape) == (size, 1, 1)


def test_volumes_match_their_references():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 5, 6)).astype("float32")
    for cls, reference in ((EfficientChannelAttention, eca), (SimAM, simam)):
        layer = cls()
        layer.build(x.shape)
        w = {v.path.split("/", 1)[1]: compat.to_numpy(v.value) for v in layer.variables}
        expected = reference([x.astype("float64")], w)[0]
        np.testing.assert_allclose(compat.to_numpy(layer(x)), expected, atol=1e-5)
    assert CoordinateAttention()(x).shape == x.shape


def test_masked_rows_do_not_count_in_the_columns_profile():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, 3)).astype("float32")
    padded = np.pad(x, [(0, 0), (0, 3), (0, 0), (0, 0)], constant_values=30)
    mask = np.arange(7)[None].repeat(2, 0) < 4
    layer = CoordinateAttention()
    alone = compat.to_numpy(layer(x))
    found = compat.to_numpy(layer(padded, mask=mask))[:, :4]
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
    for training in (False, True):
        nothing = layer(padded, mask=mask & False, training=training)
        assert np.isfinite(compat.to_numpy(nothing)).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="odd"):
        EfficientChannelAttention(4)
    with pytest.raises(TypeError, match="use_bias"):
        SimAM(use_bias=True)
    with pytest.raises(ValueError, match="epsilon"):
        SimAM(0)
    with pytest.raises(ValueError, match="ratio"):
        CoordinateAttention(ratio=0)


@pytest.mark.parametrize(
    ("name", "cls"),
    [("eca", EfficientChannelAttention), ("simam", SimAM), ("coordinate", CoordinateAttention)],
)
def test_the_factory_knows_them(name, cls):
    assert type(get_attention(name)) is cls
