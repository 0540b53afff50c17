"""Who gets the kernels: a budget, shared among the layers of the racks (G 3.4.6.1, 3.5.2)."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from keras_saliency import validation

if TYPE_CHECKING:
    from keras_saliency.racknet.statistics import DatasetStatistics


def _racknet(clusters, rng):
    """DESIGN 5.6: racks in proportion to their layers, layers inversely to their clusters."""
    layers = sum(len(rack) for rack in clusters)
    shares = []
    for rack in clusters:
        size, total = len(rack), sum(rack)
        of_rack = Fraction(size, layers)
        if size == 1:
            shares.append([of_rack])
        elif total == 0:
            shares.append([of_rack / size] * size)
        else:
            shares.append([of_rack * (1 - Fraction(n, total)) / (size - 1) for n in rack])
    return shares


def _relative_clusters(rack):
    """Each layer's part of the rack's clusters; equal parts where there are none."""
    total = sum(rack)
    return [Fraction(n, total) if total else Fraction(1, len(rack)) for n in rack]


def _printed(clusters, rng):
    """The formula for beta as it is printed in 3.4.6.1; `allocate` normalizes it."""
    layers = sum(len(rack) for rack in clusters)
    return [
        [1 - Fraction(len(rack), layers) * part for part in _relative_clusters(rack)]
        for rack in clusters
    ]


def _c_proportional(clusters, rng):
    layers = sum(len(rack) for rack in clusters)
    return [
        [Fraction(len(rack), layers) * part for part in _relative_clusters(rack)]
        for rack in clusters
    ]


def _uniform_rack(clusters, rng):
    return [[Fraction(1, len(clusters) * len(rack))] * len(rack) for rack in clusters]


def _uniform_layer(clusters, rng):
    return [[Fraction(1)] * len(rack) for rack in clusters]


def _random(clusters, rng):
    """Uniform over all ways to divide the budget (a flat Dirichlet distribution)."""
    return [[Fraction(float(value)) for value in rng.exponential(size=len(r))] for r in clusters]


_STRATEGIES = {
    "racknet": _racknet,
    "racknet-printed": _printed,
    "random": _random,
    "uniform-rack": _uniform_rack,
    "uniform-layer": _uniform_layer,
    "c-proportional": _c_proportional,
    "inverse-order": _racknet,
}
STRATEGIES = tuple(_STRATEGIES)


def largest_remainder(shares, budget):
    """Integers of at least 1 in proportion to `shares` that sum to `budget`.

    Every share is rounded down, but to no less than 1; what is left goes, one each, to the largest
    remainders, the earlier share first on a tie. Where the ones that were rounded up have cost
    more than there is, the shares that are furthest above their due give back, later ones first.

    Args:
        shares: list of non-negative numbers, `fractions.Fraction` for exact ties.
        budget: int, at least `len(shares)`.

    Returns:
        A list of ints.
    """
    total = sum(shares)
    due = [share * budget / total if total else Fraction(budget, len(shares)) for share in shares]
    counts = [max(1, int(value)) for value in due]
    left = budget - sum(counts)
    order = sorted(range(len(due)), key=lambda i: (counts[i] - due[i], i))
    for i in order[: max(left, 0)]:
        counts[i] += 1
    while left < 0:
        i = max(
            (i for i in range(len(due)) if counts[i] > 1), key=lambda i: (counts[i] - due[i], i)
        )
        counts[i] -= 1
        left += 1
    return counts


def check_clusters(clusters, name="statistics"):
    """The nested list n_ij as a tuple of tuples of ints, or an error that says what is wrong."""
    expected = (
        f"`{name}` must be a DatasetStatistics, or a non-empty list of racks, each a non-empty "
        "list with the number of clusters (an integer >= 0) of each layer"
    )
    if isinstance(clusters, np.ndarray):
        clusters = clusters.tolist()
    if not isinstance(clusters, list | tuple):
        raise TypeError(f"{expected}. Received: {clusters!r} (of type {type(clusters).__name__})")
    racks = []
    for rack in clusters:
        if isinstance(rack, np.ndarray):
            rack = rack.tolist()
        if not isinstance(rack, list | tuple) or not rack:
            raise ValueError(f"{expected}. Received: {clusters!r}")
        for n in rack:
            if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 0:
                raise ValueError(f"{expected}. Received: {clusters!r}")
        racks.append(tuple(int(n) for n in rack))
    if not racks:
        raise ValueError(f"{expected}. Received: {clusters!r}")
    return tuple(racks)


def check_budget(budget, layers):
    budget = validation.integer("budget", budget, minimum=None)
    if budget < layers:
        raise ValueError(
            f"`budget` must be at least the number of layers, {layers}, so that every layer has a "
            f"kernel. Received: budget={budget}"
        )
    return budget


def check_strategy(strategy):
    return validation.choice("strategy", strategy, STRATEGIES)


def allocate(
    statistics: DatasetStatistics | Sequence[Sequence[int]],
    budget: int,
    strategy: str = "racknet",
    seed: int | None = 0,
) -> list[list[int]]:
    """Divides a budget of kernels among the convolutional layers of a network.

    The statistics say how many racks there are, how many layers each has, and how many clusters
    of similar keypoints (n_ij) stand behind each layer. `"racknet"` gives a rack the part of the
    budget that its number of layers has in all layers, and a layer inside it a part that falls
    with its clusters, `(1 - n_ij / sum_l n_il) / (c_i - 1)`: patterns that are easily told apart
    need fewer kernels. The printed formula cannot give the dissertation's own table 3.2; it is
    available, normalized, as `"racknet-printed"`.

    Args:
        statistics: a `DatasetStatistics`, or the nested list of clusters itself,
            `[[n_11, n_12, ...], [n_21, ...], ...]`.
        budget: int, the number of kernels, at least the number of layers.
        strategy: one of `"racknet"`, `"racknet-printed"`, `"random"`, `"uniform-rack"` (each
            rack the same), `"uniform-layer"` (each layer the same), `"c-proportional"` (layers
            in proportion to their clusters) and `"inverse-order"` (every rack of `"racknet"`
            reversed).
        seed: int, used by `"random"` alone.

    Returns:
        A list of racks, each a list of ints, the kernels per layer; all are at least 1 and their
        sum is exactly `budget`.

    Raises:
        TypeError: when `statistics` or `budget` is of another type.
        ValueError: when the budget is below the number of layers, or the strategy is unknown.

    Example:

    >>> import keras_saliency
    >>> keras_saliency.RACKNet.allocate([[3, 5], [2, 2, 4]], budget=40)
    [[10, 6], [9, 9, 6]]

    Source: G 3.4.6.1 and 3.5.2, table 3.2.
    """
    clusters = check_clusters(getattr(statistics, "clusters", statistics))
    budget = check_budget(budget, sum(len(rack) for rack in clusters))
    check_strategy(strategy)
    seed = validation.seed(seed)
    shares = _STRATEGIES[strategy](clusters, np.random.default_rng(seed))
    counts = iter(largest_remainder([share for rack in shares for share in rack], budget))
    kernels = [[next(counts) for _ in rack] for rack in clusters]
    if strategy == "inverse-order":
        kernels = [rack[::-1] for rack in kernels]
    return kernels
