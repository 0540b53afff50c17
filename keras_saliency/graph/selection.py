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
        found = {x for x in layers if matches(selector, [x], [x.name], argument)}
        if not found and not callable(selector):
            raise ValueError(
                f"`{argument}` names {selector!r}, which the model '{model.name}' does not have."
            )
        chosen |= found
    return chosen


def matches(selector, layers, names, argument):
    """Whether a selector means something.

    Args:
        selector: A layer, a name or glob pattern, a compiled regular expression (searched in the
            first name), or a function of a layer.
        layers: The layers that the thing is, or is in.
        names: Its names; the fullest first.
        argument: Name of the argument that the selector was given to, for the error.

    Raises:
        TypeError: If the selector is none of these.
    """
    if isinstance(selector, keras.layers.Layer):
        return any(selector is layer for layer in layers)
    if isinstance(selector, str):
        return any(name == selector or fnmatch.fnmatchcase(name, selector) for name in names)
    if isinstance(selector, re.Pattern):
        return selector.search(names[0]) is not None
    if callable(selector) and not isinstance(selector, type):
        return any(bool(selector(x)) for x in layers if not isinstance(x, keras.Model))
    raise TypeError(
        f"`{argument}` takes layers, names, glob patterns, compiled regular expressions and "
        f"functions of a layer, or a list of them. Received: {selector!r}"
    )
