"""Infinite feature selection against its equations, written out with loops and inverses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from keras_saliency import inffs


def reference(X, alpha):
    d = X.shape[1]
    A = np.zeros((d, d))
    for i in range(d):
        for j in range(d):
            spread = max(X[:, i].std(), X[:, j].std())
            if len(set(X[:, i])) == 1 or len(set(X[:, j])) == 1:
                independence = 0.0
            else:
                independence = 1 - abs(spearmanr(X[:, i], X[:, j])[0])
            A[i, j] = alpha * spread + (1 - alpha) * independence
    if A.max() < 1e-14:  # rounding: two samples have no more than one order
        return np.zeros(d)
    r = 0.9 / max(abs(np.linalg.eigvals(A)))
    S = np.linalg.inv(np.eye(d) - r * A) - np.eye(d)
    return S.sum(axis=1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(11, 5), (3, 7), (2, 3), (40, 2)])
def test_equals_the_equations(shape, alpha):
    X = np.random.default_rng(sum(shape)).normal(size=shape) ** 3
    np.testing.assert_allclose(inffs(X, alpha), reference(X, alpha), rtol=1e-9, atol=1e-9)


def test_many_ties_and_a_constant_column():
    rng = np.random.default_rng(3)
    X = rng.integers(0, 3, size=(13, 6)).astype(float)
    X[:, 2] = 0.1 * 3  # A value whose standard deviation rounds to something above 0.
    np.testing.assert_allclose(inffs(X, 0.5), reference(X, 0.5), rtol=1e-9)
    # The constant column earns nothing by correlation: alone it is at the bottom.
    assert inffs(X, 0.0)[2] == 0


def test_more_columns_than_the_dense_solver_takes_in():
    X = np.random.default_rng(5).normal(size=(50, 601))
    ranks = X.argsort(axis=0).argsort(axis=0)
    A = 0.5 * np.maximum.outer(X.std(axis=0), X.std(axis=0))
    A += 0.5 * (1 - abs(np.corrcoef(ranks.T)))
    r = 0.9 / np.linalg.eigvalsh(A)[-1]
    expected = (np.linalg.inv(np.eye(601) - r * A) - np.eye(601)).sum(axis=1)
    np.testing.assert_allclose(inffs(X), expected, rtol=1e-7)


def test_columns_that_are_all_alike():
    X = np.repeat(np.random.default_rng(5).normal(size=(9, 1)), 701, axis=1)
    scores = inffs(X)  # A is constant, its Perron vector is the vector of ones
    np.testing.assert_allclose(scores, 9.0, rtol=1e-6)  # 0.9 / (1 - 0.9)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_nonnegative_finite_and_equivariant_to_the_order_of_columns(n, d, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * rng.integers(0, 2, size=d)
    scores = inffs(X)
    assert scores.shape == (d,)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    order = rng.permutation(d)
    np.testing.assert_allclose(inffs(X[:, order]), scores[order], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_decides_what_counts(alpha):
    rng = np.random.default_rng(1)
    t = rng.permutation(20.0 * np.arange(20))
    X = np.stack([t, t * 1.001, 1e-3 * rng.normal(size=20)], axis=1)
    # By deviation the first two win, by being unlike the others the third one.
    assert inffs(X, alpha).argmax() == (2 if alpha == 0 else 1)


def test_dtypes():
    X = np.random.default_rng(0).integers(0, 2, size=(9, 4))
    expected = inffs(X.astype(float))
    for dtype in ("bool", "int8", "uint8", "float16", "float32"):
        result = inffs(X.astype(dtype))
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected)
    np.testing.assert_allclose(inffs(X.tolist()), expected)


def test_extreme_scales():
    X = np.random.default_rng(0).normal(size=(9, 4))
    assert np.isfinite(inffs(X * 1e300)).all()
    assert np.isfinite(inffs(X * 1e-300)).all()
    assert (inffs(X * 1e-300) > 0).all()


def test_no_variation_is_no_score():
    np.testing.assert_array_equal(inffs(np.ones((5, 3))), np.zeros(3))
    np.testing.assert_array_equal(inffs(np.random.default_rng(0).normal(size=(1, 4))), np.zeros(4))
    np.testing.assert_array_equal(inffs(np.zeros((5, 3))), np.zeros(3))


def test_a_single_column():
    np.testing.assert_allclose(inffs(np.arange(7.0)[:, None]), [9.0])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((0, 3)), "at least one"),
        (np.zeros((3, 0)), "at least one"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "first in column 1"),
        (np.array([[0.0, 1.0], [np.inf, 2.0]]), "first in column 0"),
    ],
)
def test_bad_data(X, message):
    with pytest.raises(ValueError, match=message):
        inffs(X)


@pytest.mark.parametrize("X", [np.array([["a", "b"]]), np.ones((2, 2), dtype=complex)])
def test_data_of_the_wrong_type(X):
    with pytest.raises(TypeError, match="numeric"):
        inffs(X)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan, "half", None, True])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match="alpha"):
        inffs(np.ones((4, 3)), alpha)


def test_the_input_is_left_alone():
    X = np.random.default_rng(0).normal(size=(9, 4))
    before = X.copy()
    inffs(X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("samples", [2, 7, 50, 1000])
def test_rounding_earns_no_score(samples):
    rng = np.random.default_rng(samples)
    column = rng.normal(size=(samples, 1))
    alike = np.exp(column * np.arange(1, 8))
    alike[:, ::2] *= -1  # the same order, or the reverse
    assert (inffs(alike, alpha=0) == 0).all()
    nearly = np.where(rng.uniform(size=(samples, 5)) > 0.5, 0.3, np.nextafter(0.3, 1))
    assert (inffs(nearly) == 0).all()
    # One sample more out of order, and there is something to tell.
    other = np.concatenate([alike, rng.normal(size=(samples, 1))], axis=1)
    assert samples == 2 or inffs(other, alpha=0)[-1] > 0.1
