"""From a data set to its `DatasetStatistics` (G 3.4.3 to 3.4.6)."""

import collections
import contextlib
import itertools
import logging
import math
import threading
import time
import warnings
from typing import NamedTuple

import numpy as np

from keras_saliency import validation
from keras_saliency.complexity import separation_index
from keras_saliency.racknet.clusters import count_clusters, neighbour_distance
from keras_saliency.racknet.components import find_components, keypoint_entropy
from keras_saliency.racknet.readers import Reader, guess_range, range_of_files, read_file, to_grey
from keras_saliency.racknet.statistics import (
    Component,
    DatasetStatistics,
    Octave,
    Sample,
    check_value_range,
)
from keras_saliency.scale_space.keypoints import KeypointDetector, enlarge

_logger = logging.getLogger("keras_saliency")

_SAMPLES, _SAMPLE_SIDE = 4, 128
_MAX_BITS = 8.0
_NAMED = 5  # skipped images that a note names
_FEW = 200  # keypoints below which a design rests on little
_COMPARED = 200  # descriptors per component that suffice to compare numbers of clusters
_JUDGED, _JUDGED_SIDE = 2000, 32  # images whose neighbors are looked for, and their size
_LONG = 5.0  # seconds of keypoints above which a faster engine is named
_STORED = 16  # descriptors that are kept per octave, in multiples of those of a component


class Settings(NamedTuple):
    """What a worker has to know."""

    detector: KeypointDetector
    value_range: tuple
    wide_range: tuple  # of files with more than 8 bits
    bin_size: float
    seed: int
    is_folder: bool


class Found(NamedTuple):
    """What a worker returns for the images of a chunk.

    Attributes:
        shapes: list of (height, width, channels), one per image that could be read.
        skipped: list of (number, reason).
        clipped: int, images with pixels far outside the value range.
        shrunk: int, files too large to be analyzed at their full size.
        number, octave, sigma, bin, priority, descriptor: arrays, one entry per keypoint.
        samples: list of `Sample`.
        small: list of (priority, number, gray picture), one per image that could be read.
        features, entropy, read: float, seconds.
    """

    shapes: list
    skipped: list
    clipped: int
    shrunk: int
    number: np.ndarray
    octave: np.ndarray
    sigma: np.ndarray
    bin: np.ndarray
    priority: np.ndarray
    descriptor: np.ndarray
    samples: list
    small: list
    features: float
    entropy: float
    read: float


def _priorities(seed, number, count):
    """A random number per keypoint that depends on nothing but the seed and its place.

    Keeping the smallest ones gives the same sample in whatever order images are analyzed. The
    mixing function is that of SplitMix64.
    """
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype="uint64")
        for value in (number, seed):
            z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64(value % 2**64)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
    return z


def analyze_chunk(chunk, settings, samples):
    """Keypoints and their entropies of the images of one chunk; runs in the workers."""
    shapes, skipped, kept, rows, small = [], [], [], [], []
    features = entropy = read = 0.0
    clipped = shrunk = 0
    for number, image in zip(chunk.numbers, chunk.images, strict=True):
        start = time.perf_counter()
        size, smaller, (low, high) = None, 1, settings.value_range
        if settings.is_folder:
            path = image
            try:
                image, size, smaller = read_file(path)
            except Exception as error:  # Pillow raises whatever its decoders raise
                skipped.append((number, f"{path}: {type(error).__name__}: {error}"))
                continue
            if image.dtype != np.uint8:
                low, high = settings.wide_range
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            skipped.append((number, "it holds NaN or infinity"))
            continue
        shapes.append((*(size or image.shape[:2]), image.shape[2]))
        shrunk += smaller > 1
        if image.dtype != np.uint8 or (low, high) != (0, 255):
            clipped += bool(max(low - image.min(), image.max() - high) > 0.1 * (high - low))
        grey = to_grey(image, (low, high))
        small.append((_priorities(settings.seed, number, 1)[0], number, _shrunk(grey)))
        grey, factor = enlarge(grey)
        begin = time.perf_counter()
        found = settings.detector(grey)
        end = time.perf_counter()
        bits = keypoint_entropy(grey, found.x, found.y, found.sigma)
        read, features = read + begin - start, features + end - begin
        entropy += time.perf_counter() - end
        count = len(bits)
        rows.append(
            (
                np.full(count, number),
                found.octave + (smaller.bit_length() - 1),
                found.sigma * (smaller / factor),
                np.minimum(bits, _MAX_BITS) // settings.bin_size,
                _priorities(settings.seed, number, count),
                found.descriptor,
            )
        )
        if len(kept) < samples:
            step = -(-max(grey.shape) // _SAMPLE_SIDE)
            places = np.stack([found.x, found.y, found.sigma], 1) / step
            kept.append(
                Sample.from_array(
                    np.ascontiguousarray(grey[::step, ::step]),
                    np.column_stack([places, found.octave]),
                )
            )
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)] if rows else [None] * 6
    return Found(shapes, skipped, clipped, shrunk, *columns, kept, small, features, entropy, read)


def _shrunk(grey):
    """Means of a gray picture's pixels, at most 32 to a side."""
    small = grey.astype("float32")
    for axis in range(2):
        size = small.shape[axis]
        if size > _JUDGED_SIDE:
            edges = np.linspace(0, size, _JUDGED_SIDE + 1).astype("int64")
            sums = np.add.reduceat(small, edges[:-1], axis)
            small = sums / np.expand_dims(np.diff(edges), 1 - axis)
    return np.round(small).astype("uint8")


def _separation(small, labels, count):
    """The separation index of shrunk images, or None where there is none to be had."""
    classes = labels.classes(count)
    if classes is None or len(small) < 2 or len({picture.shape for _, _, picture in small}) > 1:
        return None
    _, numbers, pictures = zip(*sorted(small, key=lambda one: one[1]), strict=True)
    y = classes[list(numbers)]
    return separation_index(np.stack(pictures), y) if len(np.unique(y)) > 1 else None


class _OctaveCounts:
    """What is kept of an octave's keypoints: its size does not grow with their number."""

    def __init__(self, bins, capacity):
        self.histogram = np.zeros(bins, "int64")
        self.sigmas = np.zeros(bins)
        self.images, self.capacity = 0, capacity
        self.priority = np.zeros(0, "uint64")
        self.bin = np.zeros(0, "int64")
        self.descriptor = np.zeros((0, 128), "uint8")

    def add(self, found, mine):
        bins = found.bin[mine].astype("int64")
        self.histogram += np.bincount(bins, minlength=len(self.histogram))
        self.sigmas += np.bincount(bins, found.sigma[mine], minlength=len(self.histogram))
        self.images += len(np.unique(found.number[mine]))
        self.priority = np.concatenate([self.priority, found.priority[mine]])
        self.bin = np.concatenate([self.bin, bins])
        self.descriptor = np.concatenate([self.descriptor, found.descriptor[mine]])
        if len(self.priority) > 2 * self.capacity:
            self.trim()

    def trim(self):
        """Keeps the descriptors with the smallest random numbers, in their order."""
        order = np.argsort(self.priority, kind="stable")[: self.capacity]
        self.priority, self.bin = self.priority[order], self.bin[order]
        self.descriptor = self.descriptor[order]


def _progress(verbose, total):
    from tqdm import tqdm

    return tqdm(total=total, unit=" images", desc="RACKNet", disable=not verbose, leave=False)


def analyze(
    dataset,
    max_images=6000,
    seed=0,
    engine="auto",
    n_jobs=-1,
    verbose=1,
    data_format=None,
    value_range=None,
    max_octaves=None,
    contrast_threshold=0.04,
    min_share=0.01,
    bin_size=0.01,
    min_components=2,
    max_components=8,
    eps=None,
    min_samples=2,
    max_descriptors=2000,
):
    """Statistics of the keypoints of a data set, and what its labels say.

    The arguments are described at `RACKNet.analyze`.

    Returns:
        A `DatasetStatistics` and a `readers.Labels`.
    """
    start = time.perf_counter()
    validation.integer("max_images", max_images, 1, optional=True)
    seed = validation.integer("seed", seed, 0)
    validation.integer("max_octaves", max_octaves, 1, optional=True)
    validation.number("contrast_threshold", contrast_threshold, 0)
    validation.number("min_share", min_share, 0, 1)
    validation.number("bin_size", bin_size, 0, 1, above=True)
    validation.integer("min_components", min_components, 1)
    validation.integer("max_components", max_components, min_components)
    validation.number("eps", eps, 0, 2, optional=True, above=True)
    validation.integer("min_samples", min_samples, 1)
    validation.integer("max_descriptors", max_descriptors, 1)
    validation.integer("n_jobs", n_jobs, None, optional=True)
    if n_jobs == 0:
        raise ValueError("`n_jobs` must not be 0: -1 is all cores, None what joblib is set to")
    data_format = validation.data_format(data_format)
    if value_range is not None:
        value_range = check_value_range(value_range)
    detector = KeypointDetector(engine, contrast_threshold, max_octaves)
    reader = Reader(dataset, max_images, seed, data_format == "channels_first")

    notes = []
    seconds = collections.Counter(read=0.0, features=0.0, entropy=0.0)
    chunks = _timed(reader.chunks(), seconds)
    first = next(chunks)
    wide_range, all_wide = value_range, False
    if reader.is_folder and value_range is None:
        value_range, wide_range, all_wide, note = range_of_files(reader.paths)
        notes += [note] if note else []
    elif value_range is None:
        value_range, note = guess_range(first.images)
        notes += [note] if note else []
    settings = Settings(
        detector, value_range, wide_range, float(bin_size), int(seed), reader.is_folder
    )
    if all_wide:
        value_range = wide_range
    octaves = {}
    bins = math.ceil(_MAX_BITS / bin_size) + 1
    shapes, skipped, samples, small = set(), [], [], []
    images = clipped = shrunk = 0
    with _progress(verbose, reader.total) as bar:
        results = _run(_chain(first, chunks), settings, n_jobs, detector.engine)
        for found in results:
            shapes.update(found.shapes)
            images += len(found.shapes)
            skipped += found.skipped
            clipped += found.clipped
            shrunk += found.shrunk
            samples += found.samples[: _SAMPLES - len(samples)]
            small += found.small
            if len(small) > 2 * _JUDGED:
                small = sorted(small, key=lambda one: one[:2])[:_JUDGED]
            for name in ("read", "features", "entropy"):
                seconds[name] += getattr(found, name)
            if found.octave is not None:
                for index in np.unique(found.octave).tolist():
                    if index not in octaves:
                        octaves[index] = _OctaveCounts(bins, _STORED * max_descriptors)
                    octaves[index].add(found, found.octave == index)
            bar.update(len(found.shapes) + len(found.skipped))
    if skipped:
        first = "; ".join(f"number {number}: {reason}" for number, reason in skipped[:_NAMED])
        notes.append(
            f"{len(skipped)} of {images + len(skipped)} images were skipped, {first}"
            + ("; ..." if len(skipped) > _NAMED else "")
        )
    if shrunk:
        notes.append(
            f"{shrunk} files of more than 8 million pixels were shrunk for the analysis, which "
            "leaves out their finest octaves"
        )
    if clipped:
        notes.append(
            f"{clipped} images have pixels far outside {value_range} and were clipped; pass the "
            "`value_range` of the data"
        )
    if not images:
        raise ValueError(f"`dataset` holds no image that can be used: {notes[-1]}")
    input_shape = _input_shape(shapes, data_format)
    counted = {index: int(octaves[index].histogram.sum()) for index in sorted(octaves)}
    total = sum(counted.values())
    if not total:
        raise ValueError(
            f"No keypoints were found in {images} images: they are constant, smaller than a "
            "keypoint's window, or without contrast (a `contrast_threshold` of 0 finds the "
            "faintest ones). DatasetStatistics.from_counts takes a design by hand."
        )
    if total < _FEW:
        notes.append(f"the design rests on {total} keypoints in {images} images only")
    smallest = min(min(shape[:2]) for shape in shapes)
    if enlarge(np.zeros((smallest, smallest), "uint8"))[1] > 1:
        notes.append(
            f"images of {smallest} pixels a side are too small for three octaves of keypoints "
            "and were enlarged for the analysis"
        )
    usable = [index for index, n in counted.items() if n >= min_share * total]

    seconds["mixtures"] = seconds["clustering"] = 0.0
    results = []
    for index in range(max(counted) + 1):
        counts = octaves.get(index)
        if counts is None:
            results.append(Octave(index))
            continue
        components = ()
        if index in usable:
            begin = time.perf_counter()
            mixture = find_components(counts.histogram, bin_size, min_components, max_components)
            end = time.perf_counter()
            counts.trim()
            components = _components(counts, mixture, eps, min_samples, max_descriptors)
            seconds["mixtures"] += end - begin
            seconds["clustering"] += time.perf_counter() - end
        last = int(np.flatnonzero(counts.histogram)[-1]) + 1
        results.append(
            Octave(
                index,
                components,
                counted[index],
                counts.images,
                float(counts.sigmas.sum() / counted[index]),
                tuple(counts.histogram[:last].tolist()),
            )
        )
    begin = time.perf_counter()
    small = sorted(small, key=lambda one: one[:2])[:_JUDGED]
    separation = _separation(small, reader.labels, reader.seen)
    if separation is not None:
        seconds["separation"] = time.perf_counter() - begin
    seconds["total"] = time.perf_counter() - start
    if engine == "auto" and detector.engine != "opencv" and seconds["features"] > _LONG:
        _logger.warning(
            "RACKNet: scikit-image looked for keypoints for %.0f s; OpenCV takes about a fifth of "
            "that (pip install keras_saliency[opencv]).",
            seconds["features"],
        )
    for note in notes:
        warnings.warn(f"RACKNet: {note}", UserWarning, stacklevel=3)
    statistics = DatasetStatistics(
        octaves=tuple(results),
        input_shape=input_shape,
        num_classes=reader.labels.num_classes,
        images=images,
        images_seen=reader.seen,
        images_skipped=len(skipped),
        value_range=value_range,
        data_format=data_format,
        engine=detector.engine,
        seed=int(seed),
        bin_size=float(bin_size),
        settings=(
            ("max_images", max_images),
            ("max_octaves", max_octaves),
            ("contrast_threshold", float(contrast_threshold)),
            ("min_share", float(min_share)),
            ("min_components", int(min_components)),
            ("max_components", int(max_components)),
            ("eps", None if eps is None else float(eps)),
            ("min_samples", int(min_samples)),
            ("max_descriptors", int(max_descriptors)),
        ),
        warnings=tuple(notes),
        samples=tuple(samples),
        separation=separation,
        seconds={name: round(value, 4) for name, value in seconds.items()},
    )
    return statistics, reader.labels


def _chain(first, rest):
    yield first
    yield from rest


def _timed(chunks, seconds):
    """The chunks, with the time it takes to read them added to `seconds`."""
    while True:
        begin = time.perf_counter()
        chunk = next(chunks, None)
        seconds["read"] += time.perf_counter() - begin
        if chunk is None:
            return
        yield chunk


def _run(chunks, settings, n_jobs, engine):
    """Results of all chunks, in their order, from joblib's workers."""
    import joblib

    # OpenCV releases Python's lock, scikit-image hardly ever does. A hint only: what
    # joblib.parallel_config names, a cluster say, goes before it.
    options = {"n_jobs": n_jobs, "prefer": "threads" if engine == "opencv" else "processes"}
    tasks = (
        joblib.delayed(analyze_chunk)(chunk, settings, _SAMPLES if i < _SAMPLES else 0)
        for i, chunk in enumerate(chunks)
    )
    workers = joblib.effective_n_jobs(n_jobs)
    before = set(threading.enumerate())
    one_thread = engine == "opencv" and workers > 1
    with _opencv_on_one_thread() if one_thread else contextlib.nullcontext():
        try:
            results = joblib.Parallel(return_as="generator", **options)(tasks)
        except ValueError as error:
            if "return_as" not in str(error):
                raise
            results = _in_turns(joblib.Parallel(**options), tasks, 4 * max(workers, 1))
        try:
            yield from results
        except BaseException:
            # Interrupted: no new chunk begins. The ones at work take a moment, and OpenCV aborts
            # the process if Python ends before them.
            results.close()
            deadline = time.monotonic() + 2.0
            for thread in set(threading.enumerate()) - before:
                thread.join(max(0.0, deadline - time.monotonic()))
            raise


def _in_turns(parallel, tasks, size):
    """Results from a backend of joblib's that gives back nothing before all is done, as Ray's."""
    with parallel:
        while turn := list(itertools.islice(tasks, size)):
            yield from parallel(turn)


class _Threads:
    """How many analyzes keep OpenCV on one thread now, and how many threads it had before."""

    lock, users, count = threading.Lock(), 0, 1


@contextlib.contextmanager
def _opencv_on_one_thread():
    """Workers keep to one thread each: OpenCV's own would fight over the same cores.

    The setting is the whole process's: the first analysis that begins changes it, the last one
    that ends gives it back.
    """
    import cv2

    with _Threads.lock:
        if not _Threads.users:
            _Threads.count = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _Threads.users += 1
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.users -= 1
            if not _Threads.users:
                cv2.setNumThreads(_Threads.count)


def _components(counts, mixture, eps, min_samples, max_descriptors):
    masks = [mixture.assignment == j for j in range(len(mixture.means))]
    groups = [counts.descriptor[mask[counts.bin]][:max_descriptors] for mask in masks]
    # More descriptors make more clusters. So components are compared at the size of the smallest,
    # unless that is too small to tell, and the larger ones are counted several times.
    size = max(min(map(len, groups)), min(_COMPARED, max_descriptors))
    draws = [
        [group[i : i + size] for i in range(0, max(1, len(group) - size + 1), size)]
        for group in groups
    ]
    if eps is None:
        # One for the rack: its layers are compared by their numbers of clusters.
        eps = neighbour_distance([parts[0] for parts in draws])
    components = []
    for j, (mask, parts) in enumerate(zip(masks, draws, strict=True)):
        members = int(counts.histogram[mask].sum())
        components.append(
            Component(
                clusters=round(np.mean([count_clusters(x, eps, min_samples) for x in parts])),
                mean=float(mixture.means[j]),
                std=float(mixture.stds[j]),
                weight=float(mixture.weights[j]),
                members=members,
                described=sum(map(len, parts)),
                sigma=float(counts.sigmas[mask].sum() / members) if members else None,
            )
        )
    return tuple(components)


def _input_shape(shapes, data_format):
    heights, widths, channels = ({shape[i] for shape in shapes} for i in range(3))
    if len(channels) > 1:
        raise ValueError(
            "All images must have the same number of channels. Received images with "
            f"{sorted(channels)} channels"
        )
    space = [sizes.pop() if len(sizes) == 1 else None for sizes in (heights, widths)]
    shape = (*space, channels.pop())
    return shape if data_format == "channels_last" else (shape[2], *shape[:2])
