import keras
import numpy as np
import pytest

import keras_saliency
from keras_saliency.layers.convolution.depthwise import convolve_depthwise

# Elsewhere the function is a call of the layer, which would be compared with itself.
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="written out on JAX alone")


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size, dilation", [(3, 1), (2, 1), (3, 2)])
def test_it_is_the_layer(rank, size, dilation, data_format):
    arguments = {
        "kernel_size": size,
        "dilation_rate": dilation,
        "padding": "same",
        "data_format": data_format,
        "bias_initializer": "normal",
    }
    if rank == 3:
        layer = keras.layers.Conv3D(4, groups=4, **arguments)
    else:
        layer = getattr(keras.layers, f"DepthwiseConv{rank}D")(**arguments)
    extents = (5, 6, 7)[:rank]
    shape = (2, *extents, 4) if data_format == "channels_last" else (2, 4, *extents)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = keras.ops.convert_to_numpy(layer(x))
    result = keras.ops.convert_to_numpy(convolve_depthwise(layer, keras.ops.convert_to_tensor(x)))
    np.testing.assert_allclose(result, expected, 1e-4, 1e-5)
    assert result.dtype == expected.dtype


def test_a_masked_layer_keeps_its_mask():
    layer = keras_saliency.MaskedDepthwiseConv1D(3, padding="same", depthwise_initializer="ones")
    x = np.ones((1, 5, 2), "float32")
    layer.build(x.shape)
    layer.set_mask(np.array([1, 0, 0])[:, None, None] * np.ones(layer.kernel.shape))
    y = keras.ops.convert_to_numpy(convolve_depthwise(layer, keras.ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(y[0, :, 0], [0, 1, 1, 1, 1])


def test_half_floats_are_added_up_in_single_precision():
    layer = keras.layers.DepthwiseConv1D(
        9, padding="same", depthwise_initializer="ones", dtype="float16"
    )
    x = np.full((1, 9, 1), 2.0**-11, "float16")
    x[0, 0] = 1.0
    layer.build(x.shape)
    y = keras.ops.convert_to_numpy(convolve_depthwise(layer, keras.ops.convert_to_tensor(x)))
    assert y.dtype == "float16"
    np.testing.assert_allclose(y[0, 4, 0], np.float16(1 + 8 * 2.0**-11))
