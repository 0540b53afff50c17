"""XM2A, DeepNet and WideNet as users build, train, save and break them."""

import compat
import keras
import numpy as np
import pytest

from keras_saliency import models


def series(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


SMALL = {"depth": 2, "num_heads": 2, "key_dim": 4}


def test_default_is_the_paper_configuration():
    model = models.XM2A((1000, 62), num_classes=8, depth=6)
    found = [x for x in model.layers if type(x).__name__ == "XM2AHeads"]
    assert len(found) == 6
    assert {(x.num_heads, x.key_dim, x.variant, x.talk) for x in found} == {
        (8, 64, "xm2a", "scale")
    }
    assert model.output_shape == (None, 8)


def test_plain_stack_is_attention_alone():
    model = models.XM2A((None, 5), 3, residual=False, **SMALL)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == [
        "InputLayer",
        "XM2AHeads",
        "XM2AHeads",
        "GlobalAveragePooling1D",
        "Dense",
    ]
    assert model.layers[2].output.shape == (None, None, 5)


@pytest.mark.parametrize(
    "attention", ["xm2a", "msmsa", "parameter-free", "multi-head", "transformer", "se", "bam"]
)
def test_every_attention_trains_saves_and_loads(attention, tmp_path):
    kwargs = {"ratio": 2} if attention in ("se", "bam") else None
    model = models.XM2A(
        (9, 3), 2, attention=attention, attention_kwargs=kwargs, units=8, dropout=0.1, **SMALL
    )
    x, y = series(8, 9, 3), np.arange(8) % 2
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    loss = model.fit(x, y, batch_size=4, epochs=1, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = compat.to_numpy(model(x, training=False))
    np.testing.assert_allclose(compat.to_numpy(loaded(x)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(expected.sum(-1), 1, rtol=1e-5)


def test_learns_which_series_holds_a_wiggle():
    """A wiggle of four steps anywhere in noise: local shape, whatever the place."""
    rng = np.random.default_rng(0)
    x, y = 0.3 * series(240, 40, 1), np.arange(240) % 2
    for i in np.flatnonzero(y):
        at = rng.integers(0, 36)
        x[i, at : at + 4, 0] += [2, -2, 2, -2]
    for i in np.flatnonzero(y == 0):
        at = rng.integers(0, 36)
        x[i, at : at + 4, 0] += [2, 2, -2, -2]
    model = models.XM2A((40, 1), 2, depth=1, num_heads=4, key_dim=8, units=16)
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x[:200], y[:200], epochs=15, batch_size=20, verbose=0)
    assert model.evaluate(x[200:], y[200:], batch_size=40, verbose=0)[1] >= 0.85


def test_an_event_in_a_long_series_is_found_and_its_mask_lies_on_it():
    """Eight steps of 300: with averages as descriptors the masks stay flat."""
    x, y = 0.2 * series(96, 300, 1), np.arange(96) % 2
    starts = np.random.default_rng(1).integers(0, 292, size=96)
    for i, start in enumerate(starts):
        x[i, start : start + 8, 0] += np.repeat([2, -2] if y[i] else [-2, 2], 4)
    keras.utils.set_random_seed(0)
    model = models.XM2A((300, 1), 2, depth=1, num_heads=4, key_dim=16, units=16)
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x[:72], y[:72], epochs=12, batch_size=8, verbose=0)
    assert model.evaluate(x[72:], y[72:], batch_size=8, verbose=0)[1] >= 0.9
    projected = model.get_layer("projection")(x[72:76])
    _, masks = model.get_layer("attention_1")(projected, return_attention_scores=True)
    masks = compat.to_numpy(masks).mean((1, 3))
    masks /= masks.sum(1, keepdims=True)
    mass = [m[max(0, s - 8) : s + 16].sum() for m, s in zip(masks, starts[72:], strict=False)]
    assert np.mean(mass) >= 0.25  # flat masks have 0.08 there


def test_descriptor_and_pooling_are_arguments_with_a_default_for_each_task():
    def descriptor(**kwargs):
        return models.XM2A((7, 3), **SMALL, **kwargs).get_layer("attention_1").descriptor

    assert descriptor(num_classes=2) == "maximum"
    assert descriptor(num_classes=2, descriptor="average") == "average"
    assert descriptor(num_classes=2, attention_kwargs={"descriptor": "average"}) == "average"
    assert descriptor(num_classes=2, task="regression") == "average"
    assert descriptor(task="forecasting", horizon=2) == "average"
    model = models.XM2A((7, 3), 2, pooling="maximum", **SMALL)
    features = keras.Model(model.input, model.get_layer("ff_norm_2").output)
    x = series(2, 7, 3)
    highest = compat.to_numpy(features(x)).max(1)
    expected = compat.to_numpy(model.get_layer("predictions")(highest))
    np.testing.assert_allclose(compat.to_numpy(model(x)), expected, rtol=1e-5)
    forecast = models.XM2A((7, 3), task="forecasting", horizon=4, pooling="maximum", **SMALL)
    assert forecast(x).shape == (2, 4, 3)


@pytest.mark.parametrize("pooling", ["average", "maximum"])
@pytest.mark.parametrize("attention", ["xm2a", "msmsa", "multi-head"])
def test_padding_does_not_change_a_prediction(attention, pooling, tmp_path):
    model = models.XM2A(
        (None, 3), 4, attention=attention, mask_value=-9.0, pooling=pooling, **SMALL
    )
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    x = series(2, 7, 3)
    padded = np.concatenate([x, np.full((2, 4, 3), -9.0, "float32")], axis=1)
    np.testing.assert_allclose(
        compat.to_numpy(model(padded)), compat.to_numpy(model(x)), rtol=1e-4, atol=1e-5
    )


def test_tasks_have_their_outputs():
    x = series(2, 7, 3)
    regression = models.XM2A((7, 3), 5, task="regression", **SMALL)
    assert regression(x).shape == (2, 5)
    forecast = models.XM2A((None, 3), task="forecasting", horizon=4, **SMALL)
    assert forecast(x).shape == (2, 4, 3)
    moved = x.copy()
    moved[:, -1] += 1
    assert not np.allclose(compat.to_numpy(forecast(x)), compat.to_numpy(forecast(moved)))


def test_a_callable_may_be_the_attention():
    model = models.XM2A((7, 3), 2, attention=lambda: keras.layers.Dense(6), units=6, depth=1)
    assert any(isinstance(layer, keras.layers.Dense) for layer in model.layers)
    assert model(series(1, 7, 3)).shape == (1, 2)


@pytest.mark.parametrize(
    ("kwargs", "error", "word"),
    [
        ({"depth": 0}, ValueError, "depth"),
        ({"num_heads": 0}, ValueError, "num_heads"),
        ({"units": -2}, ValueError, "units"),
        ({"num_classes": None}, ValueError, "num_classes"),
        ({"task": "dreaming"}, ValueError, "task"),
        ({"task": "forecasting"}, ValueError, "horizon"),
        ({"task": "forecasting", "horizon": 3}, ValueError, "num_classes"),
        ({"horizon": 3}, ValueError, "horizon"),
        ({"attention": 3}, TypeError, "attention"),
        ({"variant": "nope"}, ValueError, "variant"),
        ({"descriptor": "median"}, ValueError, "descriptor"),
        ({"pooling": "sum"}, ValueError, "pooling"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, word):
    with pytest.raises(error, match=f"`{word}`"):
        models.XM2A((7, 3), **{"num_classes": 2, "depth": 1, **kwargs})


@pytest.mark.parametrize("shape", [(7,), (7, 3, 1), (7, None), (0, 3)])
@pytest.mark.parametrize("model", [models.XM2A, models.DeepNet, models.WideNet])
def test_bad_shapes_are_named(model, shape):
    with pytest.raises(ValueError, match=r"`input_shape`.*Received"):
        model(shape, 2)


@pytest.mark.parametrize("build", [models.DeepNet, models.WideNet])
def test_convolutional_baselines_train_on_any_length(build):
    model = build((None, 3), 2, filters=(4, 6) if build is models.DeepNet else 4)
    x, y = series(8, 9, 3), np.arange(8) % 2
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    assert np.isfinite(model.fit(x, y, epochs=1, verbose=0).history["loss"]).all()
    assert model(x[:, :1]).shape == (8, 2)
    with pytest.raises(ValueError, match="task"):
        build((None, 3), 2, task="forecasting")


def test_deep_net_halves_the_steps_and_wide_net_looks_through_all_windows():
    deep = models.DeepNet((16, 3), 2, filters=(4, 5, 6))
    assert deep.get_layer("conv_3_2").output.shape == (None, 4, 6)
    wide = models.WideNet((16, 3), 2, filters=4, kernel_sizes=(1, 3, 7), depth=1)
    assert wide.get_layer("concat_1").output.shape == (None, 16, 16)
    assert wide.get_layer("conv_1_7").kernel_size == (7,)
