import compat
import keras
import numpy as np
import pytest

from keras_saliency import MSROI, models, saliency_map


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    model = models.MSROI((16, 16, 1), 7, stages=2, filters=3, features=2)
    # Logits that stand apart, so that ranks are no matter of rounding.
    model.get_layer("ms_roi").logit_bias.assign(np.linspace(-3, 3, 7)[[3, 0, 5, 1, 6, 2, 4]])
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(5, 16, 16, 1)).astype("float32")


@pytest.fixture(scope="module")
def seen(network, images):
    """Logits and class maps, by a model that returns both."""
    head = network.get_layer("ms_roi")
    inside = keras.Model(network.inputs[0], head.input)
    logits, maps = head(inside(images), return_maps=True)
    return compat.to_numpy(logits), compat.to_numpy(maps)


RAW = {"normalize": None, "resize": False}


def test_top_classes_count_by_their_rank(network, images, seen):
    logits, maps = seen
    expected = np.zeros(maps.shape[:-1])
    for row in range(len(images)):
        for rank, c in enumerate(np.argsort(-logits[row])[:3]):
            expected[row] += (3 - rank) / 6 * maps[row, ..., c]
    found = saliency_map(network, images, "ms_roi", top=3, batch_size=2, **RAW)
    assert found.shape == (5, 8, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    default = saliency_map(network, images, "ms_roi", **RAW)
    np.testing.assert_allclose(default, saliency_map(network, images, "ms_roi", top=5, **RAW))
    all_of_them = saliency_map(network, images, "ms_roi", top=99, **RAW)
    np.testing.assert_allclose(all_of_them, saliency_map(network, images, "ms_roi", top=7, **RAW))


def test_a_threshold_adds_the_classes_strictly_above_it(network, images, seen):
    logits, maps = seen
    limit = np.sort(logits[0])[-3:-1].mean()  # the first image's two highest are above it
    chosen = logits > limit
    assert chosen[0].sum() == 2
    found = saliency_map(network, images[:1], "ms_roi", threshold=limit, **RAW)
    np.testing.assert_allclose(found[0], maps[0][..., chosen[0]].sum(axis=-1), rtol=1e-4)
    with pytest.warns(UserWarning, match="0 everywhere"):
        none = saliency_map(network, images, "ms_roi", threshold=1e6)
    assert (none == 0).all()


def test_a_target_is_the_map_of_that_class(network, images, seen):
    found = saliency_map(network, images, "ms_roi", target=[4, 2, 2, 4, 6], **RAW)
    for row, c in enumerate([4, 2, 2, 4, 6]):
        np.testing.assert_allclose(found[row], seen[1][row, ..., c], rtol=1e-4, atol=1e-6)


def test_maps_joined_by_their_maximum_give_every_class_a_peak(network, images, seen):
    logits, maps = seen
    expected = np.zeros(maps.shape[:-1])
    for row in range(len(images)):
        for rank, c in enumerate(np.argsort(-logits[row])[:3]):
            own = maps[row, ..., c] / max(maps[row, ..., c].max(), 1e-30)
            expected[row] = np.maximum(expected[row], (3 - rank) / 6 * own)
    found = saliency_map(network, images, "ms_roi", top=3, join="max", batch_size=2, **RAW)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    limit = np.sort(logits[0])[-3:-1].mean()
    found = saliency_map(network, images[:1], "ms_roi", threshold=limit, join="max", **RAW)[0]
    for c in np.flatnonzero(logits[0] > limit):
        assert maps[0, ..., c].max() > 0
        np.testing.assert_allclose(found.ravel()[maps[0, ..., c].argmax()], 1, rtol=1e-6)
    with pytest.raises(ValueError, match="`join`"):
        saliency_map(network, images, "ms_roi", join="mean")


def test_augmented_maps_depend_on_the_seed_and_not_on_batches(network, images):
    plain = saliency_map(network, images, "ms_roi", **RAW)
    still = saliency_map(network, images, "ms_roi", augmented=2, noise=0, **RAW)
    np.testing.assert_allclose(still, plain, rtol=1e-5)
    one = saliency_map(network, images, "ms_roi", augmented=3, **RAW)
    parts = saliency_map(network, images, "ms_roi", augmented=3, batch_size=2, **RAW)
    np.testing.assert_allclose(parts, one, rtol=1e-4, atol=1e-6)
    other = saliency_map(network, images, "ms_roi", augmented=3, seed=1, **RAW)
    moved = [np.abs(x - plain).mean() for x in (one, other)]
    assert min(moved) > 1e-4 and np.abs(one - other).mean() > 1e-4
    many = saliency_map(network, images, "ms_roi", augmented=30, **RAW)
    assert np.abs(many - plain).mean() < np.mean(moved)
    # Stages are disturbed as well: by the input's noise alone less would change.
    assert np.corrcoef(many.ravel(), plain.ravel())[0, 1] > 0.9


def test_noise_reaches_what_stages_pass_on(network, images):
    found = []

    class Recorder(keras.layers.MaxPooling2D):
        def call(self, x):
            found.append(keras.ops.convert_to_numpy(x))
            return super().call(x)

    inputs = x = keras.Input((16, 16, 1))
    for _ in range(2):
        x = Recorder()(x)
    model = keras.Model(inputs, MSROI(3)(x))
    found.clear()
    saliency_map(model, images[:1] * 0 + np.eye(16)[None, :, :, None], "ms_roi", augmented=1)
    first, second = found[-2:]
    pooled = first.reshape(8, 2, 8, 2).max(axis=(1, 3))
    spread = (second[0, ..., 0] - pooled).std() / np.ptp(pooled)
    assert 0.03 < spread < 0.07


def test_it_reads_nested_models_series_and_half_precision(images):
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.Input((16, 16, 1)), keras.layers.Conv2D(4, 3, strides=2)])
    nested = keras.Sequential([keras.Input((16, 16, 1)), backbone, MSROI(4)])
    maps = saliency_map(nested, images, "ms_roi", augmented=2)
    assert maps.shape == (5, 16, 16) and maps.max() == 1

    half = keras.Sequential(
        [keras.Input((16, 16, 1)), keras.layers.Conv2D(4, 3, strides=2), MSROI(4)]
    )
    # All classes alike: the ranks of logits that are nearly equal are a matter of rounding.
    full = saliency_map(half, images, "ms_roi", threshold=-100)
    for layer in half.layers:
        layer.dtype_policy = "mixed_float16"
    np.testing.assert_allclose(
        saliency_map(half, images, "ms_roi", threshold=-100), full, atol=0.03
    )

    ids = np.array([[1, 2, 3, 0, 0], [4, 4, 1, 2, 3]])
    words = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(5, 4, mask_zero=True),
            MSROI(3),
        ]
    )
    for augmented in (0, 2):
        maps = saliency_map(words, ids, "ms_roi", augmented=augmented)
        assert maps.shape == (2, 5) and (maps[0, 3:] == 0).all() and maps[1].any()
        alone = saliency_map(words, ids[:1, :3], "ms_roi", augmented=augmented)
        np.testing.assert_allclose(maps[0, :3], alone[0], atol=1e-5)


def test_the_model_stays_as_it_was(network, images):
    weights = [w.copy() for w in network.get_weights()]
    before = network.predict(images, verbose=0)
    saliency_map(network, images, "ms_roi", augmented=2)
    np.testing.assert_array_equal(network.predict(images, verbose=0), before)
    for a, b in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert "call" not in vars(network.get_layer("ms_roi"))


def test_errors(network, images):
    plain = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    cases = [
        (plain, np.ones((1, 4, 4, 1)), {}, "layers.MSROI"),
        (network, images, {"layer": "stage1_conv1"}, "0 such layers"),
        (network, images[:0], {}, "holds no sample"),
        (network, images, {"top": 0}, "top"),
        (network, images, {"threshold": "high"}, "threshold"),
        (network, images, {"augmented": -1}, "augmented"),
        (network, images, {"noise": -0.1}, "noise"),
        (network, images, {"target": 7}, "target"),
        (network, images, {"target": lambda y: y[:, 0]}, "target"),
    ]
    for model, inputs, options, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            saliency_map(model, inputs, "ms_roi", **options)


# ---- the network ---------------------------------------------------------------------------


def test_small_images_keep_maps_of_eight_pixels():
    model = models.MSROI((64, 96, 3), 10)
    assert tuple(model.get_layer("ms_roi").input.shape) == (None, 8, 12, 128)
    names = [x.name for x in model.layers if "conv" in x.name or "pool" in x.name]
    assert names == [f"stage{s}_{part}" for s in range(1, 6) for part in ("conv1", "conv2", "pool")]
    assert [model.get_layer(f"stage{s}_conv1").filters for s in range(1, 6)] == [
        16,
        32,
        64,
        128,
        128,
    ]
    assert tuple(models.MSROI((None, None, 3), 4, stages=2).output.shape) == (None, 4)
    wide = models.MSROI((8, 8, 1), 2, stages=2, filters=(3, 5), features=2, name="small")
    assert wide.name == "small" and tuple(wide.get_layer("ms_roi").input.shape)[1:] == (8, 8, 5)
    with pytest.raises(ValueError, match="one per stage"):
        models.MSROI((8, 8, 1), 2, stages=2, filters=(3, 5, 7))
    with pytest.raises(ValueError, match="input_shape"):
        models.MSROI((8, 8), 2)
