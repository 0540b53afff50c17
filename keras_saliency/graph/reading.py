"""The values of variables, read where they lie."""

import keras
import numpy as np
from keras import ops


def read(x):
    """The values of a variable or tensor, to be read at once: not to be written to, nor kept.

    `ops.convert_to_numpy` copies; for the kernels of large models that takes longer than what is
    done with them. What NumPy cannot see in place, as on a GPU or in bfloat16, is copied still.
    """
    x = x.value if isinstance(x, keras.Variable) else x
    try:
        return np.from_dlpack(ops.stop_gradient(x))
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return ops.convert_to_numpy(x)
