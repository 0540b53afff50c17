import keras
import numpy as np
import pytest
from harness import assert_close

from keras_saliency import SaliencySeries
from keras_saliency.models import SDMA


def series(n=6, steps=23, variates=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, steps, variates)).cumsum(axis=1).astype("float32")


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 4, "depth": 1},
        {"num_classes": 4, "depth": 3, "stack": "type1", "mutual": False},
        {"forecast": 2, "depth": 2, "stack": "type2", "recurrent": "gru", "amplitude": "unit"},
    ],
    ids=["single", "type1-sdca", "type2-forecast"],
)
def test_trains_saves_and_loads(arguments, tmp_path):
    x = series()
    model = SDMA((None, 3), **arguments)
    outputs = arguments.get("num_classes") or arguments["forecast"]
    assert model.output_shape == (None, outputs)
    loss = "sparse_categorical_crossentropy" if "num_classes" in arguments else "mae"
    y = np.arange(6) % 4 if "num_classes" in arguments else x[:, -1, :2]
    model.compile("rmsprop", loss)
    before = model.get_weights()
    model.fit(x, y, epochs=1, verbose=0)
    after = model.get_weights()
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert_close(loaded(x), model(x), 1e-6)


def test_stacks_are_wired_as_in_the_paper():
    x = series()
    saliency = SaliencySeries()(x)
    one = SDMA((23, 3), num_classes=4, depth=2, stack="type1")
    _, g_t, g_a = one.get_layer("block_1")([x, saliency])
    expected = one.get_layer("classes")(one.get_layer("block_2")([g_t, g_a]))
    assert_close(one(x), expected, 1e-5)
    two = SDMA((23, 3), num_classes=4, depth=2, stack="type2")
    output = two.get_layer("block_1")([x, saliency])
    expected = two.get_layer("classes")(two.get_layer("block_2")([output, saliency]))
    assert_close(two(x), expected, 1e-5)


def test_units_are_twice_the_variates():
    assert SDMA((9, 7), num_classes=2).get_layer("block_1").units == 14
    assert SDMA((9, 7), num_classes=2, units=5).get_layer("block_1").units == 5


def test_saliency_arguments_reach_the_saliency():
    model = SDMA((9, 3), num_classes=2, amplitude="center", cut=True, octaves=2, scales=4)
    config = model.get_layer("saliency").get_config()
    assert [config[k] for k in ("amplitude", "cut", "octaves", "scales")] == ["center", True, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "num_classes"),
        ({"num_classes": 3, "forecast": 1}, "num_classes"),
        ({"num_classes": 3, "depth": 0}, "depth"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 3, "stack": "type3"}, "stack"),
        ({"num_classes": 3, "units": 1.5}, "units"),
        ({"num_classes": 3, "return_sequences": True}, "return_sequences"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        SDMA((9, 3), **arguments)
    with pytest.raises(ValueError, match="input_shape"):
        SDMA((9, None), num_classes=2)


def test_a_new_forecaster_repeats_the_last_step():
    x = series() + 1000
    model = SDMA((23, 3), forecast=2)
    model.get_layer("forecast").kernel.assign(0 * model.get_layer("forecast").kernel)
    assert_close(model(x), x[:, -1, :2], 1e-4)


def test_a_forecast_moves_with_the_level_of_its_series():
    x = series()
    model = SDMA((23, 3), forecast=2, depth=1)
    kernel = model.get_layer("highway").kernel
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    window = (x - x[:, -1:]).reshape(6, -1)
    before = SDMA((23, 3), forecast=2, depth=1, highway=False)
    before.set_weights([w for w in model.get_weights() if w.shape not in ((69, 2),)][:-1])
    lines = window @ np.asarray(keras.ops.convert_to_numpy(kernel))
    assert_close(model(x), keras.ops.convert_to_numpy(before(x)) + lines, 1e-4)
    assert_close(model(x + 50), keras.ops.convert_to_numpy(model(x)) + 50, 1e-3)


def test_other_quantities_are_forecast_without_the_residual():
    with pytest.raises(ValueError, match="no more variates to forecast"):
        SDMA((23, 3), forecast=4)
    assert SDMA((23, 3), forecast=4, residual=None).output_shape == (None, 4)
