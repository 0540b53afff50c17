import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import keras
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits

import keras_saliency
from keras_saliency import DatasetStatistics, RACKNet

DIGITS = load_digits()
# Three times the size, so that nothing has to be enlarged; the brightest pixel is 255.
X = ndimage.zoom(DIGITS.images[:240] / 16, (1, 3, 3), order=1, mode="nearest", grid_mode=True)
X = np.round(X * 255).astype("uint8")
Y = DIGITS.target[:240]


def analyze(dataset, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return RACKNet.analyze(dataset, **{"verbose": 0, "n_jobs": 1, **kwargs})


def notes(dataset, **kwargs):
    """The statistics, and all that was said aloud, which is what they keep."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = RACKNet.analyze(dataset, **{"verbose": 0, "n_jobs": 1, **kwargs})
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    assert said == [f"RACKNet: {note}" for note in found.warnings]
    return found, " | ".join(said)


@pytest.fixture(scope="module")
def stats():
    return analyze((X, Y), engine="opencv")


def test_the_statistics_add_up(stats):
    assert len(stats.octaves) == 3
    assert stats.input_shape == (24, 24, 1)
    assert (stats.images, stats.images_seen, stats.num_classes) == (240, 240, 10)
    assert stats.value_range == (0.0, 255.0)
    for octave in stats.octaves:
        assert sum(octave.histogram) == octave.keypoints > 0
        assert 0 < octave.images <= 240
        assert sum(c.members for c in octave.components) == octave.keypoints
        np.testing.assert_allclose(sum(c.weight for c in octave.components), 1)
        means = [c.mean for c in octave.components]
        assert means == sorted(means)
        mean = sum(c.members * c.sigma for c in octave.components) / octave.keypoints
        np.testing.assert_allclose(mean, octave.sigma)
        # Scales of octave o begin at 0.8 * 2**o pixels and end before the next octave's.
        assert 0.7 * 2**octave.index < octave.sigma < 2.2 * 2**octave.index
    assert len(stats.samples) == 4
    np.testing.assert_array_equal(stats.samples[0].to_array(), X[0])
    steps = {"read", "features", "entropy", "mixtures", "clustering", "separation", "total"}
    assert set(stats.seconds) == steps
    assert DatasetStatistics.from_json(stats.to_json()) == stats


def test_any_number_of_workers_gives_the_same(stats):
    import joblib

    assert analyze((X, Y), engine="opencv", n_jobs=2) == stats
    assert analyze((X, Y), engine="opencv", n_jobs=3) == stats
    with joblib.parallel_config(n_jobs=2):
        assert analyze((X, Y), engine="opencv", n_jobs=None) == stats


def test_a_dask_cluster_gives_the_same(stats):
    import joblib
    from distributed import Client, LocalCluster

    with (
        warnings.catch_warnings(),
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        warnings.simplefilter("ignore")  # of dask's own
        assert analyze((X, Y), engine="opencv", n_jobs=-1) == stats


def test_a_backend_without_generators_gives_the_same(stats):
    # As ray.util.joblib has it.
    import joblib
    from joblib._parallel_backends import MultiprocessingBackend

    class Ray(MultiprocessingBackend):
        pass

    joblib.register_parallel_backend("ray-like", Ray)
    with joblib.parallel_config(backend="ray-like", n_jobs=2):
        assert analyze((X, Y), engine="opencv", n_jobs=None) == stats


def test_analyses_at_once_leave_opencv_its_threads(stats):
    import threading

    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    inside, leave, found = threading.Barrier(3), threading.Event(), []

    def images(wait):
        yield X[:120], Y[:120]
        inside.wait(60)  # all are at work now
        if wait:
            leave.wait(60)
        yield X[120:], Y[120:]

    def work(wait):
        found.append(analyze(images(wait), engine="opencv", n_jobs=2, max_images=None))

    threads = [threading.Thread(target=work, args=(wait,)) for wait in (False, True)]
    try:
        for thread in threads:
            thread.start()
        inside.wait(60)
        threads[0].join(60)
        assert cv2.getNumThreads() == 1  # the other one is still at work
        leave.set()
        threads[1].join(60)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)
    assert [one.octaves for one in found] == [stats.octaves] * 2


def test_names_the_faster_engine_where_the_slow_one_takes_long(monkeypatch, caplog):
    from keras_saliency.racknet import analysis

    monkeypatch.setitem(sys.modules, "cv2", None)
    analyze((X[:20], Y[:20]))
    assert not caplog.messages  # it was quick
    monkeypatch.setattr(analysis, "_LONG", 0.0)
    analyze((X[:20], Y[:20]), engine="scikit-image")
    assert not caplog.messages  # it was asked for
    analyze((X[:20], Y[:20]))
    assert len(caplog.messages) == 1
    assert "keras_saliency[opencv]" in caplog.messages[0]


def test_both_engines_see_nearly_the_same(stats):
    other = analyze((X, Y), engine="scikit-image")
    assert other.engine == "scikit-image"
    assert len(other.octaves) == len(stats.octaves)
    for a, b in zip(stats.octaves, other.octaves, strict=True):
        assert 0.8 < a.keypoints / b.keypoints < 1.25
        assert abs(a.images - b.images) < 0.1 * 240
        np.testing.assert_allclose(a.sigma, b.sigma, rtol=0.12)
        middle = [np.searchsorted(np.cumsum(o.histogram), o.keypoints / 2) / 100 for o in (a, b)]
        assert abs(middle[0] - middle[1]) < 0.25


@pytest.mark.parametrize(
    ("change", "value_range"),
    [
        (lambda x: x.astype("int64"), (0.0, 255.0)),
        (lambda x: x.astype("float64"), (0.0, 255.0)),
        (lambda x: x / 255, (0.0, 1.0)),
        (lambda x: x.astype("float32") / 127.5 - 1, (-1.0, 1.0)),
        (lambda x: x[..., None], (0.0, 255.0)),
        (lambda x: x.astype("uint16") * 257, (0.0, 65535.0)),
    ],
)
def test_pixels_mean_the_same_in_every_type(stats, change, value_range):
    found = analyze((change(X), Y), engine="opencv")
    assert found.value_range == value_range
    if value_range == (0.0, 255.0):
        assert found == stats
    assert found.octaves == stats.octaves


def test_an_unusual_range_is_assumed_aloud_and_can_be_given():
    wide = np.kron(DIGITS.images[:60], np.ones((1, 3, 3)))
    assert "from 0 to 16 were taken" in notes(wide)[1]
    assert notes(wide, value_range=(0, 16))[1] == ""


def test_pixels_outside_the_range_are_clipped_aloud():
    # The range is that of the first 64 images.
    batches = [X[:64] / 255.0, X[64:94].astype("float64")]
    found, said = notes(iter(batches), max_images=None)
    assert found.value_range == (0.0, 1.0)
    assert "30 images have pixels far outside (0.0, 1.0)" in said
    assert "240 images have pixels far outside" in notes(X, value_range=(0, 1))[1]


def test_a_grey_image_in_three_channels_is_the_same(stats):
    coloured = np.repeat(X[..., None], 3, axis=-1)
    found = analyze((coloured, Y), engine="opencv")
    assert found.input_shape == (24, 24, 3)
    assert found.octaves == stats.octaves
    first = analyze((np.moveaxis(coloured, -1, 1), Y), data_format="channels_first")
    assert first.input_shape == (3, 24, 24)
    assert first.octaves == stats.octaves


# ---- kinds of data sets ------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return X[40 * index : 40 * index + 40], Y[40 * index : 40 * index + 40]


def pairs():
    for i in range(0, 240, 50):
        yield X[i : i + 50], Y[i : i + 50]


def test_streams_of_batches(stats):
    assert analyze(Batches(), engine="opencv") == stats
    assert analyze(pairs(), engine="opencv") == stats
    assert analyze([(X[:100], Y[:100]), (X[100:], Y[100:])], engine="opencv") == stats
    assert analyze(pairs(), engine="opencv", max_images=None).octaves == stats.octaves
    images = analyze((image for image in X), engine="opencv")
    assert images.octaves == stats.octaves
    assert images.num_classes is None


def test_a_stream_is_sampled_uniformly_and_by_seed():
    from keras_saliency.racknet.readers import Reader

    def drawn(seed):
        chunks = Reader(pairs(), 30, seed, False).chunks()
        return [number for chunk in chunks for number in chunk.numbers]

    assert drawn(1) == drawn(1) != drawn(2)
    numbers = np.concatenate([drawn(seed) for seed in range(80)])
    assert len(numbers) == 80 * 30
    # Every tenth of the stream gets about a tenth of the places (standard deviation 15).
    counts = np.histogram(numbers, bins=10, range=(0, 240))[0]
    assert np.abs(counts - 240).max() < 60


def test_the_backend_own_data_sets(stats):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        dataset = tf.data.Dataset.from_tensor_slices((X, Y))
        assert analyze(dataset.batch(50), engine="opencv") == stats
        assert analyze(dataset, engine="opencv").octaves == stats.octaves
        with pytest.raises(ValueError, match="must be finite"):
            analyze(dataset.repeat())
    elif backend == "torch":
        import torch

        tensors = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
        loader = torch.utils.data.DataLoader(tensors, batch_size=50)
        assert analyze(loader, engine="opencv") == stats
        assert analyze(torch.tensor(X), engine="opencv").octaves == stats.octaves
    else:
        import jax.numpy as jnp

        assert analyze(jnp.asarray(X), engine="opencv").octaves == stats.octaves


@pytest.fixture
def folder(tmp_path):
    for i in range(24):
        path = tmp_path / f"class{i % 3}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(X[i]).save(path)
    return tmp_path


def test_a_folder_of_images(folder):
    found = analyze(folder)
    assert found.input_shape == (24, 24, 3)
    assert (found.images, found.num_classes) == (24, 3)
    assert found == analyze(str(folder), n_jobs=2)
    arrays = analyze(X[:24])
    assert sum(o.keypoints for o in found.octaves) == sum(o.keypoints for o in arrays.octaves)


def test_broken_files_are_skipped_and_counted(folder):
    (folder / "class0" / "broken.png").write_bytes(b"no image at all")
    cut = (folder / "class1" / "1.png").read_bytes()
    (folder / "class1" / "1.png").write_bytes(cut[: len(cut) // 2])
    found, said = notes(folder)
    assert "2 of 25 images were skipped" in said
    assert (found.images, found.images_skipped) == (23, 2)


def test_classes_are_counted_as_keras_counts_them(folder):
    for hidden in (folder / ".ipynb_checkpoints", folder / "class0" / ".ipynb_checkpoints"):
        hidden.mkdir()
        Image.fromarray(X[0]).save(hidden / "0-checkpoint.png")
    Image.fromarray(X[0]).save(folder / "class0" / "._0.png")
    assert (analyze(folder).images, analyze(folder).num_classes) == (24, 3)
    (folder / "class1b").mkdir()
    assert analyze(folder).num_classes == 4
    (folder / "class2").rename(folder.parent / f"{folder.name}-elsewhere")
    (folder / "class2").symlink_to(folder.parent / f"{folder.name}-elsewhere")
    assert (analyze(folder).images, analyze(folder).num_classes) == (24, 4)
    Image.fromarray(X[0]).save(folder / "cover.png")
    assert (analyze(folder).images, analyze(folder).num_classes) == (25, None)


@pytest.mark.parametrize(
    ("suffix", "change", "value_range"),
    [
        ("png", lambda x: x.astype("uint16") * 16, (0.0, 4080.0)),  # 12 bits
        ("png", lambda x: x.astype("uint16") * 64, (0.0, 16320.0)),  # 14 bits
        ("png", lambda x: x.astype("uint16") * 257, (0.0, 65535.0)),
        ("tif", lambda x: x.astype("uint16") * 16, (0.0, 4080.0)),
        ("tif", lambda x: x.astype("float32") / 255, (0.0, 1.0)),
        ("tif", lambda x: x.astype("int32") * 1000, (0.0, 255000.0)),
    ],
)
def test_files_of_more_than_8_bits_mean_what_the_arrays_mean(tmp_path, suffix, change, value_range):
    for i in range(24):
        Image.fromarray(change(X[i])).save(tmp_path / f"{i:02d}.{suffix}")
    found = analyze(tmp_path, engine="opencv")
    assert found.value_range == value_range
    assert found.octaves == analyze(X[:24], engine="opencv").octaves
    given = analyze(tmp_path, engine="opencv", value_range=value_range)
    assert given.octaves == found.octaves


def test_colours_of_16_bits(tmp_path):
    import cv2

    for i in range(24):
        coloured = np.stack([X[i], X[i + 1], X[i + 2]], -1)
        cv2.imwrite(str(tmp_path / f"{i:02d}.png"), coloured[:, :, ::-1].astype("uint16") * 16)
    found = analyze(tmp_path, engine="opencv")
    arrays = np.stack([X[:24], X[1:25], X[2:26]], -1).astype("uint16") * 16
    assert found.octaves == analyze(arrays, engine="opencv").octaves


def test_files_of_8_bits_among_wider_ones_keep_their_range(tmp_path):
    for i in range(12):
        Image.fromarray(X[i]).save(tmp_path / f"{i:02d}.png")
        Image.fromarray(X[i + 12].astype("uint16") * 257).save(tmp_path / f"{i + 12:02d}.png")
    found = analyze(tmp_path, engine="opencv")
    assert found.value_range == (0.0, 255.0)
    assert found.octaves == analyze(X[:24], engine="opencv").octaves


def test_no_file_starts_a_program(folder, tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {programs}/ran\nexit 1\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n%%EOF\n"
    (folder / "class0" / "z.png").write_bytes(text)
    found, said = notes(folder)
    assert (found.images, found.images_skipped) == (24, 1)
    assert "z.png" in said
    assert not (programs / "ran").exists()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_large_files_are_shrunk_and_keep_their_scales(tmp_path, suffix, monkeypatch):
    from keras_saliency.racknet import readers

    big = np.kron(X[:6], np.ones((1, 16, 16), "uint8"))
    for i, image in enumerate(big):
        wide = image.astype("uint16") * 257 if suffix == "tif" else image
        Image.fromarray(wide).save(tmp_path / f"{i}.{suffix}")
    monkeypatch.setattr(readers, "_LARGE", 200 * 200)
    found, said = notes(tmp_path, engine="opencv")
    assert "6 files of more than" in said
    assert found.input_shape == (384, 384, 3)
    assert found.octaves[0].keypoints == 0  # the finest octave is gone, the others keep their place
    small = analyze(np.kron(X[:6], np.ones((1, 8, 8), "uint8")), engine="opencv")
    for a, b in zip(found.octaves[1:], small.octaves, strict=True):
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=3, rtol=0.15)
        if b.keypoints > 9:
            np.testing.assert_allclose(a.sigma, 2 * b.sigma, rtol=0.1)


def test_files_that_are_too_large_to_decode_are_skipped_by_name(folder, monkeypatch):
    from keras_saliency.racknet import readers

    Image.fromarray(np.zeros((100, 100), "uint8")).save(folder / "class0" / "huge.png")
    monkeypatch.setattr(readers, "_TOO_LARGE", 5000)
    found, said = notes(folder)
    assert (found.images, found.images_skipped) == (24, 1)
    assert "huge.png: ValueError: 100 x 100 pixels are too many to decode" in said


def test_sizes_that_differ():
    images = [np.tile(X[i], (1 + i % 2, 1)) for i in range(30)]
    found = analyze(images)
    assert found.input_shape == (None, 24, 1)
    model = RACKNet.from_statistics(found, 60, num_classes=3)
    assert model(images[0][None, :, :, None].astype("float32")).shape == (1, 3)
    assert model(images[1][None, :, :, None].astype("float32")).shape == (1, 3)


def test_memory_does_not_grow_with_the_data():
    import tracemalloc

    def peak(n):
        def stream():
            for _ in range(n):
                yield X[:30]

        tracemalloc.start()
        analyze(stream(), engine="opencv", max_images=None, max_descriptors=20)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)
    assert peak(9) < 1.5 * peak(3) + 5e5


# ---- seeds and workers -------------------------------------------------------------------


def test_a_sample_follows_its_seed():
    a, b, c = (analyze(X, max_images=100, seed=s) for s in (1, 1, 2))
    assert a.images == 100
    assert a.images_seen == 240
    assert a == b
    assert a.octaves != c.octaves


def test_interrupting_returns_at_once():
    code = """
        import signal
        import numpy as np
        from keras_saliency import RACKNet
        # A parent that runs in the background may have switched it off.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def endless():
            rng = np.random.default_rng(0)
            while True:
                print("ready", flush=True)
                yield rng.integers(0, 255, (64, 48, 48)).astype("uint8")
        RACKNet.analyze(endless(), max_images=None, verbose=0)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
        text=True,
    )
    try:
        for _ in range(6):
            assert process.stdout.readline() == "ready\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "KeyboardInterrupt" in errors
        assert time.monotonic() - begin < 30  # about one second on an idle machine
    finally:
        process.kill()
        process.wait()


def test_another_sample_moves_few_kernels():
    rng = np.random.default_rng(0)
    digits = [np.roll(X[i % 240], rng.integers(-3, 4, 2), (0, 1)) for i in range(1500)]
    designs = [
        np.concatenate(RACKNet.allocate(analyze(np.stack(digits), max_images=750, seed=s), 400))
        for s in (0, 1)
    ]
    assert designs[0].shape == designs[1].shape
    assert 0 < np.abs(designs[0] - designs[1]).sum() / 2 < 0.1 * 400


def test_components_are_compared_at_the_same_size():
    found = analyze(X, max_descriptors=300)
    for octave in found.racks:
        sizes = [c.described for c in octave.components]
        compared = max(200, min(min(c.members for c in octave.components), 300))
        assert all(
            d == min(c.members, 300) // compared * compared or d == c.members < compared
            for d, c in zip(sizes, octave.components, strict=True)
        )
    assert min(len(octave.components) for octave in found.racks) == 2
    alone = analyze(X, min_components=1)
    assert min(len(octave.components) for octave in alone.racks) == 1


# ---- from the data to the model ----------------------------------------------------------


def test_build_learns_digits():
    x, y = DIGITS.images / 16, DIGITS.target
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 8 pixels a side
        model = RACKNet.build(
            (x, y), 64, dropout=0.0, normalization="batch", max_images=500, n_jobs=1, verbose=0
        )
    convolutions = [v for v in model.layers if isinstance(v, keras.layers.Conv2D)]
    assert sum(v.filters for v in convolutions) == 64
    assert model.output_shape == (None, 10)
    model.compile(
        keras.optimizers.RMSprop(0.004),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(x[:600], y[:600], batch_size=50, epochs=5, verbose=0)
    assert model.evaluate(x[1400:], y[1400:], batch_size=397, verbose=0)[1] > 0.6


def test_build_takes_the_arguments_of_both_steps():
    model = RACKNet.build(
        (X, Y),
        50,
        network="rcnn",
        pooling="max",
        max_images=90,
        seed=3,
        verbose=0,
        kernel_size="auto",
        max_octaves=2,
        n_jobs=1,
    )
    assert sum(v.filters for v in model.layers if hasattr(v, "filters")) == 50
    assert model.get_layer("rack2_pool").__class__ is keras.layers.MaxPooling2D
    assert not any(v.name.startswith("rack3") for v in model.layers)
    with pytest.raises(TypeError, match="unknown arguments"):
        RACKNet.build((X, Y), 50, max_image=3)


def test_build_for_a_regression():
    model = RACKNet.build((X, np.stack([Y, -Y], 1) / 7), 50, task="regression", verbose=0)
    assert model.output_shape == (None, 2)


def test_one_hot_labels():
    y = np.eye(10)[Y]
    assert RACKNet.build((X, y), 50, verbose=0, n_jobs=1).output_shape == (None, 10)
    # One image and one label at a time.
    model = RACKNet.build(zip(X, y, strict=True), 50, verbose=0, n_jobs=1)
    assert model.output_shape == (None, 10)


def test_labels_give_the_separation_index(stats, folder):
    def expected(x, y):
        x = x.reshape(len(x), -1).astype("float64")
        squares = ((x[:, None] - x[None]) ** 2).sum(-1)
        np.fill_diagonal(squares, np.inf)
        return (y[squares.argmin(1)] == y).mean()

    assert stats.separation == pytest.approx(expected(X, Y))
    assert stats.separation > 0.9
    assert "separation index 0.9" in str(stats)
    assert analyze((X, np.eye(10)[Y]), engine="opencv").separation == stats.separation
    assert analyze(zip(X, Y, strict=True), engine="opencv").separation == stats.separation
    wide = np.repeat(np.repeat(X[:60], 4, 1), 4, 2)  # 96 pixels become 32, each the mean of 3 x 3
    small = wide.reshape(60, 32, 3, 32, 3).mean((2, 4)).round()
    assert analyze((wide, Y[:60])).separation == pytest.approx(expected(small, Y[:60]))
    # Folders are classes.
    order = [int(p.stem) for p in sorted(folder.glob("*/*.png"))]
    y = np.array(order) % 3
    assert analyze(folder).separation == pytest.approx(expected(X[order], y))


@pytest.mark.parametrize("y", [None, Y / 7, np.zeros_like(Y), np.stack([Y, Y], 1) / 9])
def test_without_classes_there_is_no_separation_index(y):
    found = analyze(X[:40] if y is None else (X[:40], y[:40]))
    assert found.separation is None
    assert "separation" not in str(found)
    assert "separation" not in found.seconds


def test_the_public_names():
    assert keras_saliency.RACKNet is RACKNet
    assert keras_saliency.racknet.DatasetStatistics is keras_saliency.DatasetStatistics


# ---- bad input ---------------------------------------------------------------------------


def bad(dataset, error, match, **kwargs):
    with pytest.raises(error, match=match):
        RACKNet.analyze(dataset, **{"verbose": 0, "n_jobs": 1, **kwargs})


@pytest.mark.filterwarnings("ignore:RACKNet")
def test_data_that_says_nothing_is_refused(tmp_path):
    bad(np.zeros((0, 28, 28)), ValueError, "an empty one")
    bad(np.array(2, dtype=object), ValueError, r"array of shape \(\)")
    bad([], ValueError, "an empty one")
    bad(iter(()), ValueError, "an empty one")
    bad(np.full((5, 28, 28), 7.0), ValueError, "No keypoints were found in 5 images")
    bad(X[:9, :2, :2], ValueError, "No keypoints")
    bad(np.full((5, 28, 28), np.nan), ValueError, "no image that can be used")
    bad(tmp_path, ValueError, "holds no image file")
    bad(tmp_path / "none", ValueError, "not a folder")
    (tmp_path / "x.png").write_bytes(b"broken")
    bad(tmp_path, ValueError, "no image that can be used")


def test_nan_images_are_skipped_and_counted():
    x = X[:60].astype("float32")
    x[7, 3, 3] = np.nan
    x[8, 3, 3] = np.inf
    found, said = notes(x)
    assert "2 of 60 images were skipped" in said
    assert (found.images, found.images_skipped) == (58, 2)
    assert found.value_range == (0.0, 255.0)
    assert found.octaves == analyze(np.delete(X[:60], [7, 8], axis=0)).octaves


def test_one_image_works_and_says_how_little_it_says():
    found, said = notes(X[:1])
    assert "keypoints in 1 images only" in said
    kernels = RACKNet.allocate(found, 30)
    assert sum(map(sum, kernels)) == 30
    bad(X[0][..., None], ValueError, "looks like one image")


def test_tiny_images_are_enlarged_aloud():
    found, said = notes(DIGITS.images[:60] / 16)
    assert "8 pixels a side are too small" in said
    assert len(found.octaves) == 3
    assert found.octaves[0].sigma < 0.8  # in pixels of the image as it came


def test_other_objects_are_refused():
    bad(3, TypeError, "`dataset` must be")
    bad(X[0, 0], ValueError, "array of shape")
    bad({"x": X}, TypeError, "`dataset` must be")
    bad([{"x": X}], TypeError, "dicts")
    bad(np.array([["a"]]), ValueError, "array of shape")
    bad([np.full((30, 30), "a")], ValueError, "dtype")
    bad(np.moveaxis(np.stack([X] * 3, -1), -1, 1), ValueError, "channels_first")
    bad((X, Y[:-1]), ValueError, "as many")
    bad([X[0][..., None], np.stack([X[0]] * 3, -1)], ValueError, "same number of channels")
    bad(iter([(X, Y[:5])]), ValueError, "as many")
    bad(iter([np.zeros((3, 0, 28))]), ValueError, "image of shape")
    bad((X, np.where(Y == 3, np.nan, Y)), ValueError, "NaN")


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"engine": "matlab"}, ValueError, "`engine` must be one of"),
        ({"max_images": 0}, ValueError, "`max_images`"),
        ({"max_images": 2.5}, TypeError, "`max_images`"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"n_jobs": 0}, ValueError, "`n_jobs`"),
        ({"max_octaves": 0}, ValueError, "`max_octaves`"),
        ({"bin_size": 0}, ValueError, "`bin_size`"),
        ({"eps": -0.1}, ValueError, "`eps`"),
        ({"min_share": 2}, ValueError, "`min_share`"),
        ({"min_samples": 0}, ValueError, "`min_samples`"),
        ({"min_components": 0}, ValueError, "`min_components`"),
        ({"max_components": 0}, ValueError, "`max_components`"),
        ({"min_components": 4, "max_components": 3}, ValueError, "`max_components`"),
        ({"max_descriptors": 0}, ValueError, "`max_descriptors`"),
        ({"contrast_threshold": -1}, ValueError, "`contrast_threshold`"),
        ({"value_range": (1, 0)}, ValueError, "`value_range`"),
        ({"value_range": 255}, ValueError, "`value_range`"),
        ({"data_format": "rows"}, ValueError, "`data_format`"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, match):
    bad(X, error, match, **kwargs)


@pytest.mark.parametrize(
    ("y", "kwargs", "match"),
    [
        (Y, {"num_classes": 5}, "labels from 0 to 9 for num_classes=5"),
        (Y - 1, {"num_classes": 10}, "labels from -1 to 8"),
        (Y - 1, {}, "Labels must be integers from 0"),
        (Y / 3, {}, 'task="regression"'),
        (Y.astype(str), {}, "labels must be numbers"),
        (np.eye(10)[Y], {"num_classes": 9}, "number of columns of the labels, 10"),
        (np.zeros((240, 3, 3)), {}, "labels of rank 3"),
        (Y * 0, {}, "a single class"),
        (None, {}, "`num_classes` must be given"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y, kwargs, match):
    dataset = X if y is None else (X, y)
    with pytest.raises(ValueError, match=match):
        RACKNet.build(dataset, 50, verbose=0, n_jobs=1, max_images=40, **kwargs)


def test_a_bad_design_is_found_before_the_images_are_read():
    def untouchable():
        raise AssertionError("read")
        yield

    for kwargs in ({"network": "lstm"}, {"budget": 0}, {"strategy": "x"}, {"dropout": 2}):
        with pytest.raises(ValueError, match="must be"):
            RACKNet.build(untouchable(), **kwargs)
