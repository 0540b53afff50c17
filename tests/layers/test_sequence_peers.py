"""SelfAttention, DSTP and FusAtNet against NumPy written from their equations."""

import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import DSTP, FusAtNet, SDMACrossAttention, SelfAttention, get_attention

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


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dense(x, w, name):
    return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)


def self_attention(inputs, w, ratio=1, gate_activation="sigmoid"):
    (x,) = inputs
    pairs = np.tanh(dense(x, w, "query")[:, :, None] + dense(x, w, "key")[:, None])
    energies = dense(pairs, w, "energy")[..., 0]
    scores = softmax(sigmoid(energies) if gate_activation == "sigmoid" else energies)
    return np.einsum("btu,buc->btc", scores, x), scores


class TestSelfAttention(LayerTests):
    layer = SelfAttention
    config = {"ratio": 2, "activation": "relu", "gate_activation": "linear", **SHARED}
    cases = [
        # The softmax does not see a constant: without the sigmoid, the last bias has no effect.
        Case("sigmoid", {"ratio": 2}, [(2, 7, 6)], self_attention, scores=True, mask=True),
        Case(
            "linear",
            {"gate_activation": "linear"},
            [(2, 5, 3)],
            self_attention,
            scores=True,
            no_gradient=("energy/bias",),
        ),
    ]


def dstp(inputs, w, ratio=1):
    (x,) = inputs
    units = w["energy_1/kernel"].shape[0]
    for phase in (1, 2):
        keys = np.swapaxes(x, 1, 2) @ w[f"key_{phase}/kernel"]
        h = c = np.zeros((len(x), units))
        attended, states = [], []
        for t in range(x.shape[1]):
            query = dense(np.concatenate([h, c], -1), w, f"look_{phase}")
            energies = dense(np.tanh(query[:, None] + keys), w, f"energy_{phase}")[..., 0]
            z = x[:, t] * softmax(energies)
            gates = z @ w[f"lstm_{phase}/kernel"] + h @ w[f"lstm_{phase}/recurrent_kernel"]
            i, f, g, o = np.split(gates + w[f"lstm_{phase}/bias"], 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            attended.append(z)
            states.append(h)
        x, h = np.stack(attended, 1), np.stack(states, 1)
    pairs = np.tanh(dense(h, w, "time_query")[:, :, None] + (h @ w["time_key/kernel"])[:, None])
    scores = softmax(dense(pairs, w, "time_energy")[..., 0])
    return dense(np.einsum("btu,buc->btc", scores, h), w, "project"), scores


class TestDSTP(LayerTests):
    layer = DSTP
    half = False
    config = {
        "ratio": 2,
        "activation": "relu",
        "recurrent_initializer": "glorot_normal",
        **SHARED,
    }
    cases = [
        Case(
            "halved",
            {"ratio": 2},
            [(2, 5, 6)],
            dstp,
            scores=True,
            dynamic=(0,),
            # What all variates, or all steps, share is lost in a softmax.
            no_gradient=(
                "energy_1/bias",
                "energy_2/bias",
                "time_energy/bias",
            ),
        )
    ]


def test_dstp_reads_series_of_one_length():
    with pytest.raises(ValueError, match="steps"):
        DSTP().build((None, None, 3))
    layer = DSTP()
    layer.build((None, 7, 3))
    with pytest.raises(ValueError, match="7 steps"):
        layer(np.zeros((1, 8, 3), "float32"))


def test_dstp_does_not_see_padding():
    import keras

    layer = DSTP()
    x = np.random.default_rng(0).normal(size=(2, 7, 3)).astype("float32")
    mask = keras.ops.convert_to_tensor(np.arange(7)[None] < np.array([[5], [7]]))
    junk = x.copy()
    junk[0, 5:] = 99
    a, b = (keras.ops.convert_to_numpy(layer(v, mask=mask)) for v in (x, junk))
    np.testing.assert_allclose(a[0, :5], b[0, :5], atol=1e-5)
    np.testing.assert_allclose(a[1], b[1], atol=1e-5)


def convolve(x, w, name):
    kernel = w[f"{name}/kernel"]
    k = len(kernel)
    padded = np.pad(x, [(0, 0), ((k - 1) // 2, k // 2), (0, 0)])
    out = sum(padded[:, i : i + x.shape[1]] @ kernel[i] for i in range(k))
    return out + w.get(f"{name}/bias", 0.0)


def fusatnet(inputs, w, ratio=1, kernel_size=3):
    x, second = inputs if len(inputs) == 2 else inputs * 2

    def relu(v):
        return np.maximum(v, 0)

    def stack(name, v, last):
        return last(convolve(relu(convolve(v, w, f"{name}_1")), w, f"{name}_2"))

    features = stack("features", x, relu)
    own = features * stack("own_mask", x, sigmoid)
    other = features * stack("other_mask", second, sigmoid)
    z = np.concatenate([x, second, own, other], -1)
    scores = stack("fusion_mask", z, sigmoid)
    return stack("fusion", z, relu) * scores, scores


class TestFusAtNet(LayerTests):
    layer = FusAtNet
    config = {"ratio": 2, "kernel_size": 5, "activation": "tanh", **SHARED}
    cases = [
        Case("alone", {"kernel_size": 5}, [(2, 7, 3)], fusatnet, scores=True, mask=True),
        Case(
            "pair",
            {"ratio": 2},
            [(2, 7, 6), (2, 7, 5)],
            fusatnet,
            scores=True,
            mask=True,
            data_format=True,
        ),
    ]


def test_fusatnet_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="steps"):
        FusAtNet()([np.zeros((1, 7, 3), "float32"), np.zeros((1, 6, 3), "float32")])
    with pytest.raises(ValueError, match="sequences"):
        FusAtNet()(np.zeros((1, 7, 3, 2), "float32"))


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("self", SelfAttention),
        ("dstp", DSTP),
        ("fusatnet", FusAtNet),
        ("sdma", SDMACrossAttention),
        ("sdca", SDMACrossAttention),
    ],
)
def test_by_name(name, cls):
    arguments = {"units": 5} if cls is SDMACrossAttention else {"ratio": 2}
    layer = get_attention(name, **arguments)
    assert type(layer) is cls
    if cls is SDMACrossAttention:
        assert layer.mutual is (name == "sdma")
