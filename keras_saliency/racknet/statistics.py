"""What the images of a data set say: `DatasetStatistics`."""

from __future__ import annotations

import base64
import dataclasses
import math
import numbers
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_saliency import validation
from keras_saliency.files import replacing
from keras_saliency.racknet import storage
from keras_saliency.racknet.allocation import check_clusters
from keras_saliency.scale_space.keypoints import ENGINES
from keras_saliency.typing import DataFormat, DataFrame, Figure, FilePath, Shape

_LARGEST_SIDE = 4096  # pixels of a picture: a file must not unpack into gigabytes


@dataclasses.dataclass(frozen=True)
class Component:
    """One Gaussian component of an octave's entropies: it becomes one convolutional layer.

    Attributes:
        clusters: int, groups of similar descriptors among its keypoints, n_ij, in a sample of as
            many as the other components of the octave have.
        mean, std: floats, entropy in bits; None where unknown, as all floats here.
        weight: float, its part of the octave's keypoints, by the mixture.
        members: int, keypoints whose entropy belongs to it.
        described: int, descriptors that were clustered, at most `max_descriptors`.
        sigma: float, mean scale of those keypoints in pixels of the image.

    Example:

    >>> from keras_saliency.racknet import Component
    >>> simple = Component(clusters=3, mean=2.5, std=0.4)
    >>> simple.clusters
    3
    """

    clusters: int
    mean: float | None = None
    std: float | None = None
    weight: float | None = None
    members: int = 0
    described: int = 0
    sigma: float | None = None

    def __post_init__(self):
        for name in ("clusters", "members", "described"):
            _check_integer(name, getattr(self, name))
        for name in ("mean", "std", "weight", "sigma"):
            _check_number(name, getattr(self, name))
        if (self.mean is None) != (self.std is None):
            raise _wrong("std", "given where `mean` is, and None where it is not", self.std)


@dataclasses.dataclass(frozen=True)
class Octave:
    """The keypoints of one octave: it becomes one rack where there are enough of them.

    Attributes:
        index: int, 0 for the finest octave. An octave's pixel is twice as wide as that of the
            one before it.
        components: tuple of `Component`, by rising mean; empty where the octave has no rack.
        keypoints: int, keypoints found in all analyzed images.
        images: int, analyzed images that have at least one of them.
        sigma: float, mean scale in pixels of the image.
        histogram: tuple of ints, keypoints per entropy bin; bin i covers
            `[i * bin_size, (i + 1) * bin_size)` bits.

    Example:

    >>> from keras_saliency import DatasetStatistics
    >>> from keras_saliency.racknet import Component, Octave
    >>> finest = Octave(0, (Component(3), Component(5)), keypoints=240)
    >>> DatasetStatistics((finest,), input_shape=(28, 28, 1)).clusters
    ((3, 5),)
    """

    index: int
    components: tuple = ()
    keypoints: int = 0
    images: int = 0
    sigma: float | None = None
    histogram: tuple = ()

    def __post_init__(self):
        for name in ("index", "keypoints", "images"):
            _check_integer(name, getattr(self, name))
        _check_number("sigma", self.sigma)
        _check_tuple("components", self.components, Component)
        _check_tuple("histogram", self.histogram, numbers.Integral)
        if self.histogram and (min(self.histogram) < 0 or sum(self.histogram) != self.keypoints):
            raise _wrong("histogram", f"counts >= 0 of {self.keypoints} keypoints", self.histogram)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A small gray picture of one analyzed image, with its keypoints, for `plot`.

    Attributes:
        height, width: ints.
        pixels: str, the gray levels, row by row, compressed (zlib) and in base64.
        keypoints: tuple of (x, y, sigma, octave), in pixels of this picture.

    Example:

    >>> import numpy as np
    >>> from keras_saliency.racknet import Sample
    >>> sample = Sample.from_array(np.eye(5, dtype="uint8"), [(2.0, 2.0, 1.3, 0)])
    >>> sample.to_array().shape
    (5, 5)
    >>> sample.keypoints
    ((2.0, 2.0, 1.3, 0),)
    """

    height: int
    width: int
    pixels: str
    keypoints: tuple = ()

    def __post_init__(self):
        for name in ("height", "width"):
            _check_integer(name, getattr(self, name), 1, _LARGEST_SIDE)
        if not isinstance(self.pixels, str) or len(self._unpack()) != self.height * self.width:
            raise _wrong("pixels", f"{self.height} x {self.width} packed gray levels", self.pixels)
        _check_tuple("keypoints", self.keypoints, tuple)
        for row in self.keypoints:
            if len(row) != 4 or not all(map(_is_number, row)):
                raise _wrong("keypoints", "rows of (x, y, sigma, octave)", row)

    def _unpack(self):
        try:
            packed = base64.b64decode(self.pixels, validate=True)
            # One byte more than there should be tells that there are too many.
            return zlib.decompressobj().decompress(packed, self.height * self.width + 1)
        except (ValueError, zlib.error):
            return b""

    @classmethod
    def from_array(cls, image: np.ndarray, keypoints: Iterable[Sequence[float]]) -> Sample:
        """Packs a uint8 array (height, width) and rows of (x, y, sigma, octave)."""
        packed = base64.b64encode(zlib.compress(image.tobytes(), 9)).decode("ascii")
        rows = tuple(
            (round(float(x), 2), round(float(y), 2), round(float(s), 3), int(o))
            for x, y, s, o in keypoints
        )
        return cls(int(image.shape[0]), int(image.shape[1]), packed, rows)

    def to_array(self) -> np.ndarray:
        """The picture as a uint8 array (height, width)."""
        import numpy as np

        return np.frombuffer(self._unpack(), "uint8").reshape(self.height, self.width)


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    """Sizes, complexities and distributions of the keypoints of a data set.

    Made by `RACKNet.analyze`, or by `from_counts` from plain numbers. Printing it gives a table.
    Two of them are equal when everything but the times they took is equal.

    Attributes:
        octaves: tuple of `Octave`, the finest first, those without a rack included.
        input_shape: tuple, the shape of one image for the network; None for sizes that differ.
        num_classes: int or None, as found in the labels.
        images: int, images analyzed.
        images_seen: int, images in the data set, as far as it was read.
        images_skipped: int, images that could not be read or held NaN.
        value_range: (low, high), the pixel values taken for black and white, or None.
        data_format: `"channels_last"` or `"channels_first"`, of `input_shape`.
        engine: str, `"opencv"`, `"scikit-image"`, or `""` for plain numbers.
        seed: int.
        bin_size: float, width of an entropy bin in bits.
        settings: tuple of (name, value), every other argument of `analyze`.
        warnings: tuple of str, what was assumed where the images said too little.
        samples: tuple of `Sample`.
        separation: float or None, of how many images the nearest neighbor is of the same class
            (`keras_saliency.separation_index`): of at most 2000 images, gray, shrunk to at most
            32 x 32 pixels. None without classes, and where such images differ in size.
        seconds: dict, seconds per step of the analysis (the rows of G table 3.8): "read",
            "features", "entropy", "mixtures", "clustering", and "separation" where there are
            classes. Steps that run in several workers are summed over them; "total" is the time
            on the clock.

    Example:

    >>> import keras_saliency
    >>> stats = keras_saliency.DatasetStatistics.from_counts([[3, 5], [2, 2, 4]], (28, 28, 1))
    >>> stats.clusters
    ((3, 5), (2, 2, 4))
    >>> stats == keras_saliency.DatasetStatistics.from_json(stats.to_json())
    True

    Source: G 3.4.3 to 3.4.6, table 3.1.
    """

    octaves: tuple
    input_shape: tuple
    num_classes: int | None = None
    images: int = 0
    images_seen: int = 0
    images_skipped: int = 0
    value_range: tuple | None = None
    data_format: str = "channels_last"
    engine: str = ""
    seed: int = 0
    bin_size: float = 0.01
    settings: tuple = ()
    warnings: tuple = ()
    samples: tuple = dataclasses.field(default=(), repr=False)
    separation: float | None = None
    seconds: dict = dataclasses.field(default_factory=dict, compare=False, hash=False)

    def __post_init__(self):
        _check_tuple("octaves", self.octaves, Octave)
        indices = [octave.index for octave in self.octaves]
        if not indices or indices != sorted(set(indices)):
            raise _wrong("octaves", "at least one, by rising index", self.octaves)
        validation.choice("data_format", self.data_format, validation.DATA_FORMATS)
        shape = check_input_shape(self.input_shape)
        if shape[-1 if self.data_format == "channels_last" else 0] is None:
            raise _wrong("input_shape", "a shape whose number of channels is known", shape)
        if self.num_classes is not None:
            _check_integer("num_classes", self.num_classes, 1)
        for name in ("images", "images_seen", "images_skipped", "seed"):
            _check_integer(name, getattr(self, name))
        if self.value_range is not None:
            check_value_range(self.value_range)
        validation.choice("engine", self.engine, ("", *ENGINES))
        if not (_is_number(self.bin_size) and 0 < self.bin_size <= 1):
            raise _wrong("bin_size", "a number in (0, 1]", self.bin_size)
        _check_tuple("settings", self.settings, tuple)
        if not all(len(pair) == 2 and isinstance(pair[0], str) for pair in self.settings):
            raise _wrong("settings", "pairs (name, value)", self.settings)
        _check_tuple("warnings", self.warnings, str)
        _check_tuple("samples", self.samples, Sample)
        if self.separation is not None and not (
            _is_number(self.separation) and 0 <= self.separation <= 1
        ):
            raise _wrong("separation", "a number from 0 to 1, or None", self.separation)
        if not isinstance(self.seconds, dict) or not all(
            isinstance(name, str) and _is_number(value) for name, value in self.seconds.items()
        ):
            raise _wrong("seconds", "a dict from names to seconds", self.seconds)

    # ---- what the network is made of -------------------------------------------------------

    @property
    def racks(self) -> tuple[Octave, ...]:
        """The octaves that become racks: a tuple of `Octave`."""
        return tuple(octave for octave in self.octaves if octave.components)

    @property
    def clusters(self) -> tuple[tuple[int, ...], ...]:
        """n_ij: a tuple of racks, each a tuple with the number of clusters per layer."""
        return tuple(tuple(c.clusters for c in octave.components) for octave in self.racks)

    def kernel_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Window per layer from the features' scopes (observation 1, G 3.2.1).

        The edge is the odd number nearest to `2 * sigma + 1`, with sigma the mean scale of the
        component's keypoints in pixels of its rack, and at least 3. Where it is unknown, 3.

        Returns:
            A tuple of racks, each a tuple of odd ints.
        """
        racks = []
        for depth, octave in enumerate(self.racks):
            # The images have been halved once for every rack before this one.
            sigmas = [c.sigma and c.sigma / 2**depth for c in octave.components]
            racks.append(
                tuple(
                    3 if s is None else min(9, max(3, 2 * math.floor(s + 0.5) + 1)) for s in sigmas
                )
            )
        return tuple(racks)

    # ---- in and out ----------------------------------------------------------------------

    @classmethod
    def from_counts(
        cls,
        clusters: Sequence[Sequence[int]],
        input_shape: Shape,
        num_classes: int | None = None,
        data_format: DataFormat = "channels_last",
    ) -> DatasetStatistics:
        """Statistics from plain numbers, for those who know them.

        Args:
            clusters: nested list, per rack and layer the number of clusters n_ij.
            input_shape: tuple, the shape of one image, (height, width, channels).
            num_classes: int or None.
            data_format: `"channels_last"` or `"channels_first"`.

        Returns:
            A `DatasetStatistics`.

        Raises:
            ValueError: when `clusters` is empty or holds anything but integers >= 0, or
                `input_shape` is no shape of an image.
        """
        octaves = tuple(
            Octave(index, tuple(Component(n) for n in rack))
            for index, rack in enumerate(check_clusters(clusters, "clusters"))
        )
        return cls(octaves, check_input_shape(input_shape), num_classes, data_format=data_format)

    def to_json(self, path: FilePath | None = None) -> str:
        """Everything as JSON.

        Args:
            path: file to write, or None. An existing one is replaced once the new one is
                complete.

        Returns:
            The text. It carries a checksum of the values.
        """
        text = storage.to_text(self)
        if path is not None:
            with replacing(path) as file:
                file.write(text.encode("utf-8"))
        return text

    @classmethod
    def from_json(cls, path: FilePath) -> DatasetStatistics:
        """Reads what `to_json` wrote.

        Args:
            path: a file, or the JSON text itself.

        Returns:
            A `DatasetStatistics` that equals the one written.

        Raises:
            ValueError: when it is not the JSON of a `DatasetStatistics`, a value is impossible, or
                the contents do not fit their checksum (a text without one is read, too).
            TypeError: when `path` is neither a string nor a path.
            OSError: when there is no such file.
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"`path` must be a file or JSON text. Received: {type(path).__name__}")
        is_text = isinstance(path, str) and path.lstrip().startswith("{")
        try:
            text = path if is_text else Path(path).read_bytes()
            return storage.from_text(text, cls, Octave, Component, Sample)
        except (
            AttributeError,
            KeyError,
            OverflowError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            where = "the given text" if is_text else repr(str(path))
            raise ValueError(
                f"`path` must be JSON written by DatasetStatistics.to_json. Received {where}: "
                f"{type(error).__name__}: {error}"
            ) from error

    # ---- for people ------------------------------------------------------------------------

    def to_frame(self) -> DataFrame:
        """A pandas frame with one row per component.

        Columns: `rack` and `layer` (from 0), `octave`, `octave_keypoints`, `octave_sigma`, and
        the fields of `Component`.
        """
        import pandas as pd

        rows = [
            {
                "rack": rack,
                "layer": layer,
                "octave": octave.index,
                "octave_keypoints": octave.keypoints,
                "octave_sigma": octave.sigma,
                **dataclasses.asdict(component),
            }
            for rack, octave in enumerate(self.racks)
            for layer, component in enumerate(octave.components)
        ]
        return pd.DataFrame(rows)

    def __repr__(self):
        shape = "x".join("?" if n is None else str(n) for n in self.input_shape)
        racks = [list(rack) for rack in self.clusters]
        return f"DatasetStatistics({shape}, {self.images} images, clusters={racks})"

    def __str__(self):
        shape = "x".join("?" if n is None else str(n) for n in self.input_shape)
        lines = [f"DatasetStatistics of {self.images} of {self.images_seen} images, {shape}"]
        if not self.images:
            lines = [f"DatasetStatistics from plain numbers, {shape}"]
        if self.num_classes is not None:
            lines[0] += f", {self.num_classes} classes"
        if self.engine:
            lines[0] += f"; {self.engine}, seed {self.seed}"
        if self.images_skipped:
            lines[0] += f"; {self.images_skipped} skipped"
        head = ("octave", "keypoints", "sigma", "layer", "entropy", "members", "clusters")
        rows = [head]
        for octave in self.octaves:
            first = (str(octave.index), str(octave.keypoints), _number(octave.sigma))
            if not octave.components:
                rows.append((*first, "-", "", "", ""))
            for j, c in enumerate(octave.components):
                entropy = "" if c.mean is None else f"{c.mean:.2f} ± {c.std:.2f}"
                rows.append(
                    (
                        *(first if j == 0 else ("", "", "")),
                        str(j + 1),
                        entropy,
                        str(c.members),
                        str(c.clusters),
                    )
                )
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines += [
            "  ".join(cell.rjust(n) for cell, n in zip(row, widths, strict=True)) for row in rows
        ]
        if self.separation is not None:
            lines.append(
                f"separation index {self.separation:.3f}: the share of images whose nearest "
                "neighbor is of the same class"
            )
        if self.seconds:
            lines.append(
                "seconds: "
                + ", ".join(f"{name} {value:.2f}" for name, value in self.seconds.items())
            )
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def plot(self, budget: int = 400, strategy: str = "racknet") -> Figure:
        """Draws the statistics and the network they lead to.

        Args:
            budget: int, kernels of the network that is drawn.
            strategy: str, how they are shared, see `RACKNet.allocate`.

        Returns:
            A `matplotlib.figure.Figure`: entropy histograms with their components (G figure
            3.4), the keypoints on sample images, and the network. Each is alone in
            `keras_saliency.visualization`.
        """
        # Dependencies point away from the pictures; this one is followed only when called.
        import importlib

        pictures = importlib.import_module("keras_saliency.visualization.racknet")
        return pictures.plot_statistics(self, budget=budget, strategy=strategy)


def check_input_shape(shape, name="input_shape"):
    ok = isinstance(shape, list | tuple) and len(shape) == 3
    if ok:
        ok = all(
            n is None or (isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0)
            for n in shape
        )
    if not ok:
        raise ValueError(
            f"`{name}` must be the shape of one image, three positive integers, None for an "
            f"extent that differs. Received: {name}={shape!r}"
        )
    return tuple(None if n is None else int(n) for n in shape)


def check_value_range(value):
    """The pair (low, high) as floats, or an error."""
    try:
        low, high = (float(v) for v in value)
        fits = low < high and math.isfinite(low) and math.isfinite(high)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(
            "`value_range` must be a pair (low, high) of numbers, low < high, the pixel values of "
            f"black and white. Received: value_range={value!r}"
        )
    return low, high


def _wrong(name, expected, value):
    text = repr(value)
    text = text if len(text) <= 200 else text[:200] + "..."
    return ValueError(f"`{name}` must be {expected}. Received: {name}={text}")


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_integer(name, value, minimum=0, maximum=math.inf):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not minimum <= value <= maximum:
        limit = f" and <= {maximum}" if maximum < math.inf else ""
        raise _wrong(name, f"an integer >= {minimum}{limit}", value)


def _check_number(name, value):
    if value is not None and not (_is_number(value) and value >= 0):
        raise _wrong(name, "a finite number >= 0, or None", value)


def _check_tuple(name, value, kind):
    if not isinstance(value, tuple) or not all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    ):
        raise _wrong(name, f"a tuple of {kind.__name__}", value)


def _number(value):
    return "" if value is None else f"{value:.2f}"
