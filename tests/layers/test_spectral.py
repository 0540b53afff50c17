import compat
import keras
import numpy as np
import pytest
import scipy.fft
from harness import Case, LayerTests

from keras_saliency import SpectralTransform2D


def reference(inputs, w, transform="dct", parts="polar"):
    x = np.moveaxis(inputs[0], -1, 1)
    if transform == "dft":
        rows = w["rows_real"] + 1j * w["rows_imaginary"]
        columns = w["columns_real"] + 1j * w["columns_imaginary"]
        y = rows @ x @ columns.T
        pair = (np.abs(y), np.angle(y)) if parts == "polar" else (y.real, y.imag)
        y = np.concatenate(pair, 1)
    else:
        y = w["rows"] @ x @ w["columns"].T
    return np.moveaxis(y, 1, -1)


class TestSpectralTransform2D(LayerTests):
    layer = SpectralTransform2D
    config = {
        "transform": "dft",
        "parts": "cartesian",
        "data_format": "channels_first",
        "kernel_initializer": "he_normal",
        "kernel_regularizer": "l2",
        "kernel_constraint": "max_norm",
    }
    both = {"inputs": [(2, 5, 7, 3)], "reference": reference, "dynamic": (0,), "data_format": True}
    cases = [
        Case("dct", {}, **both),
        Case("random", {"transform": "random"}, **both),
        Case("dft, cartesian", {"transform": "dft", "parts": "cartesian"}, **both),
        # Small: half precision may take a phase of almost pi for one of almost -pi.
        Case("dft, polar", {"transform": "dft"}, **{**both, "inputs": [(1, 3, 2, 1)]}),
    ]


X = np.random.default_rng(0).normal(size=(2, 6, 8, 3)).astype("float32")


def test_it_begins_as_the_transform_it_is_named_after():
    spatial = {"axes": (1, 2), "norm": "ortho"}
    dct = SpectralTransform2D("dct")(X)
    np.testing.assert_allclose(compat.to_numpy(dct), scipy.fft.dctn(X, **spatial), atol=1e-5)
    back = SpectralTransform2D("inverse_dct")(dct)
    np.testing.assert_allclose(compat.to_numpy(back), X, atol=1e-5)
    y = np.fft.fft2(X, **spatial)
    both = compat.to_numpy(SpectralTransform2D("dft", "cartesian")(X))
    np.testing.assert_allclose(both, np.concatenate([y.real, y.imag], -1), atol=1e-5)
    amplitude = compat.to_numpy(SpectralTransform2D("dft")(X))[..., :3]
    np.testing.assert_allclose(amplitude, np.abs(y), atol=1e-5)


def test_a_blank_map_has_finite_gradients():
    layer = SpectralTransform2D("dft")
    layer.build((1, 3, 3, 1))
    zeros = np.zeros((1, 3, 3, 1), "float32")
    by_input, by_weight = compat.gradients(layer, [zeros], keras.ops.sum)
    assert all(np.isfinite(g).all() for g in [*by_input, *by_weight])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"transform.*'dct'"):
        SpectralTransform2D("fft")
    with pytest.raises(ValueError, match="known height and width"):
        SpectralTransform2D().build((None, None, 5, 3))
    with pytest.raises(ValueError, match="rank 4"):
        SpectralTransform2D().build((None, 5, 3))
