"""What the images of a data set say: `DatasetStatistics`."""

import base64
import dataclasses
import json
import math
import numbers
import re
import zlib
from pathlib import Path

from keras_saliency.racknet.allocation import check_clusters

_FORMAT = 1


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


@dataclasses.dataclass(frozen=True)
class Octave:
    """The keypoints of one octave: it becomes one rack where there are enough of them.

    Attributes:
        index: int, 0 for the finest octave. An octave's pixel is twice as wide as that of the
            one before it.
        components: tuple of `Component`, by rising mean; empty where the octave has no rack.
        keypoints: int, keypoints found in all analysed images.
        images: int, analysed images that have at least one of them.
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


@dataclasses.dataclass(frozen=True)
class Sample:
    """A small grey picture of one analysed image, with its keypoints, for `plot`.

    Attributes:
        height, width: ints.
        pixels: str, the grey levels, row by row, compressed (zlib) and in base64.
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

    @classmethod
    def from_array(cls, image, keypoints):
        """Packs a uint8 array (height, width) and rows of (x, y, sigma, octave)."""
        packed = base64.b64encode(zlib.compress(image.tobytes(), 9)).decode("ascii")
        rows = tuple(
            (round(float(x), 2), round(float(y), 2), round(float(s), 3), int(o))
            for x, y, s, o in keypoints
        )
        return cls(int(image.shape[0]), int(image.shape[1]), packed, rows)

    def to_array(self):
        """The picture as a uint8 array (height, width)."""
        import numpy as np

        raw = zlib.decompress(base64.b64decode(self.pixels))
        return np.frombuffer(raw, "uint8").reshape(self.height, self.width)


@dataclasses.dataclass(frozen=True)
class DatasetStatistics:
    """Sizes, complexities and distributions of the keypoints of a data set.

    Made by `RACKNet.analyze`, or by `from_counts` from plain numbers. Printing it gives a table.
    Two of them are equal when everything but the times they took is equal.

    Attributes:
        octaves: tuple of `Octave`, the finest first, those without a rack included.
        input_shape: tuple, the shape of one image for the network; None for sizes that differ.
        num_classes: int or None, as found in the labels.
        images: int, images analysed.
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
        seconds: dict, seconds per step of the analysis (the rows of G table 3.8): "read",
            "features", "entropy", "mixtures", "clustering". Steps that run in several workers
            are summed over them; "total" is the time on the clock.

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
    seconds: dict = dataclasses.field(default_factory=dict, compare=False, hash=False)

    # ---- what the network is made of -------------------------------------------------------

    @property
    def racks(self):
        """The octaves that become racks: a tuple of `Octave`."""
        return tuple(octave for octave in self.octaves if octave.components)

    @property
    def clusters(self):
        """n_ij: a tuple of racks, each a tuple with the number of clusters per layer."""
        return tuple(tuple(c.clusters for c in octave.components) for octave in self.racks)

    def kernel_sizes(self):
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
    def from_counts(cls, clusters, input_shape, num_classes=None, data_format="channels_last"):
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
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                '`data_format` must be "channels_last" or "channels_first". '
                f"Received: data_format={data_format!r}"
            )
        return cls(octaves, check_input_shape(input_shape), num_classes, data_format=data_format)

    def to_json(self, path=None):
        """Everything as JSON.

        Args:
            path: file to write, or None.

        Returns:
            The text.
        """
        data = {"format": _FORMAT, **dataclasses.asdict(self)}
        text = json.dumps(data, indent=1, allow_nan=False)
        # One histogram per line instead of a line for every number.
        text = _join_number_lists(text)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, path):
        """Reads what `to_json` wrote.

        Args:
            path: a file, or the JSON text itself.

        Returns:
            A `DatasetStatistics` that equals the one written.

        Raises:
            ValueError: when it is not the JSON of a `DatasetStatistics`.
        """
        is_text = isinstance(path, str) and path.lstrip().startswith("{")
        text = path if is_text else Path(path).read_text(encoding="utf-8")
        try:
            data = json.loads(text)
            if data.pop("format") != _FORMAT:
                raise ValueError(f"unknown format, this version reads {_FORMAT}")
            data["octaves"] = tuple(
                Octave(
                    **{
                        **octave,
                        "components": tuple(Component(**c) for c in octave["components"]),
                        "histogram": tuple(octave["histogram"]),
                    }
                )
                for octave in data["octaves"]
            )
            data["samples"] = tuple(
                Sample(**{**s, "keypoints": tuple(tuple(k) for k in s["keypoints"])})
                for s in data["samples"]
            )
            for name in ("input_shape", "value_range", "warnings"):
                data[name] = None if data[name] is None else tuple(data[name])
            data["settings"] = tuple((name, _tuples(value)) for name, value in data["settings"])
            return cls(**data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            where = "the given text" if is_text else repr(str(path))
            raise ValueError(
                f"`path` must be JSON written by DatasetStatistics.to_json. Received {where}: "
                f"{type(error).__name__}: {error}"
            ) from error

    # ---- for people ------------------------------------------------------------------------

    def to_frame(self):
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
        if self.seconds:
            lines.append(
                "seconds: "
                + ", ".join(f"{name} {value:.2f}" for name, value in self.seconds.items())
            )
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def plot(self, budget=400, strategy="racknet"):
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


def _number(value):
    return "" if value is None else f"{value:.2f}"


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _join_number_lists(text):
    def join(match):
        return re.sub(r"\s+", " ", match.group(0)).replace("[ ", "[").replace(" ]", "]")

    return re.sub(r"\[[\d\s,.eE+-]*\]", join, text)
