"""Linear resizing over any number of axes."""

import numpy as np
from keras import ops


def resize(maps, space) -> np.ndarray:
    """Maps `(rows, *extent)` at another extent: linear, between the centers of the positions."""
    maps = np.asarray(maps)
    if maps.shape[1:] == tuple(space):
        return maps
    kept = maps.dtype
    result = ops.convert_to_tensor(maps.astype("float32"))
    for axis, (old, new) in enumerate(zip(maps.shape[1:], space, strict=True), start=1):
        if old != new:
            weights = ops.convert_to_tensor(_weights(old, new))
            result = ops.moveaxis(ops.matmul(ops.moveaxis(result, axis, -1), weights), -1, axis)
    return ops.convert_to_numpy(result).astype(kept)


def _weights(old, new):
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(places.astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    weights = np.zeros((old, new), "float32")
    np.add.at(weights, (low, np.arange(new)), 1 - (places - low))
    np.add.at(weights, (high, np.arange(new)), places - low)
    return weights
