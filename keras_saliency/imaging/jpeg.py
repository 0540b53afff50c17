"""JPEG files that spend their bytes where a map says it matters (Prakash (2019), section 2.4)."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np

from keras_saliency import validation
from keras_saliency.imaging import reading
from keras_saliency.imaging.quality import psnr
from keras_saliency.typing import ArrayLike, Image

_ORIENTATION = 0x0112
# What `quality="auto"` tries; `None` leaves the image as it is.
_RANGES = (None, (30, 70), (20, 60), (20, 90), (10, 50), (10, 90))


def semantic_jpeg(
    image: Image | ArrayLike,
    saliency: ArrayLike,
    levels: int = 5,
    quality: tuple[int, int] | Literal["auto"] = "auto",
    final_quality: int | None = None,
    size: int | None = None,
    match: int = 50,
    subsampling: str = "4:2:0",
    mode: str = "coefficients",
) -> bytes:
    """An ordinary JPEG file, sharper where a map says that it matters.

    Each block of 8 x 8 pixels (16 x 16 where color is subsampled) has a level by its saliency.
    Blocks of the top level are the image's own; the others first lose what a JPEG of a lower
    quality, by their level, would lose. Then all of it becomes one file that every decoder reads
    (Prakash (2019), section 2.4, algorithm 2). Among files of a size the one of highest PSNR-S is
    taken.

    Two things differ from the text: there the top level is a JPEG's as well, so that what matters
    most is rounded twice; and a lower block loses only the cosine coefficients that its quality
    would round to zero, those that stay are not rounded twice (`mode="mosaic"` takes decoded
    blocks as the text does).

    Args:
        image: A gray or RGB picture, `PIL.Image` or uint8 array `(height, width[, channels])`.
        saliency: Array `(rows, columns)` in [0, 1], in the coordinates of `numpy.asarray(image)`;
            resized to the image, whose proportions it must have.
        levels: Int. How many levels of quality.
        quality: Pair `(lowest, highest)`, the qualities of the levels; `"auto"` tries several.
        final_quality: Int in 1 .. 100. The quality of the file. By default it is searched for, and
            with it alone the range of qualities is (30, 70).
        size: Int. The most bytes that the file may have.
        match: Int in 1 .. 100. Without `size` the file is at most as large as a plain JPEG of this
            quality.
        subsampling: `"4:2:0"`, `"4:2:2"` or `"4:4:4"`, of color.
        mode: `"coefficients"` or `"mosaic"`, how the levels lose detail.

    Returns:
        The bytes of the file, with the image's orientation tag and color profile.

    Raises:
        ValueError: If a picture is not gray or RGB of 8 bits; if the map has other proportions or
            values; if an argument is out of range; or if every file exceeds `size`.

    Example:

    ```python
    import numpy as np
    from keras_saliency import imaging

    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), "uint8")
    saliency = np.zeros((64, 96))
    saliency[16:48, 16:48] = 1
    file = imaging.semantic_jpeg(picture, saliency, match=50)
    ```
    """
    levels = validation.integer("levels", levels)
    quality = _range(quality)
    final_quality = validation.integer("final_quality", final_quality, 1, 100, optional=True)
    size = validation.integer("size", size, optional=True)
    match = validation.integer("match", match, 1, 100)
    validation.choice("subsampling", subsampling, ("4:2:0", "4:2:2", "4:4:4"))
    validation.choice("mode", mode, ("coefficients", "mosaic"))
    pixels = reading.picture("image", image)
    saliency = reading.saliency("saliency", saliency, pixels.shape[:2])
    if saliency.ndim != 2:
        raise ValueError(f"`saliency` must be one map. Received: shape={saliency.shape}")
    encoder = _Encoder(image, pixels, subsampling)
    side = 16 if pixels.ndim == 3 and subsampling != "4:4:4" else 8
    chosen = np.ceil(_block_means(saliency, side) * levels - 1e-9) - 1
    chosen = np.clip(chosen, 0, levels - 1).astype(int)
    if final_quality is not None and quality is None:
        quality = (30, 70)
    ranges = _RANGES if quality is None else (quality,)
    scheme = _Coefficients if mode == "coefficients" else _Mosaic
    coarsen = scheme(encoder, chosen.repeat(side // 8, 0).repeat(side // 8, 1), levels)
    made = (coarsen(one) for one in ranges)
    if final_quality is not None:
        file = encoder(next(made), final_quality)
        if size is not None and len(file) > size:
            raise _too_small(size, len(file))
        return file
    limit = len(encoder(encoder.planes, match)) if size is None else size
    salient = saliency > 0.5
    return _best(encoder, made, limit, salient if salient.any() else None)


def _range(quality):
    if isinstance(quality, str) and quality == "auto":
        return None
    if isinstance(quality, str) or len(found := validation.items("quality", quality)) != 2:
        raise validation.wrong("quality", "'auto' or a pair (lowest, highest)", quality)
    low, high = (validation.integer("quality", q, 1, 100) for q in found)
    if low > high:
        raise validation.wrong("quality", "a pair (lowest, highest)", quality)
    return low, high


def _too_small(size, smallest):
    return ValueError(
        f"`size`: no file of these settings has at most {size} bytes; the smallest found has "
        f"{smallest}. Raise `size`, or make the picture smaller."
    )


def _best(encoder, candidates, limit, salient):
    """Of the files within the limit the one of highest PSNR-S, on a tie the larger."""
    best, smallest = None, None
    for planes in candidates:
        low, high, found = 1, 100, None
        while low <= high:  # the largest final quality that fits
            middle = (low + high) // 2
            file = encoder(planes, middle)
            if len(file) <= limit:
                found, low = file, middle + 1
            else:
                high = middle - 1
        if found is None:
            smallest = min(smallest or len(file), len(file))
            continue
        key = (psnr(encoder.pixels, encoder.decode(found), salient), len(found))
        if best is None or key > best[0]:
            best = (key, found)
    if best is None:
        raise _too_small(limit, smallest)
    return best[1]


class _Encoder:
    """Planes (one of gray, or YCbCr) to a file, with the marks of the original image."""

    def __init__(self, image, pixels, subsampling):
        from PIL import Image

        self.pixels = pixels
        self.colour = pixels.ndim == 3
        self.planes = [pixels]
        self.options = {"optimize": True}
        self.factors = (1, 1)
        if self.colour:
            planes = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
            self.planes = [planes[..., i] for i in range(3)]
            self.options["subsampling"] = subsampling
            self.factors = {"4:2:0": (2, 2), "4:2:2": (1, 2), "4:4:4": (1, 1)}[subsampling]
        info = getattr(image, "info", None) or {}
        if info.get("icc_profile"):
            self.options["icc_profile"] = info["icc_profile"]
        orientation = image.getexif().get(_ORIENTATION) if hasattr(image, "getexif") else None
        if orientation is not None:
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            self.options["exif"] = exif.tobytes()

    def __call__(self, planes, quality):
        from PIL import Image

        if planes is self.planes:  # the plain file, to the byte
            image = Image.fromarray(self.pixels)
        else:
            planes = [Image.fromarray(plane) for plane in planes]
            image = Image.merge("YCbCr", planes) if self.colour else planes[0]
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, **self.options)
        return file.getvalue()

    def decode(self, file):
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(file)))

    def decode_planes(self, file):
        """The planes of a file, no color converted."""
        from PIL import Image

        image = Image.open(io.BytesIO(file))
        if not self.colour:
            return [np.asarray(image)]
        image.draft("YCbCr", image.size)
        planes = np.asarray(image if image.mode == "YCbCr" else image.convert("YCbCr"))
        return [planes[..., i] for i in range(3)]

    def tables(self, quality):
        """The steps of a quality, one table `(8, 8)` per plane."""
        from PIL import Image

        file = io.BytesIO()
        Image.new("RGB" if self.colour else "L", (8, 8)).save(file, "JPEG", quality=quality)
        found = Image.open(file).quantization
        tables = [np.array(found[i], "float32").reshape(8, 8) for i in sorted(found)]
        return [tables[min(i, len(tables) - 1)] for i in range(len(self.planes))]


def _qualities(range, levels):
    """Of the levels below the top (equation 2.7)."""
    low, high = range
    return [round(low + n * (high - low) / (levels - 1)) for n in np.arange(levels - 1)]


class _Mosaic:
    """Decoded blocks of files of the levels' qualities, the top level's from the image."""

    def __init__(self, encoder, chosen, levels):
        self.encoder, self.levels = encoder, levels
        height, width = encoder.planes[0].shape
        self.chosen = chosen.repeat(8, 0).repeat(8, 1)[:height, :width]
        self.decoded = {}

    def __call__(self, range):
        if range is None:
            return self.encoder.planes
        result = [plane.copy() for plane in self.encoder.planes]
        for n, quality in enumerate(_qualities(range, self.levels)):
            if quality not in self.decoded:
                file = self.encoder(self.encoder.planes, quality)
                self.decoded[quality] = self.encoder.decode_planes(file)
            here = self.chosen == n
            for plane, other in zip(result, self.decoded[quality], strict=True):
                plane[here] = other[here]
        return result


class _Coefficients:
    """The image without the coefficients that a block's quality would round to zero.

    They are zeros in the file as well, whose own steps are finer; those that stay are rounded
    once. Mean brightness always stays.
    """

    def __init__(self, encoder, chosen, levels):
        self.encoder, self.levels = encoder, levels
        self.coefficients, self.chosen = [], []
        for i, plane in enumerate(encoder.planes):
            down, across = encoder.factors if i else (1, 1)
            values = _averaged(plane, down, across)
            blocks = _blocks(values - np.float32(128))
            self.coefficients.append(_COSINES @ blocks @ _COSINES.T)
            rows, columns = blocks.shape[:2]
            self.chosen.append(chosen[::down, ::across][:rows, :columns])

    def __call__(self, range):
        if range is None:
            return self.encoder.planes
        tables = [self.encoder.tables(q) for q in _qualities(range, self.levels)]
        height, width = self.encoder.planes[0].shape
        result = []
        for i, (values, chosen) in enumerate(zip(self.coefficients, self.chosen, strict=True)):
            limits = np.stack([t[i] / 2 for t in tables] + [np.zeros((8, 8), "float32")])
            limits[:, 0, 0] = 0
            kept = np.where(np.abs(values) < limits[chosen], 0, values)
            plane = _joined(_COSINES.T @ kept @ _COSINES) + 128
            plane = np.clip(np.rint(plane), 0, 255).astype("uint8")
            down, across = self.encoder.factors if i else (1, 1)
            result.append(plane.repeat(down, 0).repeat(across, 1)[:height, :width])
        return [np.ascontiguousarray(plane) for plane in result]


_COSINES = np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16) / 2
_COSINES[0] = np.sqrt(1 / 8)
_COSINES = _COSINES.astype("float32")


def _padded(x, down, across):
    height, width = x.shape
    return np.pad(x, ((0, -height % down), (0, -width % across)), mode="edge")


def _averaged(x, down, across):
    x = _padded(x, down, across).astype("float32")
    height, width = x.shape
    return x.reshape(height // down, down, width // across, across).mean(axis=(1, 3))


def _blocks(x):
    x = _padded(x, 8, 8)
    height, width = x.shape
    return x.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3)


def _joined(blocks):
    rows, columns = blocks.shape[:2]
    return blocks.transpose(0, 2, 1, 3).reshape(rows * 8, columns * 8)


def _block_means(x, side):
    x = _padded(x, side, side)
    height, width = x.shape
    return x.reshape(height // side, side, width // side, side).mean(axis=(1, 3))
