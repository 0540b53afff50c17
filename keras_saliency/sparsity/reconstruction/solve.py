"""Least squares on a support: sums over the data, masks by ADMM, and the exact fit.

Weights are matrices (inputs, outputs), one per group. With `H = Xp'Xp / n` of the pruned network's
inputs and `Y = Xd W0`, what the dense network made of its own, the fit minimizes

    |Xp W - Y|^2 / n + lambda |W - W0|^2    over the weights that stay.
"""

import numpy as np

ROUNDS = 24
RISE = 16
# Above so many inputs a matrix of inputs by inputs is not formed.
WIDEST = 8192
# Matrices below this extent are factorized by one thread: others would wait for each other.
MANY_THREADS = 512


def _threads(count):
    """A scope in which BLAS takes so many threads."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(count, user_api="blas")


def ridge_of(samples):
    """The damping of `H`, in units of its mean diagonal: more where there are few inputs."""
    return 0.01 if samples >= 256 else 0.1 if samples >= 16 else 0.3


class Sums:
    """What a layer's inputs add up to, block by block of rows.

    Args:
        weights: (groups, inputs, outputs) float64, the dense kernel.
        rows: How many rows will come.
        centered: Whether means are taken out, because a bias can put them back.
    """

    def __init__(self, weights, rows, centred):
        self.weights = weights
        groups, inputs, outputs = weights.shape
        self.centred = centred
        self.dual = inputs > WIDEST or (inputs > 2048 and inputs > rows)
        self.count = 0
        # Blocks are multiplied in float32, about a first mean, so that large offsets cost no
        # digits, and added up in float64.
        self._weights = weights.astype("float32")
        self._shift_p = np.zeros((groups, 1, inputs), "float32")
        self._shift_d = self._shift_p
        self.mean_p = np.zeros((groups, inputs))
        self.mean_y = np.zeros((groups, outputs))
        self.square_y = np.zeros((groups, outputs))
        if self.dual:
            self.parts = []
        else:
            self.H = np.zeros((groups, inputs, inputs))
            self.C = np.zeros((groups, inputs, outputs))

    def add(self, pruned, dense):
        """Add rows (n, groups, inputs) of the two networks."""
        same = pruned is dense
        pruned, dense = (x.transpose(1, 0, 2).astype("float32") for x in (pruned, dense))
        if self.centred and not self.count and pruned.shape[1]:
            self._shift_p = pruned.mean(1, keepdims=True)
            self._shift_d = dense.mean(1, keepdims=True)
        pruned -= self._shift_p
        dense = pruned if same else dense - self._shift_d
        y = dense @ self._weights
        self.count += pruned.shape[1]
        self.mean_p += pruned.sum(1, dtype="float64")
        self.mean_y += y.sum(1, dtype="float64")
        self.square_y += np.square(y, dtype="float64").sum(1)
        if self.dual:
            self.parts.append((pruned, y))
            return
        turned = pruned.transpose(0, 2, 1)
        self.H += turned @ pruned
        self.C += turned @ y

    def finish(self, ridge):
        """Turn sums into means; returns the problem of each group."""
        n = max(self.count, 1)
        for name in ("mean_p", "mean_y", "square_y"):
            setattr(self, name, getattr(self, name) / n)
        # How the dense outputs vary, the scale of every error.
        self.variance = np.maximum(self.square_y - np.square(self.mean_y), 0).sum()
        problems = self._dual_problems(ridge) if self.dual else self._primal_problems(ridge)
        self.mean_p += self._shift_p[:, 0]
        self.mean_y += np.einsum("gi,gio->go", self._shift_d[:, 0].astype("float64"), self.weights)
        return problems

    def _dual_problems(self, ridge):
        pruned = np.concatenate([p for p, _ in self.parts], axis=1)
        y = np.concatenate([y for _, y in self.parts], axis=1).astype("float64")
        self.parts = []
        if self.centred:
            pruned -= self.mean_p[:, None].astype("float32")
            y -= self.mean_y[:, None]
        groups = range(len(self.weights))
        return [_Dual(pruned[g], y[g], self.weights[g], ridge) for g in groups]

    def _primal_problems(self, ridge):
        problems = []
        for g in range(len(self.weights)):
            H, C = self.H[g] / max(self.count, 1), self.C[g] / max(self.count, 1)
            if self.centred:
                H -= np.outer(self.mean_p[g], self.mean_p[g])
                C -= np.outer(self.mean_p[g], self.mean_y[g])
            total = self.square_y[g] - np.square(self.mean_y[g]) * self.centred
            problems.append(_Primal(H, C, self.weights[g], ridge, total))
        self.H = self.C = None
        return problems


class _Primal:
    """The problem by its normal equations."""

    def __init__(self, H, C, weights, ridge, total):
        self.damping = ridge * np.trace(H) / max(len(H), 1) + 1e-8
        self.H = H
        self.C = C
        self.weights = weights
        self.total = total
        self.diagonal = np.diag(H) + self.damping
        self.right = C + self.damping * weights

    def error(self, weights):
        """Squared error of all outputs, per row."""
        fitted = np.einsum("io,io->", weights, self.H @ weights)
        return max(fitted - 2 * np.einsum("io,io->", weights, self.C) + self.total.sum(), 0.0)

    def scaled_solver(self, rho):
        """A function that solves `(D^-1 (H + lambda) D^-1 + rho) W = B`."""
        from scipy import linalg

        scale = np.sqrt(self.diagonal)
        A = self.H / np.outer(scale, scale)
        A[np.diag_indices_from(A)] = 1 + rho
        factor = linalg.cho_factor(A, overwrite_a=True, check_finite=False)
        return lambda B: linalg.cho_solve(factor, B, check_finite=False)

    def fit(self, mask):
        """The exact fit of the weights where `mask` (inputs, outputs), outputs alike together."""
        result = np.zeros_like(self.weights)
        columns = np.packbits(mask, axis=0).T
        _, first, which = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        which = which.reshape(-1)
        kept = mask.sum(0)
        cubes = sum(float(kept[i]) ** 3 / 3 for i in first)
        if cubes > 120 * 2.0 * mask.shape[0] ** 2 * mask.shape[1]:
            return self._iterate(mask)
        with _threads(None if kept.mean() > MANY_THREADS else 1):
            self._factorise(mask, first, which, result)
        return result

    def _factorise(self, mask, first, which, result):
        from scipy import linalg

        for label, column in enumerate(first):
            support = np.flatnonzero(mask[:, column])
            outputs = np.flatnonzero(which == label)
            if not len(support):
                continue
            A = self.H[np.ix_(support, support)]
            A[np.diag_indices_from(A)] += self.damping
            right = self.right[np.ix_(support, outputs)]
            try:
                factor = linalg.cho_factor(A, overwrite_a=True, check_finite=False)
                solved = linalg.cho_solve(factor, right, check_finite=False)
            except linalg.LinAlgError:  # rounding left a negative eigenvalue
                A = self.H[np.ix_(support, support)]
                A[np.diag_indices_from(A)] += self.damping
                solved = np.linalg.lstsq(A, right, rcond=None)[0]
            result[np.ix_(support, outputs)] = solved

    def _iterate(self, mask):
        """Conjugate gradients on all outputs at once, to a relative error of 1e-4."""

        H = self.H.astype("float32")

        def apply(W):
            return np.where(mask, H @ W.astype("float32") + self.damping * W, 0)

        start = np.where(mask, self.weights, 0)
        return start + _conjugate(
            apply,
            np.where(mask, self.right, 0) - apply(start),
            lambda R: R / self.diagonal[:, None],
        )


class _Dual:
    """The problem of more inputs than rows, by its rows."""

    def __init__(self, rows, y, weights, ridge):
        self.rows = rows
        self.y = y
        self.weights = weights
        squares = np.einsum("ni,ni->i", rows, rows, dtype="float64") / len(rows)
        self.damping = ridge * squares.mean() + 1e-8
        self.diagonal = squares + self.damping

    def error(self, weights):
        gap = self.rows @ weights.astype("float32") - self.y
        return float(np.square(gap).sum() / len(self.rows))

    @property
    def right(self):
        return self.rows.T @ (self.y / len(self.rows)) + self.damping * self.weights

    def scaled_solver(self, rho):
        from scipy import linalg

        Z = (self.rows / np.sqrt(self.diagonal).astype("float32")).astype("float64")
        ridge = self.damping / self.diagonal + rho
        n = len(Z)
        K = (Z / ridge) @ Z.T
        K[np.diag_indices_from(K)] += n
        factor = linalg.cho_factor(K, overwrite_a=True, check_finite=False)

        def solve(B):
            B = B / ridge[:, None]
            return B - (Z.T @ linalg.cho_solve(factor, Z @ B, check_finite=False)) / ridge[:, None]

        return solve

    def fit(self, mask):
        n = len(self.rows)
        start = np.where(mask, self.weights, 0)
        X = self.rows

        def apply(V):
            masked = np.where(mask, X.T @ V.astype("float32"), 0)
            return X @ masked.astype("float32") + n * self.damping * V

        right = self.y - X @ start.astype("float32")
        dual = _conjugate(apply, right, lambda R: R)
        return start + np.where(mask, X.T @ dual.astype("float32"), 0)


def _conjugate(apply, right, precondition, tolerance=1e-4, most=100):
    x = np.zeros_like(right)
    r = right.copy()
    z = precondition(r)
    p = z.copy()
    rz = (r * z).sum(0)
    limit = tolerance * np.sqrt(np.square(right).sum(0)) + 1e-30
    for _ in range(most):
        if (np.sqrt(np.square(r).sum(0)) <= limit).all():
            break
        Ap = apply(p)
        step = rz / np.maximum((p * Ap).sum(0), 1e-300)
        x += step * p
        r -= step * Ap
        z = precondition(r)
        new = (r * z).sum(0)
        p = z + (new / np.maximum(rz, 1e-300)) * p
        rz = new
    return x


def admm(problems, count, choose, rho=1.0):
    """Masks and weights together, by the alternating direction method of multipliers.

    Follows Boyd et al. (2011) as Boža (2024) applied it to layers of networks: the weights are
    drawn to the least-squares solution, and to what the mask keeps of them.

    Args:
        problems: A problem for each group.
        count: How many weights go.
        choose: Function of scores (groups, inputs, outputs) and a number: a boolean array of what
            goes, that many of the lowest that may go.
        rho: Weight of the constraint.

    Returns:
        The mask, a boolean array (groups, inputs, outputs); `True` stays.
    """
    scale = np.stack([np.sqrt(p.diagonal) for p in problems])[:, :, None]
    solvers = [p.scaled_solver(rho) for p in problems]
    right = np.stack([p.right for p in problems]) / scale
    Z = np.stack([p.weights for p in problems]) * scale
    U = np.zeros_like(Z)
    mask = np.ones(Z.shape, bool)
    for t in range(1, ROUNDS + 1):
        W = right + rho * (Z - U)
        W = np.stack([solve(B) for solve, B in zip(solvers, W, strict=True)])
        V = W + U
        if t <= RISE:
            mask = ~choose(np.abs(V), round(count * min(1.0, t / RISE) ** (1 / 3)))
        Z = np.where(mask, V, 0)
        U = V - Z
    return mask
