import keras
import numpy as np
import pandas as pd
import pytest

from keras_saliency import validation


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_integers_become_plain(value):
    assert type(validation.integer("n", value)) is int
    assert validation.integer("n", value) == 3


@pytest.mark.parametrize("value", [True, 3.0, "3", None, [3], np.array([3]), 1j])
def test_what_is_no_integer_is_named(value):
    for error in (TypeError, ValueError):
        with pytest.raises(error, match="`n` must be an integer >= 1"):
            validation.integer("n", value)


def test_bounds_of_integers():
    assert validation.integer("n", None, optional=True) is None
    assert validation.integer("n", -7, minimum=None) == -7
    with pytest.raises(ValueError, match=r"`n` must be an integer >= 2 and <= 5\. Received: n=6"):
        validation.integer("n", 6, 2, 5)
    with pytest.raises(ValueError, match="`seed` must be an integer >= 0"):
        validation.seed(-1)
    assert validation.seed(None) is None


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float16(0.5), np.array(0.5)[()]])
def test_numbers_become_plain(value):
    assert type(validation.number("x", value)) is float
    assert validation.number("x", value, 0, 1) == 0.5


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 10**400, -1e300, True, "1", None, 1j, np.complex64(1), [1.0]],
)
def test_what_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="`x` must be a number"):
        validation.number("x", value)


def test_bounds_of_numbers():
    assert validation.number("x", 0, 0, 1) == 0.0
    with pytest.raises(ValueError, match="`x` must be a number > 0 and < 1"):
        validation.number("x", 0, 0, 1, above=True, below=True)
    with pytest.raises(ValueError, match="`x` must be a number > 0 and < 1"):
        validation.number("x", 1.0, 0, 1, above=True, below=True)


def test_choices_compare_by_type():
    assert validation.choice("x", None, ("a", None)) is None
    for value in ("c", 1, np.array(["a", "b"]), ["a"], True):
        with pytest.raises(ValueError, match="`x` must be one of 'a', 'b'"):
            validation.choice("x", value, ("a", "b"))
    with pytest.raises(ValueError, match="`flag` must be True or False"):
        validation.boolean("flag", 2)


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3, 4]],
        np.array([[1, 2], [3, 4]], ">f8"),
        np.array([[1, 2], [3, 4]], ">i2"),
        np.array([[1, 3], [2, 4]], "float16").T,
        pd.DataFrame({"a": [1, 3], "b": [2, 4]}),
    ],
)
def test_arrays_in_every_form(value):
    found = validation.array("x", value, ranks=(2,))
    np.testing.assert_array_equal(found, [[1, 2], [3, 4]])
    assert found.dtype.isnative


def test_tensors_of_the_backend_are_arrays():
    for dtype in ("float32", "bfloat16", "int32"):
        found = validation.array("x", keras.ops.convert_to_tensor([1, 2], dtype))
        np.testing.assert_array_equal(found, [1, 2])


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("abc", "real numbers"),
        (None, "real numbers"),
        ([[1, 2], [3]], "array of numbers"),
        (np.array([1, None]), "real numbers.*numpy.asarray"),
        (np.array([1j]), "real numbers"),
        (np.array(["2020-01-01"], "datetime64[D]"), "real numbers"),
        (np.zeros((2, 3)), "must have 1 axes"),
        (np.zeros(0), "must not be empty"),
        (np.array([0.0, np.nan]), r"must be finite.*1 of 2 places, first at \(1,\)"),
    ],
)
def test_other_arrays_are_named(value, match):
    with pytest.raises(ValueError, match=f"`x` .*{match}"):
        validation.array("x", value, ranks=(1,), finite=True)


def test_data_formats():
    assert validation.data_format(None) == keras.config.image_data_format()
    with pytest.raises(ValueError, match="`data_format` must be one of"):
        validation.data_format("hwc")
