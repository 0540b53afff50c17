"""Attention mechanisms of other authors, against NumPy written from their papers' equations."""

import itertools

import keras
import numpy as np
import pytest
from harness import Case, LayerTests, assert_close, relative_weights

from keras_saliency import (
    BAM,
    CBAM,
    ConcurrentSpatialChannelSE,
    RecurrentAttention,
    SqueezeExcite,
    get_attention,
)

SHARED = {
    "use_bias": False,
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


def relu(x):
    return np.maximum(x, 0)


def dense(x, w, name):
    return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)


def convolve(x, w, name, dilation=1):
    """Same-padded convolution, odd windows: a sum over the window's offsets, in any rank."""
    kernel = w[f"{name}/kernel"]
    window = kernel.shape[:-2]
    extents = x.shape[1:-1]
    padded = np.pad(x, [(0, 0), *((dilation * (k - 1) // 2,) * 2 for k in window), (0, 0)])
    out = np.zeros((*x.shape[:-1], kernel.shape[-1])) + w.get(f"{name}/bias", 0.0)
    for offset in itertools.product(*map(range, window)):
        start = [dilation * o for o in offset]
        part = tuple(slice(s, s + n) for s, n in zip(start, extents, strict=True))
        out += padded[(slice(None), *part)] @ kernel[offset]
    return out


def mean_over_space(x):
    return x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)


def max_over_space(x):
    return x.max(tuple(range(1, x.ndim - 1)), keepdims=True)


def result(x, scores):
    return x * scores, np.broadcast_to(scores, x.shape)


def squeeze_excite(inputs, w, **kwargs):
    (x,) = inputs
    return result(x, sigmoid(dense(relu(dense(mean_over_space(x), w, "squeeze")), w, "excite")))


def scse(inputs, w, ratio=2, aggregation="add"):
    (x,) = inputs
    channel = sigmoid(dense(relu(dense(mean_over_space(x), w, "squeeze")), w, "excite"))
    position = sigmoid(dense(x, w, "spatial"))
    output = {
        "add": x * channel + x * position,
        "max": np.maximum(x * channel, x * position),
        "multiply": x * channel * position,
    }[aggregation]
    return output, output / x


def cbam(inputs, w, ratio=16, kernel_size=7, use_bias=True):
    (x,) = inputs

    def shared(z):
        return dense(relu(dense(z, w, "squeeze")), w, "excite")

    channel = sigmoid(shared(mean_over_space(x)) + shared(max_over_space(x)))
    y = x * channel
    maps = np.concatenate([y.mean(-1, keepdims=True), y.max(-1, keepdims=True)], -1)
    spatial = sigmoid(convolve(maps, w, "spatial"))
    return y * spatial, channel * spatial


def bam(inputs, w, ratio=16, kernel_size=3, dilation_rate=4, epsilon=1e-5):
    (x,) = inputs

    def norm(z, name):
        z = (z - w[f"{name}/moving_mean"]) / np.sqrt(w[f"{name}/moving_variance"] + epsilon)
        return z * w[f"{name}/gamma"] + w[f"{name}/beta"]

    channel = dense(relu(dense(mean_over_space(x), w, "squeeze")), w, "excite")
    spatial = relu(dense(x, w, "reduce"))
    for name in ("context_1", "context_2"):
        spatial = relu(convolve(spatial, w, name, dilation_rate))
    spatial = dense(spatial, w, "project")
    mask = sigmoid(norm(channel, "channel_norm") + norm(spatial, "spatial_norm"))
    return x + x * mask, mask


def recurrent(inputs, w, ratio=1, activation="tanh"):
    (x,) = inputs
    w = {path.split("/", 2)[-1]: value for path, value in w.items()}
    state = np.zeros((len(x), w["remember/kernel"].shape[0]))
    f = {"tanh": np.tanh, "relu": relu}[activation]
    masks = []
    for t in range(x.shape[1]):
        masks.append(sigmoid(dense(state, w, "look")))
        glimpse = x[:, t] * masks[-1]
        state = f(dense(glimpse, w, "glance") + dense(state, w, "remember"))
    return result(x, np.stack(masks, 1))


def moving_statistics(layer):
    for norm in (layer.channel_norm, layer.spatial_norm):
        size = norm.moving_mean.shape[0]
        norm.moving_mean.assign(np.linspace(-0.3, 0.4, size))
        norm.moving_variance.assign(np.linspace(0.5, 1.5, size))


SEQUENCE = {"inputs": [(3, 7, 5)], "mask": True, "data_format": True, "scores": True}
IMAGE = {"inputs": [(2, 5, 7, 6)], "data_format": True, "scores": True}


class TestSqueezeExcite(LayerTests):
    layer = SqueezeExcite
    config = {"ratio": 3, "activation": "gelu", **SHARED}
    cases = [Case("sequence", {"ratio": 2}, reference=squeeze_excite, **SEQUENCE)]


class TestConcurrentSpatialChannelSE(LayerTests):
    layer = ConcurrentSpatialChannelSE
    config = {"ratio": 3, "aggregation": "max", "activation": "gelu", **SHARED}
    cases = [Case("sequence", reference=scse, **SEQUENCE)]


class TestCBAM(LayerTests):
    layer = CBAM
    config = {"ratio": 3, "kernel_size": 5, "activation": "gelu", **SHARED}
    cases = [
        Case("sequence", {"ratio": 2, "kernel_size": 3}, reference=cbam, **SEQUENCE),
        Case("image", {"ratio": 2}, reference=cbam, **IMAGE),
    ]


class TestBAM(LayerTests):
    layer = BAM
    config = {
        "ratio": 3,
        "kernel_size": 5,
        "dilation_rate": 2,
        "activation": "gelu",
        "momentum": 0.7,
        "epsilon": 1e-3,
        **SHARED,
    }
    small = {"ratio": 2, "dilation_rate": 2}
    cases = [
        Case("sequence", small, reference=bam, prepare=moving_statistics, **SEQUENCE),
        Case("image", small, reference=bam, prepare=moving_statistics, **IMAGE),
    ]


# PyTorch's tracer warns about its own intermediate tensors where Keras's RNN breaks the graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
class TestRecurrentAttention(LayerTests):
    layer = RecurrentAttention
    half = False
    config = {
        "ratio": 3,
        "activation": "relu",
        "recurrent_initializer": "he_uniform",
        "recurrent_regularizer": "l2",
        "recurrent_constraint": "max_norm",
        **SHARED,
    }
    cases = [Case("sequence", reference=recurrent, **SEQUENCE)]


@pytest.mark.parametrize(
    ("cls", "shape", "kwargs", "reference"),
    [
        (SqueezeExcite, (2, 5, 7, 6), {"ratio": 2}, squeeze_excite),
        (SqueezeExcite, (2, 3, 5, 2, 4), {"ratio": 9}, squeeze_excite),
        (ConcurrentSpatialChannelSE, (2, 5, 7, 6), {"aggregation": "max"}, scse),
        (ConcurrentSpatialChannelSE, (2, 3, 5, 2, 4), {"aggregation": "multiply"}, scse),
        (CBAM, (2, 3, 5, 2, 4), {"kernel_size": 3}, cbam),
        (CBAM, (2, 5, 7, 3), {"kernel_size": (3, 5), "use_bias": False}, cbam),
        (BAM, (2, 3, 5, 2, 4), {"dilation_rate": 2}, bam),
        (RecurrentAttention, (2, 5, 6), {"ratio": 2, "activation": "relu"}, recurrent),
    ],
)
def test_other_ranks_and_variants_match_their_reference(cls, shape, kwargs, reference):
    layer = cls(**kwargs)
    layer.build(shape)
    rng = np.random.default_rng(5)
    for v in layer.trainable_variables:
        v.assign(rng.uniform(-0.6, 0.6, size=v.shape))
    x = rng.normal(size=shape).astype("float32")
    expected = reference([x.astype("float64")], relative_weights(layer), **kwargs)
    assert_close(layer(x, return_attention_scores=True), expected, 1e-5)


PEERS = [SqueezeExcite, ConcurrentSpatialChannelSE, CBAM, BAM, RecurrentAttention]


@pytest.mark.parametrize("cls", PEERS)
def test_shared_arguments_reach_every_kernel(cls):
    layer = cls(
        ratio=2, kernel_initializer="ones", kernel_regularizer="l2", bias_constraint="max_norm"
    )
    layer.build((None, 7, 4))
    kernels = [v for v in layer.trainable_variables if v.path.endswith("/kernel")]
    kernels = [v for v in kernels if "remember" not in v.path]
    assert len(kernels) >= 2
    for v in kernels:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(v), 1.0)
        assert v.regularizer is not None
    for v in layer.trainable_variables:
        if v.path.endswith("/bias"):
            assert v.constraint is not None


@pytest.mark.parametrize("cls", PEERS)
def test_use_bias_false_leaves_no_bias(cls):
    layer = cls(use_bias=False)
    layer.build((None, 7, 4))
    assert not [v for v in layer.variables if v.path.endswith("/bias")]


@pytest.mark.parametrize("cls", PEERS)
@pytest.mark.parametrize("ratio", [0, -2, 1.5, "4", True])
def test_ratio_must_be_a_positive_integer(cls, ratio):
    with pytest.raises(ValueError, match="ratio"):
        cls(ratio=ratio)


@pytest.mark.parametrize("cls", PEERS)
def test_bad_inputs_are_named(cls):
    with pytest.raises(ValueError, match=r"rank 3 to 5|sequences"):
        cls()(np.ones((2, 5), "float32"))
    with pytest.raises(ValueError, match="number of channels"):
        cls().build((None, 7, None))
    with pytest.raises(ValueError, match="data_format"):
        cls(data_format="last")


@pytest.mark.parametrize("cls", PEERS[:-1])
def test_a_pair_of_tensors_is_refused(cls):
    with pytest.raises(ValueError, match="one feature tensor"):
        cls().build([(2, 5, 7, 3), (2, 5, 7, 4)])


def test_recurrent_attention_refuses_images():
    with pytest.raises(ValueError, match=r"sequences.*\(2, 5, 7, 3\)"):
        RecurrentAttention()(np.ones((2, 5, 7, 3), "float32"))


def test_scse_names_its_aggregations():
    with pytest.raises(ValueError, match=r"add.*max.*multiply.*'concat'"):
        ConcurrentSpatialChannelSE(aggregation="concat")


@pytest.mark.parametrize("argument", ["kernel_size", "dilation_rate"])
def test_windows_must_be_positive(argument):
    with pytest.raises(ValueError, match=argument):
        BAM(**{argument: (3, 0)})


@pytest.mark.parametrize("cls", PEERS)
def test_a_sequence_of_padding_alone_stays_finite(cls):
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    mask = np.array([[True, True, False, False, False], [False] * 5])
    for training in (False, True):
        assert np.isfinite(keras.ops.convert_to_numpy(cls()(x, mask=mask, training=training))).all()


def test_bam_moves_its_statistics_in_training_by_existing_steps_only():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 4)).astype("float32")
    mask = np.arange(7)[None] < np.array([7, 5, 3])[:, None]
    a, b = BAM(ratio=2), BAM(ratio=2)
    a.build(x.shape)
    b.build(x.shape)
    b.set_weights(a.get_weights())
    junk = np.where(mask[..., None], x, 99.0).astype("float32")
    a(x, mask=mask, training=True)
    b(junk, mask=mask, training=True)
    moved = keras.ops.convert_to_numpy(a.spatial_norm.moving_mean)
    assert np.abs(moved).max() > 0
    for u, v in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(u, v, atol=1e-5)


def test_ran_mask_of_a_step_does_not_see_the_step():
    layer = RecurrentAttention()
    x = np.random.default_rng(0).normal(size=(1, 7, 3)).astype("float32")
    changed = x.copy()
    changed[:, 4] += 1.0
    _, before = layer(x, return_attention_scores=True)
    _, after = layer(changed, return_attention_scores=True)
    difference = np.abs(keras.ops.convert_to_numpy(after - before)).max(axis=(0, 2))
    np.testing.assert_array_equal(difference[:5], 0.0)
    assert (difference[5:] > 0).all()


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("se", SqueezeExcite),
        ("scse", ConcurrentSpatialChannelSE),
        ("CBAM", CBAM),
        ("bam", BAM),
        ("ran", RecurrentAttention),
        ("SqueezeExcite", SqueezeExcite),
        ("RecurrentAttention", RecurrentAttention),
    ],
)
def test_get_attention_by_name(name, cls):
    layer = get_attention(name, ratio=5, name="mine")
    assert type(layer) is cls
    assert layer.ratio == 5 and layer.name == "mine"


def test_get_attention_refuses_unknown_names_and_arguments():
    with pytest.raises(ValueError, match=r"'sea'.*bam.*cbam.*SqueezeExcite"):
        get_attention("sea")
    with pytest.raises(TypeError, match="string"):
        get_attention(CBAM)
    with pytest.raises((TypeError, ValueError), match="kernel_sise"):
        get_attention("cbam", kernel_sise=3)
