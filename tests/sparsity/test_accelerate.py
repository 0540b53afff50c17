"""Which layers would run through 2:4 kernels; the kernels themselves need an NVIDIA GPU."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_saliency.sparsity import accelerate
from keras_saliency.sparsity.deploy.accelerate import is_two_to_four, unavailable, why_not


def dense(inputs=64, units=32, dtype="float16", sparse=True):
    layer = layers.Dense(units, dtype=dtype)
    layer.build((None, inputs))
    kernel = np.ones((inputs, units))
    if sparse:
        kernel[::4] = kernel[3::4] = 0
    layer.kernel.assign(kernel)
    return layer


def test_pattern():
    kernel = np.ones((8, 3))
    assert not is_two_to_four(kernel)
    kernel[[0, 2, 4, 5]] = 0
    assert is_two_to_four(kernel)
    kernel[0, 1] = 1
    assert not is_two_to_four(kernel)
    shifted = np.ones((8, 1))
    shifted[2:6] = 0  # half of all, and two of four in each block
    assert is_two_to_four(shifted)
    shifted = np.roll(shifted, 2)
    assert not is_two_to_four(shifted)


@pytest.mark.parametrize(
    "layer, reason",
    [
        (lambda: dense(), None),
        (lambda: dense(dtype="bfloat16"), None),
        (lambda: dense(dtype="float32"), "float32"),
        (lambda: dense(inputs=60), "60 inputs and 32 outputs"),
        (lambda: dense(units=30), "64 inputs and 30 outputs"),
        (lambda: dense(sparse=False), "more than two of four"),
        (lambda: layers.ReLU(), "no Dense"),
        (lambda: layers.Conv2D(32, 3), "no Dense"),
    ],
)
def test_selection(layer, reason):
    found = why_not(layer())
    assert found is None if reason is None else reason in found


def test_pointwise_convolutions_are_taken():
    layer = layers.Conv2D(32, 1, dtype="float16", data_format="channels_last")
    layer.build((None, 5, 5, 64))
    kernel = np.ones((1, 1, 64, 32))
    kernel[:, :, ::2] = 0
    layer.kernel.assign(kernel)
    assert why_not(layer) is None


def test_where_it_cannot_run_the_model_comes_back_with_the_reason():
    if unavailable() is None:
        return
    model = keras.Sequential([keras.Input((64,)), dense()])
    with pytest.warns(UserWarning, match=r"returned unchanged: .*(backend|GPU)"):
        assert accelerate(model) is model
    with pytest.raises(TypeError, match="`model` must be a Keras model"):
        accelerate(3)
