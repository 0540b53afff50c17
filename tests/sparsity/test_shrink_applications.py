"""Shrinking narrow and shallow members of the families of keras.applications.

All models at full size, in float64: `benchmarks/applications_shrink.py`.
"""

import keras
import numpy as np
import pytest
from keras.src.applications import convnext, densenet, efficientnet, mobilenet_v2

from keras_saliency.sparsity import shrink, shrink_to, sparsify

COMMON = {"weights": None, "classes": 7, "classifier_activation": None}
SHAPE = (32, 32, 3)
FAMILIES = {
    "MobileNetV2": lambda: mobilenet_v2.MobileNetV2(SHAPE, alpha=0.35, **COMMON),
    "EfficientNet": lambda: efficientnet.EfficientNet(
        0.3, 0.1, 32, input_shape=SHAPE, name="efficient", **COMMON
    ),
    "DenseNet": lambda: densenet.DenseNet([2, 3, 2, 2], input_shape=SHAPE, **COMMON),
    "ConvNeXt": lambda: convnext.ConvNeXt(
        [1, 1, 2, 1], [8, 16, 24, 32], input_shape=SHAPE, name="convnext", **COMMON
    ),
}
if keras.backend.backend() == "jax":  # which compiles for ten seconds per family
    del FAMILIES["MobileNetV2"], FAMILIES["ConvNeXt"]
# What is left of the parameters; less would be worth a look, more a loss.
LEFT = {
    "MobileNetV2": 0.52,
    "EfficientNet": 0.8,
    "DenseNet": 0.5,
    "ConvNeXt": 0.8,
}


def randomised(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        # Wide depthwise kernels and small variances keep signals from fading on the way.
        if name == "kernel" and len(shape) == 4 and shape[-1] == 1:
            variable.assign(rng.normal(0, 0.4, shape))
        elif name == "moving_variance":
            variable.assign(rng.uniform(0.05, 0.2, shape))
        elif name in ("moving_mean", "mean", "beta", "bias"):
            variable.assign(rng.normal(0, 0.2, shape))
        elif len(shape) == 1:  # `gamma` and the like, not always named
            variable.assign(rng.uniform(0.5, 1.5, shape))
    return model


@pytest.fixture
def quick_initializers(monkeypatch):
    """Drawn by NumPy: some backends compile a random generator for every shape."""
    rng = np.random.default_rng(2)

    def draw(self, shape, dtype=None):
        size = np.sqrt(6 / (np.prod(shape[:-1]) + np.prod(shape[:-2]) * shape[-1]))
        return keras.ops.convert_to_tensor(rng.uniform(-size, size, shape).astype("float32"))

    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", draw)


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_stay(family, quick_initializers):
    model = randomised(FAMILIES[family]())
    sparse = sparsify(
        model, 0.5, method="magnitude", granularity="channel", exclude=[model.layers[-1]]
    )
    small = shrink(sparse, verbose=False)
    x = np.random.default_rng(1).uniform(0, 255, (4, *SHAPE)).astype("float32")
    expected, found = sparse.predict(x, verbose=0), small.predict(x, verbose=0)
    spread = np.ptp(expected, axis=0).max()
    assert spread > 0.01 * np.abs(expected).max()  # the outputs depend on the inputs
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * spread)
    assert small.count_params() < LEFT[family] * model.count_params()
    narrow = shrink_to(model, channels=0.5, method="magnitude", round_to=4, verbose=False)
    assert narrow.output_shape == model.output_shape
    assert narrow.count_params() < 0.4 * model.count_params()
