"""Deflection, denoising, and a classifier behind them."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_saliency import imaging


def images(count=3, channels=2):
    """Every pixel has a value of its own."""
    shape = (count, 7, 11, channels)
    return np.arange(np.prod(shape), dtype="float32").reshape(shape)


def test_deflected_pixels_come_from_the_window():
    x = images()
    y = imaging.pixel_deflection(x, deflections=40, window=2, seed=3)
    assert y.dtype == x.dtype
    changed = (y != x).any(axis=-1)
    assert 15 < changed[0].sum() <= 40
    for i, row, column in np.argwhere(changed):
        source = np.argwhere(x[i, ..., 0] == y[i, row, column, 0])[0]
        assert (np.abs(source - (row, column)) <= 2).all()
        np.testing.assert_array_equal(y[i, row, column], x[i][tuple(source)])


def test_positions_follow_the_map():
    x = images(2)
    maps = np.ones((2, 7, 11))
    maps[0, :, :3] = 0
    y = imaging.pixel_deflection(x, maps, deflections=100)
    changed = (y != x).any(axis=-1)
    assert changed[0, :, :3].sum() > 10 and not changed[0, :, 3:].any()
    assert not changed[1].any()  # nothing may be touched


def test_positions_are_drawn_in_proportion():
    x = np.arange(4, dtype="float32").reshape(1, 1, 4, 1)
    maps = np.array([[[0.9, 0.5, 0.5, 1.0]]])  # weights 1, 5, 5, 0
    counts = np.zeros(4)
    for seed in range(3000):
        y = imaging.pixel_deflection(x, maps, 1, 3, seed)
        counts += (y != x)[0, 0, :, 0]
    # A pixel takes its own value one time in four.
    np.testing.assert_allclose(counts / 3000, 0.75 * np.array([1, 5, 5, 0]) / 11, atol=0.03)


def test_the_seed_and_the_position_decide():
    x = images(3)
    once = imaging.pixel_deflection(x, seed=5)
    np.testing.assert_array_equal(once, imaging.pixel_deflection(x, seed=5))
    np.testing.assert_array_equal(once[:2], imaging.pixel_deflection(x[:2], seed=5))
    assert (once != imaging.pixel_deflection(x, seed=6)).any()
    np.testing.assert_array_equal(imaging.pixel_deflection(x, deflections=0), x)


def test_a_coarse_map_is_resized():
    x = np.arange(256.0).reshape(1, 16, 16, 1)
    maps = np.ones((1, 4, 4))
    maps[0, 0, 0] = 0
    changed = (imaging.pixel_deflection(x, maps) != x)[0, ..., 0]
    assert changed[:6, :6].any() and not changed[8:].any()


def test_denoising_takes_noise_out():
    pytest.importorskip("pywt")
    clean = np.zeros((2, 32, 32, 3)) + np.linspace(0.2, 0.8, 32)[:, None, None]
    noisy = np.clip(clean + 0.08 * np.random.default_rng(0).normal(size=clean.shape), 0, 1)
    for method in ("BayesShrink", "VisuShrink"):
        found = imaging.wavelet_denoise(noisy, sigma=0.08, wavelet="db2", method=method)
        assert ((found - clean) ** 2).mean() < 0.5 * ((noisy - clean) ** 2).mean()
    whole = np.round(255 * noisy).astype("uint8")
    found = imaging.wavelet_denoise(whole, sigma=0.08)
    assert found.dtype == np.uint8
    expected = imaging.wavelet_denoise(noisy, sigma=0.08)
    np.testing.assert_allclose(found / 255, expected, atol=0.02)
    grey = imaging.wavelet_denoise(noisy[..., :1].astype("float32"))
    assert grey.dtype == np.float32 and grey.shape == (2, 32, 32, 1)
    black = np.zeros((1, 8, 8, 3), "float32")
    np.testing.assert_allclose(imaging.wavelet_denoise(black), black, atol=1e-6)


def test_denoising_without_pywavelets_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ImportError, match=r"keras_saliency\[imaging\]"):
        imaging.wavelet_denoise(np.zeros((1, 8, 8, 1)))


@pytest.fixture
def model():
    """The class is the channel that is brighter on average; logits."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(3, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    model.set_weights([np.eye(3)[None, None], np.zeros(3), 9 * np.eye(3), np.zeros(3)])
    return model


def colours(count=6):
    x = np.full((count, 8, 8, 3), 0.3, "float32")
    labels = np.arange(count) % 3
    x[np.arange(count), :, :, labels] = 0.6
    return x, labels


@pytest.mark.parametrize("maps", ["robust_cam", "grad_cam", None, np.zeros((6, 4, 4))])
def test_defend_averages_and_votes(model, maps):
    pytest.importorskip("pywt")
    x, labels = colours()
    probabilities, found = imaging.defend(model, x, maps, deflections=5, window=2, ensemble=3)
    np.testing.assert_array_equal(found, labels)
    # A deflected pixel of a plain image has the same color: nothing changes but by denoising.
    logits = 9 * np.array([0.6, 0.3, 0.3])
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probabilities[0], expected, atol=0.02)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_defend_in_another_range_of_values(model):
    pytest.importorskip("pywt")
    x, labels = colours()
    model.set_weights([np.eye(3)[None, None], np.zeros(3), 9 * np.eye(3) / 255, np.zeros(3)])
    one = imaging.defend(model, 255 * x, None, ensemble=2, value_range=(0, 255))
    np.testing.assert_array_equal(one[1], labels)
    with pytest.raises(ValueError, match="`value_range`"):
        imaging.defend(model, 255 * x, None)


def test_the_majority_is_counted(model, monkeypatch):
    """Two of three runs say 1, the third says 0 with more confidence."""
    from keras_saliency.imaging import defence

    runs = iter([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]])
    monkeypatch.setattr(defence, "probabilities_of", lambda *_: lambda x: np.array(next(runs)))
    x, _ = colours(1)
    probabilities, labels = imaging.defend(model, x, None, sigma=0, ensemble=3)
    assert labels.tolist() == [1]
    np.testing.assert_allclose(probabilities, [[1.7 / 3, 1.3 / 3]], rtol=1e-6)


def test_destruction_rate(model):
    clean, labels = colours(6)
    attacked = clean.copy()
    attacked[:4] = np.roll(attacked[:4], 1, axis=-1)  # four are fooled
    labels = labels.copy()
    labels[0] = 1  # this one was wrong from the start

    def undo_two(x):
        return np.concatenate([x[:1], np.roll(x[1:3], -1, axis=-1), x[3:]])

    assert imaging.destruction_rate(model, clean, attacked, labels, undo_two) == pytest.approx(
        2 / 3
    )
    assert np.isnan(imaging.destruction_rate(model, clean, clean, labels, undo_two))
    with pytest.raises(ValueError, match="`labels` must be 6 integers"):
        imaging.destruction_rate(model, clean, attacked, labels[:5], undo_two)
    with pytest.raises(ValueError, match="`labels`"):
        imaging.destruction_rate(model, clean, attacked, labels + 5, undo_two)
    with pytest.raises(ValueError, match="keep the shape"):
        imaging.destruction_rate(model, clean, attacked, labels, lambda x: x[:2])
    with pytest.raises(ValueError, match="`transform`"):
        imaging.destruction_rate(model, clean, attacked, labels, None)
    with pytest.raises(ValueError, match="shape of the clean"):
        imaging.destruction_rate(model, clean, attacked[:2], labels, undo_two)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: imaging.pixel_deflection(x[:0]), "must not be empty"),
        (lambda x: imaging.pixel_deflection(x[0]), r"image\[None\]"),
        (lambda x: imaging.pixel_deflection(x, np.zeros((2, 7, 11))), "one map per image"),
        (lambda x: imaging.pixel_deflection(x, np.full((3, 7, 11), np.nan)), "finite"),
        (lambda x: imaging.pixel_deflection(x, np.zeros((3, 11, 7))), "proportions"),
        (lambda x: imaging.pixel_deflection(x, window=0), "`window`"),
        (lambda x: imaging.pixel_deflection(x, deflections=-1), "`deflections`"),
        (lambda x: imaging.pixel_deflection(x, seed="a"), "`seed`"),
        (lambda x: imaging.pixel_deflection(x * np.nan), "finite"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(images())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((0, 8, 8, 3))}, "`images` must not be empty"),
        ({"maps": np.full((6, 8, 8), np.nan)}, "`maps` must be finite"),
        ({"maps": np.zeros((6, 4, 8))}, "proportions"),
        ({"maps": np.zeros((5, 8, 8))}, "one map per image"),
        ({"maps": np.full((6, 8, 8), 2.0)}, "must lie in"),
        ({"ensemble": 0}, "`ensemble`"),
        ({"value_range": (1, 0)}, "`value_range`"),
    ],
)
def test_a_defence_refuses_bad_input(model, changed, message):
    x, _ = colours()
    with pytest.raises(ValueError, match=message):
        imaging.defend(model, **{"images": x, "maps": None, "sigma": 0, **changed})


def test_destruction_of_nothing(model):
    x, labels = colours()
    for clean, attacked, name in ((x[:0], x[:0], "clean"), (x, x[:0], "attacked")):
        with pytest.raises(ValueError, match=f"`{name}` must not be empty"):
            imaging.destruction_rate(model, clean, attacked, labels, lambda y: y)
    with pytest.raises(ValueError, match="`labels` must be 6 integers"):
        imaging.destruction_rate(model, x, x, labels + 0.5, lambda y: y)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.full((1, 8, 8, 3), 2.0)}, r"must lie in \[0, 1\]"),
        ({"images": np.zeros((0, 8, 8, 3))}, "empty"),
        ({"images": np.zeros((1, 8, 8, 3), "int32")}, "floats or uint8"),
        ({"sigma": 0}, "`sigma`"),
        ({"wavelet": "none"}, "`wavelet`"),
        ({"method": "hard"}, "`method`"),
    ],
)
def test_bad_denoising(changed, message):
    pytest.importorskip("pywt")
    with pytest.raises((ValueError, TypeError), match=message):
        imaging.wavelet_denoise(**{"images": np.zeros((1, 8, 8, 3)), **changed})
