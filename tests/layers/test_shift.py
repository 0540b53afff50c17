import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import ShiftAttention2D, ShiftConv2D
from keras_saliency.models import freeze_shifts

SHARED = {
    "data_format": "channels_first",
    "activation": "relu",
    "use_bias": False,
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "kernel_constraint": "max_norm",
    "bias_constraint": "non_neg",
}


def shifted(x, down, right):
    """Place (i, j) of the result is place (i + down, j + right) of `x`, or 0."""
    out = np.zeros_like(x)
    height, width = x.shape[1:3]
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                out[:, i, j] = x[:, i + down, j + right]
    return out


def attended(inputs, w, filters, kernel_size=3, **kwargs):
    (x,) = inputs
    height, width, channels = w["attention"].shape
    logits = w["attention"].reshape(-1, channels)
    logits = logits / logits.std(0) / w["temperature"]
    weights = np.exp(logits - logits.max(0))
    weights = (weights / weights.sum(0)).reshape(height, width, channels)
    out = np.zeros((*x.shape[:3], filters)) + w.get("bias", 0.0)
    for i in range(height):
        for j in range(width):
            view = shifted(x, i - (height - 1) // 2, j - (width - 1) // 2)
            out += (view * weights[i, j]) @ w["kernel"][i, j]
    return out


class TestShiftAttention2D(LayerTests):
    layer = ShiftAttention2D
    config = {
        "filters": 5,
        "kernel_size": (1, 2),
        "decay_steps": 7,
        "initial_temperature": 3.0,
        "final_temperature": 0.5,
        **SHARED,
    }
    cases = [
        Case("3 x 3", {"filters": 5}, [(2, 5, 7, 3)], attended, data_format=True),
        Case(
            "even window",
            {"filters": 2, "kernel_size": (3, 2), "initial_temperature": 0.5, "use_bias": False},
            [(2, 5, 7, 3)],
            attended,
            data_format=True,
        ),
    ]


SHIFTS = [(0, 1), (-2, 0), (0, 1), (3, -1)]


def plainly_shifted(inputs, w, filters, shifts):
    (x,) = inputs
    maps = [shifted(x[..., c : c + 1], *shift) for c, shift in enumerate(shifts)]
    return np.concatenate(maps, -1) @ w["mix/kernel"] + w["mix/bias"]


class TestShiftConv2D(LayerTests):
    layer = ShiftConv2D
    config = {"filters": 5, "shifts": [[0, 1]], **SHARED}
    cases = [
        Case(
            "shifts",
            {"filters": 5, "shifts": SHIFTS},
            [(2, 5, 7, 4)],
            plainly_shifted,
            data_format=True,
        )
    ]


def test_the_temperature_falls_in_training_alone_and_ends():
    layer = ShiftAttention2D(2, decay_steps=4, initial_temperature=8.0, final_temperature=0.5)
    x = np.ones((1, 3, 3, 2), "float32")
    layer(x)
    found = []
    for _ in range(6):
        layer(x, training=True)
        found.append(float(compat.to_numpy(layer.temperature.value)))
    np.testing.assert_allclose(found, [4, 2, 1, 0.5, 0.5, 0.5], rtol=1e-5)
    layer.trainable = False
    layer(x, training=True)
    assert float(compat.to_numpy(layer.temperature.value)) == pytest.approx(0.5)


@pytest.mark.parametrize("kernel_size", [3, (3, 4)])
def test_frozen_shifts_compute_what_the_cold_attention_computes(kernel_size, tmp_path):
    x = keras.Input((9, 8, 3))
    inner = keras.Sequential([keras.Input((9, 8, 5)), ShiftAttention2D(4, kernel_size)])
    y = inner(ShiftAttention2D(5, kernel_size, activation="relu", name="first")(x))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Flatten()(y)))
    layers = [model.get_layer("first"), inner.layers[0]]
    for layer in layers:
        layer.temperature.assign(1e-4)
    model.compile("sgd", "mse")
    frozen = freeze_shifts(model)
    assert isinstance(frozen.get_layer("first"), ShiftConv2D)
    assert frozen.compiled
    data = np.random.default_rng(0).normal(size=(4, 9, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        compat.to_numpy(frozen(data)), compat.to_numpy(model(data)), atol=1e-4
    )
    window = np.prod(layers[0].kernel_size)
    lost = sum(int(np.prod(layer.kernel.shape)) * (window - 1) / window for layer in layers)
    lost += sum(int(np.prod(layer.attention.shape)) + 1 for layer in layers)
    assert model.count_params() - frozen.count_params() == lost
    frozen.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(compat.to_numpy(loaded(data)), compat.to_numpy(frozen(data)))


def test_training_ends_in_shifts_that_hardly_differ_from_their_attention():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 8, 2)).astype("float32")
    y = shifted(x[..., :1], 0, 1) - shifted(x[..., 1:], -1, 0)  # no other place will do
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), ShiftAttention2D(1, 3, decay_steps=120, final_temperature=0.05)]
    )
    for v in model.trainable_weights:  # the same on every backend
        v.assign(rng.normal(size=v.shape) * (1.0 if "attention" in v.path else 0.3))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit(x, y, epochs=60, batch_size=32, shuffle=False, verbose=0)
    frozen = freeze_shifts(model)
    assert frozen.layers[0].shifts == [(0, 1), (-1, 0)]
    assert np.square(compat.to_numpy(frozen(x)) - y).mean() < 0.02 * np.square(y).mean()


def test_what_cannot_be_frozen_is_named():
    with pytest.raises(ValueError, match="must have a ShiftAttention2D"):
        freeze_shifts(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    with pytest.raises(TypeError, match=r"keras\.Model"):
        freeze_shifts("model")


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="final_temperature"):
        ShiftAttention2D(2, final_temperature=7.0)
    with pytest.raises(ValueError, match="decay_steps"):
        ShiftAttention2D(2, decay_steps=0)
    with pytest.raises(ValueError, match="shifts"):
        ShiftConv2D(2, [(1, 2, 3)])
    with pytest.raises(ValueError, match="one pair per input channel"):
        ShiftConv2D(2, [(1, 2)]).build((None, 5, 5, 3))
    with pytest.raises(ValueError, match="number of channels"):
        ShiftAttention2D(2).build((None, 5, 5, None))
