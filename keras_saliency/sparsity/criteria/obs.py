"""The rise of the layer's error when a weight goes and the others make up for it."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import Criterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel
from keras_saliency.sparsity.reconstruction.solve import WIDEST, ridge_of


@register
class OBS(Criterion):
    """`weight² / [H⁻¹]` of its input, `H` the inputs' second moments (Hassibi and Stork, 1993).

    `H` is damped as in the refit; the others are not changed. SparseGPT (Frantar and Alistarh,
    2023) ranks by the same score.
    """

    name = "obs"
    needs = "x"

    def edges(self, kernel: MeasuredKernel) -> np.ndarray:
        rows = kernel.inputs
        matrix = np.square(kernel.view.matrix(kernel.values))
        scores = np.empty_like(matrix)
        for g in range(matrix.shape[0]):
            scores[g] = (
                matrix[g]
                / _inverse_diagonal(
                    rows[:, g], kernel.view.bias is not None, kernel.measurements.samples
                )[:, None]
            )
        return kernel.view.kernel(scores)


def _inverse_diagonal(rows, centred, samples):
    """The diagonal of `(H + lambda)⁻¹`, in the dual form where inputs outnumber rows."""
    from scipy import linalg

    X = rows.astype("float64")
    if centred:
        X -= X.mean(0)
    n, width = X.shape
    damping = ridge_of(samples) * np.square(X).sum() / n / width + 1e-8
    if width > WIDEST or (width > 2048 and width > n):
        K = X @ X.T
        K[np.diag_indices_from(K)] += n * damping
        factor = linalg.cho_factor(K, overwrite_a=True, check_finite=False)
        reach = np.einsum("ni,ni->i", X, linalg.cho_solve(factor, X, check_finite=False))
        return np.maximum(1 - reach, 1e-12) / damping
    H = X.T @ X / n
    H[np.diag_indices_from(H)] += damping
    factor = linalg.cholesky(H, lower=True, check_finite=False)
    inverse = linalg.solve_triangular(
        factor, np.eye(width), lower=True, overwrite_b=True, check_finite=False
    )
    return np.square(inverse).sum(0)
