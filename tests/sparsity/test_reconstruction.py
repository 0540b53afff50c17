"""The refit: what stays is fitted to the dense model, as least squares in NumPy would do it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency.graph.copying import copy_model
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.reconstruction.solve import Sums, admm
from keras_saliency.sparsity.reconstruction.sweep import Refit
from keras_saliency.sparsity.reconstruction.views import view_of
from keras_saliency.sparsity.shrinking.blocks import influence

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def numpy(x):
    return np.array(ops.convert_to_numpy(x))


def outputs(model, x):
    return numpy(model(x, training=False)).astype("float64")


def kernel_of(layer):
    return numpy(layer._kernel if hasattr(layer, "_kernel") else layer.kernel)


def sequential(*parts, shape=(8,)):
    return keras.Sequential([keras.Input(shape), *parts])


# ---- the views: rows @ matrix is what the layer computes -----------------------------------

KINDS = {
    "dense": (layers.Dense(5, activation="relu"), (6,)),
    "dense on a series": (layers.Dense(5), (7, 6)),
    "einsum": (layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de"), (7, 6)),
    "einsum of heads": (layers.EinsumDense("abde,dec->abc", (None, 5), bias_axes="c"), (7, 3, 4)),
    "einsum by group": (layers.EinsumDense("abd,bde->abe", (3, 5)), (3, 4)),
    "conv1d causal": (layers.Conv1D(5, 3, padding="causal", dilation_rate=2), (11, 4)),
    "conv2d": (layers.Conv2D(6, (3, 2), strides=2, padding="same", activation="tanh"), (9, 8, 4)),
    "conv2d valid": (layers.Conv2D(6, 3, dilation_rate=2), (9, 8, 4)),
    "grouped": (layers.Conv2D(6, 3, groups=2), (7, 6, 4)),
    "conv3d": (layers.Conv3D(3, 2), (4, 5, 4, 2)),
    "depthwise": (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (6, 7, 3)),
    "separable": (layers.SeparableConv2D(5, 3, padding="same"), (6, 7, 3)),
    "transposed": (layers.Conv2DTranspose(5, 3, strides=2, padding="same"), (5, 4, 3)),
    "transposed valid": (layers.Conv2DTranspose(5, 4, strides=3), (5, 4, 3)),
    "transposed 1d": (layers.Conv1DTranspose(5, 2, strides=2), (5, 3)),
}


@pytest.mark.parametrize("name", KINDS)
def test_views_are_what_layers_compute_and_matrices_go_back(name):
    layer, shape = KINDS[name]
    layer = type(layer).from_config(layer.get_config())
    model = sequential(layer, shape=shape)
    for v in model.weights:
        v.assign(normal(*v.shape))
    kernel = next(k for k in maskable_kernels(model, exclude=()) if view_of(k) is not None)
    view = view_of(kernel)
    assert view.check(ops.convert_to_tensor(normal(2, *shape)))
    array = normal(*kernel.shape)
    np.testing.assert_array_equal(view.kernel(view.matrix(array)), array)
    # A view that has another kernel in mind is found out.
    kernel.variable.assign(numpy(kernel.variable) + 1)
    x = view.prepare(ops.convert_to_tensor(normal(2, *shape)))
    chosen = RNG.integers(0, view.positions(x), (2, 3))
    assert view.rows(x, chosen if view.positions(x) > 1 else None).ndim == 3


# ---- the solvers ---------------------------------------------------------------------------


def by_hand(xp, xd, w0, mask, ridge):
    """The fit of each output's weights that stay, from equation to array."""
    mean_p, mean_d = xp.mean(0), xd.mean(0)
    p, d = xp - mean_p, xd - mean_d
    H, C = p.T @ p / len(p), p.T @ d / len(p)
    damping = ridge * np.diag(H).mean() + 1e-8
    w = np.zeros_like(w0)
    for o in range(w0.shape[1]):
        s = np.flatnonzero(mask[:, o])
        A = H[np.ix_(s, s)] + damping * np.eye(len(s))
        w[s, o] = np.linalg.solve(A, (C @ w0 + damping * w0)[s, o])
    return w, mean_d @ w0 - mean_p @ w


@pytest.mark.parametrize("wide", [False, True])
def test_the_fit_is_least_squares_on_the_support(wide, monkeypatch):
    from keras_saliency.sparsity.reconstruction import solve

    n, d, o = 40, 60 if wide else 12, 5
    if wide:
        monkeypatch.setattr(solve, "WIDEST", 50)
    xd = RNG.normal(size=(n, d))
    xp, w0 = xd + 0.3 * RNG.normal(size=(n, d)), RNG.normal(size=(d, o))
    mask = RNG.random((d, o)) < 0.4
    sums = Sums(w0[None], n, centred=True)
    sums.add(xp[:25, None], xd[:25, None])
    sums.add(xp[25:, None], xd[25:, None])
    (problem,) = sums.finish(0.05)
    assert sums.dual == wide
    expected, _ = by_hand(xp, xd, w0, mask, 0.05)
    np.testing.assert_allclose(problem.fit(mask), expected, atol=2e-3 if wide else 1e-5)
    gap = (xp - xp.mean(0)) @ expected - (xd - xd.mean(0)) @ w0
    np.testing.assert_allclose(problem.error(expected), (gap**2).sum() / n, rtol=1e-4)


def test_large_offsets_cost_no_digits():
    rng = np.random.default_rng(5)
    xd, w0 = rng.normal(size=(400, 12)) + 3e3, rng.normal(size=(12, 5))
    mask = rng.random((12, 5)) < 0.5
    sums = Sums(w0[None], 400, centred=True)
    for part in (slice(0, 100), slice(100, 400)):
        sums.add(xd[part, None], xd[part, None])
    (problem,) = sums.finish(0.01)
    expected, shift = by_hand(xd, xd, w0, mask, 0.01)
    fitted = problem.fit(mask)
    np.testing.assert_allclose(fitted, expected, atol=2e-3)
    found = sums.mean_y - np.einsum("gi,gio->go", sums.mean_p, expected[None])
    np.testing.assert_allclose(found[0], shift, atol=0.05)


def test_conjugate_gradients_agree_with_cholesky():
    xd, w0 = RNG.normal(size=(300, 40)), RNG.normal(size=(40, 30))
    sums = Sums(w0[None], 300, centred=True)
    sums.add(xd[:, None], xd[:, None])
    (problem,) = sums.finish(0.01)
    mask = RNG.random(w0.shape) < 0.5
    np.testing.assert_allclose(problem._iterate(mask), problem.fit(mask), atol=1e-3)


def test_admm_finds_better_masks_than_magnitude_and_counts_exactly():
    mix = RNG.normal(size=(16, 16))
    xd, w0 = RNG.normal(size=(400, 16)) @ mix, RNG.normal(size=(16, 6))
    sums = Sums(w0[None], 400, centred=True)
    sums.add(xd[:, None], xd[:, None])
    problems = sums.finish(0.01)

    def choose(scores, count):
        drop = np.zeros(scores.size, bool)
        drop[np.argsort(scores, axis=None, kind="stable")[:count]] = True
        return drop.reshape(scores.shape)

    mask = admm(problems, 60, choose)[0]
    assert (~mask).sum() == 60
    plain = ~choose(np.abs(w0), 60)
    error = problems[0].error
    assert error(problems[0].fit(mask)) < 0.8 * error(problems[0].fit(plain))


# ---- whole models --------------------------------------------------------------------------


class Pair(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(12, activation="relu", name="one")
        self.last = layers.Dense(4, name="two")

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 12))

    def call(self, x):
        return self.last(self.first(x))


@pytest.mark.parametrize("inside", [False, True])
def test_a_layer_behind_a_pruned_one_is_fitted_on_what_that_makes(inside):
    pair = Pair()
    first, last = pair.first, pair.last
    model = sequential(pair) if inside else sequential(first, last)
    x = normal(400, 8)
    masks = {k.key: RNG.random(k.shape) < 0.5 for k in maskable_kernels(model)}
    copy = copy_model(model)
    Refit(model, copy, maskable_kernels(copy), x, masks).run()
    mask1, mask2 = (masks[k.key] for k in maskable_kernels(model))
    new1, new2 = (copy.layers[0].first, copy.layers[0].last) if inside else copy.layers
    w1, shift = by_hand(x.astype("float64"), x.astype("float64"), kernel_of(first), mask1, 0.01)
    np.testing.assert_allclose(kernel_of(new1), w1, atol=1e-5)
    np.testing.assert_allclose(numpy(new1.bias), numpy(first.bias) + shift, atol=1e-5)
    xp, xd = outputs(new1, x), outputs(first, x)
    w2, shift = by_hand(xp, xd, kernel_of(last), mask2, 0.01)
    np.testing.assert_allclose(kernel_of(new2), w2, atol=1e-4)
    np.testing.assert_allclose(numpy(new2.bias), numpy(last.bias) + shift, atol=1e-4)


def test_means_go_into_the_batch_norm_behind_a_layer_without_bias():
    conv = layers.Conv2D(6, 3, use_bias=False)
    model = sequential(conv, layers.BatchNormalization(), shape=(8, 8, 2))
    x = normal(300, 8, 8, 2) + 2
    sparse = keras_saliency.sparsify(model, 0.7, data=x)
    a, b = outputs(model, x), outputs(sparse, x)
    np.testing.assert_allclose(b.mean((0, 1, 2)), a.mean((0, 1, 2)), atol=0.02)
    assert np.abs(numpy(sparse.layers[1].moving_mean)).max() > 0.1


def residual():
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(8, 3, padding="same")(x)
    g = layers.Conv2D(8, 3, padding="same", activation="relu", groups=2)(h)
    g = layers.DepthwiseConv2D(3, padding="same")(g)
    h = layers.Add()([h, layers.Conv2D(8, 1)(g)])
    h = layers.Concatenate()([h, layers.SeparableConv2D(4, 3, padding="same")(h)])
    h = layers.Conv2DTranspose(6, 3, strides=2)(h)
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.ReLU()(h))))


def nested():
    inner = sequential(layers.Dense(16, activation="relu"), layers.Dense(8))
    x = keras.Input((8,))
    shared = layers.Dense(8, activation="tanh", name="shared")
    return keras.Model(x, layers.Dense(4)(shared(inner(shared(x)))))


def attention():
    x = keras.Input((7, 8))
    h = layers.MultiHeadAttention(2, 4)(x, x)
    h = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(layers.Add()([x, h]))
    h = layers.TimeDistributed(layers.Dense(8))(h)
    return keras.Model(x, layers.Dense(4)(layers.GRU(6)(h)))


def two_inputs():
    a, b = keras.Input((8,), name="a"), keras.Input((5,), name="b")
    h = layers.Concatenate()([layers.Dense(8)(a), layers.Dense(8)(b)])
    return keras.Model({"a": a, "b": b}, layers.Dense(4)(h))


class Own(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(16, activation="relu")
        self.last = layers.Dense(4)

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 16))

    def call(self, x):
        return self.last(self.first(x))


def own():
    model = Own()
    model(normal(2, 8))
    return model


MODELS = {
    "residual": (residual, lambda: normal(300, 8, 8, 3)),
    "nested": (nested, lambda: normal(300, 8)),
    "attention": (attention, lambda: normal(300, 7, 8)),
    "two inputs": (two_inputs, lambda: {"a": normal(300, 8), "b": normal(300, 5)}),
    "subclassed": (own, lambda: normal(300, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_refitted_model_is_closer_to_the_dense_one_than_masks_alone(name):
    make, data = MODELS[name]
    model, x = make(), data()
    before = model.get_weights()
    wanted = outputs(model, x)

    def gap(other):
        return np.square(outputs(other, x) - wanted).mean() / wanted.var()

    masks = keras_saliency.sparsify(model, 0.5, method="magnitude", data=x, reconstruct=False)
    sparse, report = keras_saliency.sparsify(model, 0.5, data=x, return_report=True)
    assert gap(sparse) < 0.7 * gap(masks)
    assert report["zeros"].sum() == round(0.5 * report[report["target"].notna()]["size"].sum())
    done = report[report["refitted"]]
    assert len(done) and (done["error"] <= done["error_masked"]).all()
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # In place it comes to the same, and every kernel that did not take part is as it was.
    if name != "subclassed":
        keras_saliency.sparsify(model, 0.5, data=x, inplace=True)
        for a, b in zip(sparse.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_model_that_cannot_be_copied_is_refitted_in_place():
    class Fixed(Own):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return super().call(x * self.factor)

        def get_config(self):
            raise TypeError("it has a secret")

    model, x = Fixed(2.0), normal(300, 3) @ normal(3, 8)
    wanted, weights = outputs(model, x), model.get_weights()
    keras_saliency.sparsify(model, 0.6, method="magnitude", inplace=True)
    alone = np.square(outputs(model, x) - wanted).mean()
    model.set_weights(weights)
    keras_saliency.sparsify(model, 0.6, data=x, inplace=True)
    assert np.square(outputs(model, x) - wanted).mean() < 0.9 * alone
    assert sum((numpy(v) == 0).sum() for v in model.weights if len(v.shape) > 1) == round(0.6 * 192)


def test_masked_models_store_refitted_values_where_they_keep_and_old_ones_elsewhere():
    model, x = sequential(layers.Dense(16), layers.Dense(4)), normal(300, 8)
    plain = keras_saliency.sparsify(model, 0.5, data=x)
    masked = keras_saliency.sparsify(model, 0.5, data=x, masked=True)
    np.testing.assert_allclose(outputs(masked, x), outputs(plain, x), atol=1e-5)
    for old, new, layer in zip(model.layers, plain.layers, masked.layers, strict=True):
        mask = numpy(layer.mask)
        stored = numpy(layer._kernel)
        np.testing.assert_allclose(stored[mask], kernel_of(new)[mask], atol=1e-6)
        np.testing.assert_array_equal(stored[~mask], kernel_of(old)[~mask])


def test_two_of_four_neighbours_stay():
    model, x = sequential(layers.Dense(16, activation="relu"), layers.Dense(4)), normal(300, 8)
    sparse = keras_saliency.sparsify(model, 0.5, data=x, granularity=(2, 4))
    for layer in sparse.layers:
        kept = (kernel_of(layer) != 0).reshape(-1, 4, kernel_of(layer).shape[-1]).sum(1)
        assert (kept == 2).all()


def test_the_gate_tells_whether_the_refit_does_better():
    model, x = sequential(layers.Dense(16, activation="relu"), layers.Dense(4)), normal(100, 8)
    _, report = keras_saliency.sparsify(model, 0.5, data=x, return_report=True)
    gate = report.attrs["gate"]
    assert gate["winner"] == "refit" and gate["refit"] < gate["masks"]
    _, report = keras_saliency.sparsify(model, 0.5, data=x, gate=False, return_report=True)
    assert report.attrs["gate"] is None
    noise = sequential(layers.Dense(64), layers.Dense(4), shape=(200,))
    wide = np.repeat(normal(18, 1), 200, axis=1) + 1e-3 * normal(18, 200)
    result = keras_saliency.sparsify(noise, 0.1, data=wide, gate=True, return_report=True)
    gate = result[1].attrs["gate"]
    assert gate["winner"] == min(("refit", "masks"), key=gate.get)


def test_layers_that_take_no_part_keep_their_values():
    model, x = residual(), normal(300, 8, 8, 3)
    name = model.layers[1].name
    sparse = keras_saliency.sparsify(model, 0.5, data=x, exclude=name)
    for old, new in zip(model.layers, sparse.layers, strict=True):
        if old.name == name or isinstance(old, layers.DepthwiseConv2D):
            np.testing.assert_array_equal(kernel_of(old), kernel_of(new))


def test_recalibrate_gives_norms_the_statistics_of_their_inputs():
    model = sequential(
        layers.Dense(6), layers.BatchNormalization(), layers.Dense(5), layers.BatchNormalization()
    )
    x = normal(200, 8) * 3 + 1
    keras_saliency.recalibrate(model, x)
    y = outputs(model, x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-2)
    # With a reference: corrected by what has changed, exactly.
    reference = copy_model(model)
    norm, old = model.layers[1], reference.layers[1]
    old.moving_mean.assign(normal(6))
    old.moving_variance.assign(np.abs(normal(6)) + 0.5)
    model.layers[0].kernel.assign(2 * kernel_of(model.layers[0]))
    keras_saliency.recalibrate(model, x, reference=reference)
    a, b = outputs(reference.layers[0], x), outputs(model.layers[0], x)
    mean = numpy(old.moving_mean) + b.mean(0) - a.mean(0)
    np.testing.assert_allclose(numpy(norm.moving_mean), mean, atol=1e-3)
    variance = numpy(old.moving_variance) * b.var(0) / a.var(0)
    np.testing.assert_allclose(numpy(norm.moving_variance), variance, rtol=1e-3)


def test_polish_goes_on_towards_the_dense_model_and_keeps_zeros_and_settings():
    model = sequential(
        layers.Dense(24, activation="relu"),
        layers.BatchNormalization(),
        layers.Dense(4),
        layers.Softmax(),
    )
    x = normal(400, 8)
    sparse = keras_saliency.sparsify(model, 0.8, data=x[:64])
    sparse.compile("sgd", "mse")
    statistics = numpy(sparse.layers[1].moving_mean)
    zeros = [numpy(v) == 0 for v in sparse.weights]
    gap = np.square(outputs(sparse, x) - outputs(model, x)).mean()
    assert keras_saliency.polish(sparse, model, x, steps=60) is sparse
    assert np.square(outputs(sparse, x) - outputs(model, x)).mean() < 0.95 * gap
    for zero, v in zip(zeros, sparse.weights, strict=True):
        if len(v.shape) > 1:
            assert (numpy(v)[zero] == 0).all()
        assert v.constraint is None
    np.testing.assert_array_equal(numpy(sparse.layers[1].moving_mean), statistics)
    assert sparse.optimizer.name.lower() == "sgd" and sparse.loss == "mse"


# ---- bad input -----------------------------------------------------------------------------


def test_few_constant_and_missing_inputs():
    model, x = sequential(layers.Dense(6, activation="relu"), layers.Dense(4)), normal(40, 8)
    with pytest.raises(ValueError, match=r"`reconstruct=True`.*`data`"):
        keras_saliency.sparsify(model, 0.5, method="magnitude", reconstruct=True)
    with pytest.raises(ValueError, match=r"admm.*`data`"):
        keras_saliency.sparsify(model, 0.5, method="admm")
    with pytest.raises(ValueError, match="`gate`"):
        keras_saliency.sparsify(model, 0.5, data=x, gate="perhaps")
    with pytest.raises(ValueError, match="NaN"):
        keras_saliency.sparsify(model, 0.5, data=np.where(x > 1, np.nan, x))
    for few in (x[:3], np.ones((40, 8), "float32")):
        sparse = keras_saliency.sparsify(model, 0.5, data=few)
        assert all(np.isfinite(w).all() for w in sparse.get_weights())
    before = model.get_weights()
    model.layers[0].kernel.assign(np.full((8, 6), np.nan))
    with pytest.raises(ValueError, match=r"weight '.*kernel' .*NaN"):
        keras_saliency.sparsify(model, 0.5, data=x)
    model.set_weights(before)


def test_half_precision_is_fitted_in_float32_and_rounded_once():
    model, x = sequential(layers.Dense(16, dtype="float16"), layers.Dense(4)), normal(300, 8)
    sparse = keras_saliency.sparsify(model, 0.5, data=x)
    assert sparse.layers[0]._kernel.dtype == "float16"
    wanted = outputs(model, x)
    assert np.square(outputs(sparse, x) - wanted).mean() < 0.3 * wanted.var()


@pytest.mark.parametrize("name", ["residual", "nested", "dense"])
def test_a_shrunk_model_computes_what_the_dense_one_did(name):
    if name == "dense":
        model, x = sequential(layers.Dense(32, activation="relu"), layers.Dense(4)), normal(300, 8)
    elif name == "residual":
        model, x = residual(), normal(300, 8, 8, 3)
    else:
        inner = sequential(layers.Dense(32, activation="relu"), layers.Dense(8))
        i = keras.Input((8,))
        model, x = keras.Model(i, layers.Dense(4)(inner(i))), normal(300, 8)
    wanted = outputs(model, x)
    options = {"parameters": 0.8, "round_to": 2, "method": "magnitude", "verbose": False}
    alone = keras_saliency.shrink_to(model, reconstruct=False, data=x, **options)
    fitted = keras_saliency.shrink_to(model, data=x, **options)
    assert [v.shape for v in fitted.weights] == [v.shape for v in alone.weights]
    gaps = [np.square(outputs(m, x) - wanted).mean() for m in (fitted, alone)]
    assert gaps[0] < 0.7 * gaps[1]
    # A budget that removes nothing gives the same model.
    same = keras_saliency.shrink_to(model, parameters=1.0, data=x, verbose=False)
    np.testing.assert_allclose(outputs(same, x), wanted, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="others record nothing unasked")
@pytest.mark.parametrize("way", ["refit", "gate", "masks", "wanda", "recalibrate", "blocks"])
def test_nothing_is_recorded_to_differentiate(way):
    # PyTorch would keep every activation of the calibration inputs until the end: gigabytes.
    recorded = []

    class Listener(layers.Layer):
        def call(self, x):
            recorded.append(x.requires_grad)
            return x

    hidden = (layers.Dense(6), layers.BatchNormalization(), Listener(), layers.ReLU())
    model = sequential(*hidden, layers.Dense(3, activation="softmax"))
    x = normal(40, 8)
    if way == "recalibrate":
        keras_saliency.recalibrate(model, x, reference=model)
    elif way == "blocks":
        influence(model, [], x, 32)
    elif way in ("refit", "gate"):
        keras_saliency.sparsify(model, 0.5, data=x, gate=way == "gate")
    else:
        method = "isparse" if way == "masks" else way
        keras_saliency.sparsify(model, 0.5, data=x, method=method, reconstruct=False)
    assert recorded and not any(recorded)
