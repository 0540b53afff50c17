"""How a share is spread over kernels: against the papers' definitions written out in NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.shares import erdos_renyi, lamp


def model():
    return keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.Conv2D(8, 3),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(16, 1),
            layers.Flatten(),
            layers.Dense(20),
            layers.Dense(4),
        ]
    )


def taking_part(made):
    return [k for k in maskable_kernels(made) if k.input_axes]


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_lamp_ranks_squares_over_what_is_at_least_as_large(share):
    kernels = taking_part(model())
    scores, owner = [], []
    for i, kernel in enumerate(kernels):
        squares = np.sort(
            np.square(ops.convert_to_numpy(kernel.variable).astype("float64")).ravel()
        )
        for j, square in enumerate(squares):
            scores.append(square / squares[j:].sum())
            owner.append(i)
    count = round(share * len(scores))
    gone = np.array(owner)[np.argsort(scores, kind="stable")[:count]]
    expected = np.bincount(gone, minlength=len(kernels))
    found = list(lamp(kernels, share).values())
    assert sum(found) == count
    assert np.abs(np.array(found) - expected).max() <= 1  # rounding of sums, at the threshold


@pytest.mark.parametrize("share", [0.01, 0.4, 0.8, 0.999])
def test_lamp_counts_kernels_of_any_magnitude_zeros_and_ties(share):
    stack = [layers.Dense(40, use_bias=False) for _ in range(5)]
    made = keras.Sequential([keras.Input((40,)), *stack])
    rng = np.random.default_rng(0)
    made.set_weights(
        [
            rng.normal(size=(40, 40)),
            1e-12 * rng.normal(size=(40, 40)),
            rng.integers(-2, 3, (40, 40)),
            np.zeros((40, 40)),
            1e9 * rng.normal(size=(40, 40)) * (rng.uniform(size=(40, 40)) < 0.1),
        ]
    )
    kernels = taking_part(made)
    scores, owner = [], []
    for i, kernel in enumerate(kernels):
        squares = np.sort(
            np.square(ops.convert_to_numpy(kernel.variable).astype("float64")).ravel()
        )
        rest = np.cumsum(squares[::-1])[::-1]
        scores.append(np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0))
        scores[-1][-1] = np.inf  # the largest stays
        owner.append(np.full(len(squares), i))
    count = min(round(share * 8000), 8000 - 5)
    gone = np.concatenate(owner)[np.argsort(np.concatenate(scores), kind="stable")[:count]]
    found = list(lamp(kernels, share).values())
    assert sum(found) == count
    assert np.abs(np.array(found) - np.bincount(gone, minlength=5)).max() <= 1


def test_lamp_refuses_weights_that_are_not_finite():
    made = model()
    kernel = made.layers[-1].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match="NaN"):
        lamp(taking_part(made), 0.5)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_erdos_renyi_densities_are_in_proportion(share):
    kernels = taking_part(model())
    counts = erdos_renyi(kernels, share)
    size = sum(k.size for k in kernels)
    assert sum(counts.values()) == round(share * size)
    ratios = [
        (k.size - counts[k.key]) / sum(k.shape)
        for k in kernels
        if counts[k.key] > 0 and k.size - counts[k.key] > 5
    ]
    assert max(ratios) <= 1.2 * min(ratios)


@pytest.mark.parametrize("scope", ["lamp", "erk", "global"])
@pytest.mark.parametrize("share", [0.5, 0.97, 0.999])
def test_the_model_loses_its_share_exactly_and_no_kernel_everything(scope, share):
    made = model()
    _, report = keras_saliency.sparsify(
        made, share, method="magnitude", scope=scope, return_report=True
    )
    taking = report[report["target"].notna()]
    total = int(taking["size"].sum())
    assert taking["zeros"].sum() == min(round(share * total), total - len(taking))
    assert (taking["kept"] >= 1).all()
    dense = report[report["target"].isna()]
    assert dense["type"].tolist() == ["DepthwiseConv2D"] and dense["zeros"].tolist() == [0]
    assert "depthwise" in dense["reason"].iloc[0]
    assert report.attrs["taking_part"]["zeros"] == taking["zeros"].sum()


def test_depthwise_kernels_take_part_where_they_are_named():
    made = model()
    name = made.layers[1].name
    for options in ({"exclude": ()}, {"layers": name}):
        sparse = keras_saliency.sparsify(made, 0.5, method="magnitude", scope="layer", **options)
        assert (ops.convert_to_numpy(sparse.layers[1].kernel) == 0).sum() == 36
    sparse = keras_saliency.sparsify(made, {name: 0.5}, method="magnitude")
    assert (ops.convert_to_numpy(sparse.layers[1].kernel) == 0).sum() == 36


def test_scopes_that_contradict_other_arguments_are_refused():
    made = model()
    with pytest.raises(ValueError, match="`scope` must be one of"):
        keras_saliency.sparsify(made, 0.5, method="magnitude", scope="everywhere")
    with pytest.raises(ValueError, match=r"scope='lamp'.*spreads one `sparsity`"):
        keras_saliency.sparsify(made, {"dense": 0.5}, method="magnitude", scope="lamp")
    with pytest.raises(ValueError, match=r"scope='erk'.*granularity='channel'"):
        keras_saliency.sparsify(made, 0.5, method="magnitude", scope="erk", granularity="channel")
