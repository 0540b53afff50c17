"""The precision in which sums and exponentials are taken."""

import keras


def wide_dtype(dtype):
    """Return `"float32"`, or `"float64"` for what has that already.

    Keras's own `result_type` says float32 for float64 on PyTorch.
    """
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"
