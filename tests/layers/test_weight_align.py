import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import WeightAlign

L = keras.layers


def aligned(w, epsilon):
    kernel = w["kernel"]
    flat = kernel.reshape(-1, kernel.shape[-1])
    scale = np.sqrt(len(flat) / 2 * flat.var(0) + epsilon)
    return kernel.shape, w["gamma"] * (flat - flat.mean(0)) / scale


def dense(inputs, w, layer, epsilon=1e-5):
    w = {path.split("/")[-1]: value for path, value in w.items()}
    return np.maximum(inputs[0] @ aligned(w, epsilon)[1] + w["bias"], 0)


def pointwise(inputs, w, layer, epsilon=1e-5):
    w = {path.split("/")[-1]: value for path, value in w.items()}
    return inputs[0] @ aligned(w, epsilon)[1] + w["bias"]


class TestWeightAlign(LayerTests):
    layer = WeightAlign
    config = {"layer": L.Dense(3), "epsilon": 1e-3}
    cases = [
        Case("dense", {"layer": L.Dense(3, "relu")}, [(5, 7)], dense, dynamic=(0,)),
        Case("window of 1", {"layer": L.Conv2D(3, 1)}, [(2, 5, 3, 7)], pointwise),
    ]

    def make(self, case, **overrides):
        # Every test its own inner layer, of the precision that is asked for.
        inner = case.kwargs["layer"]
        config = {**inner.get_config(), "dtype": overrides.get("dtype", "float32")}
        kwargs = {**case.kwargs, "layer": type(inner).from_config(config)}
        made = Case(case.id, kwargs, case.inputs, case.reference)
        return super().make(made, **overrides)

    def test_every_argument_survives_its_config(self):
        layer = WeightAlign(**self.config)
        again = WeightAlign.from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
        assert again.epsilon == 1e-3


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("cls", "shape"), [(L.Conv1D, (2, 9, 4)), (L.Conv2D, (2, 6, 7, 4)), (L.Conv3D, (2, 5, 4, 6, 4))]
)
def test_a_convolution_with_the_aligned_kernel_in_place_gives_the_same(cls, shape, data_format):
    kwargs = {"strides": 2, "padding": "same", "groups": 1, "data_format": data_format}
    layer = WeightAlign(cls(6, 3, **kwargs))
    rng = np.random.default_rng(0)
    if data_format == "channels_first":
        shape = (shape[0], shape[-1], *shape[1:-1])
    x = rng.normal(size=shape).astype("float32")
    layer.build(shape)
    layer.layer.kernel.assign(rng.normal(size=layer.layer.kernel.shape) + 0.5)
    layer.layer.bias.assign(rng.normal(size=6))
    layer.gamma.assign(rng.uniform(0.5, 2, size=6))
    plain = cls.from_config(layer.layer.get_config())
    plain.build(shape)
    w = {
        "kernel": np.asarray(compat.to_numpy(layer.layer.kernel.value), "float64"),
        "gamma": np.asarray(compat.to_numpy(layer.gamma.value), "float64"),
    }
    kernel_shape, kernel = aligned(w, 1e-5)
    plain.kernel.assign(kernel.reshape(kernel_shape))
    plain.bias.assign(layer.layer.bias)
    # Compiled: on a CPU, TensorFlow convolves channels first under XLA alone.
    found, expected = (compat.to_numpy(compat.compiled(each)(x)) for each in (layer, plain))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_behind_a_relu_two_thirds_of_the_power_stay_layer_by_layer():
    x = keras.Input((64,))
    y = x
    for _ in range(8):
        y = L.ReLU()(WeightAlign(L.Dense(64, kernel_initializer="ones"))(y))
    model = keras.Model(x, y)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, WeightAlign):
            layer.layer.kernel.assign(rng.uniform(3, 5, size=(64, 64)))  # far from any good start
    data = np.maximum(rng.normal(size=(200, 64)), 0).astype("float32")
    found = compat.to_numpy(model(data))
    # The mean of a ReLU's output, 1 / pi of its power, is lost on a centered filter.
    kept = (np.square(found).mean() / np.square(data).mean()) ** (1 / 8)
    np.testing.assert_allclose(kept, 1 - 1 / np.pi, rtol=0.1)


@pytest.mark.parametrize(
    "layer", [L.LSTM(3), L.DepthwiseConv2D(3), L.Conv1D(2, 3, padding="causal")]
)
def test_other_layers_are_refused(layer):
    with pytest.raises(ValueError, match="`layer` must be a Dense"):
        WeightAlign(layer)
