import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests

from keras_saliency import PixelDeflection

# Images of one color each, which no deflection changes: what is random is tested below.
PLAIN = np.broadcast_to(np.float32([[0.3, -1.5, 0.25]])[:, None, None], (2, 5, 7, 3)).copy()
PLAIN[1] *= 2
MAPS = np.linspace(0, 1, 70, dtype="float32").reshape(2, 5, 7)


def unchanged(inputs, w, **kwargs):
    return inputs[0]


class TestPixelDeflection(LayerTests):
    layer = PixelDeflection
    config = {"deflections": 7, "window": 3, "seed": 5, "data_format": "channels_first"}
    cases = [
        Case("images", {"deflections": 9, "window": 2}, [PLAIN], unchanged, data_format=True),
        Case("maps", {"deflections": 9, "seed": 1}, [PLAIN, MAPS], unchanged, no_gradient=(1,)),
    ]


def deflected(images, maps=None, **arguments):
    layer = PixelDeflection(**arguments)
    return compat.to_numpy(layer(images if maps is None else [images, maps]))


def places(count, height, width):
    """Images whose pixels say where they are, `(count, height, width, 2)`."""
    grid = np.stack(np.mgrid[:height, :width], axis=-1).astype("float32")
    return np.repeat(grid[None], count, axis=0)


def test_values_come_from_the_window_and_as_often_as_asked():
    images = places(200, 11, 13)
    changed = deflected(images, deflections=20, window=2, seed=0)
    apart = np.abs(changed - images)
    moved = apart.any(axis=-1)
    assert apart.max() == 2
    # Twenty draws of 143 places, a twenty-fifth of which stay: 17.9 places are expected to move.
    assert 17 < moved.sum(axis=(1, 2)).mean() < 18.8 and moved.sum(axis=(1, 2)).max() <= 20
    assert len({m.tobytes() for m in moved}) == 200
    # Every place is drawn, and every shift as often as the others.
    assert moved.any(axis=0).all()
    many = deflected(places(100, 30, 30), deflections=50, window=1, seed=0)
    inner = (many - places(100, 30, 30))[:, 1:-1, 1:-1].reshape(-1, 2)
    shifts, counts = np.unique(inner[inner.any(axis=1)], axis=0, return_counts=True)
    assert len(shifts) == 8 and counts.min() > 0.8 * counts.mean()


def test_positions_follow_the_map():
    images = places(50, 16, 16)
    maps = np.ones((50, 16, 16), "float32")
    maps[:, :4] = 0.0
    maps[:, 4:8] = 0.75
    moved = (deflected(images, maps, deflections=30, window=16, seed=3) != images).any(axis=-1)
    rows = moved.sum(axis=(0, 2))
    assert rows[8:].sum() == 0
    # Four times the probability; many of the likelier places are drawn twice.
    assert 2.6 < rows[:4].sum() / rows[4:8].sum() < 4.2
    everywhere = np.ones((50, 16, 16), "float32")
    np.testing.assert_array_equal(deflected(images, everywhere, seed=0), images)


def test_draws_differ_by_call_and_repeat_by_seed():
    images = places(3, 9, 9)
    layer = PixelDeflection(10, 3, seed=4)
    first, second = (compat.to_numpy(layer(images)) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(deflected(images, deflections=10, window=3, seed=4), first)
    np.testing.assert_array_equal(deflected(images, deflections=0), images)
    generator = keras.random.SeedGenerator(4)
    shared = PixelDeflection(10, 3, seed=generator)
    np.testing.assert_array_equal(compat.to_numpy(shared(images)), first)
    copy = PixelDeflection.from_config(shared.get_config())
    assert isinstance(copy.seed, keras.random.SeedGenerator)


def test_it_stands_before_a_classifier():
    inputs = keras.Input((None, None, 1))
    features = keras.layers.GlobalAveragePooling2D()(PixelDeflection(5)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(features))
    assert model.predict(np.ones((2, 6, 5, 1)), verbose=0).shape == (2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelDeflection(-1), "deflections"),
        (lambda: PixelDeflection(window=0), "window"),
        (lambda: PixelDeflection()(np.ones((2, 5, 5))), "batch, height, width, channels"),
        (lambda: PixelDeflection()([np.ones((2, 5, 5, 1)), np.ones((2, 5, 4))]), "extent"),
    ],
)
def test_errors_name_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()
