"""`sparsify`, `strip_masks`, `sparsity_report`, `sensitivity` and the masks behind them."""

import functools
import os
import re
import subprocess
import sys
import textwrap

import compat
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_saliency
from keras_saliency.layers.masked.base import MaskedKernels, mask_variables
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.masks import MaskMaker
from keras_saliency.sparsity.masking.options import MaskingOptions
from keras_saliency.sparsity.ranking import drop_lowest

# Most tests here are about the masks, which a plain result carries no more.
masked_model = functools.partial(
    keras_saliency.sparsify, method="isparse", scope="layer", reconstruct=False, masked=True
)


def mlp(compiled=False):
    model = keras.Sequential(
        [
            keras.Input((7,)),
            layers.Dense(13, activation="relu", name="first"),
            layers.Dense(11, activation="relu", name="second"),
            layers.Dense(3, name="last"),
        ]
    )
    if compiled:
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def samples(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def masks_of(model):
    return {
        f"{layer.name}/{name}": compat.to_numpy(mask)
        for layer in model._flatten_layers()
        if isinstance(layer, MaskedKernels)
        for name, mask in layer.masks.items()
    }


def outputs(model, x):
    return compat.to_numpy(model(x))


# ---- the selection ---------------------------------------------------------------------------


class Pieces:
    """Scores that come in small pieces."""

    def __init__(self, array, length=7):
        self.array, self.size, self.length = np.asarray(array, float), len(array), length

    def blocks(self):
        for start in range(0, self.size, self.length):
            stop = min(start + self.length, self.size)
            yield start, stop, self.array[start:stop]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1e-310, 0.5, 1.0, 1.5, 1e30, np.inf]), max_size=40),
        min_size=1,
        max_size=3,
    ),
    st.floats(0, 1),
    st.sampled_from([1, 10, 1 << 22]),
)
def test_drop_lowest_is_a_stable_sort(arrays, share, collect):
    import keras_saliency.sparsity.ranking as ranking

    total = sum(map(len, arrays))
    count = round(share * total)
    before, ranking.COLLECT = ranking.COLLECT, collect
    try:
        drops = drop_lowest([Pieces(a) for a in arrays], count)
    finally:
        ranking.COLLECT = before
    flat = np.concatenate([np.asarray(a, float) for a in arrays])
    expected = np.zeros(total, bool)
    expected[np.argsort(flat, kind="stable")[:count]] = True
    np.testing.assert_array_equal(np.concatenate(drops), expected)


def test_drop_lowest_refuses_what_has_no_order():
    with pytest.raises(ValueError, match="NaN"):
        drop_lowest([Pieces([1.0, np.nan])], 1)


# ---- exactness ---------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.999), st.sampled_from(["magnitude", "random"]), st.integers(0, 3))
def test_reaches_exactly_the_target_sparsity_per_layer(sparsity, method, seed):
    model = mlp()
    maker = MaskMaker(model, sparsity, options=MaskingOptions(method=method, seed=seed))
    for kernel in maker.kernels:
        mask = maker.masks()[kernel.key]
        assert np.count_nonzero(~mask) == min(round(sparsity * kernel.size), kernel.size - 1)


def test_lowest_magnitudes_go_and_ties_by_position():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="dense")])
    kernel = np.array([[1, -1, 3, 1], [0.5, 1, 1, -2], [1, 1, -1, 1]], "float32")
    model.layers[0].set_weights([kernel, np.zeros(4, "float32")])
    sparse = masked_model(model, 5 / 12, method="magnitude")
    expected = np.array([[0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(compat.to_numpy(sparse.layers[0].mask), expected)


def test_isparse_masks_the_least_significant_edges():
    model, x = mlp(), samples(29, 7)
    sparse = masked_model(model, 0.6, data=x)
    significance = keras_saliency.edge_significance(model, x)
    for layer in sparse.layers:
        scores = significance[layer.name]
        order = np.argsort(scores.reshape(-1), kind="stable")
        expected = np.ones(scores.size, bool)
        expected[order[: round(0.6 * scores.size)]] = False
        np.testing.assert_array_equal(compat.to_numpy(layer.mask), expected.reshape(scores.shape))


def test_the_given_model_is_untouched_and_the_copy_shares_nothing():
    model, x = mlp(compiled=True), samples(29, 7)
    before = model.get_weights()
    sparse = masked_model(model, 0.5, data=x)
    sparse.fit(x, samples(29, 3), verbose=0)
    assert [type(layer) for layer in model.layers] == [layers.Dense] * 3
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert sparse.compiled and sparse.optimizer is not model.optimizer
    assert float(sparse.optimizer.learning_rate) == pytest.approx(0.01)
    assert set(sparse.evaluate(x, samples(29, 3), verbose=0, return_dict=True)) == {"loss", "mae"}


def test_masked_weights_keep_their_stored_values():
    model = mlp()
    sparse = masked_model(model, 0.5, method="magnitude")
    for mine, given_layer in zip(sparse.layers, model.layers, strict=True):
        np.testing.assert_array_equal(
            compat.to_numpy(mine.kernel), compat.to_numpy(given_layer.kernel)
        )


# ---- choices -----------------------------------------------------------------------------


def test_targets_by_layer_and_by_function():
    model = mlp()
    sparse = masked_model(model, {"first": 0.5, "last": 0.2}, method="magnitude")
    assert [type(layer).__name__ for layer in sparse.layers] == [
        "MaskedDense",
        "Dense",
        "MaskedDense",
    ]
    report = keras_saliency.sparsity_report(sparse).set_index("layer")
    assert report.loc["first", "zeros"] == round(0.5 * 91)
    assert report.loc["second", "zeros"] == 0 and report.loc["last", "zeros"] == round(0.2 * 33)
    sparse = masked_model(model, lambda layer: 0.7 if layer.units > 3 else None, method="magnitude")
    assert len(masks_of(sparse)) == 2


@pytest.mark.parametrize(
    "selector",
    [
        ["first", "second"],
        ["f*", "seco*"],
        re.compile("first|second"),
        lambda layer: layer.units > 3,
        lambda layer: layer.name != "last",
    ],
)
def test_layers_are_chosen_by_name_pattern_and_predicate(selector):
    model = mlp()
    sparse = masked_model(model, 0.5, method="magnitude", layers=selector)
    assert set(masks_of(sparse)) == {"first/kernel", "second/kernel"}


def test_layers_are_chosen_by_object_and_excluded():
    model = mlp()
    chosen = masked_model(model, 0.5, method="magnitude", layers=model.layers[1])
    assert set(masks_of(chosen)) == {"second/kernel"}
    rest = masked_model(model, 0.5, method="magnitude", exclude=["last"])
    assert set(masks_of(rest)) == {"first/kernel", "second/kernel"}


def test_seeds_make_random_masks_repeatable():
    model = mlp()
    one, same, other = (
        masks_of(masked_model(model, 0.5, method="random", seed=seed)) for seed in (1, 1, 2)
    )
    for key in one:
        np.testing.assert_array_equal(one[key], same[key])
    assert any((one[key] != other[key]).any() for key in one)


def test_global_scope_ranks_all_edges_together():
    model = mlp()
    sparse = masked_model(model, 0.5, method="magnitude", scope="global")
    magnitudes = np.concatenate(
        [np.abs(compat.to_numpy(layer.kernel)).reshape(-1) for layer in model.layers]
    )
    masks = np.concatenate([mask.reshape(-1) for mask in masks_of(sparse).values()])
    order = np.argsort(magnitudes, kind="stable")
    expected = np.ones(len(order), bool)
    expected[order[: round(0.5 * len(order))]] = False
    np.testing.assert_array_equal(masks, expected)


def test_global_scope_with_isparse_compares_layers_on_one_scale():
    model, x = mlp(), samples(29, 7)
    # Each layer's neurons have a mean significance of 1, or the last layers would lose everything.
    sparse = masked_model(model, 0.5, data=x, scores="identity", scope="global")
    w1, w2, w3 = (np.abs(compat.to_numpy(v).astype("float64")) for v in model.get_weights()[::2])
    n3 = np.ones(3)
    n2 = w3 @ n3
    n1 = w2 @ n2
    scores = [w * n / n.mean() for w, n in ((w1, n1), (w2, n2), (w3, n3))]
    flat = np.concatenate([s.reshape(-1) for s in scores])
    gone = np.argsort(flat, kind="stable")[: round(0.5 * flat.size)]
    masks = np.concatenate([mask.reshape(-1) for mask in masks_of(sparse).values()])
    assert set(np.flatnonzero(~masks)) == set(gone)


def test_channels_go_whole():
    model = keras.Sequential(
        [keras.Input((7, 3)), layers.Conv1D(10, 3, name="conv"), layers.LSTM(4, name="lstm")]
    )
    sparse = masked_model(
        model, 0.3, method="magnitude", granularity="channel", layers=["conv", "lstm"]
    )
    masks = masks_of(sparse)
    conv = masks["conv/kernel"]
    gone = ~conv.any(axis=(0, 1))
    assert gone.sum() == 3 and conv[..., ~gone].all()
    sums = np.abs(compat.to_numpy(model.layers[0].kernel)).sum(axis=(0, 1))
    assert set(np.flatnonzero(gone)) == set(np.argsort(sums)[:3])
    # A unit of an LSTM is a column per gate, in both kernels.
    kernel, recurrent = masks["lstm_cell/kernel"], masks["lstm_cell/recurrent_kernel"]
    unit = ~kernel.reshape(10, 4, 4).any(axis=(0, 1))
    assert unit.sum() == round(0.3 * 4)
    np.testing.assert_array_equal(unit, ~recurrent.reshape(4, 4, 4).any(axis=(0, 1)))


def test_the_report_counts_masked_infinities_as_zeros():
    sparse = masked_model(mlp(), 0.5, method="magnitude")
    layer = sparse.layers[0]
    kernel, mask = compat.to_numpy(layer.kernel).copy(), compat.to_numpy(layer.mask)
    kernel[~mask] = np.inf
    layer.kernel.assign(kernel)
    row = keras_saliency.sparsity_report(sparse).iloc[0]
    assert row["zeros"] == (~mask).sum() and row["reached"]


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(6, name="hidden")
        self.head = layers.Dense(5, name="head")

    def call(self, x):
        return keras.ops.softmax(self.head(keras.ops.relu(self.hidden(x))))


def residual_outputs():
    x = keras.Input((7,))
    y = layers.Dense(6, activation="relu", name="hidden")(x)
    total = layers.Add()([layers.Dense(5, name="left")(y), layers.Dense(5, name="right")(x)])
    return keras.Model(x, layers.Softmax()(layers.BatchNormalization()(total)))


@pytest.mark.parametrize("make", [Subclassed, residual_outputs])
def test_channels_of_the_outputs_stay_unless_named(make):
    model, x = make(), samples(9, 7)
    model(x)
    sparse = masked_model(model, 0.5, data=x, granularity="channel")
    report = keras_saliency.sparsity_report(sparse).set_index("layer")["zeros"]
    assert report.pop("hidden") == 7 * 3
    assert len(report) and (report == 0).all()
    name = report.index[0]
    named = masked_model(model, {name: 0.4}, data=x, granularity="channel")
    report = keras_saliency.sparsity_report(named).set_index("layer")
    assert report.loc[name, "sparsity"] == 0.4
    with pytest.raises(ValueError, match="Name the layers"):
        masked_model(model, 0.5, data=x, granularity="channel", exclude="hidden")


@pytest.mark.parametrize("pair", [(2, 4), (1, 4), (3, 8)])
def test_of_m_neighbours_along_the_input_axis_n_stay(pair):
    n, m = pair
    model = keras.Sequential(
        [keras.Input((5, 5, 8)), layers.Conv2D(3, 2, name="conv"), layers.Dense(5, name="skip")]
    )
    sparse = masked_model(model, 1 - n / m, method="magnitude", granularity=pair, exclude="skip")
    mask = masks_of(sparse)["conv/kernel"]
    kernel = np.abs(compat.to_numpy(model.layers[0].kernel))
    groups = mask.transpose(0, 1, 3, 2).reshape(-1, m)
    values = kernel.transpose(0, 1, 3, 2).reshape(-1, m)
    assert (groups.sum(axis=1) == n).all()
    for keep, value in zip(groups, values, strict=True):
        assert value[keep].min() >= value[~keep].max()


def test_orders_know_what_is_masked_already():
    model, x = mlp(), samples(29, 7)
    forward, backward, random = (
        masks_of(masked_model(model, 0.7, data=x, order=order))
        for order in ("forward", "backward", "random")
    )
    np.testing.assert_array_equal(forward["last/kernel"], backward["last/kernel"])
    # The first layer's scores, from the masked layers behind it.
    walked = keras_saliency.sparsity.SignificanceWalk(model, x, order="backward")
    for kernel, edges in walked:
        if kernel.key == "first":
            scores = edges.array()
        walked.decide(backward[f"{kernel.key}/kernel"])
    gone = np.argsort(scores.reshape(-1), kind="stable")[: round(0.7 * 91)]
    assert set(np.flatnonzero(~backward["first/kernel"].reshape(-1))) == set(gone)
    assert any((forward[key] != backward[key]).any() for key in forward)
    assert {key: mask.sum() for key, mask in random.items()} == {
        key: mask.sum() for key, mask in forward.items()
    }


def test_lottery_rewinds_to_the_initial_weights():
    model = mlp(compiled=True)
    initial = model.get_weights()
    model.fit(samples(29, 7), samples(29, 3), epochs=2, verbose=0)
    ticket = masked_model(model, 0.5, method="lottery", initial_weights=initial)
    magnitude = masked_model(model, 0.5, method="magnitude")
    for key, mask in masks_of(ticket).items():
        np.testing.assert_array_equal(mask, masks_of(magnitude)[key])
    for layer, value in zip(ticket.layers, initial[::2], strict=True):
        np.testing.assert_array_equal(compat.to_numpy(layer.kernel), value)


def test_a_sparse_model_gets_sparser():
    model = mlp()
    half = masked_model(model, 0.5, method="magnitude")
    more = masked_model(half, 0.8, method="magnitude")
    for key, mask in masks_of(more).items():
        assert np.count_nonzero(~mask) == round(0.8 * mask.size)
        assert not (mask & ~masks_of(half)[key]).any()


# ---- every kind of model -----------------------------------------------------------------


@keras.saving.register_keras_serializable(package="test_sparsify")
class Block(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = [layers.Dense(units), layers.Dense(units)]

    def call(self, x):
        return self.inner[1](self.inner[0](x)) + x

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="test_sparsify")
class Subclassed(keras.Model):
    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.block = Block(units)
        self.head = layers.LSTM(2)

    def call(self, x):
        return self.head(self.block(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Forgetful(keras.Model):
    """Keras makes it again with 3 units, whatever it has."""

    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units)

    def call(self, x):
        return self.dense(x)


def functional_zoo():
    inputs = keras.Input((7, 3))
    shared = layers.Dense(3, activation="tanh", name="shared")
    x = layers.TimeDistributed(layers.Dense(3))(shared(shared(inputs)))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    nested = keras.Sequential([keras.Input((7, 6)), layers.Conv1D(6, 3, padding="same")])
    x = nested(x) + x
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.Lambda(lambda t: t * 2.0, output_shape=(7, 6))(x)
    return keras.Model(inputs, layers.GRU(2)(Block(6)(x)))


def subclassed():
    model = Subclassed(units=3)
    model(samples(2, 7, 3))
    return model


def embedding():
    return keras.Sequential(
        [keras.Input((7,), dtype="int32"), layers.Embedding(11, 5, mask_zero=True), layers.LSTM(3)]
    )


ZOO = {"functional": functional_zoo, "subclassed": subclassed, "embedding": embedding}


@pytest.mark.parametrize("name", ZOO)
def test_every_kernel_of_every_kind_of_model_is_masked_and_saved(name, tmp_path):
    model = ZOO[name]()
    x = samples(2, 7, 3) if name != "embedding" else np.arange(14).reshape(2, 7) % 11
    sparse = masked_model(model, 0.5, method="magnitude")
    report = keras_saliency.sparsity_report(sparse).set_index("layer")
    expected = {kernel.key: kernel.size for kernel in maskable_kernels(model)}
    assert set(report.index) == set(expected)
    for key, size in expected.items():
        assert report.loc[key, "zeros"] == round(0.5 * size)
    assert np.abs(outputs(sparse, x) - outputs(model, x)).max() > 1e-4
    stripped = keras_saliency.strip_masks(sparse)
    np.testing.assert_allclose(outputs(stripped, x), outputs(sparse, x), atol=1e-5)
    assert not mask_variables(stripped)
    kinds = {type(layer).__name__ for layer in stripped._flatten_layers()}
    assert not any(kind.startswith("Masked") for kind in kinds)
    if name == "functional":  # Keras loads no Python lambda
        return
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.saving.load_model(tmp_path / "sparse.keras")
    np.testing.assert_allclose(outputs(loaded, x), outputs(sparse, x), atol=1e-6)
    assert len(mask_variables(loaded)) == len(expected)


def test_subclassed_models_that_cannot_be_made_again_are_refused():
    model = Forgetful(units=5)
    model(samples(2, 7))
    with pytest.raises(ValueError, match=r"get_config.*|units"):
        masked_model(model, 0.5, method="magnitude")


def test_applications_are_sparsified():
    model = keras.applications.MobileNetV3Small(
        weights=None, input_shape=(32, 32, 3), classes=5, alpha=0.35, minimalistic=True
    )
    sparse = masked_model(model, 0.5, method="magnitude", exclude=())
    report = keras_saliency.sparsity_report(sparse)
    assert (report["zeros"] == [round(0.5 * size) for size in report["size"]]).all()
    assert report.attrs["skipped"]  # the normalization layers


# ---- stripping -----------------------------------------------------------------------------


def test_stripped_models_load_without_this_library(tmp_path):
    model = mlp(compiled=True)
    sparse = masked_model(model, 0.5, method="magnitude")
    stripped = keras_saliency.strip_masks(sparse)
    for mine, layer in zip(stripped.layers, sparse.layers, strict=True):
        expected = compat.to_numpy(layer.kernel) * compat.to_numpy(layer.mask)
        np.testing.assert_array_equal(compat.to_numpy(mine.kernel), expected)
        assert type(mine) is layers.Dense
    x = samples(5, 7)
    stripped.save(tmp_path / "small.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", outputs(stripped, x))
    script = textwrap.dedent(
        """
        import sys
        sys.modules["keras_saliency"] = None    # importing it fails
        import keras, numpy as np
        model = keras.saving.load_model("small.keras")
        y = keras.ops.convert_to_numpy(model(np.load("x.npy")))
        np.testing.assert_allclose(y, np.load("y.npy"), atol=1e-6)
        assert model.compiled
        print("loaded")
        """
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip().endswith("loaded"), result.stderr


# ---- the report ------------------------------------------------------------------------------


def test_report_counts_edges_operations_and_bytes():
    model = keras.Sequential(
        [
            keras.Input((8, 6, 4)),
            layers.Conv2D(5, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(3, name="dense"),
        ]
    )
    sparse = masked_model(model, {"conv": 0.25}, method="magnitude")
    frame = keras_saliency.sparsity_report(sparse)
    assert list(frame["layer"]) == ["conv", "dense"]
    conv, dense = (frame.iloc[i] for i in range(2))
    assert (conv["size"], conv["zeros"], conv["kept"]) == (180, 45, 135)
    assert conv["sparsity"] == conv["target"] == 0.25 and conv["reached"]
    assert conv["flops"] == 2 * 180 * 48 and conv["flops_sparse"] == 2 * 135 * 48
    assert conv["bytes_dense"] == 720 and conv["bytes_compressed"] == 135 * 4 + 23
    assert dense["flops"] == 2 * 720 and dense["zeros"] == 0 and dense["note"] == "no mask"
    assert np.isnan(dense["target"])
    assert set(frame.attrs["skipped"]) == {"norm"}
    assert frame.attrs["total"]["zeros"] == 45
    with_skipped = keras_saliency.sparsity_report(sparse, skipped=True)
    assert with_skipped.set_index("layer").loc["norm", "note"]


def test_sensitivity_finds_the_layer_that_matters():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="vital"), layers.Dense(8, name="idle")]
    )
    x = samples(50, 8)
    eye = np.eye(8, dtype="float32")
    # Every edge on the diagonal of "vital" counts; "idle" has 56 tiny ones to lose.
    model.set_weights([eye, np.zeros(8), eye + 1e-6 * (1 - eye), np.zeros(8)])
    model.layers[0].kernel.assign(eye * np.arange(1, 9) + 5)
    model.compile(loss="mse", metrics=["mae"])
    y = outputs(model, x)
    frame = keras_saliency.sensitivity(model, (x, y), (0.5,), method="magnitude")
    assert list(frame.columns) == ["layer", "sparsity", "size", "loss", "mae"]
    table = frame.set_index(["layer", "sparsity"])["loss"]
    assert table["vital", 0.0] == table["idle", 0.0] < 1e-6
    assert table["vital", 0.5] > 1 and table["idle", 0.5] < 1e-6
    own = keras_saliency.sensitivity(
        model, None, (0.5,), method="random", metric=lambda m, _: float(m.count_params())
    )
    assert set(own["layer"]) == {"vital", "idle"} and "metric" in own


def test_sensitivity_after_a_refit_is_what_sparsify_leaves():
    model = keras.Sequential(
        [keras.Input((7,)), layers.Dense(11, "relu", name="first"), layers.Dense(3, name="second")]
    )
    # Inputs that tell each other, so that those that stay can speak for those that went.
    x = samples(300, 3) @ samples(3, 7, seed=1) + 0.05 * samples(300, 7, seed=2)
    model.set_weights([samples(*w.shape, seed=3 + i) for i, w in enumerate(model.weights)])
    model.compile(loss="mse")
    y = outputs(model, x)
    before = [np.array(w) for w in model.get_weights()]
    arguments = {"sparsities": (0.6,), "method": "magnitude", "samples": x}
    plain = keras_saliency.sensitivity(model, (x, y), **arguments)
    refitted = keras_saliency.sensitivity(model, (x, y), reconstruct=True, **arguments)
    assert refitted[["layer", "sparsity", "size"]].equals(plain[["layer", "sparsity", "size"]])
    sparse = refitted["sparsity"] > 0
    assert (refitted["loss"][sparse] < 0.5 * plain["loss"][sparse]).all()
    for layer, loss in zip(refitted["layer"][sparse], refitted["loss"][sparse], strict=True):
        same = keras_saliency.sparsify(
            model, 0.6, data=x, method="magnitude", layers=layer, reconstruct=True, verbose=False
        )
        assert abs(np.square(outputs(same, x) - y).mean() - loss) < 1e-4 * (1 + loss)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"reconstruct": True}, ValueError, "needs `data`"),
        ({"reconstruct": "auto"}, (TypeError, ValueError), "reconstruct"),
        ({"reconstruct": True, "samples": np.full((20, 7), np.nan)}, ValueError, "NaN"),
    ],
)
def test_sensitivity_says_what_a_refit_needs(arguments, error, message):
    model = keras.Sequential([keras.Input((7,)), layers.Dense(3)])
    with pytest.raises(error, match=message):
        keras_saliency.sensitivity(
            model, None, (0.5,), method="magnitude", metric=lambda m, _: 0.0, **arguments
        )


# ---- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": -0.1}, r"\[0, 1\)"),
        ({"sparsity": float("nan")}, r"\[0, 1\)"),
        ({"sparsity": {"first": 0.5, "third": 0.5}}, "third"),
        ({"sparsity": {"first": 2}}, "first"),
        ({"sparsity": lambda layer: 1.5}, "first"),
        ({"method": "best"}, "isparse"),
        ({"scope": "block"}, "global"),
        ({"order": "upwards"}, "forward"),
        ({"granularity": "block"}, "channel"),
        ({"granularity": (4, 2)}, "n < m"),
        ({"granularity": (2, 4)}, "first.*7 inputs"),
        ({"layers": "third"}, "third"),
        ({"exclude": ["nothing*"]}, "nothing"),
        ({"layers": [], "method": "magnitude"}, "no layer"),
        ({"scope": "global", "order": "backward"}, "order"),
        ({"scope": "global", "sparsity": {"first": 0.5}}, "one"),
        ({"initial_weights": []}, "lottery"),
        ({"method": "lottery", "initial_weights": [np.ones(3)]}, "shapes"),
    ],
)
def test_bad_arguments_are_refused_before_anything_happens(arguments, message):
    model = mlp()
    before = model.get_weights()
    arguments = {"sparsity": 0.5, "data": samples(5, 7), **arguments}
    with pytest.raises((ValueError, TypeError), match=message):
        masked_model(model, **arguments)
    for value, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_sparsity_must_fit_the_neighbours():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3)])
    with pytest.raises(ValueError, match=r"sparsity=0\.5"):
        masked_model(model, 0.7, method="magnitude", granularity=(2, 4))


def test_models_without_weights_are_refused():
    with pytest.raises(ValueError, match="not built"):
        masked_model(keras.Sequential([layers.Dense(3)]), 0.5)
    with pytest.raises(ValueError, match="not built"):
        keras_saliency.strip_masks(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(TypeError, match="model"):
        masked_model("model", 0.5)
    flat = keras.Sequential([keras.Input((3, 2)), layers.Flatten()])
    with pytest.raises(ValueError, match="no layer that can be masked"):
        masked_model(flat, 0.5)


def test_data_that_tell_nothing_are_refused():
    model = mlp()
    with pytest.raises(ValueError, match="sample"):
        masked_model(model, 0.5, data=samples(1, 7))
    with pytest.raises(ValueError, match="vary"):
        masked_model(model, 0.5, data=np.zeros((5, 7), "float32"))


def test_nan_weights_are_refused():
    model = mlp()
    model.layers[0].kernel.assign(np.full((7, 13), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        masked_model(model, 0.5, method="magnitude")
