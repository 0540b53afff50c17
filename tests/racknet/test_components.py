import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_saliency.racknet.clusters import count_clusters, neighbour_distance
from keras_saliency.racknet.components import (
    find_components,
    histogram_quantiles,
    keypoint_entropy,
)


def histogram(values, bin_size=0.01):
    return np.bincount((np.asarray(values) / bin_size).astype(int), minlength=801)


def brute_entropy(image, x, y, sigma):
    rows = [r for r in range(image.shape[0]) if abs(r - y) <= 3 * sigma]
    columns = [c for c in range(image.shape[1]) if abs(c - x) <= 3 * sigma]
    values = [image[r, c] for r in rows for c in columns]
    p = np.array([values.count(v) for v in set(values)]) / len(values)
    return -np.sum(p * np.log2(p))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 16), st.floats(0, 12), st.floats(0.35, 9), st.integers(1, 256))
def test_entropy_is_that_of_the_window(x, y, sigma, levels):
    image = np.random.default_rng(levels).integers(0, levels, (13, 17)).astype("uint8")
    found = keypoint_entropy(image, *(np.array([v], "float64") for v in (x, y, sigma)))
    np.testing.assert_allclose(found, brute_entropy(image, x, y, sigma), atol=1e-5)


def test_entropy_of_known_windows():
    image = np.zeros((8, 8), "uint8")
    where = np.array([3.5, 3.5]), np.array([3.5, 3.5]), np.array([0.5, 2.0])
    assert keypoint_entropy(image, *where).tolist() == [0, 0]
    image[:, ::2] = 7
    np.testing.assert_allclose(keypoint_entropy(image, *where), [1, 1])


def test_quantiles_of_a_histogram():
    values = np.random.default_rng(0).gamma(3, 0.5, 20000)
    found = histogram_quantiles(histogram(values), 0.01, 50)
    expected = np.quantile(np.floor(values * 100) / 100 + 0.005, (np.arange(50) + 0.5) / 50)
    np.testing.assert_allclose(found, expected, atol=0.011)


@pytest.mark.parametrize("means", [(3.0,), (1.0, 4.0), (1.0, 3.0, 5.0), (1, 2.5, 4, 6)])
def test_separate_components_are_found_by_rising_mean(means):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(m, 0.2, 900) for m in means])
    mixture = find_components(histogram(values))
    np.testing.assert_allclose(mixture.means, means, atol=0.06)
    np.testing.assert_allclose(mixture.stds, 0.2, atol=0.05)
    np.testing.assert_allclose(mixture.weights, 1 / len(means), atol=0.05)
    bins = (np.array(means) / 0.01).astype(int)
    assert mixture.assignment[bins].tolist() == list(range(len(means)))


def test_more_keypoints_do_not_mean_more_components():
    # A skewed distribution: no mixture of few Gaussians fits it, and plain BIC never stops.
    shape = stats.gamma(4, scale=0.5)
    counts = []
    for n in (600, 6_000, 60_000, 600_000):
        values = shape.ppf((np.arange(n) + 0.5) / n)
        counts.append(len(find_components(histogram(np.minimum(values, 8))).means))
    assert len(set(counts)) == 1
    plain = find_components(histogram(np.minimum(values, 8)), effective_size=20_000)
    assert len(plain.means) > counts[0]


def test_a_single_value_and_few_values():
    for values in ([2.0], [2.0] * 500, [1.0, 5.0]):
        mixture = find_components(histogram(values))
        assert len(mixture.means) == 1
        assert np.isfinite(mixture.means).all()
        assert np.isfinite(mixture.stds).all()


def test_the_number_offered_is_kept():
    values = np.concatenate([np.random.default_rng(0).normal(m, 0.1, 900) for m in (1, 3, 5)])
    assert len(find_components(histogram(values), max_components=2).means) == 2


def blobs(directions, n=30, noise=0.01, dims=128):
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(dims, directions)))[0].T
    points = centres.repeat(n, 0) + rng.normal(scale=noise, size=(n * directions, dims))
    # Lengths must not matter.
    return points * rng.uniform(1, 500, size=(len(points), 1))


@pytest.mark.parametrize("directions", [1, 4, 9])
def test_clusters_are_directions(directions):
    assert count_clusters(blobs(directions), 0.05) == directions


def test_clusters_equal_those_of_cosine_distance():
    from sklearn.cluster import DBSCAN

    x = np.random.default_rng(1).gamma(0.5, size=(300, 128))
    for eps in (0.1, 0.3, 0.5):
        expected = DBSCAN(eps=eps, min_samples=2, metric="cosine").fit(x).labels_.max() + 1
        assert count_clusters(x, eps) == expected


def test_no_clusters():
    assert count_clusters(np.zeros((0, 128), "uint8"), 0.05) == 0
    assert count_clusters(np.zeros((5, 128), "uint8"), 0.05) == 0
    assert count_clusters(np.eye(5), 0.05) == 0
    assert count_clusters(np.ones((1, 4)), 0.05) == 0


def test_the_distance_of_neighbours_is_the_median_over_all_groups():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    groups = [rng.gamma(0.5, size=(n, 16)) for n in (700, 31)]
    nearest = []
    for group in groups:
        distances = cdist(group, group, "cosine")
        np.fill_diagonal(distances, np.inf)
        nearest.extend(distances.min(1))
    np.testing.assert_allclose(neighbour_distance(groups), np.median(nearest), rtol=1e-4)
    assert neighbour_distance([np.ones((5, 3)), np.ones((1, 3))]) == 1e-4
    assert neighbour_distance([np.zeros((0, 3))]) == 1e-4
