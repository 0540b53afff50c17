import compat
import keras
import numpy as np
import pytest

from keras_saliency.regularizers import NormLoss


@pytest.mark.parametrize(("axis", "others"), [(-1, (0, 1, 2)), (-2, (0, 1, 3)), (0, (1, 2, 3))])
def test_it_is_the_squared_distance_of_the_lengths_from_1(axis, others):
    w = np.random.default_rng(0).normal(size=(2, 3, 5, 7))
    expected = 0.3 * ((1 - np.sqrt((w**2).sum(others))) ** 2).sum()
    found = NormLoss(0.3, axis)(w.astype("float32"))
    np.testing.assert_allclose(compat.to_numpy(found), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_near(dtype):
    w = np.random.default_rng(0).normal(size=(3, 300)).astype("float32")
    found = NormLoss()(keras.ops.cast(w, dtype))
    np.testing.assert_allclose(compat.to_numpy(found), compat.to_numpy(NormLoss()(w)), rtol=0.05)


def test_training_brings_filters_to_length_1_and_a_dead_one_does_not_explode(tmp_path):
    layer = keras.layers.Dense(4, use_bias=False, kernel_regularizer=NormLoss(1.0))
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.kernel.assign(np.array([[0, 3, 0.1, 1], [0, 0, 0.1, 1], [0, 0, 0, 1.0]]))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = np.zeros((4, 3), "float32")
    model.fit(x, np.zeros((4, 4), "float32"), epochs=60, batch_size=4, verbose=0)
    lengths = np.linalg.norm(compat.to_numpy(layer.kernel.value), axis=0)
    np.testing.assert_allclose(lengths[1:], 1, atol=1e-3)
    assert np.isfinite(lengths).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].kernel_regularizer.factor == 1.0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="factor"):
        NormLoss(-1)
    with pytest.raises(ValueError, match="axis"):
        NormLoss(axis=0.5)
    with pytest.raises(ValueError, match="axis=3"):
        NormLoss(axis=3)(np.ones((2, 3)))
