"""The share of equation 5.10 (G 5.4.3.2), one value at a time."""

import numpy as np


def share(d, neighborhood, valid=None):
    """Return alpha of `d` (batch, *space, channels); `valid` (batch, *space) marks neighbors."""
    reach = neighborhood // 2
    valid = np.ones(d.shape[:-1], bool) if valid is None else valid
    result = np.empty(d.shape, "float64")
    space = d.shape[1:-1]
    for place in np.ndindex(*d.shape):
        sample, *position, channel = place
        around = [
            (sample, *other)
            for other in np.ndindex(*space)
            if all(abs(i - j) <= reach for i, j in zip(position, other, strict=True))
            and (valid[(sample, *other)] or list(other) == position)
        ]
        result[place] = np.mean([not d[(*other, channel)] > d[place] for other in around])
    return result
