"""Residual attention, competitive squeeze-and-excitation and graph mixing, against NumPy."""

import itertools

import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import CompetitiveSqueezeExcite, GraphMix, ResidualAttention
from keras_saliency.models import ResidualAttentionNetwork


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def norm(x, w, name):
    scale = w[f"{name}/gamma"] / np.sqrt(w[f"{name}/moving_variance"] + 1e-3)
    return (x - w[f"{name}/moving_mean"]) * scale + w[f"{name}/beta"]


def convolve(x, kernel):
    """Same-padded convolution, odd windows: a sum over the window's offsets."""
    size = kernel.shape[0]
    padded = np.pad(x, [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)])
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i, j in itertools.product(range(size), repeat=2)
    )


def unit(x, w, name):
    y = x
    for i in range(3):
        y = convolve(relu(norm(y, w, f"{name}/norm_{i}")), w[f"{name}/conv_{i}/kernel"])
    return x + y


def units(x, w, name):
    i = 0
    while any(path.startswith(f"{name}_{i}/") for path in w):
        x, i = unit(x, w, f"{name}_{i}"), i + 1
    return x


def pooled(x):
    """Largest of 3 x 3 places, every second one, padded as TensorFlow does."""
    height, width = (-(-n // 2) for n in x.shape[1:3])
    before = [
        max((m - 1) * 2 + 3 - n, 0) // 2 for m, n in zip((height, width), x.shape[1:3], strict=True)
    ]
    out = np.full((len(x), height, width, x.shape[-1]), -np.inf)
    for i, j in itertools.product(range(height), range(width)):
        top, left = 2 * i - before[0], 2 * j - before[1]
        window = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3]
        out[:, i, j] = window.max((1, 2))
    return out


def enlarged(x, height, width):
    """Linear interpolation at the centers of half places."""
    for axis, size in ((1, height), (2, width)):
        where = (np.arange(size) + 0.5) / 2 - 0.5
        below = np.floor(where).astype(int)
        share = (where - below).reshape([-1 if a == axis else 1 for a in range(4)])
        last = x.shape[axis] - 1
        x = (
            np.take(x, np.clip(below, 0, last), axis) * (1 - share)
            + np.take(x, np.clip(below + 1, 0, last), axis) * share
        )
    return x


def residual_attention(inputs, w, depth=2, outer_units=1, trunk_units=2, mask_units=1, ratio=4):
    x = units(inputs[0], w, "pre")

    def scale(x, i):
        y = units(pooled(x), w, f"down_{i}")
        if i < depth - 1:
            y = scale(y, i + 1) + units(y, w, f"skip_{i}")
        return enlarged(units(y, w, f"up_{i}"), *x.shape[1:3])

    mask = scale(x, 0)
    for i in range(2):
        mask = relu(norm(mask, w, f"norm_{i}")) @ w[f"conv_{i}/kernel"] + w.get(f"conv_{i}/bias", 0)
    mask = sigmoid(mask)
    return units(units(x, w, "trunk") * (1 + mask), w, "post"), mask


class TestResidualAttention(LayerTests):
    layer = ResidualAttention
    config = {
        "depth": 1,
        "outer_units": 2,
        "trunk_units": 1,
        "mask_units": 2,
        "ratio": 2,
        "data_format": "channels_first",
    }
    shared = {"reference": residual_attention, "scores": True, "data_format": True}
    cases = [
        Case(
            "odd extents",
            {"depth": 2, "trunk_units": 1, "ratio": 2},
            [(1, 5, 7, 4)],
            tolerance=1e-4,
            half_tolerance=0.1,
            **shared,
        ),
    ]
    # Keras normalizes in float32.
    wide_tolerance = 1e-4

    def make(self, case, **overrides):
        layer = super().make(case, **overrides)
        for v in layer.trainable_variables:
            if "gamma" in v.path:  # no unit is dead, none explodes
                v.assign(np.abs(compat.to_numpy(v.value)) + 0.2)
        return layer


def test_the_network_has_the_size_of_the_papers():
    with keras.StatelessScope(initialize_variables=False):
        small = ResidualAttentionNetwork((224, 224, 3), 1000)
        large = ResidualAttentionNetwork((224, 224, 3), 1000, modules=(1, 2, 3))
    # Table 2 has 31.9 and 51.3 million.
    assert abs(small.count_params() / 31.9e6 - 1) < 0.03
    assert abs(large.count_params() / 51.3e6 - 1) < 0.03


def test_a_small_network_has_its_masks_and_is_saved(tmp_path):
    model = ResidualAttentionNetwork((17, 12, 1), 3, width_multiplier=0.02)
    assert [layer.depth for layer in model.layers if isinstance(layer, ResidualAttention)] == [
        3,
        2,
        1,
    ]
    x = np.random.default_rng(0).normal(size=(4, 17, 12, 1)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        compat.to_numpy(loaded(x)), compat.to_numpy(model(x)), rtol=1e-5, atol=1e-6
    )


def test_bad_networks_are_named():
    with pytest.raises(ValueError, match="modules"):
        ResidualAttentionNetwork(modules=(1, 2))
    with pytest.raises(ValueError, match="rank 4"):
        ResidualAttention().build((None, 5, 3))
    with pytest.raises(ValueError, match="depth"):
        ResidualAttention(depth=0)


# ---- competitive squeeze-and-excitation ------------------------------------------------------


def competitive(inputs, w, ratio=16, view="pair"):
    residual, identity = inputs
    means = [x.mean(tuple(range(1, x.ndim - 1))) for x in inputs]
    if view == "pair":
        maps = np.stack(means, -1) @ w["image/kernel"]
        hidden = norm(maps, w, "norm").mean(-1) @ w["squeeze/kernel"]
    else:
        names = ("squeeze", "squeeze_identity")
        hidden = np.concatenate(
            [m @ w[f"{name}/kernel"] for m, name in zip(means, names, strict=True)], -1
        )
    gate = sigmoid(relu(hidden) @ w["excite/kernel"])
    return identity + residual * gate.reshape(len(gate), *[1] * (residual.ndim - 2), -1)


class TestCompetitiveSqueezeExcite(LayerTests):
    layer = CompetitiveSqueezeExcite
    config = {"ratio": 3, "view": "double", "activation": "gelu", "data_format": "channels_first"}
    cases = [
        Case("pair", {"ratio": 1}, [(2, 5, 7, 6)] * 2, competitive, data_format=True),
        Case("double", {"ratio": 2, "view": "double"}, [(3, 7, 6)] * 2, competitive, mask=True),
    ]
    wide_tolerance = 1e-4


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5, 7, 6), "takes .residual, identity."),
        ([(2, 5, 6), (2, 5, 7)], "same, known number of channels"),
        ([(2, 6), (2, 6)], "rank 3 to 5"),
    ],
)
def test_what_is_no_pair_is_named(shape, message):
    with pytest.raises(ValueError, match=message):
        CompetitiveSqueezeExcite().build(shape)


# ---- graph mixing ----------------------------------------------------------------------------

GRAPH = np.array([[0, 2, 0], [0.5, 0, 0], [0, 1, 3]])


def graph_mix(inputs, w, adjacency=None, hops=1, rank=10):
    (x,) = inputs
    if adjacency is None:
        scores = np.exp(relu(w["targets"] @ w["sources"].T))
        graph = (scores / scores.sum(1, keepdims=True)).T
    else:
        graph = np.array(adjacency) + np.eye(len(adjacency))
        degree = np.diag(1 / np.sqrt(graph.sum(0)))
        graph = degree @ graph @ degree
    return sum(x @ np.linalg.matrix_power(graph, k) * w["theta"][k] for k in range(hops + 1))


class TestGraphMix(LayerTests):
    layer = GraphMix
    config = {"adjacency": [[0.0, 1.0], [1.0, 0.0]], "hops": 2, "rank": 3}
    cases = [
        Case("learned", {"rank": 3}, [(2, 5, 7)], graph_mix, mask=True),
        Case("given", {"adjacency": GRAPH.tolist(), "hops": 2}, [(2, 5, 3)], graph_mix, mask=True),
    ]


@pytest.mark.parametrize("adjacency", [None, GRAPH])
def test_it_begins_as_the_identity(adjacency):
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    np.testing.assert_allclose(compat.to_numpy(GraphMix(adjacency)(x)), x, rtol=1e-6)


def test_it_finds_who_drives_whom():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 4, 3)).astype("float32")
    y = x.copy()
    y[..., 0] += 2 * x[..., 2]
    model = keras.Sequential([keras.Input((4, 3)), GraphMix(rank=2)])
    for v in model.trainable_weights:
        if "theta" not in v.path:
            v.assign(rng.normal(size=v.shape))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, y, epochs=40, batch_size=64, verbose=0)
    graph = compat.to_numpy(model.layers[0]._graph())
    assert graph[:, 0].argmax() == 2


@pytest.mark.parametrize("adjacency", [[[1.0, 2.0]], [[0.0, -1.0], [1.0, 0.0]], [[np.nan]]])
def test_bad_graphs_are_named(adjacency):
    with pytest.raises(ValueError, match="adjacency"):
        GraphMix(adjacency)


def test_variates_must_be_those_of_the_graph():
    with pytest.raises(ValueError, match="as many rows"):
        GraphMix(GRAPH).build((None, 5, 4))
    with pytest.raises(ValueError, match="known number of variates"):
        GraphMix().build((None, 5, None))
