"""Whether a refit is better than leaving the weights as they are, told from inputs held out."""

import keras
import numpy as np
from keras import tree

# Above so many inputs the refit is trusted, below the other number nothing can be held out.
TRUSTED, LEAST = 256, 16


def split(data, seed):
    """Two parts of the inputs: three quarters, and a quarter, at least 4, drawn by `seed`."""
    count = len(tree.flatten(data)[0])
    held = max(4, count // 4)
    order = np.random.default_rng(seed).permutation(count)

    def take(index):
        return tree.map_structure(lambda x: x[np.sort(index)], data)

    return take(order[held:]), take(order[:held])


def distance(wanted, given, kinds):
    """How far outputs lie from those of the dense network, averaged over several outputs.

    Args:
        wanted, given: Lists of arrays.
        kinds: For each output `"softmax"`, `"sigmoid"` or `None`: the Kullback-Leibler divergence
            of probabilities, or the squared error over the variance of what is wanted.
    """
    found = []
    for p, q, kind in zip(wanted, given, kinds, strict=True):
        if kind is None:
            variance = np.square(p - p.mean(0)).mean() or 1.0
            found.append(np.square(p - q).mean() / variance)
            continue
        p, q = np.clip(p, 1e-7, 1), np.clip(q, 1e-7, 1)
        terms = p * np.log(p / q)
        if kind == "sigmoid":
            p, q = np.clip(1 - p, 1e-7, 1), np.clip(1 - q, 1e-7, 1)
            terms = terms + p * np.log(p / q)
        found.append(terms.sum(-1).mean())
    return float(np.mean(found))


def output_kinds(model, count):
    """What each output of a model ends in: `"softmax"`, `"sigmoid"` or `None`."""
    kinds = []
    for x in getattr(model, "outputs", None) or [None] * count:
        history = getattr(x, "_keras_history", None)
        kinds.append(_ending(history.operation) if history is not None else None)
    return kinds


def _ending(operation):
    if isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
        return output_kinds(operation, 1)[0]
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    activation = getattr(operation, "activation", None)
    for name in ("softmax", "sigmoid"):
        if (
            activation is getattr(keras.activations, name)
            or type(operation).__name__.lower() == name
        ):
            return name
    return None
