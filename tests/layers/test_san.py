"""SANAttention against the equations of G 5.4.3, and on the models of users."""

import itertools

import keras
import numpy as np
from extrema_reference import share
from harness import Case, LayerTests

from keras_saliency.layers import SANAttention


def fit(x, extents):
    """Average or crop (B, *space, C) to `extents`."""
    for axis, n in enumerate(extents, start=1):
        m = x.shape[axis]
        if m % n == 0:
            x = x.reshape(*x.shape[:axis], n, m // n, *x.shape[axis + 1 :]).mean(axis + 1)
        else:
            x = np.take(x, np.arange((m - n) // 2, (m + n) // 2), axis)
    return x


def convolve(x, kernel, dilation, depthwise):
    """Correlation with zeros around; an even window reaches further to the right."""
    rank = x.ndim - 2
    dilation = (dilation,) * rank if isinstance(dilation, int) else dilation
    window = kernel.shape[:rank]
    reach = [(k - 1) * d for k, d in zip(window, dilation, strict=True)]
    padded = np.pad(x, [(0, 0), *((r // 2, r - r // 2) for r in reach), (0, 0)])
    result = 0
    for tap in itertools.product(*map(range, window)):
        view = tuple(
            slice(t * d, t * d + n) for t, d, n in zip(tap, dilation, x.shape[1:-1], strict=True)
        )
        seen = padded[(slice(None), *view)]
        result = result + (seen * kernel[tap].reshape(-1) if depthwise else seen @ kernel[tap])
    return result


def san(inputs, weights, **kwargs):
    y, previous = inputs
    p = fit(previous, y.shape[1:-1])
    if kwargs.get("align_channels", True):
        p = p.mean(-1, keepdims=True)
    d = y - p
    if kwargs.get("absolute", True):
        d = np.abs(d)
    a = d * share(d, kwargs.get("neighborhood", 3)) if kwargs.get("extrema", True) else d
    if kwargs.get("smoothing", "conv") is not None:
        a = convolve(
            a,
            weights["smoothing/kernel"],
            kwargs.get("dilation_rate", 1),
            kwargs.get("smoothing") == "depthwise",
        )
        if kwargs.get("use_bias", True):
            a = a + weights["smoothing/bias"]
    if kwargs.get("activation") == "relu":
        a = np.maximum(a, 0)
    mask = 1 / (1 + np.exp(-a))
    return y * mask, mask


class TestSANAttention(LayerTests):
    layer = SANAttention
    config = {
        "kernel_size": (3, 5),
        "dilation_rate": 4,
        "neighborhood": 5,
        "absolute": False,
        "align_channels": False,
        "extrema": False,
        "smoothing": "depthwise",
        "activation": "relu",
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "bias_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L2(1e-3),
        "bias_regularizer": keras.regularizers.L1(1e-3),
        "kernel_constraint": keras.constraints.MaxNorm(2.0),
        "bias_constraint": keras.constraints.NonNeg(),
        "data_format": "channels_first",
        "start": "identity",
    }
    cases = [
        Case("image", {}, [(2, 5, 7, 3), (2, 5, 7, 2)], san, scores=True, data_format=True),
        Case(
            "dilated",
            {"dilation_rate": 4, "kernel_size": (3, 2)},
            [(2, 11, 7, 3), (2, 11, 7, 5)],
            san,
            scores=True,
        ),
        Case(
            "depthwise-strided",
            {"smoothing": "depthwise", "activation": "relu"},
            [(2, 5, 3, 2), (2, 10, 9, 7)],
            san,
            scores=True,
            data_format=True,
        ),
        Case(
            "sequence",
            {},
            [(3, 7, 5), (3, 7, 2)],
            san,
            scores=True,
            data_format=True,
            mask=True,
        ),
        Case(
            "sequence-depthwise",
            {"neighborhood": 5, "smoothing": "depthwise", "kernel_size": 5, "use_bias": False},
            [(3, 13, 5), (3, 13, 2)],
            san,
            scores=True,
            mask=True,
        ),
        Case(
            "volume",
            {"smoothing": "depthwise"},
            [(2, 3, 5, 4, 3), (2, 3, 7, 8, 2)],
            san,
            scores=True,
            data_format=True,
        ),
        # The ablation of G table 5.9.
        Case(
            "signed-unaligned",
            {
                "absolute": False,
                "align_channels": False,
                "extrema": False,
                "smoothing": None,
            },
            [(2, 5, 7, 3), (2, 5, 7, 3)],
            san,
            scores=True,
        ),
        Case(
            "unaligned-valid",
            {"align_channels": False, "extrema": False, "smoothing": None},
            [(2, 5, 7, 3), (2, 9, 9, 3)],
            san,
            scores=True,
        ),
        Case(
            "difference-only",
            {"extrema": False, "smoothing": None},
            [(2, 5, 7, 3)] * 2,
            san,
            scores=True,
        ),
        Case("extrema-only", {"smoothing": None}, [(2, 5, 7, 3), (2, 5, 7, 2)], san, scores=True),
    ]
