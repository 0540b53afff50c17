"""What layers are called with, inside other layers too."""

import contextlib

import numpy as np
from keras import ops

from keras_saliency.graph.listening import listening


@contextlib.contextmanager
def recorded(layers, order=None):
    """While open, note the first argument of every call of the layers, by key.

    Args:
        layers: Dict from key to layer.
        order: A list for pairs of key and argument, in the order of the calls; nothing else is
            noted then.
    """
    found = {key: [] for key in layers}

    def noting(key):
        def note(call, args, kwargs):
            x = args[0] if args else next(iter(kwargs.values()))
            if order is not None:
                order.append((key, x))
            else:
                found[key].append(np.asarray(ops.convert_to_numpy(ops.stop_gradient(x))))
            return call(*args, **kwargs)

        return note

    with listening({layer: noting(key) for key, layer in layers.items()}):
        yield found
