"""XM2AHeads: equations, table 7.1, masks, long series and bad input."""

import math

import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests
from keras import ops

from keras_saliency import SaliencySeries, SDMACrossAttention, XM2AHeads
from keras_saliency.layers.attention.xm2a import head_windows, window_sums

TABLE = {  # (pooling, kernel) of heads 1 to 5, written out from table 7.1 by hand
    "xm2a": [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)],
    "msmsa": [(1, 1), (1, 3), (1, 5), (1, 7), (1, 9)],
    "exp": [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16)],
    "pool": [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)],
    "exp-pool": [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1)],
    "hybrid": [(1, 1), (1, 2), (2, 3), (2, 4), (4, 5)],
}


def convolve(x, kernel):
    window = kernel.shape[0]
    left = (window - 1) // 2
    padded = np.pad(x, [(0, 0), (left, window - 1 - left), (0, 0)])
    return sum(padded[:, j : j + x.shape[1]] @ kernel[j] for j in range(window))


def pool(x, window):
    left, steps = (window - 1) // 2, x.shape[1]
    spans = [slice(max(t - left, 0), t - left + window) for t in range(steps)]
    return np.stack([x[:, span].mean(1) for span in spans], axis=1)


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def reference(
    inputs,
    weights,
    num_heads=8,
    key_dim=64,
    variant="xm2a",
    talk="scale",
    descriptor="average",
    normalization="layer",
    share_projections=False,
    use_bias=True,
    epsilon=1e-6,
    **_,
):
    (x,) = inputs
    summary = {"average": np.mean, "maximum": np.max}[descriptor]
    zero = np.zeros(num_heads * key_dim)
    q, k, v = [], [], []
    for h, (pooling, _) in enumerate(TABLE[variant][:num_heads], start=1):
        view = pool(x, pooling)
        part = slice((h - 1) * key_dim, h * key_dim)
        v.append(convolve(view, weights[f"value_kernel_{h}"]))
        v[-1] = v[-1] + weights.get("value_bias", zero)[part]
        if share_projections:
            queried = keyed = v[-1]
        else:
            queried = convolve(view, weights[f"query_kernel_{h}"])
            queried = queried + weights.get("query_bias", zero)[part]
            keyed = convolve(view, weights[f"key_kernel_{h}"])
        q.append(summary(queried, axis=1))
        k.append(summary(keyed, axis=2))

    def mask(query, key):
        return softmax(key[:, :, None] * query[:, None, :], axis=1)

    if talk == "input":
        own = x @ weights["input_kernel"] + weights.get("input_bias", np.zeros(key_dim))
        own_query, own_key = summary(own, axis=1), summary(own, axis=2)
    heads, scores = [], []
    for h in range(num_heads):
        if talk == "scale":
            masks = sum(mask(q[h], k[other]) for other in range(num_heads))
        elif talk == "self":
            masks = mask(q[h], k[h])
        else:
            masks = mask(own_query, k[h]) + mask(q[h], own_key)
        scores.append(masks)
        y = masks * v[h]
        if normalization == "layer":
            y = y * x.shape[1]
            y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + epsilon)
            y = y * weights["gamma"][h] + weights["beta"][h]
        heads.append(y)
    y = np.concatenate(heads, axis=-1)
    if normalization == "batch":  # in inference
        y = (y * x.shape[1] - weights["norm/moving_mean"]) / np.sqrt(
            weights["norm/moving_variance"] + epsilon
        )
        y = y * weights["norm/gamma"] + weights["norm/beta"]
    return y @ weights["output_kernel"] + weights.get("output_bias", 0.0), np.stack(scores, 1)


def case(name, **kwargs):
    return Case(
        name,
        kwargs={"num_heads": 3, "key_dim": 2, **kwargs},
        inputs=[(2, 11, 5)],
        reference=reference,
        scores=True,
        mask=True,
        tolerance=2e-5,
    )


class TestXM2AHeads(LayerTests):
    layer = XM2AHeads
    config = dict(  # noqa: C408
        num_heads=3,
        key_dim=5,
        variant="hybrid",
        talk="input",
        descriptor="maximum",
        normalization="batch",
        output_dim=4,
        share_projections=True,
        dropout=0.25,
        use_bias=False,
        epsilon=1e-3,
        remat=False,
        kernel_initializer="he_normal",
        bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer=keras.regularizers.L1(0.2),
        activity_regularizer=keras.regularizers.L2(0.3),
        kernel_constraint=keras.constraints.MaxNorm(2.0),
        bias_constraint=keras.constraints.NonNeg(),
    )
    cases = (
        case("xm2a"),
        case("msmsa-self-shared", variant="msmsa", talk="self", share_projections=True),
        case("exp-input-maximum", variant="exp", talk="input", descriptor="maximum"),
        case("exp-pool-none", variant="exp-pool", normalization=None, use_bias=False),
        case("hybrid-batch", variant="hybrid", normalization="batch", remat=False),
    )


def heads(x, seed=0, mask=None, scores=False, **kwargs):
    """Call a layer whose weights depend on the seed alone."""
    layer = XM2AHeads(**{"num_heads": 3, "key_dim": 4, **kwargs})
    layer.build(x.shape)
    rng = np.random.default_rng(seed)
    for v in layer.trainable_variables:
        v.assign(rng.normal(size=v.shape))
    out = layer(x, mask=mask, return_attention_scores=scores)
    return compat.to_numpy(out)


def series(*shape, seed=1, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("variant", TABLE)
def test_windows_and_parameters_are_those_of_table_7_1(variant):
    assert head_windows(variant, 5) == TABLE[variant]
    layer = XM2AHeads(5, 7, variant=variant, normalization=None, use_bias=False)
    layer.build((None, 50, 11))
    lengths = sum(window for _, window in TABLE[variant])
    assert layer.count_params() == 3 * 11 * 7 * lengths + 5 * 7 * 11
    shared = XM2AHeads(5, 7, variant=variant, share_projections=True)
    shared.build((None, 50, 11))
    assert shared.count_params() == 11 * 7 * lengths + 35 + 2 * 35 + 35 * 11 + 11


def test_default_has_the_parameters_the_paper_implies():
    layer = XM2AHeads(use_bias=False, normalization=None)
    layer.build((None, 1000, 62))
    assert layer.count_params() == 3 * 62 * 64 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) + 512 * 62


def test_pool_has_as_many_kernel_parameters_as_the_transformer():
    ours = XM2AHeads(8, 16, variant="pool", use_bias=False, normalization=None)
    ours.build((None, 20, 11))
    theirs = keras.layers.MultiHeadAttention(8, 16, use_bias=False)
    theirs.build((None, 20, 11), (None, 20, 11))
    assert ours.count_params() == theirs.count_params()


def test_masks_sum_to_the_number_of_partners():
    x = series(2, 17, 3)
    for talk, partners in (("scale", 3), ("self", 1), ("input", 2)):
        _, scores = heads(x, talk=talk, scores=True)
        np.testing.assert_allclose(scores.sum(axis=2), partners, rtol=1e-5)


def test_cross_talk_lets_a_head_move_another():
    """In self-talk the mask of a head does not depend on the other heads' keys."""
    x = series(2, 9, 3)
    for talk, moves in (("self", False), ("input", False), ("scale", True)):
        layer = XM2AHeads(2, 4, talk=talk)
        before = compat.to_numpy(layer(x, return_attention_scores=True)[1])
        layer.head_kernels("key")[1].assign(
            layer.head_kernels("key")[1] + 1.0 * series(*layer.head_kernels("key")[1].shape)
        )
        after = compat.to_numpy(layer(x, return_attention_scores=True)[1])
        assert not np.allclose(after[:, 1], before[:, 1])
        assert np.allclose(after[:, 0], before[:, 0]) != moves


@pytest.mark.parametrize("talk", ["scale", "self", "input"])
@pytest.mark.parametrize("masked", [False, True])
def test_recomputed_gradients_equal_automatic_ones(talk, masked):
    x = series(2, 13, 3)
    mask = np.arange(13)[None] < np.array([[13], [8]]) if masked else None
    gradients = []
    for remat in (True, False):
        layer = XM2AHeads(3, 4, talk=talk, remat=remat)
        layer.build(x.shape)
        for i, v in enumerate(layer.trainable_variables):
            v.assign(series(*v.shape, seed=i))
        kwargs = {} if mask is None else {"mask": ops.convert_to_tensor(mask)}
        found = compat.gradients(layer, [x], lambda y: ops.sum(ops.sin(y)), **kwargs)
        gradients.append([*found[0], *found[1]])
    for ours, automatic in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, automatic, rtol=2e-3, atol=2e-4 * np.abs(automatic).max())


@pytest.mark.parametrize("variant", TABLE)
def test_padding_in_front_and_between_is_left_out(variant):
    """A mask with holes equals a reference that gives the holes no weight."""
    x, mask = series(2, 10, 3), np.ones((2, 10), bool)
    mask[0, :3] = mask[1, 4:6] = False
    junk = np.where(mask[..., None], x, np.float32(np.inf))
    junk_out, _ = heads(junk, mask=mask, variant=variant, scores=True)
    out, scores = heads(np.where(mask[..., None], x, 0), mask=mask, variant=variant, scores=True)
    np.testing.assert_array_equal(junk_out, out)
    assert np.isfinite(out).all()
    assert (scores.transpose(0, 2, 1, 3)[~mask] == 0).all()
    np.testing.assert_allclose(scores.sum(2), 3, rtol=1e-5)
    front, _ = heads(x[:1, 3:], variant=variant, scores=True)
    np.testing.assert_allclose(out[:1, 3:], front, rtol=1e-4, atol=1e-4)


def test_batch_statistics_leave_padding_out():
    x = series(2, 12, 3)
    means = []
    for steps, mask in ((9, None), (12, np.broadcast_to(np.arange(12) < 9, (2, 12)))):
        layer = XM2AHeads(2, 4, normalization="batch", kernel_initializer="ones")
        layer(x[:, :steps], mask=mask, training=True)
        means.append(compat.to_numpy(layer.norm.moving_mean.value))
    assert np.abs(means[0]).max() > 1e-3
    np.testing.assert_allclose(means[0], means[1], rtol=1e-4)


def test_dropout_acts_in_training_only():
    x = series(2, 9, 3)
    layer = XM2AHeads(2, 4, dropout=0.5)
    calm, noisy = (compat.to_numpy(layer(x, training=t)) for t in (False, True))
    assert not np.allclose(calm, noisy)
    np.testing.assert_array_equal(calm, compat.to_numpy(layer(x)))


def test_regularizers_reach_every_kernel_and_bias():
    def total(**kwargs):
        layer = XM2AHeads(2, 4, talk="input", **kwargs)
        layer.build((None, 7, 3))
        return len(layer.losses)

    assert total(kernel_regularizer="l2") == 3 * 2 + 1 + 1
    assert total(bias_regularizer="l2") == 4


def test_window_sums_equal_plain_sums():
    x = series(2, 19, 3)
    for size, total in window_sums(ops.convert_to_tensor(x), [1, 2, 5, 8, 13]).items():
        expected = convolve(x, np.repeat(np.eye(3)[None], size, axis=0))
        np.testing.assert_allclose(compat.to_numpy(total), expected, rtol=1e-5, atol=1e-5)


# ---- what may go wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", TABLE)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_series_shorter_than_a_window(variant, steps):
    x = series(2, steps, 3)
    out, scores = heads(x, num_heads=5, variant=variant, scores=True)
    layer = XM2AHeads(5, 4, variant=variant)
    layer.build(x.shape)
    rng = np.random.default_rng(0)
    weights = {v.name: rng.normal(size=v.shape) for v in layer.trainable_variables}
    expected = reference([x.astype("float64")], weights, 5, 4, variant)
    np.testing.assert_allclose(out, expected[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scores, expected[1], rtol=1e-4, atol=1e-5)
    if steps == 1:
        np.testing.assert_array_equal(scores, 5.0)


@pytest.mark.parametrize("normalization", ["layer", "batch", None])
@pytest.mark.parametrize("descriptor", ["average", "maximum"])
def test_everything_masked_is_finite_in_value_and_gradient(normalization, descriptor):
    x, mask = series(2, 6, 3), np.ones((2, 6), bool)
    mask[0] = False
    kwargs = {"num_heads": 2, "key_dim": 3, "normalization": normalization}
    layer = XM2AHeads(descriptor=descriptor, talk="input", **kwargs)
    layer.build(x.shape)
    _, scores = layer(x, mask=mask, return_attention_scores=True)
    assert (compat.to_numpy(scores)[0] == 0).all()
    found = compat.gradients(
        layer, [x], lambda y: ops.sum(ops.square(y)), mask=ops.convert_to_tensor(mask)
    )
    assert all(np.isfinite(g).all() for g in [*found[0], *found[1]])
    assert (found[0][0][0] == 0).all()


def test_nan_stays_in_its_series():
    x = series(2, 6, 3)
    clean = heads(x)
    x[0, 2, 1] = np.nan
    out = heads(x)
    assert np.isnan(out[0]).any()
    np.testing.assert_allclose(out[1], clean[1], rtol=1e-5, atol=1e-5)


def test_huge_logits_pick_the_largest_key():
    """Logits of 1e7 would overflow a plain exponential; the result is the hard maximum."""
    x = 1e4 * series(2, 9, 3)
    out, scores = heads(x, talk="self", scores=True)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(scores.max(axis=2), 1.0, atol=1e-6)
    layer = XM2AHeads(3, 4)
    layer.build(x.shape)
    found = compat.gradients(layer, [x], lambda y: ops.sum(ops.square(y)))
    assert all(np.isfinite(g).all() for g in [*found[0], *found[1]])


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_at_16384_steps(dtype):
    """Sums over time leave float16 far behind, and weights of 1/16384 nearly do below."""
    x = series(1, 16384, 2) + 5  # its sum over time is beyond float16
    kwargs = {"num_heads": 2, "key_dim": 3}
    full, half = XM2AHeads(**kwargs), XM2AHeads(**kwargs, dtype=dtype)
    half.build(x.shape)
    full.build(x.shape)
    half.set_weights(full.get_weights())
    result = compat.to_numpy(ops.cast(half(x), "float32"))
    expected = compat.to_numpy(full(x))
    assert np.isfinite(result).all()
    tolerance = 0.02 if dtype == "mixed_float16" else 0.15
    assert np.mean(np.abs(result - expected)) < tolerance * np.mean(np.abs(expected))


def test_output_does_not_fade_with_length():
    """Layer normalization gives the same spread at 10 000 steps as at 100."""
    spreads = [heads(series(1, steps, 3)).std() for steps in (100, 10000)]
    assert math.isclose(*spreads, rel_tol=0.3)


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 2.0}, "num_heads"),
        ({"num_heads": True}, "num_heads"),
        ({"key_dim": -1}, "key_dim"),
        ({"output_dim": 0}, "output_dim"),
        ({"variant": "xm3a"}, "variant"),
        ({"talk": "whisper"}, "talk"),
        ({"descriptor": "median"}, "descriptor"),
        ({"normalization": "group"}, "normalization"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": "0.1"}, "dropout"),
        ({"epsilon": 0}, "epsilon"),
    ],
)
def test_bad_arguments_are_named(kwargs, word):
    with pytest.raises(ValueError, match=f"`{word}`.*Received"):
        XM2AHeads(**kwargs)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3, 1), (2, 0, 3), (2, 5, 0)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(ValueError, match="Received: shape"):
        XM2AHeads(2, 3)(np.zeros(shape, "float32"))
    with pytest.raises(ValueError, match="Received: shape"):
        XM2AHeads(2, 3).compute_output_shape(shape)
    with pytest.raises(ValueError, match="variates"):
        XM2AHeads(2, 3)(keras.Input((7, None)))


@pytest.mark.parametrize("layer", [XM2AHeads(2, 3), SDMACrossAttention(2), SaliencySeries()])
def test_a_second_positional_series_is_no_mask(layer):
    x = keras.random.normal((2, 9, 3))
    with pytest.raises(ValueError, match=r"`mask` must be a boolean tensor of shape \(batch, time"):
        layer(x, x)
    with pytest.raises(ValueError, match=r"`mask` must be a boolean tensor of shape \(batch, time"):
        layer(keras.Input((9, 3)), keras.Input((9, 3)))
    layer(x, keras.ops.ones((2, 9), "bool"))
