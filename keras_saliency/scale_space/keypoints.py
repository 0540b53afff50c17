"""SIFT keypoints of images, with two engines that mean the same (G 2.1.1)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from keras_saliency import validation
from keras_saliency.typing import ArrayLike

# Lowe's constants, which both engines share: three scales per octave from 1.6 on an image that
# is taken to have a blur of 0.5 and is doubled first.
_SCALES = 3
_SIGMA_MIN = 1.6
_SIGMA_IN = 0.5
_EDGE = 10.0
_MIN_SIDE = 12  # pixels of the coarsest octave
_FULL_SIDE = 24  # pixels of an image that has three octaves
_MAX_FACTOR = 8
_CV_BORDER = 5  # pixels of an octave that OpenCV leaves out at each border

ENGINES = ("opencv", "scikit-image")
Engine = Literal["auto", "opencv", "scikit-image"]


class ImageKeypoints(NamedTuple):
    """Keypoints of one image; all arrays have one entry per keypoint.

    Attributes:
        x, y: float32, column and row of the center, in pixels of the image.
        sigma: float32, scale, in pixels of the image.
        octave: int16, 0 for the finest, the one of the doubled image.
        descriptor: uint8 (n, 128), the histogram of gradients around the center; lengths are
            about 512.

    Example:

    >>> import numpy as np
    >>> from keras_saliency.scale_space import image_keypoints
    >>> image = np.zeros((48, 48), "uint8")
    >>> image[18:30, 18:30] = 255
    >>> found = image_keypoints(image)
    >>> found.descriptor.shape == (len(found.x), 128)
    True
    """

    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray
    octave: np.ndarray
    descriptor: np.ndarray


def find_engine(engine="auto"):
    """The name of the engine to use.

    Args:
        engine: `"auto"` (OpenCV where it is installed, otherwise scikit-image), `"opencv"` or
            `"scikit-image"`.

    Returns:
        `"opencv"` or `"scikit-image"`.

    Raises:
        ValueError: when `engine` is none of these.
        ImportError: when OpenCV is asked for and not installed.
    """
    validation.choice("engine", engine, ("auto", *ENGINES))
    if engine == "scikit-image":
        return engine
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        if engine == "opencv":
            raise ImportError(
                'engine="opencv" needs OpenCV: pip install "keras-saliency[opencv]"'
            ) from error
        return "scikit-image"
    return "opencv"


def count_octaves(height, width):
    """Octaves that an image of this extent has: the coarsest has at least 12 pixels a side.

    0 for an image too small for one, that is below 6 pixels.
    """
    side = 2 * min(height, width)
    return max(0, int(math.log2(side / _MIN_SIDE)) + 1) if side >= _MIN_SIDE else 0


def _empty():
    none = np.zeros(0, "float32")
    return ImageKeypoints(none, none, none, np.zeros(0, "int16"), np.zeros((0, 128), "uint8"))


class _OpenCV:
    def __init__(self, contrast_threshold):
        import cv2

        self.cv2 = cv2
        self.sift = cv2.SIFT_create(
            nOctaveLayers=_SCALES,
            contrastThreshold=contrast_threshold,
            edgeThreshold=_EDGE,
            sigma=_SIGMA_MIN,
        )

    def __call__(self, image, octaves):
        # OpenCV looks for no keypoint within 5 pixels of an octave's border, which is most of a
        # small image in the coarser octaves. Reflected margins give it the room.
        margin = math.ceil((_CV_BORDER - _SIGMA_MIN) * 2.0 ** (octaves - 2)) + 1
        padded = self.cv2.copyMakeBorder(image, *[margin] * 4, self.cv2.BORDER_REFLECT)
        keypoints, descriptor = self.sift.detectAndCompute(padded, None)
        if not keypoints:
            return _empty()
        rows = [(*k.pt, k.size, k.octave & 255) for k in keypoints]
        x, y, size, packed = np.array(rows, "float32").T
        octave = ((packed + 1) % 256).astype("int16")  # the doubled image is 255, that is -1
        return ImageKeypoints(x - margin, y - margin, size / 2, octave, descriptor.astype("uint8"))


class _Skimage:
    def __init__(self, contrast_threshold):
        from skimage.feature import SIFT

        self.sift = SIFT
        self.contrast = contrast_threshold / _SCALES

    def __call__(self, image, octaves):
        # It lowers its own `n_octaves` to suit an image: a fresh one for each.
        sift = self.sift(
            upsampling=2,
            n_octaves=octaves,
            n_scales=_SCALES,
            sigma_min=_SIGMA_MIN,
            sigma_in=_SIGMA_IN,
            c_dog=self.contrast,
            c_edge=_EDGE,
        )
        try:
            sift.detect_and_extract(image)
        except RuntimeError as error:
            if "found no features" not in str(error):
                raise
            return _empty()
        y, x = np.asarray(sift.positions, "float32").reshape(-1, 2).T
        return ImageKeypoints(
            x,
            y,
            np.asarray(sift.sigmas, "float32"),
            np.asarray(sift.octaves, "int16"),
            np.asarray(sift.descriptors, "uint8").reshape(-1, 128),
        )


class KeypointDetector:
    """Finds the SIFT keypoints of one gray image after another.

    Both engines follow Lowe with the same constants: the image is doubled, each octave has three
    scales from 1.6 of its pixels, an orientation within 80 % of the strongest makes a keypoint of
    its own. What differs by default is made the same: the coarsest octave has at least 12 pixels
    a side, and a keypoint counts when the circle of its sigma lies inside the image (OpenCV
    leaves out wide borders, so it gets reflected margins).

    Args:
        engine: `"auto"`, `"opencv"` or `"scikit-image"`, see `find_engine`.
        contrast_threshold: float, how far a difference of Gaussians must rise above 0 before
            it makes a keypoint, for black at 0 and white at 1 (divided by three scales).
        max_octaves: int, or None for all that the image allows.

    Call arguments:
        image: uint8 array (height, width).

    Example:

    >>> import numpy as np
    >>> from keras_saliency.scale_space.keypoints import KeypointDetector
    >>> image = np.zeros((32, 32), "uint8")
    >>> image[12:20, 12:20] = 255
    >>> found = KeypointDetector()(image)
    >>> found.descriptor.shape[1]
    128

    Source: Lowe 2004; G 2.1.1.
    """

    def __init__(
        self,
        engine: Engine = "auto",
        contrast_threshold: float = 0.04,
        max_octaves: int | None = None,
    ):
        self.engine = find_engine(engine)
        self.contrast_threshold = validation.number("contrast_threshold", contrast_threshold, 0)
        self.max_octaves = validation.integer("max_octaves", max_octaves, optional=True)
        self._find = {"opencv": _OpenCV, "scikit-image": _Skimage}[self.engine](
            self.contrast_threshold
        )

    def __reduce__(self):
        # OpenCV's objects cannot be sent to another process; the settings can.
        return type(self), (self.engine, self.contrast_threshold, self.max_octaves)

    def __call__(self, image):
        height, width = image.shape
        octaves = count_octaves(height, width)
        if self.max_octaves is not None:
            octaves = min(octaves, self.max_octaves)
        if octaves == 0 or image.min() == image.max():
            return _empty()
        found = self._find(image, octaves)
        inside = (
            (found.octave < octaves)
            & (found.x > found.sigma)
            & (found.y > found.sigma)
            & (found.x + found.sigma < width)
            & (found.y + found.sigma < height)
        )
        return ImageKeypoints(*(values[inside] for values in found))


def enlarge(image):
    """An image of less than 24 pixels a side, enlarged by a whole factor, at most 8.

    Below that an image has less than three octaves of keypoints.

    Args:
        image: uint8 array (height, width).

    Returns:
        The uint8 image, and the factor, 1 where it is large enough as it is.
    """
    factor = min(_MAX_FACTOR, max(1, -(-_FULL_SIDE // min(image.shape))))
    if factor == 1:
        return image, 1
    from scipy import ndimage

    return ndimage.zoom(image, factor, order=1, mode="nearest", grid_mode=True), factor


def image_keypoints(
    image: ArrayLike,
    engine: Engine = "auto",
    contrast_threshold: float = 0.04,
    max_octaves: int | None = None,
) -> ImageKeypoints:
    """SIFT keypoints of one image.

    A small image is enlarged first (see `enlarge`); the result is in pixels of the image as it
    came.

    Args:
        image: array (height, width), uint8, or float with black at 0 and white at 1.
        engine, contrast_threshold, max_octaves: as of `KeypointDetector`.

    Returns:
        An `ImageKeypoints`; empty where the image has none.

    Raises:
        ValueError: when `image` is no such array or holds NaN.

    Example:

    >>> import numpy as np
    >>> from keras_saliency.scale_space import image_keypoints
    >>> image = np.zeros((48, 48), "uint8")
    >>> image[18:30, 18:30] = 255
    >>> found = image_keypoints(image)
    >>> float(found.x[0].round()), float(found.y[0].round())
    (24.0, 24.0)

    Source: Lowe 2004; G 2.1.1.
    """
    image = validation.array("image", image)
    if image.ndim != 2 or image.dtype.kind not in "uf":
        raise ValueError(
            "`image` must be a gray image, an array (height, width) of uint8 or of floats in "
            f"[0, 1]. Received: shape {image.shape}, dtype {image.dtype}"
        )
    if image.dtype.kind == "f":
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                "`image` must hold numbers in [0, 1] when they are floats. Received: "
                f"numbers from {np.min(image)} to {np.max(image)}"
            )
        image = np.round(image * 255).astype("uint8")
    elif image.dtype != np.uint8:
        raise ValueError(
            f"`image` must be uint8 when its numbers are integers. Received: {image.dtype}"
        )
    image, factor = enlarge(image)
    found = KeypointDetector(engine, contrast_threshold, max_octaves)(image)
    return found._replace(x=found.x / factor, y=found.y / factor, sigma=found.sigma / factor)
