"""One way to read images from everything that users keep them in."""

import contextlib
import itertools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

_LARGE = 1 << 23  # pixels: a file above that is shrunk, since SIFT takes 235 bytes for each
_TOO_LARGE = 1 << 26  # pixels to decode, where they cannot be shrunk on the way
_PEEKED = 64  # files whose pixels say the range of all
# What Pillow may take a file for, by its contents: of its other formats some start programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_CHUNK_PIXELS = 1 << 17
_CHUNK_IMAGES = 64
_EXPECTED = (
    "`dataset` must be an array of images (batch, height, width) or (batch, height, width, "
    "channels), a tuple (images, labels), a tf.data.Dataset, a PyDataset, a torch DataLoader, an "
    "iterable of batches or images, or a folder of image files"
)


class Chunk(NamedTuple):
    """Images that one task works on.

    Attributes:
        numbers: list of ints, the images' places in the data set.
        images: list of arrays (height, width, channels), or of paths.
    """

    numbers: list
    images: list


def to_numpy(value):
    """A NumPy array of a tensor of any library, or of an array-like."""
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
    return np.asarray(value)


class Labels:
    """What the labels say about the head: gathered batch by batch."""

    def __init__(self):
        self.low, self.high, self.rank, self.columns = np.inf, -np.inf, 1, None
        self.count, self.whole, self.numeric = 0, True, True
        self._classes = []

    def add(self, y):
        y = to_numpy(y)
        if y.dtype.kind not in "biuf":
            self.numeric, self.whole = False, False
            return
        self.rank, self.columns = y.ndim, int(np.prod(y.shape[1:]))
        self.count += len(y)
        if y.dtype.kind == "f" and np.isnan(y).any():
            raise ValueError("The labels must be numbers. Received NaN among them")
        if y.size:
            self.low, self.high = min(self.low, y.min()), max(self.high, y.max())
            self.whole = self.whole and bool(np.all(y == np.floor(y)))
            # One small number an image is all that is kept.
            if self.rank == 2 and self.columns > 1:
                if ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
                    self._classes.append(y.argmax(1).astype("int32"))
            elif self.whole and self.columns == 1 and self.low >= 0 and self.high < 2**31:
                self._classes.append(y.reshape(-1).astype("int32"))

    def add_folders(self, names, owners):
        """Classes that are folders: their names, and the one of each image."""
        self.add(np.arange(len(names)))
        places = {name: place for place, name in enumerate(sorted(names))}
        self._classes = [np.array([places[owner] for owner in owners], "int32")]

    def classes(self, count):
        """The class of each of `count` images by its number; None where they are no classes."""
        found = np.concatenate(self._classes) if self._classes else np.zeros(0)
        return found if self.num_classes is not None and len(found) == count else None

    @property
    def num_classes(self):
        """Number of classes, or None where the labels are no classes."""
        if not self.count or not self.numeric or self.rank > 2:
            return None
        if self.columns > 1:
            return self.columns
        return int(self.high) + 1 if self.whole and self.low >= 0 and self.high >= 1 else None

    def check(self, num_classes, task):
        """The number of units of the head, or an error where the labels do not fit it."""
        if num_classes is None:
            if task == "regression" and self.count:
                return self.columns
            num_classes = self.num_classes
        if not self.count and self.numeric:
            return num_classes
        if not self.numeric:
            raise ValueError(
                "The labels must be numbers, classes counted from 0. Received labels of another "
                "type; keras.layers.StringLookup turns strings into numbers."
            )
        if self.rank > 2:
            raise ValueError(
                "The labels must be one number or one vector per image. Received labels of rank "
                f"{self.rank}, the batch axis included"
            )
        if task == "regression":
            if num_classes != self.columns:
                raise ValueError(
                    "`num_classes` must be the number of values per image for a regression, "
                    f"{self.columns} in the labels. Received: num_classes={num_classes}"
                )
        elif not self.whole and self.columns == 1:
            raise ValueError(
                "The labels must be whole numbers for a classification. Received numbers from "
                f'{self.low:g} to {self.high:g}. For a regression pass task="regression".'
            )
        elif self.columns > 1 and num_classes != self.columns:
            raise ValueError(
                f"`num_classes` must be the number of columns of the labels, {self.columns}. "
                f"Received: num_classes={num_classes}"
            )
        elif self.columns == 1 and not (
            self.low >= 0 and (num_classes is None or self.high < num_classes)
        ):
            raise ValueError(
                "Labels must be integers from 0 to num_classes - 1. Received labels from "
                f"{self.low:g} to {self.high:g} for num_classes={num_classes}"
            )
        return num_classes


class Reader:
    """Chunks of a seeded sample of a data set, read as they are asked for.

    Args:
        dataset: see `RACKNet.analyze`.
        max_images: int, or None for all images.
        seed: int.
        channels_first: bool, whether arrays are (channels, height, width).

    Attributes:
        labels: a `Labels`, complete when the chunks have been read.
        seen: int, images of the data set, as far as they were counted.
        total: int or None, images that the chunks will hold, where this is known before.
        is_folder: bool, whether the images are files; then `paths` lists them.
    """

    def __init__(self, dataset, max_images, seed, channels_first):
        self.labels, self.seen, self.total = Labels(), 0, None
        self.max_images, self.channels_first = max_images, channels_first
        self.rng = np.random.default_rng(seed)
        self.is_folder = isinstance(dataset, str | os.PathLike)
        if self.is_folder:
            self._items = self._folder(Path(dataset))
        elif isinstance(dataset, tuple) and 2 <= len(dataset) <= 3:
            self._items = self._arrays(dataset[0], dataset[1])
        elif hasattr(dataset, "shape") and hasattr(dataset, "dtype"):
            self._items = self._arrays(dataset, None)
        else:
            self._items = self._stream(dataset)

    def chunks(self):
        """Yields `Chunk` after `Chunk`; their bounds do not depend on the workers."""
        numbers, images, pixels = [], [], 0
        for number, image in self._items:
            numbers.append(number)
            images.append(image)
            # A file's size is not known before it is read.
            pixels += _CHUNK_PIXELS // 8 if self.is_folder else image.shape[0] * image.shape[1]
            if pixels >= _CHUNK_PIXELS or len(images) >= _CHUNK_IMAGES:
                yield Chunk(numbers, images)
                numbers, images, pixels = [], [], 0
        if images:
            yield Chunk(numbers, images)

    # ---- kinds of data sets ------------------------------------------------------------------

    def _choose(self, count):
        """Sorted places of the sample in a data set of known size."""
        self.seen = count
        if count == 0:
            raise ValueError(f"{_EXPECTED}. Received an empty one")
        if self.max_images is None or self.max_images >= count:
            self.total = count
            return range(count)
        self.total = self.max_images
        return np.sort(self.rng.choice(count, self.max_images, replace=False)).tolist()

    def _folder(self, path):
        if not path.is_dir():
            raise ValueError(f"{_EXPECTED}. Received: {str(path)!r}, which is not a folder")
        # One folder per class, as keras.utils.image_dataset_from_directory has it: an empty one is
        # a class, a hidden one (.ipynb_checkpoints) is none.
        classes = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
        own = [p for p in path.iterdir() if _is_image_file(p)]
        paths = sorted(own + [p for folder in classes for p in _image_files(folder)])
        if not paths:
            raise ValueError(
                f"{_EXPECTED}. Received: {str(path)!r}, which holds no image file "
                f"({', '.join(sorted(_SUFFIXES))})"
            )
        if len(classes) > 1 and not own:
            self.labels.add_folders(
                [p.name for p in classes], [p.relative_to(path).parts[0] for p in paths]
            )
        chosen = list(self._choose(len(paths)))
        self.paths = [paths[i] for i in chosen]
        return zip(chosen, self.paths, strict=True)

    def _arrays(self, x, y):
        kind = getattr(getattr(x, "dtype", None), "kind", "")
        if isinstance(x, list | tuple) or (kind == "O" and x.ndim):  # images of different sizes
            if y is not None:
                self._add_labels(y, len(x))
            chosen = self._choose(len(x))
            return ((i, self._image(to_numpy(x[i]))) for i in chosen)
        if not hasattr(x, "shape"):
            raise TypeError(f"{_EXPECTED}. Received: {type(x).__name__}")
        rank = len(x.shape)
        if rank not in (3, 4):
            raise ValueError(f"{_EXPECTED}. Received an array of shape {tuple(x.shape)}")
        if rank == 3 and x.shape[-1] in (1, 3, 4) and x.shape[0] > 4:
            raise ValueError(
                f"{_EXPECTED}. Received an array of shape {tuple(x.shape)}, which looks like one "
                "image: put the batch axis first, images[None]"
            )
        if 0 in x.shape[1:]:
            raise ValueError(f"{_EXPECTED}. Received an array of shape {tuple(x.shape)}")
        if y is not None:
            self._add_labels(y, len(x))
        chosen = self._choose(len(x))
        return ((i, self._channels(to_numpy(x[i]))) for i in chosen)

    def _add_labels(self, y, count):
        y = to_numpy(y)
        if y.ndim == 0 or len(y) != count:
            raise ValueError(
                "Images and labels must be as many. Received: "
                f"{count} images and labels of shape {y.shape}"
            )
        self.labels.add(y)

    def _stream(self, dataset):
        if hasattr(dataset, "cardinality"):
            cardinality = int(dataset.cardinality())
            if cardinality == -1:
                raise ValueError(
                    "`dataset` must be finite: statistics are taken from a sample of all images. "
                    "Received an infinite tf.data.Dataset; pass dataset.take(n)"
                )
        if hasattr(dataset, "num_batches") and hasattr(dataset, "__getitem__"):  # PyDataset
            if dataset.num_batches is None:
                raise ValueError("`dataset` must be finite. Received an infinite PyDataset")
            batches = (dataset[i] for i in range(dataset.num_batches))
        else:
            if isinstance(dataset, dict | bytes) or not hasattr(dataset, "__iter__"):
                raise TypeError(f"{_EXPECTED}. Received: {type(dataset).__name__}")
            batches = iter(dataset)
        images = self._numbered(batches)
        if self.max_images is None:
            return images
        return self._reservoir(images)

    def _numbered(self, batches):
        for element in batches:
            x, y = element, None
            if isinstance(element, dict):
                raise TypeError(
                    f"{_EXPECTED}. Received batches that are dicts: map them to (images, labels)"
                )
            if isinstance(element, tuple | list) and 1 <= len(element) <= 3:  # torch gives lists
                x, y = element[0], element[1] if len(element) > 1 else None
            x, y = to_numpy(x), None if y is None else to_numpy(y)
            if self._is_image(x):
                x, y = x[None], None if y is None else y[None]
            if x.ndim not in (3, 4) or x.dtype.kind not in "biuf":
                raise ValueError(
                    f"{_EXPECTED}. Received a batch of shape {x.shape}, dtype {x.dtype}"
                )
            if y is not None:
                self._add_labels(y, len(x))
            for image in x:
                number, self.seen = self.seen, self.seen + 1
                yield number, self._channels(image)
        if not self.seen:
            raise ValueError(f"{_EXPECTED}. Received an empty one")

    def _reservoir(self, images):
        """A uniform sample of a stream of unknown length (algorithm R), in its order."""
        kept = [
            (number, np.array(image)) for number, image in itertools.islice(images, self.max_images)
        ]
        for number, image in images:
            place = int(self.rng.integers(number + 1))
            if place < self.max_images:
                kept[place] = (number, np.array(image))  # a copy: the batch can go
        self.total = len(kept)
        yield from sorted(kept, key=lambda pair: pair[0])

    # ---- images ----------------------------------------------------------------------------

    def _is_image(self, x):
        """Whether an array is one image, and not a batch of gray ones."""
        axis = 0 if self.channels_first else -1
        return x.ndim == 2 or (x.ndim == 3 and x.shape[axis] in (1, 3, 4))

    def _image(self, image):
        if not self._is_image(image):
            raise ValueError(f"{_EXPECTED}. Received an image of shape {image.shape}")
        return self._channels(image)

    def _channels(self, image):
        """(height, width, channels) of one image."""
        if image.dtype.kind not in "biuf":
            raise ValueError(f"{_EXPECTED}. Received images of dtype {image.dtype}")
        if image.size == 0:
            raise ValueError(f"{_EXPECTED}. Received an image of shape {image.shape}")
        if image.ndim == 2:
            return image[:, :, None]
        if self.channels_first:
            return np.moveaxis(image, 0, -1)
        if image.shape[0] in (1, 3) and image.shape[-1] not in (1, 3, 4):
            raise ValueError(
                f"Images of shape {image.shape} look as if their channels came first. Pass "
                'data_format="channels_first"'
            )
        return image


def _is_image_file(path):
    visible = not path.name.startswith(".")
    return visible and path.suffix.lower() in _SUFFIXES and path.is_file()


def _image_files(folder):
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (p for p in (Path(root, name) for name in names) if _is_image_file(p))


@contextlib.contextmanager
def _opened(path):
    """The Pillow image of a file, not yet decoded, and whether it has more than 8 bits."""
    from PIL import Image

    with Image.open(path, formats=_FORMATS) as file:
        # Pillow decodes 16 bits a color as 8; the raw mode still tells.
        raw = str(file.tile[0][3]) if file.tile else ""
        yield file, file.mode == "F" or file.mode.startswith("I") or ";16" in raw


def read_file(path):
    """Pixels of an image file.

    Returns:
        `pixels, size, factor`: an array (height, width, 3), of uint8, or of a wider type where the
        file has more than 8 bits; the file's (height, width); and the power of two by which the
        pixels were shrunk because there are so many.

    Raises:
        OSError, ValueError, ...: whatever Pillow's decoders raise for a broken file, and
            ValueError for one that is too large.
    """
    with _opened(path) as (file, wide):
        width, height = file.size
        factor = 1
        while width * height > _LARGE * factor**2:
            factor *= 2
        if factor > 1 and file.format == "JPEG":
            file.draft(file.mode, (width // factor, height // factor))
        if file.width * file.height > _TOO_LARGE:
            raise ValueError(f"{width} x {height} pixels are too many to decode; shrink the file")
        left = factor // max(1, round(width / file.width))
        if wide:
            pixels = _wide_pixels(path, file)
            pixels = _block_means(pixels, left) if left > 1 else pixels
        else:
            image = file.convert("RGB")
            pixels = np.asarray(image.reduce(left) if left > 1 else image)
        return pixels, (height, width), factor


def _wide_pixels(path, file):
    """Pixels (height, width, 3) of more than 8 bits."""
    if file.mode == "F" or file.mode.startswith("I"):
        return np.repeat(np.asarray(file)[:, :, None], 3, axis=2)
    try:
        import cv2
    except ImportError:  # the upper 8 of 16 bits
        return np.asarray(file.convert("RGB")).astype("uint16") * 257
    pixels = cv2.imdecode(np.fromfile(path, "uint8"), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _block_means(pixels, size):
    height, width = (n // size for n in pixels.shape[:2])
    pixels = pixels[: height * size, : width * size]
    return pixels.reshape(height, size, width, size, -1).mean(axis=(1, 3))


def range_of_files(paths):
    """(low, high) for files of up to 8 bits and for wider ones, and what was assumed.

    Returns:
        `narrow, wide, all_wide, note`: the two ranges, and whether all the files are wide.
    """
    images, count = [], 0
    for path in paths[:_PEEKED]:
        with contextlib.suppress(Exception), _opened(path) as (_, wide):
            count += 1
            if wide:
                images.append(read_file(path)[0])
    if not images:
        return (0.0, 255.0), (0.0, 65535.0), False, None
    found, note = guess_range(images)
    return (0.0, 255.0), found, len(images) == count, note


def to_grey(image, value_range):
    """uint8 (height, width) of an image (height, width, channels).

    Three channels, or four with opacity, become gray by the weights of ITU-R BT.601; any other
    number by their mean.
    """
    low, high = value_range
    channels = image.shape[-1]
    if channels == 1:
        grey = image[..., 0]
    elif channels in (3, 4):
        grey = image[..., :3] @ np.array([0.299, 0.587, 0.114], "float32")
    else:
        grey = image.mean(axis=-1)
    if grey.dtype == np.uint8 and (low, high) == (0, 255):
        return np.ascontiguousarray(grey)
    scaled = (grey.astype("float32") - low) * (255.0 / (high - low))
    return np.round(np.clip(scaled, 0, 255)).astype("uint8")


def guess_range(images):
    """(low, high) of pixel values, and what was assumed, from some images of a data set.

    Returns:
        `(low, high), note`; the note is None where the data type or the usual ranges tell.
    """
    kinds = {image.dtype for image in images}
    if kinds == {np.dtype("uint8")} or kinds == {np.dtype(bool)}:
        return ((0.0, 255.0), None) if np.dtype("uint8") in kinds else ((0.0, 1.0), None)
    lows, highs = [], []
    for image in images:
        finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    if not lows:
        return (0.0, 1.0), None
    low, high = min(lows), max(highs)
    whole = all(kind.kind in "iu" for kind in kinds)
    usual = [(0.0, 255.0), (0.0, 65535.0)] if whole else [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]
    # The range must fill a good part of a usual one: floats up to 16 are not an image of 0..255.
    for a, b in usual:
        if low >= a and high <= b and high - a > 0.5 * (b - a):
            return (a, b), None
    if high > low:
        note = (
            f"pixel values from {low:g} to {high:g} were taken for black to white; pass "
            "`value_range` where this is wrong"
        )
        return (low, high), note
    return (low, low + 1.0), None
