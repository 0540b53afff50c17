import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import FilteredBatchNormalization


def reference(inputs, w, threshold=3.0, axis=-1):
    def over(value):
        shape = [1] * inputs[0].ndim
        shape[axis] = -1
        return value.reshape(shape)

    scale = w["gamma"] / np.sqrt(w["moving_variance"] + 1e-3)
    return (inputs[0] - over(w["moving_mean"])) * over(scale) + over(w["beta"])


def moving_statistics(layer):
    size = layer.moving_mean.shape[0]
    layer.moving_mean.assign(np.linspace(-0.3, 0.4, size))
    layer.moving_variance.assign(np.linspace(0.5, 1.5, size))


class TestFilteredBatchNormalization(LayerTests):
    layer = FilteredBatchNormalization
    config = {"threshold": 2.5}
    cases = [
        Case("image", {}, [(2, 5, 7, 3)], reference, prepare=moving_statistics),
        Case("axis 1", {"axis": 1}, [(2, 5, 7)], reference, dynamic=(0, 2)),
    ]
    # Keras normalizes in float32.
    wide_tolerance = 1e-4


def filtered(x, threshold, epsilon=1e-3):
    """Channel by channel: the activations that stay, in a plain list."""
    result = []
    for channel in np.moveaxis(x, -1, 0):
        values = channel.ravel()
        limit = threshold * np.sqrt(values.var() + epsilon)
        kept = values[np.abs(values - values.mean()) <= limit]
        result.append((kept.mean(), kept.var(), len(kept)))
    return np.array(result).T


def test_outliers_do_not_enter_the_statistics_of_training():
    x = np.random.default_rng(0).normal(size=(8, 5, 5, 3))
    x[0, 0, 0, :2] = 60.0, -90.0
    layer = FilteredBatchNormalization(threshold=3, momentum=0.0)
    y = compat.to_numpy(layer(x.astype("float32"), training=True))
    mean, variance, kept = filtered(x, 3)
    assert kept.tolist() == [199, 199, kept[2]]
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-3), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(compat.to_numpy(layer.moving_mean.value), mean, atol=1e-5)
    np.testing.assert_allclose(compat.to_numpy(layer.moving_variance.value), variance, rtol=1e-4)


def test_with_a_wide_threshold_it_is_batch_normalization():
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    ours, stock = FilteredBatchNormalization(1e6), keras.layers.BatchNormalization()
    a, b = (compat.to_numpy(layer(x, training=True)) for layer in (ours, stock))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_masked_steps_do_not_count_and_padding_alone_is_finite():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 1)).astype("float32")
    mask = np.arange(7)[None] < np.array([7, 5, 3])[:, None]
    layer = FilteredBatchNormalization(momentum=0.0)
    layer(np.where(mask[..., None], x, 99.0).astype("float32"), mask=mask, training=True)
    mean, variance, _ = filtered(x[mask], 3)
    np.testing.assert_allclose(compat.to_numpy(layer.moving_mean.value), mean, atol=1e-5)
    np.testing.assert_allclose(compat.to_numpy(layer.moving_variance.value), variance, rtol=1e-3)
    nothing = layer(x, mask=np.zeros((3, 7), bool), training=True)
    assert np.isfinite(compat.to_numpy(nothing)).all()


def test_a_constant_channel_is_finite():
    y = FilteredBatchNormalization(1.1)(np.full((4, 3), 1e4 + 0.1, "float32"), training=True)
    assert np.abs(compat.to_numpy(y)).max() < 1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="threshold"):
        FilteredBatchNormalization(1.0)
    with pytest.raises(ValueError, match="synchronized"):
        FilteredBatchNormalization(synchronized=True)
