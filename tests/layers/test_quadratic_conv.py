import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import QuadraticConv2D


def reference(inputs, w, filters, kernel_size=3, strides=1, padding="same"):
    """Window by window: the sum of w_ij p_i p_j."""
    (x,) = inputs
    kernel = w["kernel"]
    (kh, kw) = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    if padding == "same":
        total = [
            max((-(-n // strides) - 1) * strides + k - n, 0)
            for n, k in zip(x.shape[1:3], (kh, kw), strict=True)
        ]
        x = np.pad(x, [(0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)])
    rows = (x.shape[1] - kh) // strides + 1
    columns = (x.shape[2] - kw) // strides + 1
    out = np.zeros((len(x), rows, columns, filters))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * strides : i * strides + kh, j * strides : j * strides + kw]
            p = np.concatenate([window.reshape(len(x), -1), np.ones((len(x), 1))], 1)
            out[:, i, j] = np.einsum("bi,fij,bj->bf", p, kernel, p)
    return out


class TestQuadraticConv2D(LayerTests):
    layer = QuadraticConv2D
    config = {
        "filters": 5,
        "kernel_size": (1, 2),
        "strides": (2, 3),
        "padding": "valid",
        "data_format": "channels_first",
        "activation": "relu",
        "kernel_initializer": "he_normal",
        "kernel_regularizer": "l2",
        "kernel_constraint": "max_norm",
    }
    cases = [
        Case(
            "same", {"filters": 3}, [(2, 5, 7, 2)], reference, data_format=True, half_tolerance=6e-2
        ),
        Case(
            "valid, strides",
            {"filters": 2, "kernel_size": (2, 3), "strides": 2, "padding": "valid"},
            [(2, 5, 7, 1)],
            reference,
            data_format=True,
            half_tolerance=6e-2,
        ),
    ]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="kernel_size"):
        QuadraticConv2D(2, 0)
    with pytest.raises(ValueError, match="rank 4"):
        QuadraticConv2D(2).build((None, 5, 3))
    with pytest.raises(ValueError, match="number of channels"):
        QuadraticConv2D(2).build((None, 5, 5, None))
