"""Samples and targets as plain arrays: what is refused, and in which words."""

import numpy as np

from keras_saliency import validation
from keras_saliency.graph.data import read_pairs

_LARGEST = 1e150  # the square of a difference must not overflow


def read(x, y, max_samples=None, model=None):
    """`(x, y)` from arrays, or from a data set of pairs in `x`; `y` may be in either."""
    if x is None:
        raise TypeError("`x` must be samples, an array or a data set. Received: None")
    data, argument = (x, "x") if y is None else ((x, y), "x` or `y")
    x, y, _ = read_pairs(model, data, max_samples, argument)
    if y is None:
        raise ValueError(
            "`y` is missing: pass the targets, or a data set of batches `(x, y)` as `x`."
        )
    return x, y


def samples(name, x) -> np.ndarray:
    """Samples as rows of numbers; axes behind the first are flattened."""
    x = validation.array(name, x, finite=True)
    if not x.ndim:
        raise ValueError(f"`{name}` must have a first axis of samples. Received a number.")
    x = x.reshape(len(x), -1)
    if x.dtype.kind == "f" and max(abs(float(x.min())), abs(float(x.max()))) > _LARGEST:
        raise ValueError(f"`{name}` must not exceed {_LARGEST:g}: distances overflow. Rescale it.")
    return x if x.dtype in ("float32", "float64") else x.astype("float64")


def labels(name, y) -> np.ndarray:
    """One label per sample: integers or strings of any shape (n,) or (n, 1), or one-hot rows."""
    y = y if isinstance(y, np.ndarray) and y.dtype.kind in "OUS" else _numbers(name, y)
    if y.dtype.kind == "O":
        _check_objects(name, y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "biuf":
        if not (((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
            raise ValueError(
                f"`{name}` with several columns must be one-hot: a single 1 per row. For vectors "
                "of numbers there is `smoothness_index`."
            )
        return y.argmax(1)
    if y.ndim != 1:
        raise ValueError(f"`{name}` must be one label per sample. Received: shape={y.shape}")
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        raise ValueError(
            f"`{name}` must be labels, whole numbers or strings. For targets that are real "
            "numbers there is `smoothness_index`."
        )
    return y


def targets(name, y) -> np.ndarray:
    """Targets as rows of float64."""
    y = validation.array(name, y, ranks=(1, 2), finite=True)
    return samples(name, y).astype("float64")


def check_pair(x, y, names=("x", "y")):
    """That there are as many targets as samples."""
    if len(x) != len(y):
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must be as many. Received: {len(x)} samples and "
            f"{len(y)} targets"
        )


def check_order(order, count, cross):
    """`order` as an int that there are enough other samples for."""
    order = validation.integer("order", order)
    others = count - (not cross)
    if not others:
        raise ValueError("`x` must hold two samples or more: one alone has no neighbor.")
    if order > others:
        raise ValueError(
            f"`order` must be at most the number of other samples, {others}. "
            f"Received: order={order}"
        )
    return order


def _check_objects(name, y):
    """That labels in an array of objects, as pandas keeps strings, can be told apart."""
    import pandas as pd

    missing = pd.isna(y.ravel())
    strings = [isinstance(value, str) for value in y.ravel()[~missing]]
    if missing.any() or 0 < sum(strings) < len(strings):
        raise ValueError(
            f"`{name}` must be labels, all of them strings or all whole numbers, none missing. "
            f"Received: {missing.sum()} missing and {sum(strings)} strings of {y.size}"
        )


def _numbers(name, y) -> np.ndarray:
    if isinstance(y, (list, tuple)) and len(y) and isinstance(y[0], str):
        return np.asarray(y)
    return validation.array(name, y, finite=True)
