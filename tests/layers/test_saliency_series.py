import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests
from scale_space.temporal_reference import batch_saliency

from keras_saliency import SaliencySeries


def reference(inputs, weights, **kwargs):
    return batch_saliency(inputs[0], **kwargs)


class TestSaliencySeries(LayerTests):
    layer = SaliencySeries
    config = {
        "octaves": 2,
        "scales": 4,
        "sigma0": 0.7,
        "contrast_threshold": 0.01,
        "theta": 0.9,
        "amplitude": "center",
        "cut": True,
        "missing": "interpolate",
    }
    cases = [
        Case("default", {}, [(2, 67, 3)], reference, mask=True, tolerance=1e-4),
        Case("center-cut", config, [(2, 53, 3)], reference, mask=True, tolerance=1e-4),
        Case(
            "unit",
            {"amplitude": "unit", "sigma0": 1.5, "scales": 2},
            [(3, 41, 2)],
            reference,
            mask=True,
            no_gradient=(0,),
            tolerance=1e-4,
        ),
        Case("many-octaves", {"octaves": 5, "cut": True}, [(1, 131, 1)], reference, tolerance=1e-4),
    ]


def test_float64_is_the_measure_of_float32():
    # Events are decisions: a near tie may fall either way. This series has none.
    x = np.random.default_rng(8).normal(size=(3, 307, 2)).cumsum(axis=1)
    expected = batch_saliency(x.astype("float32").astype("float64"))
    single = keras.ops.convert_to_numpy(SaliencySeries()(x.astype("float32")))
    assert np.abs(single - expected).max() < 1e-4 * np.abs(expected).max()


def test_gradient_is_that_of_the_amplitudes():
    x = np.random.default_rng(9).normal(size=(1, 37, 1)).astype("float32")
    layer = SaliencySeries()
    layer.build(x.shape)

    def loss(result):
        return keras.ops.sum(result)

    (gradient,), _ = compat.gradients(layer, [x], loss)
    direction = np.random.default_rng(10).normal(size=x.shape)
    step = 1e-5
    ahead, behind = (batch_saliency(x + s * step * direction).sum() for s in (1, -1))
    assert (gradient * direction).sum() == pytest.approx((ahead - behind) / (2 * step), rel=1e-3)


if keras.backend.backend() == "tensorflow":

    def test_tf_data():
        import tensorflow as tf

        x = np.random.default_rng(8).normal(size=(5, 31, 2)).astype("float32")
        layer = SaliencySeries()
        batches = tf.data.Dataset.from_tensor_slices(x).batch(2).map(layer)
        result = np.concatenate(list(batches.as_numpy_iterator()))
        np.testing.assert_allclose(result, keras.ops.convert_to_numpy(layer(x)), atol=1e-5)
