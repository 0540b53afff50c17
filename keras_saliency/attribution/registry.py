"""The attribution methods, by name: each is one function and one registration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from keras_saliency import validation

METHODS = {}


class Method:
    """A registered method: its function, and how its values become maps."""

    def __init__(self, name, function, reduce, layered):
        self.name = name
        self.function = function
        self.reduce = reduce
        self.layered = layered
        self.accepted = set(inspect.signature(function).parameters) - {"batch"}


def register_method(
    name: str, reduce: str | None = None, layered: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an attribution method, for `saliency_map(model, inputs, name)`.

    Args:
        name: String. Its name.
        reduce: How channels become one value where the caller leaves it open: `"max_abs"`,
            `"sum"` or `"sum_abs"`. `None`: the function returns maps `(rows, *space)` itself.
        layered: Bool. Whether it reads the features of a layer, `batch.features(**options)`.

    Returns:
        A decorator of a function of `(batch, **options)` that returns a list of arrays, one for
        each of `batch.values`: values of their shapes, or maps.

    Raises:
        ValueError: If the name is taken.

    Example:

    ```python
    from keras_saliency import attribution

    @attribution.register_method("squared_gradient", reduce="sum")
    def squared_gradient(batch):
        return [g * g for g in batch.gradients()]
    ```
    """
    name = validation.text("name", name, optional=False)
    if name in METHODS:
        raise ValueError(f"`name`: a method {name!r} exists already.")
    if reduce is not None:
        validation.choice("reduce", reduce, ("max_abs", "sum", "sum_abs"))

    def register(function):
        METHODS[name] = Method(name, function, reduce, layered)
        return function

    return register


def method_named(name):
    """The method of this name, or an error that lists those that exist."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"`method` must be one of {sorted(METHODS)}. Received: method={name!r}")
    return METHODS[name]
