import keras
import numpy as np
import pytest
from harness import Case, LayerTests
from scipy import signal

from keras_saliency import RecurrentConv2D


def convolve(x, kernel, rate=(1, 1), padding="same", strides=(1, 1)):
    """Cross-correlation of (batch, h, w, in) with (kh, kw, in, out), by SciPy."""
    kh, kw = [(n - 1) * r + 1 for n, r in zip(kernel.shape[:2], rate, strict=True)]
    wide = np.zeros((kh, kw, *kernel.shape[2:]))
    wide[:: rate[0], :: rate[1]] = kernel
    if padding == "same":
        pads = []
        for size, k, s in zip(x.shape[1:3], (kh, kw), strides, strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, [(0, 0), *pads, (0, 0)])
    out = np.stack(
        [
            np.stack(
                [
                    sum(
                        signal.correlate2d(image[..., c], wide[..., c, f], mode="valid")
                        for c in range(x.shape[-1])
                    )
                    for f in range(kernel.shape[-1])
                ],
                -1,
            )
            for image in x
        ]
    )
    return out[:, :: strides[0], :: strides[1]]


def respond(x, filters):
    """Local response normalization of Liang and Hu, one channel at a time."""
    n = filters // 8 + 1
    out = np.empty_like(x)
    for k in range(x.shape[-1]):
        near = [m for m in range(x.shape[-1]) if abs(m - k) <= n / 2]
        energy = sum(x[..., m] ** 2 for m in near)
        out[..., k] = x[..., k] / (1 + 0.001 / n * energy) ** 0.75
    return out


def reference(
    inputs,
    weights,
    filters,
    kernel_size=3,
    steps=3,
    strides=1,
    padding="same",
    dilation_rate=1,
    pieces=1,
    normalization=None,
    activation="relu",
    use_bias=True,
    recurrent_kernel_size=None,
):
    act = {"relu": lambda z: np.maximum(z, 0), "linear": lambda z: z, "tanh": np.tanh}[activation]
    rate = np.broadcast_to(dilation_rate, 2)

    def state(z):
        x = act(z)
        x = np.stack([x[..., i : i + pieces].max(-1) for i in range(0, x.shape[-1], pieces)], -1)
        return respond(x, filters) if normalization else x

    feed = convolve(inputs[0], weights["kernel"], rate, padding, np.broadcast_to(strides, 2))
    feed = feed + weights.get("bias", 0)
    x = state(feed)
    for _ in range(steps):
        x = state(feed + convolve(x, weights["recurrent_kernel"], rate))
    return x


class TestRecurrentConv2D(LayerTests):
    layer = RecurrentConv2D
    config = {
        "filters": 5,
        "kernel_size": (5, 3),
        "steps": 2,
        "strides": (2, 1),
        "padding": "valid",
        "data_format": "channels_first",
        "dilation_rate": (1, 2),
        "recurrent_kernel_size": (1, 3),
        "pieces": 2,
        "normalization": "response",
        "activation": "tanh",
        "use_bias": False,
        "return_pattern": True,
        "kernel_initializer": "he_normal",
        "recurrent_initializer": "orthogonal",
        "bias_initializer": "ones",
        "kernel_regularizer": "l2",
        "recurrent_regularizer": "l1",
        "bias_regularizer": "l1",
        "activity_regularizer": "l2",
        "kernel_constraint": "non_neg",
        "recurrent_constraint": "unit_norm",
        "bias_constraint": "non_neg",
    }
    cases = (
        Case(
            "three steps",
            {"filters": 5},
            [(2, 7, 5, 3)],
            reference,
            data_format=True,
            tolerance=1e-3,
        ),
        Case("no step is a convolution", {"filters": 3, "steps": 0}, [(2, 5, 7, 2)], reference),
        Case(
            "strided and valid",
            {
                "filters": 3,
                "kernel_size": (3, 2),
                "strides": (2, 3),
                "padding": "valid",
                "steps": 1,
                "activation": "tanh",
                "recurrent_kernel_size": (1, 3),
            },
            [(2, 11, 13, 2)],
            reference,
        ),
        Case(
            "strided and same",
            {"filters": 3, "kernel_size": 3, "strides": 2, "steps": 1, "activation": "tanh"},
            [(2, 8, 7, 2)],
            reference,
        ),
        Case(
            "dilated maxout",
            {
                "filters": 5,
                "dilation_rate": 2,
                "pieces": 2,
                "steps": 2,
                "activation": "tanh",
                "use_bias": False,
            },
            [(2, 7, 5, 3)],
            reference,
            half_tolerance=6e-2,
        ),
        Case(
            "response normalization",
            {"filters": 17, "normalization": "response", "steps": 1, "activation": "linear"},
            [(2, 5, 3, 2)],
            reference,
            data_format=True,
            tolerance=1e-4,
            half_tolerance=6e-2,
        ),
    )


def test_the_pattern_is_the_mean_over_input_channels():
    layer = RecurrentConv2D(5, (3, 2), return_pattern=True)
    x = np.ones((2, 7, 5, 4), "float32")
    y, pattern = layer(x)
    expected = keras.ops.convert_to_numpy(layer.kernel).mean(2)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(pattern), expected, atol=1e-6)
    assert layer.compute_output_shape(x.shape) == (tuple(y.shape), tuple(pattern.shape))


def shared_pair(first=4, second=6):
    source = RecurrentConv2D(first, 3, steps=1, return_pattern=True)
    target = RecurrentConv2D(second, 3, steps=1)
    x = keras.Input((7, 5, 2))
    y, pattern = source(x)
    return source, target, keras.Model(x, target([y, pattern]))


def test_a_shared_kernel_takes_the_mapped_pattern_at_its_own_length():
    source, target, _ = shared_pair()
    mapping = np.array([3, 0, 0, 2, 1, 3])
    target.mapping.assign(mapping)
    own = keras.ops.convert_to_numpy(target.kernel)
    theirs = keras.ops.convert_to_numpy(source.kernel).mean(2)
    used = keras.ops.convert_to_numpy(target.shared_kernel(theirs))
    means, before = used.mean(2), own.mean(2)
    for f, h in enumerate(mapping):
        a, b = means[..., f].ravel(), theirs[..., h].ravel()
        np.testing.assert_allclose(a @ b / np.linalg.norm(a) / np.linalg.norm(b), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(a), np.linalg.norm(before[..., f]), rtol=1e-4)
    # What differs from channel to channel stays the kernel's own.
    np.testing.assert_allclose(used - means[:, :, None], own - before[:, :, None], atol=1e-6)


def test_the_first_mapping_is_one_to_one_and_wraps():
    _, target, _ = shared_pair(4, 6)
    assert keras.ops.convert_to_numpy(target.mapping).tolist() == [0, 1, 2, 3, 0, 1]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_the_gradient_reaches_the_mapped_kernel_through_the_pattern_alone():
    # The second layer sees zeros from the first (bias and input are 0), except through sharing.
    source, target, model = shared_pair(3, 2)
    target.mapping.assign([1, 1])
    before = [np.array(w) for w in source.get_weights()]
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)

    class Detached(keras.layers.Layer):
        def call(self, x):
            return keras.ops.ones_like(x)

    x = keras.Input((7, 5, 2))
    y, pattern = source(x)
    detached = keras.Model(x, target([Detached()(y), pattern]))
    detached.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 7, 5, 2)).astype("float32")
    detached.fit(images, rng.normal(size=(4, 7, 5, 2)), epochs=1, verbose=0)
    moved = np.abs(source.get_weights()[0] - before[0]).max(axis=(0, 1, 2))
    assert moved[1] > 1e-4, "the mapped kernel was not trained"
    assert moved[0] == moved[2] == 0, "a kernel that nothing is mapped to was trained"


def test_a_sharing_model_saves_and_loads(tmp_path):
    _, target, model = shared_pair()
    target.mapping.assign([3, 3, 2, 2, 0, 1])
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    x = np.random.default_rng(0).normal(size=(2, 7, 5, 2)).astype("float32")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_allclose(copy.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_sharing_model_in_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    _, _, model = shared_pair()
    x = np.random.default_rng(0).normal(size=(2, 7, 5, 2)).astype("float32")
    y = keras.ops.convert_to_numpy(keras.ops.cast(model(x), "float32"))
    assert np.isfinite(y).all()
    assert np.abs(y).max() > 0


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"filters": 0}, "`filters`"),
        ({"filters": 2.5}, "`filters`"),
        ({"filters": 2, "kernel_size": 0}, "`kernel_size`"),
        ({"filters": 2, "kernel_size": (3, 3, 3)}, "`kernel_size`"),
        ({"filters": 2, "steps": -1}, "`steps`"),
        ({"filters": 2, "strides": None}, "`strides`"),
        ({"filters": 2, "padding": "causal"}, "`padding`"),
        ({"filters": 2, "data_format": "nhwc"}, "`data_format`"),
        ({"filters": 2, "dilation_rate": 0}, "`dilation_rate`"),
        ({"filters": 2, "pieces": 0}, "`pieces`"),
        ({"filters": 2, "normalization": "batch"}, "`normalization`"),
    ],
)
def test_bad_arguments_are_named(kwargs, match):
    with pytest.raises(ValueError, match=match):
        RecurrentConv2D(**kwargs)


def test_bad_inputs_are_named():
    with pytest.raises(ValueError, match="rank 4"):
        RecurrentConv2D(2)(np.ones((2, 5, 3), "float32"))
    with pytest.raises(ValueError, match="channels must be known"):
        RecurrentConv2D(2)(keras.Input((5, 5, None)))
    with pytest.raises(ValueError, match="shared pattern"):
        RecurrentConv2D(2, 3)([keras.Input((5, 5, 2)), keras.Input(batch_shape=(5, 5, 4))])
    with pytest.raises(ValueError, match="`strides` > 1 is not possible"):
        RecurrentConv2D(2, strides=2, dilation_rate=2)(keras.Input((5, 5, 2)))
    with pytest.raises(ValueError, match="a list of 3"):
        RecurrentConv2D(2, 3)([np.ones((1, 3, 3, 2), "float32")] * 3)
    layer = RecurrentConv2D(2, 3)
    layer.build((None, 5, 5, 2))
    with pytest.raises(ValueError, match="one tensor"):
        layer([np.ones((1, 5, 5, 2), "float32"), np.ones((3, 3, 4), "float32")])
