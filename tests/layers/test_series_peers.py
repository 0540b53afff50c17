"""The peers of XM2A on series: MSMSA, parameter-free self-attention, a Transformer block."""

import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import MSMSA, ParameterFreeAttention, TransformerBlock, get_attention


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dot_product(q, k, v, scale):
    """For one head: (batch, time, size) each."""
    weights = softmax(scale * q @ k.transpose(0, 2, 1))
    return weights @ v, weights


def convolve(x, kernel):
    left = (kernel.shape[0] - 1) // 2
    padded = np.pad(x, [(0, 0), (left, kernel.shape[0] - 1 - left), (0, 0)])
    return sum(padded[:, j : j + x.shape[1]] @ tap for j, tap in enumerate(kernel))


def msmsa(inputs, weights, num_heads, key_dim, use_bias=True, **_):
    (x,) = inputs
    outputs, scores = [], []
    for h in range(1, num_heads + 1):
        part = slice((h - 1) * key_dim, h * key_dim)
        q, k, v = (
            convolve(x, weights[f"{role}_kernel_{h}"])
            + (weights[f"{role}_bias"][part] if use_bias else 0)
            for role in ("query", "key", "value")
        )
        assert weights[f"query_kernel_{h}"].shape[0] == 2 * h - 1
        y, w = dot_product(q, k, v, key_dim**-0.5)
        outputs.append(y)
        scores.append(w)
    y = np.concatenate(outputs, -1) @ weights["output_kernel"]
    return y + (weights["output_bias"] if use_bias else 0), np.stack(scores, 1)


def self_attention(inputs, weights, scale=False):
    (x,) = inputs
    return dot_product(x, x, x, x.shape[-1] ** -0.5 if scale else 1.0)


def transformer(inputs, weights, num_heads, key_dim, epsilon=1e-6, **_):
    (x,) = inputs
    w = {k.removeprefix("attention/"): v for k, v in weights.items()}
    q, k, v = (
        np.einsum("btv,vhd->bhtd", x, w[f"{r}/kernel"]) + w[f"{r}/bias"][:, None]
        for r in ("query", "key", "value")
    )
    scores = softmax(np.einsum("bhqd,bhkd->bhqk", q, k) / np.sqrt(key_dim))
    heads = np.einsum("bhqk,bhkd->bqhd", scores, v)
    attended = np.einsum("bqhd,hdv->bqv", heads, w["attention_output/kernel"])
    attended += w["attention_output/bias"]

    def norm(x, i):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return x * w[f"norm_{i}/gamma"] + w[f"norm_{i}/beta"]

    y = norm(x + attended, 1)
    hidden = np.maximum(y @ w["expand/kernel"] + w["expand/bias"], 0)
    return norm(y + hidden @ w["contract/kernel"] + w["contract/bias"], 2), scores


WEIGHTS = {
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": keras.regularizers.L2(0.1),
    "bias_regularizer": keras.regularizers.L1(0.2),
    "kernel_constraint": keras.constraints.MaxNorm(2.0),
    "bias_constraint": keras.constraints.NonNeg(),
}


def case(name, reference, no_gradient=(), **kwargs):
    return Case(
        name,
        kwargs=kwargs,
        inputs=[(3, 11, 5)],
        reference=reference,
        scores=True,
        mask=True,
        no_gradient=no_gradient,
        tolerance=2e-5,
    )


# TorchDynamo warns that it cannot look into Keras's choice of a fused kernel.
fused = pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")


@fused
class TestMSMSA(LayerTests):
    layer = MSMSA
    config = dict(
        num_heads=3,
        key_dim=5,
        output_dim=4,
        dropout=0.25,
        use_bias=False,
        activity_regularizer=keras.regularizers.L2(0.3),
        **WEIGHTS,
    )
    # A softmax does not see the bias of its keys.
    cases = (
        case("biased", msmsa, no_gradient=("key_bias",), num_heads=3, key_dim=7),
        case("plain", msmsa, num_heads=2, key_dim=3, output_dim=4, use_bias=False),
    )

    def test_parameters_are_those_of_table_7_1(self):
        layer = MSMSA(8, 16, use_bias=False)
        layer.build((None, 20, 11))
        windows = sum(2 * h - 1 for h in range(1, 9))
        assert layer.count_params() == 3 * windows * 11 * 16 + 8 * 16 * 11


@fused
class TestSelfAttention(LayerTests):
    layer = ParameterFreeAttention
    config = {"scale": True}
    cases = (case("plain", self_attention), case("scaled", self_attention, scale=True))


@fused
class TestTransformerBlock(LayerTests):
    layer = TransformerBlock
    wide_tolerance = 1e-6  # of Keras's attention
    config = dict(
        num_heads=3, key_dim=5, ff_dim=7, dropout=0.25, activation="gelu", epsilon=1e-3, **WEIGHTS
    )
    cases = (
        case("block", transformer, no_gradient=("attention/key/bias",), num_heads=2, key_dim=3),
        case(
            "narrow",
            transformer,
            no_gradient=("attention/key/bias",),
            num_heads=1,
            key_dim=3,
            ff_dim=7,
        ),
    )


@pytest.mark.parametrize("name", ["xm2a", "msmsa", "parameter-free", "transformer"])
def test_peers_have_names_and_refuse_images(name):
    layer = get_attention(name)
    with pytest.raises(ValueError, match=r"\(batch, time, variates\).*Received"):
        layer(np.zeros((2, 5, 5, 3), "float32"))


@pytest.mark.parametrize("name", ["msmsa", "parameter-free", "transformer"])
def test_everything_masked_is_finite(name):
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    mask = np.array([[False] * 5, [True] * 5])
    y, scores = get_attention(name)(x, mask=mask, return_attention_scores=True)
    assert np.isfinite(compat.to_numpy(y)).all()
    assert np.isfinite(compat.to_numpy(scores)).all()


@pytest.mark.parametrize("layer", [MSMSA, TransformerBlock])
def test_dropout_acts_in_training_only(layer):
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    layer = layer(2, 3, dropout=0.5)
    calm, noisy = (compat.to_numpy(layer(x, training=t)) for t in (False, True))
    assert not np.allclose(calm, noisy)
    np.testing.assert_array_equal(calm, compat.to_numpy(layer(x)))


@pytest.mark.parametrize("layer", [MSMSA, TransformerBlock])
@pytest.mark.parametrize("argument", ["num_heads", "key_dim"])
def test_bad_sizes_are_named(layer, argument):
    with pytest.raises(ValueError, match=f"`{argument}`.*Received"):
        layer(**{argument: 0})
