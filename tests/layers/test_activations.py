"""Activations with weights or with a memory of the range, against NumPy."""

import compat
import keras
import numpy as np
import pytest
from harness import Case, LayerTests, assert_close

from keras_saliency import (
    AttentionalActivation,
    FlexibleActivation,
    FractionalActivation,
    Highway,
    MaxDropout,
)

SHARED = {
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "kernel_constraint": "max_norm",
    "bias_constraint": "non_neg",
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


# ---- Highway ---------------------------------------------------------------------------------


def highway(inputs, w, units=None, context=False):
    def dense(x, name):
        return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)

    x = inputs[0] if units is None else dense(inputs[0], "project")
    gate = sigmoid(dense(x, "gate"))
    carry = 1 - gate
    if context:
        carry = sigmoid(dense(inputs[1], "carry"))
        carry = carry.reshape(len(carry), *[1] * (x.ndim - carry.ndim), *carry.shape[1:])
    return relu(dense(x, "transform")) * gate + x * carry


class TestHighway(LayerTests):
    layer = Highway
    config = {"units": 3, "context": True, "activation": "tanh", **SHARED}
    cases = [
        Case("coupled", {}, [(3, 7)], highway),
        Case("sequence", {}, [(2, 5, 7)], highway, mask=True),
        Case("another width", {"units": 3}, [(2, 7)], highway),
        Case("context", {"context": True}, [(2, 7), (2, 5)], highway),
        Case("context of a sequence", {"context": True}, [(2, 3, 7), (2, 5)], highway),
        Case("context per step", {"context": True}, [(2, 3, 7), (2, 3, 5)], highway),
    ]


def test_highway_begins_by_carrying():
    x = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    y = compat.to_numpy(Highway()(x))
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.8


def test_a_mask_of_the_features_passes_the_highway_and_that_of_the_context_does_not():
    layer = Highway(context=True)
    masks = [keras.ops.ones((2, 3), "bool"), keras.ops.zeros((2, 3), "bool")]
    assert layer.compute_mask([None, None], masks) is masks[0]


@pytest.mark.parametrize(
    ("kwargs", "shape", "message"),
    [
        ({}, [(2, 3), (2, 3)], "takes one tensor"),
        ({"context": True}, (2, 3), r"takes \[inputs, context\]"),
        ({}, (2, None), "known number of features"),
        ({"context": True}, [(2, 3), (2, 3, 4, 5)], "as many axes"),
    ],
)
def test_highway_names_inputs_that_do_not_fit(kwargs, shape, message):
    with pytest.raises(ValueError, match=message):
        Highway(**kwargs).build(shape)


# ---- MaxDropout ------------------------------------------------------------------------------


class TestMaxDropout(LayerTests):
    layer = MaxDropout
    config = {"rate": 0.4}
    cases = [Case("inference", {}, [(2, 5, 3)], lambda inputs, w: inputs[0], mask=True)]


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_what_lies_in_the_upper_part_of_the_range_is_dropped(rate):
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    scaled = (x - x.min()) / (x.max() - x.min())
    expected = np.where(scaled > 1 - rate, 0, x) if rate else x
    np.testing.assert_array_equal(compat.to_numpy(MaxDropout(rate)(x, training=True)), expected)


def test_masked_steps_do_not_stretch_the_range():
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    mask = np.arange(5)[None] < np.array([5, 3])[:, None]
    junk = np.where(mask[..., None], x, 1e4).astype("float32")
    layer = MaxDropout(0.5)
    a = compat.to_numpy(layer(junk, mask=mask, training=True))
    existing = x[mask]
    limit = existing.min() + 0.5 * np.ptp(existing)
    np.testing.assert_array_equal(a[mask], np.where(existing > limit, 0, existing))
    nothing = compat.to_numpy(layer(junk, mask=np.zeros((2, 5), bool), training=True))
    assert np.isfinite(nothing).all()


def test_a_constant_tensor_stays():
    x = np.full((2, 3), 4.0, "float32")
    np.testing.assert_array_equal(compat.to_numpy(MaxDropout(0.9)(x, training=True)), x)


# ---- ATAC ------------------------------------------------------------------------------------


def atac(inputs, w, ratio=2, epsilon=1e-5, use_bias=False):
    def norm(x, name):
        x = (x - w[f"{name}/moving_mean"]) / np.sqrt(w[f"{name}/moving_variance"] + epsilon)
        return x * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def dense(x, name):
        return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)

    (x,) = inputs
    hidden = relu(norm(dense(x, "squeeze"), "squeeze_norm"))
    scores = sigmoid(norm(dense(hidden, "excite"), "excite_norm"))
    return x * scores, scores


def moving_statistics(layer):
    for norm in (layer.squeeze_norm, layer.excite_norm):
        size = norm.moving_mean.shape[0]
        norm.moving_mean.assign(np.linspace(-0.3, 0.4, size))
        norm.moving_variance.assign(np.linspace(0.5, 1.5, size))


class TestAttentionalActivation(LayerTests):
    layer = AttentionalActivation
    config = {
        "ratio": 3,
        "activation": "gelu",
        "use_bias": True,
        "momentum": 0.7,
        "epsilon": 1e-3,
        "data_format": "channels_first",
        **SHARED,
    }
    both = {"data_format": True, "scores": True, "prepare": moving_statistics}
    cases = [
        Case("image", {}, [(2, 5, 7, 6)], atac, **both),
        Case("sequence", {"ratio": 1, "use_bias": True}, [(3, 7, 5)], atac, mask=True, **both),
    ]


def test_masked_steps_do_not_enter_the_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 4)).astype("float32")
    mask = np.arange(7)[None] < np.array([7, 5, 3])[:, None]
    a, b = AttentionalActivation(), AttentionalActivation()
    a.build(x.shape)
    b.build(x.shape)
    b.set_weights(a.get_weights())
    a(x, mask=mask, training=True)
    b(np.where(mask[..., None], x, 99.0).astype("float32"), mask=mask, training=True)
    assert np.abs(compat.to_numpy(a.squeeze_norm.moving_mean.value)).max() > 0
    for u, v in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(u, v, atol=1e-5)


# ---- activations of trained shape ------------------------------------------------------------


def over(value, x, axis):
    if axis is None:
        return value
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.reshape(shape)


def softplus(x):
    return np.logaddexp(0, x)


def fractional(inputs, w, order=0.5, step=1.0, terms=8, axis=-1):
    """The gamma functions as binomials, written as products."""
    (x,) = inputs
    a = over(w["order"], x, axis)
    total = 0.0
    for n in range(terms):
        binomial = np.ones_like(a)
        for k in range(n):
            binomial = binomial * (a - k) / (k + 1)
        total = total + (-1) ** n * binomial * softplus(x + (a / 2 - n) * step)
    return total / step**a


class TestFractionalActivation(LayerTests):
    layer = FractionalActivation
    config = {"order": 1.5, "step": 0.5, "terms": 5, "axis": 1}
    cases = [
        Case("channels", {}, [(2, 5, 7)], fractional, mask=True),
        Case("finer", {"step": 0.5, "terms": 3}, [(2, 5, 7, 3)], fractional),
        Case("axis 1", {"axis": 1}, [(2, 5, 3, 7)], fractional, dynamic=(0, 2)),
        Case("one for all", {"axis": None}, [(3, 5)], fractional),
    ]


@pytest.mark.parametrize(
    ("order", "expected", "error"),
    [
        (0, softplus, 1e-6),
        (1, sigmoid, 0.005),
        (2, lambda x: sigmoid(x) * (1 - sigmoid(x)), 0.02),
    ],
)
def test_whole_orders_are_the_derivatives_of_softplus(order, expected, error):
    x = np.linspace(-6, 6, 101).reshape(-1, 1)
    found = compat.to_numpy(FractionalActivation(order)(x.astype("float32")))
    assert np.abs(found - expected(x)).max() < error


def test_the_half_derivative_of_an_exponential_is_itself():
    """Far below 0 softplus is exp, which every derivative keeps."""
    x = np.linspace(-12, -8, 9).reshape(-1, 1).astype("float32")
    layer = FractionalActivation(0.5, step=0.1, terms=200)
    np.testing.assert_allclose(compat.to_numpy(layer(x)), np.exp(x), rtol=2e-3)


def test_the_order_stays_between_0_and_2():
    layer = FractionalActivation(1.9, axis=None)
    optimizer = keras.optimizers.SGD(100.0)
    for gradient in (1.0, -1.0):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [layer.order])
        assert float(compat.to_numpy(layer.order.value)) in (0.0, 2.0)


def flexible(inputs, w, family="p-e2-relu", axis=-1):
    def elu(x):
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    (x,) = inputs
    a, b = over(w["a"], x, axis), over(w["b"], x, axis)
    if family == "p-e2-relu":
        return a * relu(x) + b * elu(x) + (1 - a - b) * -elu(-x)
    return a * sigmoid(x) + (1 - a) * np.minimum(np.maximum(b * x + 0.5, 0), 1)


class TestFlexibleActivation(LayerTests):
    layer = FlexibleActivation
    config = {"family": "p-sig-ramp", "axis": 1}
    cases = [
        Case("in place of relu", {}, [(2, 5, 7)], flexible, mask=True),
        Case("in place of a sigmoid", {"family": "p-sig-ramp"}, [(2, 5, 7)], flexible),
        Case("axis 1", {"axis": 1}, [(2, 5, 3, 7)], flexible, dynamic=(0, 2)),
        Case("one for all", {"axis": None}, [(3, 5)], flexible),
    ]


# PyTorch's tracer warns about its own intermediate tensors where Keras's RNN breaks the graph.
@pytest.mark.parametrize("recurrent", [keras.layers.LSTM, keras.layers.GRU])
def test_gates_of_recurrent_layers_are_flexible_trained_and_saved(recurrent, tmp_path):
    gate = FlexibleActivation("p-sig-ramp", axis=None)
    model = keras.Sequential([keras.Input((5, 3)), recurrent(4, recurrent_activation=gate)])
    assert any(v is gate.a for v in model.trainable_variables)
    x = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(x, np.ones((8, 4), "float32"), epochs=2, verbose=0)
    assert float(compat.to_numpy(gate.a.value)) != 0.5
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded(x), model(x), 1e-6)


@pytest.mark.parametrize("cls", [FractionalActivation, FlexibleActivation])
def test_axis_must_be_one_of_known_size(cls):
    with pytest.raises(ValueError, match="`axis` must be an axis"):
        cls(axis=0)
    with pytest.raises(ValueError, match="axis=3"):
        cls(axis=3)(np.ones((2, 3, 4), "float32"))
    with pytest.raises(ValueError, match="known size"):
        cls().build((2, None))


def test_families_and_orders_are_checked():
    with pytest.raises(ValueError, match=r"p-e2-relu.*p-sig-ramp"):
        FlexibleActivation("relu")
    with pytest.raises(ValueError, match="order"):
        FractionalActivation(2.5)
    with pytest.raises(ValueError, match="rate"):
        MaxDropout(1.5)
