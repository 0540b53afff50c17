import pickle

import numpy as np
import pytest

from keras_saliency.scale_space import KeypointDetector, image_keypoints
from keras_saliency.scale_space.keypoints import count_octaves, enlarge, find_engine

ENGINES = ("opencv", "scikit-image")


def blob(x, y, sigma, size=64):
    rows, columns = np.mgrid[:size, :size]
    distance = (columns - x) ** 2 + (rows - y) ** 2
    return np.round(40 + 200 * np.exp(-distance / (2 * sigma**2))).astype("uint8")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sigma", [3.0, 6.0])
def test_a_blob_is_found_where_it_is_and_as_wide_as_it_is(engine, sigma):
    found = image_keypoints(blob(29, 37, sigma), engine)
    best = np.argmin(np.hypot(found.x - 29, found.y - 37))
    assert np.hypot(found.x[best] - 29, found.y[best] - 37) < 1
    # The difference of Gaussians answers most strongly near the blob's own width.
    assert 0.6 * sigma < found.sigma[best] < 1.4 * sigma
    octave = found.octave[best]
    assert 0.8 * 2**octave * 0.8 < found.sigma[best] < 0.8 * 2 ** (octave + 1) * 1.3
    assert found.descriptor.dtype == np.uint8
    lengths = np.linalg.norm(found.descriptor.astype(float), axis=1)
    np.testing.assert_allclose(lengths, 512, rtol=0.1)


@pytest.mark.parametrize("engine", ENGINES)
def test_floats_and_integers_mean_the_same(engine):
    image = blob(20, 30, 3)
    for a, b in zip(
        image_keypoints(image, engine), image_keypoints(image / 255, engine), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_constant_image_has_none(engine):
    for size in (3, 40):
        found = image_keypoints(np.full((size, size), 9, "uint8"), engine)
        assert [len(v) for v in found] == [0] * 5
        assert found.descriptor.shape == (0, 128)


@pytest.mark.parametrize("engine", ENGINES)
def test_octaves_can_be_limited(engine):
    image = np.maximum(blob(10, 12, 1.2), blob(32, 30, 7))
    image = np.maximum(image, blob(45, 12, 3))
    whole = image_keypoints(image, engine)
    part = image_keypoints(image, engine, max_octaves=2)
    assert set(part.octave) <= {0, 1}
    assert max(whole.octave) >= 2
    # Not quite equal: OpenCV's margins depend on the number of octaves.
    assert abs(len(part.x) - (whole.octave < 2).sum()) <= 2


def test_small_images_are_enlarged_to_three_octaves():
    for side, factor in ((8, 3), (13, 2), (24, 1), (2, 8)):
        image, found = enlarge(np.arange(side * side, dtype="uint8").reshape(side, side))
        assert found == factor
        assert image.shape == (side * factor, side * factor)
    assert [count_octaves(n, 99) for n in (5, 6, 24, 28, 32, 48)] == [0, 1, 3, 3, 3, 4]
    # Positions are those of the image as it came.
    found = image_keypoints(blob(8, 11, 1.5, size=18))
    assert np.hypot(found.x - 8, found.y - 11).min() < 1


def test_a_detector_can_be_sent_to_another_process():
    image = blob(20, 30, 3)
    detector = KeypointDetector("opencv", 0.02, 2)
    copy = pickle.loads(pickle.dumps(detector))
    for a, b in zip(copy(image), detector(image), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_missing_opencv_is_noticed(monkeypatch):
    import sys

    assert find_engine() == "opencv"
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert find_engine() == "scikit-image"
    with pytest.raises(ImportError, match=r"keras-saliency\[opencv\]"):
        find_engine("opencv")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), "uint8"),
        np.zeros((0, 4), "uint8"),
        np.zeros((9, 9), "int32"),
        np.full((9, 9), np.nan),
        np.full((9, 9), 2.0),
        np.zeros((9, 9), "uint16"),
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match="`image` must"):
        image_keypoints(image)
