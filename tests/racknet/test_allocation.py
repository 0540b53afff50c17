import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_saliency import DatasetStatistics, RACKNet
from keras_saliency.racknet.allocation import STRATEGIES

CLUSTERS = st.lists(st.lists(st.integers(0, 500), min_size=1, max_size=6), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(CLUSTERS, st.integers(0, 900), st.sampled_from(STRATEGIES), st.integers(0, 9))
def test_kernels_sum_to_the_budget_and_no_layer_is_empty(clusters, extra, strategy, seed):
    layers = sum(map(len, clusters))
    kernels = RACKNet.allocate(clusters, layers + extra, strategy=strategy, seed=seed)
    assert [len(rack) for rack in kernels] == [len(rack) for rack in clusters]
    assert sum(map(sum, kernels)) == layers + extra
    assert all(isinstance(k, int) and k >= 1 for rack in kernels for k in rack)


@settings(max_examples=60, deadline=None)
@given(CLUSTERS, st.integers(20, 900))
def test_fewer_clusters_never_get_fewer_kernels(clusters, extra):
    kernels = RACKNet.allocate(clusters, sum(map(len, clusters)) + extra)
    for n, k in zip(clusters, kernels, strict=True):
        for a in range(len(n)):
            for b in range(len(n)):
                if n[a] < n[b]:
                    assert k[a] >= k[b]


def test_racknet_by_hand():
    # Racks of 2 and 3 layers get 2/5 and 3/5 of 100; inside, (1 - n / sum) / (c - 1).
    assert RACKNet.allocate([[3, 1], [2, 2, 6]], 100) == [[10, 30], [24, 24, 12]]


def test_the_racks_of_table_3_2():
    # COIL: 8 and 77 of 85 kernels can only come from clusters of about 10 to 1.
    (first, second), other = RACKNet.allocate([[77, 8], [1, 1, 1, 1]], 255)
    assert (first, second) == (8, 77)
    assert other == [43, 43, 42, 42]


def test_ties_go_to_the_earlier_layer():
    assert RACKNet.allocate([[1, 1, 1], [1, 1]], 8) == [[2, 2, 2], [1, 1]]


def test_strategies_by_hand():
    clusters = [[3, 1], [2, 2, 6]]
    layers, racks = 5, 2

    def exact(name, shares):
        total = sum(map(sum, shares))
        expected = [[1000 * s / total for s in rack] for rack in shares]
        found = RACKNet.allocate(clusters, 1000, strategy=name)
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1)

    parts = [[3 / 4, 1 / 4], [0.2, 0.2, 0.6]]
    sizes = [2 / layers, 3 / layers]
    exact("uniform-layer", [[1, 1], [1, 1, 1]])
    exact("uniform-rack", [[1 / racks / 2] * 2, [1 / racks / 3] * 3])
    exact("c-proportional", [[s * p for p in part] for s, part in zip(sizes, parts, strict=True)])
    exact("racknet-printed", [[1 - s * p for p in q] for s, q in zip(sizes, parts, strict=True)])


def test_inverse_order_is_racknet_with_every_rack_reversed():
    clusters = [[3, 1, 9], [2, 5], [4]]
    kernels = RACKNet.allocate(clusters, 123)
    reversed_ = RACKNet.allocate(clusters, 123, strategy="inverse-order")
    assert reversed_ == [rack[::-1] for rack in kernels]


def test_random_follows_its_seed():
    a, b, c = (RACKNet.allocate([[1] * 5] * 3, 400, "random", seed=s) for s in (1, 1, 2))
    assert a == b != c


def test_a_rack_without_clusters_shares_equally():
    assert RACKNet.allocate([[0, 0], [1, 3]], 40) == [[10, 10], [15, 5]]


def test_statistics_arrays_and_lists_mean_the_same():
    clusters = [[3, 5], [2, 7]]
    stats = DatasetStatistics.from_counts(clusters, (8, 8, 1))
    expected = RACKNet.allocate(clusters, 50)
    assert RACKNet.allocate(stats, 50) == expected
    assert RACKNet.allocate(np.array(clusters), np.int64(50)) == expected


@pytest.mark.parametrize("clusters", [[], [[]], [[1], []], [[1.5]], [[-1]], [["a"]], [3], [[True]]])
def test_bad_clusters_are_refused(clusters):
    with pytest.raises(ValueError, match="`statistics` must be"):
        RACKNet.allocate(clusters, 10)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="`statistics` must be"):
        RACKNet.allocate("4-4-4", 10)
    with pytest.raises(TypeError, match="`budget` must be an integer"):
        RACKNet.allocate([[1]], 10.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_below_the_layers_is_refused(strategy):
    with pytest.raises(ValueError, match="at least the number of layers, 5"):
        RACKNet.allocate([[1, 2], [1, 2, 3]], 4, strategy=strategy)


def test_an_unknown_strategy_lists_the_known_ones():
    with pytest.raises(ValueError, match="uniform-rack"):
        RACKNet.allocate([[1]], 4, strategy="greedy")
