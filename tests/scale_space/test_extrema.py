"""Soft extrema against a count by hand."""

import keras
import numpy as np
import pytest
from compat import to_numpy
from extrema_reference import share
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_saliency.scale_space import soft_extrema


@settings(max_examples=10, deadline=None)
@given(
    space=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    neighborhood=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 99),
    masked=st.booleans(),
)
def test_share_is_a_count_over_the_neighbours_that_exist(space, neighborhood, seed, masked):
    rng = np.random.default_rng(seed)
    # Few different values: ties are frequent.
    x = rng.integers(-2, 3, size=(2, *space, 3)).astype("float32")
    valid = rng.random((2, *space)) < 0.7 if masked else None
    result = to_numpy(soft_extrema(x, neighborhood, mask=valid, data_format="channels_last"))
    expected = share(x, neighborhood, valid)
    where = np.ones(x.shape, bool) if valid is None else np.broadcast_to(valid[..., None], x.shape)
    np.testing.assert_allclose(result[where], expected[where], rtol=1e-6)
    assert (result > 0).all() and (result <= 1).all()


def test_peaks_valleys_slopes_and_plateaus():
    series = np.array([0.0, 3.0, 1.0, 2.0, 2.0], "float32").reshape(1, 5, 1)
    result = to_numpy(soft_extrema(series))[0, :, 0]
    np.testing.assert_allclose(result, [1 / 2, 1, 1 / 3, 1, 1], rtol=1e-6)
    image = np.zeros((1, 3, 3, 1), "float32")
    image[0, 1, 1] = -1.0
    result = to_numpy(soft_extrema(image))[0, :, :, 0]
    assert result[1, 1] == np.float32(1 / 9)
    np.testing.assert_array_equal(np.delete(result.ravel(), 4), 1.0)


def test_channels_first_is_channels_last_moved():
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype("float32")
    mask = np.random.default_rng(1).random((2, 5)) < 0.6
    last = to_numpy(soft_extrema(x, mask=mask))
    first = soft_extrema(np.moveaxis(x, -1, 1), mask=mask, data_format="channels_first")
    np.testing.assert_array_equal(np.moveaxis(to_numpy(first), 1, -1), last)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32"])
def test_dtypes(dtype):
    x = np.array([[5, 1, 7, 7, 2, 9, 3]], "float32")[..., None]
    result = soft_extrema(ops.cast(x, dtype))
    assert keras.backend.standardize_dtype(result.dtype) == (
        "float32" if dtype == "int32" else dtype
    )
    expected = share(x, 3)
    np.testing.assert_allclose(to_numpy(ops.cast(result, "float32")), expected, atol=4e-3)


def test_wide_neighbourhoods_do_not_overflow_the_count():
    x = np.zeros((1, 21, 21, 1), "float32")
    x[0, 10, 10] = -1.0
    result = to_numpy(soft_extrema(x, neighborhood=21))
    np.testing.assert_allclose(result[0, 10, 10, 0], 1 / 441, rtol=1e-3)


def test_infinities_and_nans():
    x = np.array([-np.inf, 1.0, np.nan, 2.0, np.inf], "float32").reshape(1, 5, 1)
    result = to_numpy(soft_extrema(x))[0, :, 0]
    np.testing.assert_allclose(result, [1 / 2, 1, 1, 2 / 3, 1], rtol=1e-6)


def test_one_step_and_no_sample():
    assert to_numpy(soft_extrema(np.full((2, 1, 3), 5.0, "float32"))).tolist() == [[[1.0] * 3]] * 2
    for shape in [(0, 4, 3), (2, 0, 3), (2, 4, 0), (0, 0, 0), (2, 4, 5, 0)]:
        assert to_numpy(soft_extrema(np.zeros(shape, "float32"))).shape == shape


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"neighborhood": 4}, ["neighborhood", "odd", "4"]),
        ({"neighborhood": -1}, ["neighborhood", "-1"]),
        ({"neighborhood": 3.0}, ["neighborhood", "3.0"]),
        ({"neighborhood": True}, ["neighborhood", "True"]),
        ({"data_format": "last"}, ["data_format", "last"]),
        ({"x": np.zeros((3, 4))}, ["3 to 5 axes", "(3, 4)"]),
        ({"mask": np.ones((2, 5, 3, 1), bool)}, ["mask", "(2, 5, 3, 1)"]),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises((ValueError, TypeError)) as error:
        soft_extrema(**{"x": np.zeros((2, 5, 3), "float32"), **kwargs})
    for word in words:
        assert word in str(error.value)
