"""Pruning to a budget, comparing models, compressed files."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from keras_saliency.sparsity import (
    compare,
    count_operations,
    count_parameters,
    save_compressed,
    shrink_to,
)


def residual_model():
    inputs = keras.Input((9, 9, 3))
    x = layers.Conv2D(32, 3, padding="same", name="stem")(inputs)
    for i in range(2):
        y = layers.Conv2D(48, 3, padding="same", activation="relu", name=f"inner{i}")(x)
        y = layers.Conv2D(32, 3, padding="same", name=f"outer{i}")(y)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, name="head")(x))


def test_operations_are_counted():
    inputs = keras.Input((6, 7, 3))
    x = layers.Conv2D(4, 3, padding="same", groups=1)(inputs)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    expected = 2 * (6 * 7 * 9 * 3 * 4 + 4 * 5 * 9 * 4 + 4 * 5)
    assert count_operations(model) == expected
    sequence = keras.Input((7, 6))
    y = layers.LSTM(5, return_sequences=True)(sequence)
    y = layers.MultiHeadAttention(2, 3)(y, y)
    model = keras.Model(sequence, y)
    attention = 7 * 5 * 6 * 4 + 2 * 7 * 7 * (3 + 3)
    assert count_operations(model) == 2 * (7 * (6 + 5) * 20 + attention)
    unknown = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
    assert count_operations(unknown) is None
    assert count_operations(unknown, [(1, 6, 7, 3)]) == 2 * 4 * 5 * 9 * 3 * 4


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("what", ["flops", "parameters"])
def test_budget_is_met_and_used(what, scope):
    model = residual_model()
    small = shrink_to(model, **{what: 0.5}, method="magnitude", scope=scope, verbose=False)
    count = {"flops": count_operations, "parameters": count_parameters}[what]
    assert 0.4 < count(small) / count(model) <= 0.5
    widths = {x.filters for x in small.layers if x.name.startswith(("stem", "outer"))}
    assert len(widths) == 1 and all(width % 8 == 0 for width in widths)
    assert small.output_shape == model.output_shape


def test_channels_go_by_score():
    model = residual_model()
    kernel = model.get_layer("inner0").get_weights()[0]
    kernel[..., :24] *= 0.01
    model.get_layer("inner0").set_weights([kernel, np.arange(48.0)])
    small = shrink_to(model, channels=0.5, method="magnitude", verbose=False)
    assert [small.get_layer(n).filters for n in ("stem", "inner0", "inner1")] == [16, 24, 24]
    np.testing.assert_allclose(small.get_layer("inner0").get_weights()[1], np.arange(24.0, 48.0))


def test_significance_scores_need_no_more_than_a_batch():
    model = residual_model()
    x = np.random.default_rng(0).normal(size=(20, 9, 9, 3)).astype("float32")
    small = shrink_to(model, channels=0.5, data=x, verbose=False)
    assert small.get_layer("inner0").filters == 24


def test_heads_are_not_rounded_and_norms_shrink():
    inputs = keras.Input((5, 16))
    x = layers.Add()([inputs, layers.MultiHeadAttention(4, 3, name="attention")(inputs, inputs)])
    x = layers.Dense(32, name="wide")(layers.LayerNormalization()(x))
    x = layers.Dense(16, name="out")(layers.LayerNormalization(name="norm")(x))
    model = keras.Model(inputs, x)
    small = shrink_to(model, channels=0.5, method="random", verbose=False)
    assert small.get_layer("attention").num_heads == 2
    assert small.get_layer("wide").units == 16
    assert small.get_layer("norm").gamma.shape == (16,)
    assert small.get_layer("out").units == 16


def test_exclude_keeps_layers():
    model = residual_model()
    small = shrink_to(model, channels=0.5, method="magnitude", exclude="inner0", verbose=False)
    assert small.get_layer("inner0").filters == 48
    assert small.get_layer("stem").filters == 32
    assert small.get_layer("inner1").filters == 24
    small = shrink_to(model, flops=0.7, method="magnitude", exclude="inner0", verbose=False)
    assert 0.5 < count_operations(small) / count_operations(model) <= 0.7


def test_open_sizes_need_data():
    stack = [layers.Conv2D(16, 3), layers.Conv2D(16, 3), layers.GlobalMaxPooling2D()]
    model = keras.Sequential([keras.Input((None, None, 3)), *stack, layers.Dense(2)])
    with pytest.raises(ValueError, match="Pass `data`"):
        shrink_to(model, flops=0.6, method="magnitude")
    x = np.ones((1, 9, 9, 3), "float32")
    small = shrink_to(model, flops=0.6, method="magnitude", data=x, verbose=False)
    assert small.layers[0].filters == 8


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({}, ValueError, "exactly one of"),
        ({"flops": 0.5, "channels": 0.5}, ValueError, "exactly one of"),
        ({"flops": 0}, ValueError, r"`flops` must lie in \(0, 1\]"),
        ({"flops": "half"}, TypeError, "`flops` must be a number"),
        ({"flops": 0.5, "method": "best"}, ValueError, "`method` must be one of"),
        ({"flops": 0.5, "scope": "all"}, ValueError, "`scope` must be one of"),
        ({"flops": 0.5, "round_to": 0}, ValueError, "`round_to`"),
        ({"flops": 0.0001, "method": "magnitude"}, ValueError, "cannot be reached"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        shrink_to(residual_model(), **arguments)


def test_compare():
    model = residual_model()
    small = shrink_to(model, channels=0.5, method="magnitude", verbose=False)
    x = np.random.default_rng(0).normal(size=(3, 9, 9, 3)).astype("float32")
    frame = compare(model, small, x, repeats=1)
    assert list(frame.index) == ["model", "other", "ratio"]
    assert frame.loc["other", "parameters"] == count_parameters(small)
    ratio = count_operations(small) / count_operations(model)
    assert frame.loc["ratio", "flops"] == pytest.approx(ratio)
    assert frame.loc["ratio", "bytes"] < 0.6
    assert frame.loc["other", "difference"] > 0
    same = compare(model, keras.models.clone_model(small), x, repeats=1)
    assert (same["seconds"] > 0).all()
    with pytest.raises(ValueError, match="different shapes"):
        compare(model, keras.Sequential([keras.Input((9, 9, 3)), layers.Flatten()]), x)
    with pytest.raises(TypeError, match="`other`"):
        compare(model, None, x)


def test_compressed_files(tmp_path):
    model = keras.Sequential([keras.Input((50,)), layers.Dense(400), layers.Dense(3)])
    kernel, bias = model.layers[0].get_weights()
    kernel[:, 40:] = 0
    model.layers[0].set_weights([kernel, bias])
    path = tmp_path / "model.keras"
    model.save(path)
    stored = path.stat().st_size
    size = save_compressed(model, path)
    assert size == path.stat().st_size < 0.5 * stored
    assert all(x.compress_type == zipfile.ZIP_DEFLATED for x in zipfile.ZipFile(path).infolist())
    loaded = keras.saving.load_model(path)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    with pytest.raises(ValueError, match=r"must end in '\.keras'"):
        save_compressed(model, tmp_path / "model.h5")
    with pytest.raises(ValueError, match="`level`"):
        save_compressed(model, path, level=0)
    with pytest.raises(TypeError, match="`model`"):
        save_compressed(None, path)


def test_compressed_files_are_no_decompression_bombs(tmp_path):
    # Keras refuses large entries that were deflated by more than 100.
    model = keras.Sequential(
        [keras.Input((1000,)), layers.Dense(1000, kernel_initializer="zeros"), layers.Dense(3)]
    )
    kernel, bias = model.layers[0].get_weights()
    kernel[::29, :3], bias[:] = 7, 3
    model.layers[0].set_weights([kernel, bias])
    path = tmp_path / "model.keras"
    assert save_compressed(model, path) < 0.03 * 4e6
    for entry in zipfile.ZipFile(path).infolist():
        assert entry.file_size < 100 * entry.compress_size
    loaded = keras.saving.load_model(path)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rounding_that_keeps_every_channel_is_an_error():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"`channels=0.5` removes nothing.*Lower `round_to`"):
        shrink_to(model, channels=0.5, method="magnitude")
    small = shrink_to(model, channels=0.5, method="magnitude", round_to=1)
    assert small.layers[-2].units == 4


@pytest.mark.parametrize("what", ["flops", "parameters", "channels"])
def test_the_budget_is_reached_in_steps_and_the_model_is_trained_between_them(what):
    model = residual_model()
    model.compile("adam", "mse")
    before = model.get_weights()
    x = np.random.default_rng(0).normal(size=(16, 9, 9, 3)).astype("float32")
    seen = []

    def fine_tune(small):
        seen.append(small)
        small.fit(x, x[:, 0, 0, :1] * np.ones(5), verbose=0)

    options = {"method": "magnitude", "round_to": 4, "verbose": False}
    small = shrink_to(model, **{what: 0.5}, steps=4, fine_tune=fine_tune, **options)
    assert len(seen) == 3
    if what == "channels":
        widths = [[x.filters for x in m.layers if hasattr(x, "filters")] for m in (*seen, small)]
        # 7/8, 3/4, 5/8 and a half of 32 and 48, in fours.
        stem, inner = zip(*(width[:2] for width in widths), strict=True)
        assert stem == (28, 24, 20, 16) and inner == (40, 36, 32, 24)
    else:
        count = {"flops": count_operations, "parameters": count_parameters}[what]
        shares = [count(m) / count(model) for m in (*seen, small)]
        for share, limit in zip(shares, (7 / 8, 3 / 4, 5 / 8, 1 / 2), strict=True):
            assert limit - 0.1 < share <= limit
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert small.output_shape == model.output_shape and small.compiled


def test_a_trained_model_goes_on_and_excluded_layers_stay_in_every_step():
    model = residual_model()

    def retrained(small):
        other = keras.models.clone_model(small)  # as one that was loaded from its best epoch
        kernel = other.get_layer("inner1").kernel
        # Now the last channels are the best.
        kernel.assign(np.broadcast_to(np.arange(kernel.shape[-1]) + 1.0, kernel.shape))
        return other

    options = {"method": "magnitude", "exclude": "inner0", "round_to": 1, "verbose": False}
    small = shrink_to(model, channels=0.5, steps=2, fine_tune=retrained, **options)
    assert small.get_layer("inner0").filters == 48 and small.get_layer("inner1").filters == 24
    best = np.asarray(keras.ops.convert_to_numpy(small.get_layer("inner1").kernel))
    assert best.min() == 36 - 24 + 1


def test_steps_with_data_are_refitted_and_bad_ones_refused():
    model = residual_model()
    x = np.random.default_rng(0).normal(size=(24, 9, 9, 3)).astype("float32")
    once = shrink_to(model, channels=0.5, data=x, verbose=False)
    twice = shrink_to(model, channels=0.5, data=x, steps=2, verbose=False)
    assert [w.shape for w in once.weights] == [w.shape for w in twice.weights]
    with pytest.raises(ValueError, match="Pass `steps`"):
        shrink_to(model, channels=0.5, fine_tune=print)
    with pytest.raises(TypeError, match="fine_tune"):
        shrink_to(model, channels=0.5, steps=2, fine_tune=3)
    with pytest.raises(ValueError, match="steps"):
        shrink_to(model, channels=0.5, steps=0)

    def never(small):
        raise AssertionError

    with pytest.raises(ValueError, match="cannot be reached"):
        shrink_to(model, flops=1e-4, steps=3, fine_tune=never, method="magnitude")
