"""Separation and smoothness against their definitions, written out one sample at a time."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_saliency
from keras_saliency import complexity, separation_index, smoothness_index


def neighbours(x, i, others=None):
    """Indices by distance, the lower index on a tie, not the sample itself."""
    pool = x if others is None else others
    d = np.sqrt(((pool - x[i]) ** 2).sum(axis=1))
    order = np.lexsort((np.arange(len(pool)), d))
    return order if others is not None else order[order != i]


def separation(x, y, order, kind, others=None, known=None):
    known = y if others is None else known
    scores = []
    for i in range(len(x)):
        same = known[neighbours(x, i, others)[:order]] == y[i]
        scores.append({"hard": same.all(), "soft": same.mean(), "anti": not same.any()}[kind])
    return np.mean(scores)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["hard", "soft", "anti"]), st.integers(1, 4))
def test_separation_is_its_definition(seed, kind, order):
    rng = np.random.default_rng(seed)
    # Whole numbers, far from zero: many ties, and squares that float32 would round.
    x = rng.integers(0, 4, (30, 3)) + 1e6
    y = rng.integers(0, 3, 30)
    y[:2] = [0, 1]
    assert separation_index(x, y, order, kind) == pytest.approx(separation(x, y, order, kind))
    others, known = x[:12] + 0.25, y[:12]
    found = separation_index(x, y, order, kind, cross=(others, known))
    assert found == pytest.approx(separation(x, y, order, kind, others, known))


def test_center_and_one_hot_and_words():
    x = np.array([[0.0], [1.0], [4.0], [9.0], [10.0]])
    y = np.array([0, 0, 0, 1, 1])
    # The class means are 5/3 and 9.5.
    assert separation_index(x, y, kind="center") == 1
    assert separation_index([[0.0], [8.0], [9.0], [10.0]], [0, 0, 1, 1], kind="center") == 0.75
    assert separation_index(x, np.eye(2)[y]) == separation_index(x, list("aaabb"))
    batches = iter([(x[:3], y[:3]), (x[3:], y[3:])])
    assert separation_index(batches, max_samples=5) == separation_index(x, y)


@pytest.mark.parametrize("kind", ["linear", "exponential"])
@pytest.mark.parametrize("order", [1, 2])
def test_smoothness_is_its_definition(kind, order):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    scores = []
    for i in range(20):
        d = np.sqrt(((y - y[i]) ** 2).sum(axis=1))
        rest = np.sort(np.delete(d, i))
        found, least = d[neighbours(x, i)[:order]], rest[:order]
        if kind == "linear":
            scores.append(((rest[-1] - found) / (rest[-1] - least)).min())
        else:
            scores.append(np.exp(-0.5 * (found - least) / d.mean()).min())
    found = smoothness_index(x, y, order, kind, gamma=0.5)
    assert found == pytest.approx(np.mean(scores))
    assert smoothness_index(y, y) == 1
    assert smoothness_index(x, np.ones(20)) == 1


def test_blocks_change_nothing(monkeypatch):
    from keras_saliency.complexity import neighbors

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)).astype("float32"), rng.integers(0, 3, 200)
    whole = separation_index(x, y, 3, "soft")
    monkeypatch.setattr(neighbors, "_BLOCK", 700)
    monkeypatch.setattr(neighbors, "_EXACT", 60)
    assert separation_index(x, y, 3, "soft") == whole


def network():
    """A layer that hides the class in the end, behind one that shows it."""
    inner = keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(3, 3, name="filter"), layers.Flatten(name="flat")],
        name="inner",
    )
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), inner, layers.Dense(4, name="dense"), layers.Dense(1, name="out")]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.layers[-1].set_weights([np.zeros((4, 1)), np.zeros(1)])
    return model


def test_layers_and_models():
    rng = np.random.default_rng(1)
    y = np.arange(40) % 2
    x = rng.normal(0, 0.1, (40, 6, 6, 1)) + y[:, None, None, None]
    model = network()
    frame = complexity.layer_separation(model, x, y, batch_size=16)
    assert frame["layer"].tolist() == ["inner/filter", "inner/flat", "dense", "out"]
    assert frame["width"].tolist() == [48, 48, 4, 1]
    assert frame["index"][0] == 1 and frame["share"].max() == 1
    assert frame["index"][3] < 0.8  # everything is one point there
    features = keras.Model(model.inputs, model.get_layer("dense").output).predict(x, verbose=0)
    assert frame["index"][2] == pytest.approx(separation_index(features, y))
    narrow = complexity.layer_separation(model, x, y, layers="filter", max_features=7)
    assert narrow["width"].tolist() == [7] and narrow.attrs["projected"] == {"inner/filter": 48}
    assert not any("call" in layer.__dict__ for layer in model._flatten_layers())

    blind = network()
    blind.get_layer("inner").layers[0].set_weights([np.zeros((3, 3, 1, 3)), np.zeros(3)])
    ranked = complexity.rank_models({"blind": blind, "seeing": model}, x, y, select_features=True)
    assert ranked["model"].tolist() == ["seeing", "blind"]
    assert ranked["index"][0] == 1 and len(ranked["selected"][0]) == ranked["features"][0]


def test_features_are_chosen_that_separate():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 25)
    x = np.column_stack([rng.normal(size=50), 8 * y + rng.normal(size=50), rng.normal(size=50)])
    assert complexity.select_features(x, y) == [1]


def test_what_a_neighbour_guarantees():
    x = np.array([[0.0], [1.0], [10.0], [11.0]])
    sure = complexity.NeighborConfidence(x, np.array([0, 0, 1, 1]))
    assert sure.confidence() == 1 and sure.predict([[2.0], [8.0]]).tolist() == [0, 1]
    # dp = 1, dn = 8 and dp = 4, dn = 5.
    assert sure.guaranteed([[2.0], [5.0]], uncertainty=1).tolist() == [True, False]
    curve = complexity.NeighborConfidence(x, np.array([0.0, 2.0, 20.0, 22.0]))
    np.testing.assert_allclose(curve.predict([[1.2]]), [2.0])
    # Within 0.2 of 1.2 lies 1 alone, whose neighbour's target is 2 away; within 1.4, 0 as well.
    np.testing.assert_allclose(curve.error_bound([[1.2]]), [2.0])
    np.testing.assert_allclose(curve.error_bound([[1.2]], uncertainty=0.6), [4.0])
    with pytest.raises(ValueError, match="error_bound"):
        curve.guaranteed([[1.0]])


@pytest.mark.parametrize(
    "x, y, options, message",
    [
        ([[1.0], [2.0]], [0, 0], {}, "two classes"),
        ([[1.0], [2.0]], [0, 1, 1], {}, "same number of samples"),
        ([[1.0], [np.nan]], [0, 1], {}, "finite"),
        ([[1.0], [2.0]], [0, 1], {"order": 2}, "`order`"),
        ([[1.0], [2.0]], [0, 1], {"kind": "easy"}, "`kind`"),
        ([[1.0], [2.0]], [0.5, 1], {}, "smoothness_index"),
        ([[1.0], [2.0]], [0, 1], {"cross": ([[1.0, 2.0]], [0])}, "features"),
        ([[1.0], [2.0]], None, {}, "`y` is missing"),
        ([[1.0]], [0], {}, "two classes"),
    ],
)
def test_what_has_no_index(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        keras_saliency.separation_index(x if y is None else np.array(x), y, **options)
