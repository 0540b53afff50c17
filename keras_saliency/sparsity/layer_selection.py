"""Choose layers of a model by object, name, path, pattern or function."""

import fnmatch
import re

import keras


def selected(model, selectors, argument):
    """The set of layers that `selectors` mean; a name that means none is an error."""
    if selectors is None:
        return set()
    if not isinstance(selectors, (list, tuple, set, frozenset)):
        selectors = [selectors]
    layers = list(model._flatten_layers(include_self=False))
    chosen = set()
    for selector in selectors:
        found = {x for x in layers if _matches(x, selector, argument)}
        if not found and not callable(selector):
            raise ValueError(
                f"`{argument}` names {selector!r}, which the model '{model.name}' does not have."
            )
        chosen |= found
    return chosen


def _matches(layer, selector, argument):
    if isinstance(selector, keras.layers.Layer):
        return layer is selector
    if isinstance(selector, str):
        return fnmatch.fnmatchcase(layer.name, selector)
    if isinstance(selector, re.Pattern):
        return selector.search(layer.name) is not None
    if callable(selector):
        return bool(selector(layer))
    raise TypeError(
        f"`{argument}` takes layers, names, glob patterns, compiled regular expressions and "
        f"functions of a layer, or a list of them. Received: {selector!r}"
    )
