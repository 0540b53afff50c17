"""Attention that starts as the identity: `start="identity"` of SAN and its peers."""

import compat
import keras
import numpy as np
import pytest

from keras_saliency import SDMACrossAttention, get_attention

IMAGE, SERIES = (2, 6, 6, 8), (2, 7, 5)
# Name, arguments, shape, the last weights before the masks (None: mixed in by a gate).
WEIGHING = [
    ("san", {}, IMAGE, ["smoothing/kernel"]),
    ("san-d", {"absolute": False}, IMAGE, ["smoothing/kernel"]),
    ("san-depthwise", {}, SERIES, ["smoothing/kernel"]),
    ("se", {"ratio": 2}, IMAGE, ["excite/kernel"]),
    ("scse", {}, IMAGE, ["excite/kernel", "spatial/kernel"]),
    ("scse", {"aggregation": "max"}, IMAGE, ["excite/kernel", "spatial/kernel"]),
    ("scse", {"aggregation": "multiply"}, IMAGE, ["excite/kernel", "spatial/kernel"]),
    ("cbam", {"ratio": 2, "kernel_size": 3}, IMAGE, ["excite/kernel", "spatial/kernel"]),
    ("bam", {"ratio": 2}, IMAGE, ["channel_norm/gamma", "spatial_norm/gamma"]),
    ("ran", {}, SERIES, ["look/kernel"]),
    ("eca", {}, IMAGE, ["conv/kernel"]),
    ("coordinate", {}, IMAGE, ["excite_0/kernel", "excite_1/kernel"]),
    ("coordinate", {}, SERIES, ["excite_0/kernel"]),
]
MIXED = [
    ("san", {"smoothing": None}, IMAGE),
    ("san", {"activation": "relu"}, IMAGE),
    ("simam", {}, IMAGE),
    ("self", {}, SERIES),
    ("dstp", {}, SERIES),
    ("fusatnet", {}, SERIES),
    ("xm2a", {"num_heads": 2, "key_dim": 3}, SERIES),
    ("msmsa", {"num_heads": 2, "key_dim": 3}, SERIES),
    ("parameter-free", {}, SERIES),
    ("transformer", {"num_heads": 2, "key_dim": 3}, SERIES),
    ("sdma", {"units": 5}, SERIES),
    ("sdca", {"units": 5}, SERIES),
]
ALL = [(name, kwargs, shape) for name, kwargs, shape, _ in WEIGHING] + MIXED
IDS = [f"{name}-{'-'.join(map(str, kwargs.values()))}" for name, kwargs, _ in ALL]


def arguments(name, shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(0, 2, shape).astype("float32")
    arrays = [y, rng.normal(size=(*shape[:-1], 3)).astype("float32")]
    tensors = [keras.ops.cast(keras.ops.convert_to_tensor(a), dtype) for a in arrays]
    return tensors if name.startswith("san") else tensors[0]


def first(inputs):
    return inputs[0] if isinstance(inputs, list) else inputs


def numbers(x):
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


@pytest.mark.parametrize(("name", "kwargs", "shape"), ALL, ids=IDS)
def test_a_new_layer_returns_its_input_bit_for_bit(name, kwargs, shape):
    layer = get_attention(name, start="identity", **kwargs)
    inputs = arguments(name, shape)
    for training in (False, True):
        extra = {} if name.startswith(("san", "parameter")) else {"training": training}
        np.testing.assert_array_equal(numbers(layer(inputs, **extra)), numbers(first(inputs)))
    paper = get_attention(name, **kwargs)
    assert paper.start == "paper"
    assert np.abs(numbers(paper(inputs)) - numbers(first(inputs))).max() > 1e-3


@pytest.mark.parametrize("dtype", ["mixed_float16", "float16", "mixed_bfloat16"])
@pytest.mark.parametrize(("name", "kwargs", "shape"), ALL, ids=IDS)
def test_half_precision_too(name, kwargs, shape, dtype):
    if dtype == "float16" and name in ("ran", "dstp", "sdma", "sdca"):
        pytest.skip("an orthogonal matrix cannot be made in half precision")
    layer = get_attention(name, start="identity", dtype=dtype, **kwargs)
    inputs = arguments(name, shape, layer.compute_dtype)
    outputs = layer(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == layer.compute_dtype
    np.testing.assert_array_equal(numbers(outputs), numbers(first(inputs)))


@pytest.mark.parametrize(("name", "kwargs", "shape", "last"), WEIGHING)
def test_the_last_kernel_has_a_gradient_and_no_weight_is_added(name, kwargs, shape, last):
    layer = get_attention(name, start="identity", **kwargs)
    inputs = arguments(name, shape)
    layer(inputs)
    paper = get_attention(name, **kwargs)
    paper(inputs)
    assert [v.shape for v in layer.weights] == [v.shape for v in paper.weights]
    weights = np.random.default_rng(1).normal(size=shape).astype("float32")
    arrays = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(inputs)]
    _, gradients = compat.gradients(
        layer, arrays, lambda y: keras.ops.sum(y * keras.ops.convert_to_tensor(weights))
    )
    found = {
        v.path: np.abs(g).max() for v, g in zip(layer.trainable_variables, gradients, strict=True)
    }
    sizes = [g for end in last for path, g in found.items() if path.endswith(end)]
    assert len(sizes) == len(last) and max(sizes) < 1e4
    # Of two masks that are equal, TensorFlow's maximum lets the gradient through to one.
    tied = kwargs.get("aggregation") == "max"
    assert (max if tied else min)(sizes) > 1e-6, found


@pytest.mark.parametrize(("name", "kwargs", "shape"), MIXED)
def test_a_gate_that_starts_at_zero_has_a_gradient(name, kwargs, shape):
    layer = get_attention(name, start="identity", **kwargs)
    inputs = arguments(name, shape)
    layer(inputs)
    gate = layer.start_gate
    assert gate.dtype == "float32" and gate.shape == () and gate.trainable
    weights = np.random.default_rng(1).normal(size=shape).astype("float32")
    arrays = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(inputs)]
    _, gradients = compat.gradients(
        layer, arrays, lambda y: keras.ops.sum(y * keras.ops.convert_to_tensor(weights))
    )
    found = dict(zip([v.path for v in layer.trainable_variables], gradients, strict=True))
    assert np.abs(found[gate.path]) > 1e-6
    # Opened, the layer is the paper's.
    paper = get_attention(name, **kwargs)
    paper(inputs)
    paper.set_weights([v.numpy() for v in layer.weights if v is not gate])
    gate.assign(1.0)
    np.testing.assert_allclose(numbers(layer(inputs)), numbers(paper(inputs)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kwargs", "factor"),
    [
        ("se", {}, lambda m: 2 * m),
        ("scse", {}, lambda m: m),
        ("scse", {"aggregation": "multiply"}, lambda m: 4 * m),
        ("cbam", {}, lambda m: 4 * m),
        ("bam", {}, lambda m: (1 + m) / 1.5),
        ("san", {}, lambda m: 2 * m),
    ],
)
def test_the_scores_are_the_mask_and_the_output_is_the_factor(name, kwargs, factor):
    layer = get_attention(name, start="identity", **kwargs)
    inputs = arguments(name, IMAGE)
    layer(inputs)
    rng = np.random.default_rng(2)
    for v in layer.trainable_variables:
        v.assign(rng.uniform(-0.5, 0.5, v.shape).astype("float32"))
    output, mask = layer(inputs, return_attention_scores=True)
    paper = get_attention(name, **kwargs)
    paper(inputs)
    paper.set_weights(layer.get_weights())
    np.testing.assert_allclose(
        numbers(mask), numbers(paper(inputs, return_attention_scores=True)[1]), atol=1e-6
    )
    expected = numbers(first(inputs)) * factor(numbers(mask))
    np.testing.assert_allclose(numbers(output), expected, atol=1e-5)


def test_start_survives_the_config_and_is_checked():
    for name, kwargs, _ in ALL:
        layer = get_attention(name, start="identity", **kwargs)
        assert type(layer).from_config(layer.get_config()).start == "identity"
        with pytest.raises(ValueError, match=r"start.*paper.*identity.*'one'"):
            get_attention(name, start="one", **kwargs)


def test_layers_that_change_the_shape_cannot_be_the_identity():
    with pytest.raises(ValueError, match="output_dim=3"):
        get_attention("xm2a", output_dim=3, start="identity").build(SERIES)
    with pytest.raises(ValueError, match="units=4"):
        SDMACrossAttention(4, start="identity").build(SERIES)
    with pytest.raises(ValueError, match="return_sequences"):
        SDMACrossAttention(5, return_sequences=False, start="identity")
