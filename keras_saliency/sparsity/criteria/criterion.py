"""What a criterion is, and the register of their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from keras_saliency.sparsity.criteria.measurements import MeasuredKernel
from keras_saliency.sparsity.criteria.scores import HeldScores

_CRITERIA = {}
# Names that mean more than a score: see `keras_saliency.sparsify`.
RESERVED = ("auto", "admm")


class Criterion:
    """What an edge or a channel is worth: more stays, less goes.

    Subclass it, give the class a `name`, write `edges`, and register it with
    `@sparsity.criteria.register`; then its name is a `method` of `sparsify`, `shrink_to`,
    `iSparseCallback` and `Sparsifier`. An instance is one without being registered.

    Attributes:
        name: String, what `method=` calls it.
        needs: What of `data` it needs: `""`, `"x"` or `"xy"`.
        channels_only: Whether it scores channels, not edges.
        within_outputs: Whether edges are ranked within each output rather than over the kernel.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import sparsify
    from keras_saliency.sparsity import criteria

    @criteria.register
    class Squared(criteria.Criterion):
        name = "squared"

        def edges(self, kernel):
            return np.square(kernel.values)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    sparse = sparsify(model, 0.5, method="squared")
    assert (sparse.get_weights()[0] == 0).sum() == 6
    ```
    """

    name: str | None = None
    needs = ""
    channels_only = False
    within_outputs = False

    def prepare(self, kernels: Sequence[MeasuredKernel], count: int) -> None:
        """Called once, before any kernel is scored.

        Args:
            kernels: List of `MeasuredKernel`, all that take part.
            count: How many edges will go, over all kernels.
        """

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        """Scores of the edges of one kernel.

        Args:
            kernel: A `MeasuredKernel`.

        Returns:
            An array of the kernel's shape.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `edges`.")

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        """Scores of the output channels of one kernel: by default the sums of its edges.

        Args:
            kernel: A `MeasuredKernel`.

        Returns:
            A vector over the output channels, the kernel's output axes flattened.
        """
        return kernel.by_channel(np.asarray(self.edges(kernel), "float64")).sum(0)

    def scores(self, kernel: MeasuredKernel) -> Any:
        """The edges' scores as an object with `size`, `blocks()` and `array()`."""
        edges = np.asarray(self.edges(kernel), "float64")
        if edges.shape != kernel.shape:
            raise ValueError(
                f"`edges` of the criterion {self.label!r} must give an array of the kernel's shape "
                f"{kernel.shape}. Received: shape {edges.shape} for {kernel.key!r}"
            )
        if kernel.mask is not None:
            edges = np.where(kernel.mask, edges, min(edges.min(), 0.0))
        return HeldScores(_checked(edges, self.label, kernel))

    def channel_scores(self, kernel: MeasuredKernel) -> np.ndarray:
        """The channels' scores, checked."""
        channels = np.asarray(self.channels(kernel), "float64").reshape(-1)
        if channels.size != kernel.outputs_count:
            raise ValueError(
                f"`channels` of the criterion {self.label!r} must give one score for each of the "
                f"{kernel.outputs_count} output channels of {kernel.key!r}. "
                f"Received: {channels.size}"
            )
        return _checked(channels, self.label, kernel)

    @property
    def label(self) -> str:
        return self.name or type(self).__name__


class ChannelCriterion(Criterion):
    """A criterion of whole output channels."""

    channels_only = True

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        raise ValueError(
            f"`method={self.label!r}` scores whole channels. Pass granularity='channel', or take "
            "method='isparse' for edges."
        )

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} has no method `channels`.")


# What `method=` takes: a name, an object, a class, or a function of a `MeasuredKernel`.
Method: TypeAlias = str | Criterion | type[Criterion] | Callable[..., Any]
C = TypeVar("C", bound=type[Criterion])


class _Function(Criterion):
    """A plain function of a kernel."""

    def __init__(self, function):
        self.function = function
        self.name = getattr(function, "__name__", None)

    def edges(self, kernel):
        return self.function(kernel)


def register(criterion: C) -> C:
    """Make the `name` of a subclass of `Criterion` a value of `method=`.

    Args:
        criterion: The class. Registering a class of the same module and name again replaces it.

    Returns:
        The class, so that this serves as a decorator.

    Raises:
        TypeError: If it is no subclass of `Criterion`.
        ValueError: If it has no name, or the name is taken.
    """
    if not (isinstance(criterion, type) and issubclass(criterion, Criterion)):
        raise TypeError(
            f"`register` takes a subclass of `sparsity.criteria.Criterion`. Received: {criterion!r}"
        )
    name = criterion.name
    if not isinstance(name, str) or not name:
        raise ValueError(f"{criterion.__name__} needs a class attribute `name`, a string.")
    other = _CRITERIA.get(name)
    same = other is not None and (other.__module__, other.__qualname__) == (
        criterion.__module__,
        criterion.__qualname__,
    )
    if name in RESERVED or (other is not None and not same):
        raise ValueError(f"A criterion named {name!r} exists already: give yours another `name`.")
    _CRITERIA[name] = criterion
    return criterion


def names(channels=True):
    """The registered names, a tuple; with `channels=False` those that score edges."""
    return tuple(n for n, c in _CRITERIA.items() if channels or not c.channels_only)


def criterion_of(method, argument="method"):
    """The criterion that `method=` means: a name, an instance, a class, or a function.

    Raises:
        ValueError, TypeError: If it is none of these.
    """
    if isinstance(method, Criterion):
        return method
    if isinstance(method, str):
        if method not in _CRITERIA:
            raise ValueError(
                f"`{argument}` must be one of {names()}, an object of `sparsity.criteria`, or a "
                f"function of a kernel. Received: {argument}={method!r}"
            )
        return _CRITERIA[method]()
    if isinstance(method, type) and issubclass(method, Criterion):
        return method()
    if callable(method):
        return _Function(method)
    raise TypeError(
        f"`{argument}` must be a name, an object of `sparsity.criteria`, or a function of a "
        f"kernel. Received: {argument}={method!r}"
    )


def check_data(criterion, x, y, argument="method"):
    """Refuse a criterion without the data that it needs."""
    if "y" in criterion.needs and (x is None or y is None):
        raise ValueError(
            f"`{argument}={criterion.label!r}` differentiates the loss, so it needs `data=(x, y)` "
            f"with labels. Received: {'no data' if x is None else 'data without labels'}"
        )
    if "x" in criterion.needs and x is None:
        raise ValueError(
            f"`{argument}={criterion.label!r}` looks at what passes through the model, so it needs "
            "`data`, some hundred inputs. Received: data=None"
        )


def _checked(scores, label, kernel):
    if np.isnan(scores).any():
        raise ValueError(
            f"The criterion {label!r} gives NaN for {kernel.key!r}: does the model or `data` hold "
            "NaN?"
        )
    return scores
