import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import Maxout


def reference(inputs, weights, pieces=2, axis=-1):
    x = np.moveaxis(inputs[0], axis, -1)
    groups = [x[..., i : i + pieces].max(-1) for i in range(0, x.shape[-1], pieces)]
    return np.moveaxis(np.stack(groups, -1), -1, axis)


class TestMaxout(LayerTests):
    layer = Maxout
    config = {"pieces": 3, "axis": 1}
    cases = (
        Case("images", {}, [(2, 5, 7, 6)], reference),
        Case("short last group", {"pieces": 3}, [(3, 5, 7)], reference),
        Case("one piece", {"pieces": 1}, [(3, 5)], reference),
        Case("group larger than all", {"pieces": 11}, [(3, 7)], reference),
        Case("axis 1", {"pieces": 2, "axis": 1}, [(2, 5, 3, 7)], reference, dynamic=(0, 2)),
    )


@pytest.mark.parametrize("pieces", [0, -1, 1.5, "2", True, None])
def test_pieces_must_be_a_positive_integer(pieces):
    with pytest.raises(ValueError, match="`pieces` must be an integer >= 1"):
        Maxout(pieces)


@pytest.mark.parametrize("axis", [0, 1.0, None])
def test_axis_must_be_an_integer_and_not_the_batch(axis):
    with pytest.raises(ValueError, match="`axis` must be an integer other than 0"):
        Maxout(axis=axis)


@pytest.mark.parametrize("axis", [3, -3])
def test_axis_must_exist(axis):
    with pytest.raises(ValueError, match="`axis` must be an axis of the input"):
        Maxout(axis=axis)(np.ones((2, 3, 4), "float32"))


def test_unknown_channels_are_refused():
    with pytest.raises(ValueError, match="must be known"):
        Maxout()(keras.Input((3, None)))


def test_a_mask_of_time_steps_passes_through():
    x = keras.Input((5, 4))
    masked = keras.layers.Masking()(x)
    assert keras.src.backend.get_keras_mask(Maxout()(masked)) is not None
