import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import CondensedMemory, ResidualAdd


def reference(inputs, w, units, hops=3, condense="project", addressing="softmax"):
    """Query by query and slot by slot."""
    outputs, scores = [], []
    for query, keys, values in zip(*inputs, strict=True):
        u = v = query @ w["embed/kernel"]
        weights = []
        for k in range(hops):
            slots = [key @ w[f"keys_{k}/kernel"] for key in keys]
            if addressing == "softmax":
                p = np.array([np.exp(u @ slot) for slot in slots])
                p = p / p.sum()
            else:
                p = [
                    np.tanh(u @ w[f"gate_state_{k}/kernel"] + slot @ w[f"gate_slot_{k}/kernel"])
                    @ w[f"gate_{k}/kernel"]
                    + w[f"gate_{k}/bias"]
                    for slot in slots
                ]
                p = 1 / (1 + np.exp(-np.array(p)[:, 0]))
            u = u + sum(
                a * (value @ w[f"values_{k}/kernel"]) for a, value in zip(p, values, strict=True)
            )
            if condense == "project":
                v = np.concatenate([u, v @ w[f"condense_{k}/kernel"]])
            else:
                v = u + v / 2 if condense == "average" else u
            weights.append(p)
        outputs.append(v)
        scores.append(weights)
    return np.array(outputs), np.array(scores)


class TestCondensedMemory(LayerTests):
    layer = CondensedMemory
    config = {
        "units": 5,
        "hops": 2,
        "condense": "average",
        "addressing": "gated",
        "kernel_initializer": "he_normal",
        "kernel_regularizer": "l2",
        "kernel_constraint": "max_norm",
    }
    shared = {
        "inputs": [(2, 3), (2, 7, 5), (2, 7, 4)],
        "reference": reference,
        "scores": True,
        "half_tolerance": 0.1,
    }
    cases = [
        Case("condensed", {"units": 6, "hops": 2}, **shared),
        Case("gated", {"units": 4, "hops": 2, "addressing": "gated"}, **shared),
        Case("averaged", {"units": 4, "hops": 3, "condense": "average"}, **shared),
        Case("plain", {"units": 4, "hops": 2, "condense": None}, **shared),
    ]


@pytest.mark.parametrize("addressing", ["softmax", "gated"])
def test_slots_that_do_not_exist_change_nothing(addressing):
    rng = np.random.default_rng(0)
    query, keys, values = (
        rng.normal(size=s).astype("float32") for s in [(2, 3), (2, 4, 5), (2, 4, 2)]
    )
    layer = CondensedMemory(6, addressing=addressing)
    alone = compat.to_numpy(layer([query, keys, values]))
    padded = [
        query,
        *(np.pad(x, [(0, 0), (0, 3), (0, 0)], constant_values=50) for x in (keys, values)),
    ]
    mask = keras.ops.convert_to_tensor(np.arange(7)[None].repeat(2, 0) < 4)
    found, scores = layer(padded, mask=[None, mask, mask], return_attention_scores=True)
    np.testing.assert_allclose(compat.to_numpy(found), alone, rtol=1e-5, atol=1e-5)
    assert (compat.to_numpy(scores)[:, :, 4:] == 0).all()
    empty = layer(padded, mask=[None, mask & False, mask & False])
    assert np.isfinite(compat.to_numpy(empty)).all()


def test_the_mask_of_embedded_slots_arrives():
    query, slots = keras.Input((3,)), keras.Input((None, 2))
    layer = CondensedMemory(4)
    masked = keras.layers.Masking(mask_value=-9.0)(slots)
    model = keras.Model([query, slots], layer([query, masked, masked]))
    rng = np.random.default_rng(0)
    q, s = rng.normal(size=(2, 3)).astype("float32"), rng.normal(size=(2, 4, 2)).astype("float32")
    padded = np.pad(s, [(0, 0), (0, 2), (0, 0)], constant_values=-9.0)
    np.testing.assert_allclose(
        compat.to_numpy(model([q, padded])), compat.to_numpy(layer([q, s, s])), atol=1e-5
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([(2, 3), (2, 4, 5)], r"takes \[query, keys, values\]"),
        ([(2, 3), (2, 4, 5), (2, 5, 5)], "same number of slots"),
        ([(2, None), (2, 4, 5), (2, 4, 5)], "known numbers of features"),
    ],
)
def test_bad_inputs_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        CondensedMemory(4).build(shape)


def fitted(inputs, w):
    x, rest = inputs
    fit = np.zeros_like(x)
    width = min(x.shape[-1], rest.shape[-1])
    fit[..., :width] = rest[..., :width]
    return x + fit


class TestResidualAdd(LayerTests):
    layer = ResidualAdd
    config = {}
    cases = [
        Case("padded", {}, [(2, 5, 7), (2, 5, 3)], fitted, mask=True),
        Case("cut", {}, [(2, 3), (2, 7)], fitted),
    ]


def test_a_residual_must_have_as_many_axes():
    with pytest.raises(ValueError, match="as many axes"):
        ResidualAdd().build([(2, 3), (2, 4, 3)])
    with pytest.raises(ValueError, match="list of two"):
        ResidualAdd().build((2, 3))
