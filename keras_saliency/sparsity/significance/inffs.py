"""Infinite feature selection: which columns of a data matrix matter (G 2.2.2)."""

from __future__ import annotations

from numbers import Real

import numpy as np

from keras_saliency.typing import ArrayLike

_EPSILON = np.finfo("float64").eps
_DENSE = 512  # Up to here LAPACK finds the largest eigenvalue faster than Lanczos does.


def inffs(X: ArrayLike, alpha: float = 0.5) -> np.ndarray:
    """Score features by infinite feature selection (G 2.2.2, equations 2.21 to 2.23).

    The features are the nodes of a complete graph, whose edges
    `A = alpha * max(std_i, std_j) + (1 - alpha) * (1 - |spearman_ij|)` are strong between features
    that vary and tell different things. A feature's score sums all paths of all lengths that
    start at it: the row sums of `inv(I - r A) - I` with `r = 0.9 / spectral_radius(A)`.

    The standard deviation is the population's. Ties get their average rank. A constant feature
    has no correlation with any other, and its term `1 - |spearman|` is 0: it is not rewarded for
    being unlike the others.

    Args:
        X: Array of shape `(n, d)`, samples by features; any real or boolean dtype.
        alpha: Weight of the deviations against the correlations, in [0, 1].

    Returns:
        A float64 array of shape `(d,)`, all values >= 0. It is 0 everywhere where `A` is 0: for a
        single sample, say, or constant features only.

    Raises:
        ValueError: If `X` is not two-dimensional, is empty, or holds values that are not finite,
            or if `alpha` lies outside [0, 1].
        TypeError: If `X` is not numeric.

    Example:

    ```python
    import numpy as np
    from keras_saliency import inffs

    X = np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0], [2.0, 2.0, 5.0], [3.0, 4.0, 5.0]])
    scores = inffs(X)  # the constant third column scores least
    assert scores.argmin() == 2
    ```
    """
    X = np.asarray(X)
    if X.dtype.kind not in "biuf" and X.dtype.name != "bfloat16":
        raise TypeError(f"`X` must be a numeric array. Received: dtype={X.dtype}")
    X = X.astype(np.float64)
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            "`X` must have the shape (samples, features) with at least one of each. "
            f"Received: X.shape={X.shape}"
        )
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must be a number in [0, 1]. Received: alpha={alpha!r}")
    if not np.isfinite(X).all():
        columns = np.flatnonzero(~np.isfinite(X).all(axis=0))
        raise ValueError(
            f"`X` must be finite. Received NaN or infinity in {columns.size} of its "
            f"{X.shape[1]} columns, first in column {columns[0]}."
        )
    # Deviations of values near the largest float would overflow; constant columns stay exactly 0.
    scale = np.abs(X).max()
    std = (X / scale).std(axis=0) * scale if scale > 0 else np.zeros(X.shape[1])
    # Equal but for rounding is equal.
    constant = np.ptp(X, axis=0) <= 4 * _EPSILON * np.abs(X).max(axis=0)
    std[constant] = 0.0
    A = alpha * np.maximum(std[:, None], std[None, :])
    distance = 1 - np.abs(_spearman(X, constant))
    # Ranks that agree have a distance of 0; rounding would be scaled up to scores as of features.
    distance[distance < 8 * _EPSILON * np.sqrt(len(X))] = 0.0
    A += (1 - alpha) * distance
    radius = _spectral_radius(A)
    if radius == 0:
        return np.zeros(X.shape[1])
    return np.maximum(_path_sums(A * (0.9 / radius)), 0.0)


def _spearman(X, constant):
    """Rank correlation of all pairs of columns; 1 in magnitude where a column is constant."""
    from scipy.stats import rankdata

    n = len(X)
    ranks = rankdata(X, axis=0) - (n + 1) / 2
    ranks[:, constant] = 0.0
    norms = np.sqrt(np.square(ranks).sum(axis=0))
    norms[constant] = 1.0
    ranks /= norms
    correlation = np.clip(ranks.T @ ranks, -1.0, 1.0)
    correlation[constant, :] = 1.0
    correlation[:, constant] = 1.0
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _spectral_radius(A):
    """Largest eigenvalue in magnitude of a symmetric matrix that has no negative entry."""
    from scipy.linalg import eigvalsh
    from scipy.sparse.linalg import eigsh

    d = len(A)
    largest = A.max()
    if largest == 0:
        return 0.0
    # By Perron and Frobenius the largest eigenvalue is also the largest in magnitude.
    if d <= _DENSE:
        return largest * float(eigvalsh(A / largest, subset_by_index=[d - 1, d - 1])[0])
    # A start near the Perron vector, but not on it: Lanczos needs a direction to leave for.
    start = A.sum(axis=1) / largest + np.linspace(0.0, 1.0, d)
    return largest * float(
        eigsh(A / largest, k=1, which="LA", v0=start, return_eigenvectors=False)[0]
    )


def _path_sums(rA):
    """Row sums of `inv(I - rA) - I`: solve for the vector of ones instead of inverting."""
    from scipy.linalg import solve

    # I - rA is positive definite: its eigenvalues lie between 0.1 and 1.9.
    system = np.eye(len(rA)) - rA
    return solve(system, np.ones(len(rA)), assume_a="pos", overwrite_a=True) - 1.0
