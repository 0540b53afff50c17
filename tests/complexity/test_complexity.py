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
    # Within 0.2 of 1.2 lies 1 alone, whose neighbor's target is 2 away; within 1.4, 0 as well.
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
        ([[1.0]], [0], {"kind": "center"}, "two classes"),
        ([[1.0], [2.0]], [[1, 0], [1, 0]], {}, "two classes"),
        ([[1.0], [2.0]], [[1, 0], [1, 1]], {}, "one-hot"),
        ([[1.0], [2.0]], [[1, np.nan], [0, 1]], {}, "`y` must be finite"),
        ([[1.0], [2.0]], [0, 1], {"order": 0}, "`order`"),
        ([[1.0], [2.0]], [0, 1], {"order": 3, "cross": ([[1.0], [2.0]], [0, 1])}, "`order`"),
        ([[1.0], [2.0]], [0, 1], {"cross": ([[1.0], [2.0]], [1, 1])}, "`cross` must hold two"),
        ([[1.0], [2.0]], np.array(["a", None], object), {}, "1 missing"),
        ([[1.0], [2.0]], np.array(["a", np.nan], object), {}, "1 missing"),
        ([[1.0], [2.0]], np.array(["a", 1], object), {}, "1 strings of 2"),
        (np.zeros((0, 1)), np.zeros(0, int), {}, "no sample"),
    ],
)
def test_what_has_no_index(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        keras_saliency.separation_index(x if y is None else np.array(x), y, **options)


def test_constant_features_have_the_first_samples_for_neighbours():
    x, y = np.full((6, 3), 7.0), np.array([0, 1, 0, 1, 0, 1])
    # Sample 0 has sample 1 for its neighbor, of another class; all others have sample 0.
    assert separation_index(x, y) == pytest.approx(2 / 6)
    assert separation_index(x, y, kind="anti") == pytest.approx(4 / 6)
    assert separation_index(x, y, kind="center") == 0.5  # a tie: the first class
    # By targets 0 and 1 the nearest is equal, so that a neighbor of the other kind scores 0.
    assert smoothness_index(x, y) == pytest.approx(2 / 6)
    assert complexity.select_features(x, y) == [0]
    sure = complexity.NeighborConfidence(x, y)
    assert sure.predict(x[:2]).tolist() == [0, 0] and not sure.guaranteed(x[:2]).any()
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="one")])
    frame = complexity.layer_separation(model, x, y)
    assert frame["index"].tolist() == pytest.approx([2 / 6])


def test_one_hot_labels_are_labels_everywhere():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), np.arange(12) % 3
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
    words = np.array(["a", "b", "c"], object)[y]
    for labels in (np.eye(3)[y], np.eye(3, dtype=bool)[y], np.eye(3)[y].tolist(), words):
        assert separation_index(x, labels) == separation_index(x, y)
        for kind in ("soft", "anti", "center"):
            assert separation_index(x, labels, kind=kind) == separation_index(x, y, kind=kind)
        assert complexity.select_features(x, labels) == complexity.select_features(x, y)
        found = [complexity.layer_separation(model, x, which)["index"] for which in (labels, y)]
        assert found[0].equals(found[1])


def test_networks_and_neighbours_refuse_what_has_no_index():
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 2
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first"), layers.Dense(2)])
    nan = np.where(np.arange(6)[:, None] == 2, np.nan, x)
    separation, ranks = complexity.layer_separation, complexity.rank_models
    with pytest.raises(ValueError, match="the layer 'first' are not finite"):
        separation(model, nan, y)
    with pytest.raises(ValueError, match="the model 'net' are not finite"):
        ranks({"net": model}, nan, y)
    for labels, message in ((y * 0, "two classes"), (y[:-1], "same number of samples")):
        with pytest.raises(ValueError, match=message):
            separation(model, x, labels)
        with pytest.raises(ValueError, match=message):
            ranks({"net": model}, x, labels)
        with pytest.raises(ValueError, match=message):
            complexity.select_features(x, labels)
        with pytest.raises(ValueError, match=message):
            complexity.NeighborConfidence(x, labels)
    with pytest.raises(ValueError, match="`order`"):
        separation(model, x, y, order=6)
    with pytest.raises(ValueError, match="two classes"):
        separation(model, x[:1], y[:1])
    with pytest.raises(ValueError, match="two samples or more"):
        smoothness_index(x[:1], y[:1])
    with pytest.raises(ValueError, match="two samples or more"):
        complexity.NeighborConfidence(x[:1], np.array([0.5]))
    with pytest.raises(ValueError, match="finite"):
        complexity.NeighborConfidence(x, y).predict(nan)
