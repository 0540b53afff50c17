"""Criteria: each against its formula, written once more in NumPy."""

import keras
import numpy as np
import pytest
from scipy import stats

import keras_saliency
from keras_saliency.sparsity import criteria, sparsify
from keras_saliency.sparsity.criteria.criterion import criterion_of
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel, Measurements
from keras_saliency.sparsity.kernels import maskable_kernels

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data():
    x = RNG.normal(size=(40, 6)).astype("float32")
    x[:, 1] *= 3
    return x, RNG.integers(0, 3, 40)


@pytest.fixture(scope="module")
def dense(data):
    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((6,)),
        keras.layers.Dense(5, activation="relu", name="hidden", bias_initializer="random_normal"),
        keras.layers.Dense(3, activation="softmax", name="head"),
    ]
    model = keras.Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(scope="module")
def images():
    x = RNG.normal(size=(20, 6, 6, 2)).astype("float32")
    return x, RNG.integers(0, 3, 20)


@pytest.fixture(scope="module")
def convolutional(images):
    keras.utils.set_random_seed(4)
    layers = [
        keras.Input((6, 6, 2)),
        keras.layers.Conv2D(4, 3, name="first", use_bias=False),
        keras.layers.BatchNormalization(
            name="norm", gamma_initializer=keras.initializers.RandomNormal(1, 0.5)
        ),
        keras.layers.ReLU(),
        keras.layers.Conv2D(5, 2, name="second", activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, name="head", activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def measured(model, data=(None, None), **options):
    kernels = list(maskable_kernels(model))
    measurements = Measurements(model, kernels, *data, **options)
    return {
        kernel.key: MeasuredKernel(kernel, measurements, index=i)
        for i, kernel in enumerate(kernels)
    }


def weights(model, name):
    return [np.array(w, "float64") for w in model.get_layer(name).get_weights()]


def forward(model, x):
    (W, b), (V, c) = weights(model, "hidden"), weights(model, "head")
    h = np.maximum(x @ W + b, 0)
    z = h @ V + c
    p = np.exp(z - z.max(1, keepdims=True))
    return h, p / p.sum(1, keepdims=True), W, V


def gradients(model, x, y):
    """Of the mean cross-entropy, by both kernels."""
    h, p, _, V = forward(model, x)
    delta = (p - np.eye(3)[y]) / len(x)
    return x.T @ ((delta @ V.T) * (h > 0)), h.T @ delta


def test_lamp(dense):
    for key, kernel in measured(dense).items():
        w = weights(dense, key)[0]
        expected = [v**2 / np.sum(w[np.abs(w) >= abs(v)] ** 2) for v in w.flat]
        np.testing.assert_allclose(criteria.LAMP().edges(kernel).reshape(-1), expected, rtol=1e-6)


def test_wanda(dense, data):
    h, _, W, V = forward(dense, data[0])
    kernels = measured(dense, data)
    for x, w, key in ((data[0], W, "hidden"), (h, V, "head")):
        expected = np.abs(w) * np.linalg.norm(x, axis=0)[:, None]
        np.testing.assert_allclose(criteria.Wanda().edges(kernels[key]), expected, rtol=1e-4)


def test_wanda_ranks_within_each_output(dense, data):
    sparse = sparsify(dense, 0.5, data=data[0], method="wanda", scope="layer", reconstruct=False)
    zeros = (sparse.get_layer("hidden").get_weights()[0] == 0).sum(0)
    assert zeros.tolist() == [3] * 5


def test_obs(dense, data):
    h, _, W, V = forward(dense, data[0])
    kernels = measured(dense, data)
    for x, w, key in ((data[0], W, "hidden"), (h, V, "head")):
        centred = x - x.mean(0)
        H = centred.T @ centred / len(x)
        H += (0.1 * np.trace(H) / len(H) + 1e-8) * np.eye(len(H))
        expected = w**2 / np.diag(np.linalg.inv(H))[:, None]
        np.testing.assert_allclose(criteria.OBS().edges(kernels[key]), expected, rtol=1e-3)


def test_obs_of_wide_inputs_agrees_with_the_inverse():
    from keras_saliency.sparsity.criteria.obs import _inverse_diagonal

    rows = np.random.default_rng(1).normal(size=(64, 2100)).astype("float32")
    found = _inverse_diagonal(rows, False, 300)
    H = rows.T.astype("float64") @ rows / 64
    H += (0.01 * np.trace(H) / len(H) + 1e-8) * np.eye(len(H))
    np.testing.assert_allclose(found, np.diag(np.linalg.inv(H)), rtol=1e-4)


def test_taylor_and_snip(dense, data):
    kernels = measured(dense, data, batch_size=16)
    for key, gradient in zip(("hidden", "head"), gradients(dense, *data), strict=True):
        product = gradient * weights(dense, key)[0]
        kernel = kernels[key]
        tolerance = {"rtol": 1e-3, "atol": 1e-7}
        np.testing.assert_allclose(criteria.Taylor().edges(kernel), product**2, **tolerance)
        np.testing.assert_allclose(criteria.SNIP().edges(kernel), np.abs(product), **tolerance)
        taylor = criteria.Taylor().channels(kernel)
        np.testing.assert_allclose(taylor, product.sum(0) ** 2, **tolerance)
        snip = criteria.SNIP().channels(kernel)
        np.testing.assert_allclose(snip, np.abs(product).sum(0), **tolerance)


def test_the_gradient_follows_loss_and_sample_weights(dense, data):
    x, y = data
    weight = np.linspace(0, 2, len(x))
    kernel = measured(dense, (x, y, weight))["head"]
    h, p, _, _ = forward(dense, x)
    expected = h.T @ ((p - np.eye(3)[y]) * weight[:, None] / len(x))
    np.testing.assert_allclose(kernel.gradient, expected, rtol=1e-3, atol=1e-6)
    given = measured(dense, data, loss=lambda t, q: keras.ops.sum(q[:, :1], -1))["head"]
    jacobian = p[:, :1] * (np.eye(3)[:1] - p)
    np.testing.assert_allclose(given.gradient, h.T @ jacobian / len(x), rtol=1e-3, atol=1e-6)


def test_synflow_in_one_round(dense):
    W, V = (np.abs(weights(dense, key)[0]) for key in ("hidden", "head"))
    one = criteria.SynFlow(rounds=1)
    kernels = measured(dense)
    one.prepare(list(kernels.values()), 0)
    ones = np.ones(6)
    expected = {
        "hidden": W * np.outer(ones, V.sum(1)),
        "head": V * (ones @ W)[:, None],
    }
    largest = max(e.max() for e in expected.values())
    for key, value in expected.items():
        found = one.edges(kernels[key]) - 1
        np.testing.assert_allclose(found, value / largest, rtol=1e-4, atol=1e-6)


def test_synflow_loses_no_layer_at_very_high_sparsity():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(30, activation="relu") for _ in range(12)]
    model = keras.Sequential([keras.Input((30,)), *layers, keras.layers.Dense(4)])
    sparse = sparsify(model, 0.98, method=criteria.SynFlow(rounds=40), scope="global")
    assert (keras_saliency.sparsity_report(sparse)["kept"] >= 1).all()
    y = sparse.predict(np.ones((1, 30)), verbose=0)
    assert np.isfinite(y).all()


def test_fpgm(dense):
    w = weights(dense, "hidden")[0]
    expected = [sum(np.linalg.norm(w[:, i] - w[:, j]) for j in range(5)) for i in range(5)]
    found = criteria.FPGM().channels(measured(dense)["hidden"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_bn_scale(convolutional):
    kernels = measured(convolutional)
    gamma = np.abs(weights(convolutional, "norm")[0])
    np.testing.assert_allclose(criteria.BNScale().channels(kernels["first"]), gamma)
    with pytest.raises(ValueError, match=r"exclude=\['second'\]"):
        criteria.BNScale().channels(kernels["second"])


@pytest.fixture(scope="module")
def features(convolutional, images):
    """What follows each convolution's batch norm and activation, position by position."""
    relu = convolutional.layers[2].output
    second = convolutional.get_layer("second").output
    model = keras.Model(convolutional.inputs, [relu, second])
    return [np.array(f) for f in model.predict(images[0], verbose=0)]


def test_activation_criteria(convolutional, images, features):
    kernels = measured(convolutional, images)
    for key, f in zip(("first", "second"), features, strict=True):
        kernel = kernels[key]
        np.testing.assert_allclose(
            criteria.Activation().channels(kernel), np.abs(f).mean((0, 1, 2)), rtol=1e-5
        )
        for one in (criteria.APoZ(), criteria.ActivationDensity()):
            np.testing.assert_allclose(one.channels(kernel), (f > 0).mean((0, 1, 2)))
        strength = f.mean((1, 2))
        votes = (strength > np.median(strength, 1, keepdims=True)).mean(0)
        np.testing.assert_allclose(criteria.MajorityVote().channels(kernel), votes)
        ranks = [
            np.mean([np.linalg.matrix_rank(image[:, :, c]) for image in f])
            for c in range(f.shape[-1])
        ]
        np.testing.assert_allclose(criteria.HRank().channels(kernel), ranks)


def test_discriminant_is_what_leaving_a_channel_out_loses(convolutional, images, features):
    found = criteria.Discriminant().channels(measured(convolutional, images)["second"])
    x = features[1].mean((1, 2), dtype="float64")
    x -= x.mean(0)
    S = x.T @ x / len(x)
    ridge = 0.01 * np.trace(S) / len(S) + 1e-12
    B = sum(
        np.outer(x[images[1] == c].mean(0), x[images[1] == c].mean(0)) * np.mean(images[1] == c)
        for c in range(3)
    )

    def information(kept):
        A = S[np.ix_(kept, kept)] + ridge * np.eye(len(kept))
        return np.trace(np.linalg.solve(A, B[np.ix_(kept, kept)]))

    whole = information(list(range(5)))
    expected = [whole - information([i for i in range(5) if i != c]) for c in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_orthogonality(dense):
    w = weights(dense, "hidden")[0].T
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    expected = 1 - (np.abs(unit @ unit.T) - np.eye(5)).sum(1) / 5
    found = criteria.Orthogonality().channels(measured(dense)["hidden"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert criteria.orthogonality.overlap(np.zeros((3, 4))).tolist() == [0, 0, 0]


def test_oracle_is_the_rise_of_the_loss(dense, data):
    kernels = measured(dense, data, batch_size=16)
    oracle = criteria.Oracle()
    oracle.prepare(list(kernels.values()), 0)
    found = oracle.channels(kernels["hidden"])
    before = dense.evaluate(*data, verbose=0)
    trial = keras.models.clone_model(dense)
    trial.compile("sgd", "sparse_categorical_crossentropy")
    for channel in range(5):
        values = [w.copy() for w in dense.get_weights()]
        values[0][:, channel] = 0
        values[1][channel] = 0
        trial.set_weights(values)
        rise = trial.evaluate(*data, verbose=0) - before
        assert found[channel] == pytest.approx(rise, abs=1e-5)


def test_isparse_as_an_object_is_what_its_name_is(dense, data):
    one = sparsify(dense, 0.5, data=data[0], method="isparse", reconstruct=False)
    kernels = measured(dense, data)
    walked = keras_saliency.edge_significance(dense, data[0])
    for key, kernel in kernels.items():
        np.testing.assert_allclose(criteria.ISparse().edges(kernel), walked[key], rtol=1e-5)
    other = sparsify(dense, 0.5, data=data[0], method=criteria.ISparse(), reconstruct=False)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


EDGES = ["isparse", "magnitude", "random", "lamp", "wanda", "obs", "taylor", "snip", "synflow"]


@pytest.mark.parametrize("method", EDGES)
@pytest.mark.parametrize("scope", [None, "layer"])
def test_every_edge_criterion_makes_the_asked_zeros(convolutional, images, method, scope):
    before = convolutional.get_weights()
    sparse, report = sparsify(
        convolutional,
        0.5,
        data=images,
        method=method,
        scope=scope,
        gate=False,
        return_report=True,
    )
    zeros, size = report.attrs["taking_part"]["zeros"], report.attrs["taking_part"]["size"]
    slack = 0 if method != "wanda" else 0.05 * size
    assert abs(zeros - round(0.5 * size)) <= slack + (scope == "layer") * 2
    assert report["refitted"].all()
    assert np.isfinite(sparse.predict(images[0], verbose=0)).all()
    for a, b in zip(before, convolutional.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


CHANNELS = [
    "fpgm",
    "activation",
    "apoz",
    "activation_density",
    "majority_vote",
    "discriminant",
    "hrank",
    "orthogonality",
    "oracle",
    "taylor",
]


@pytest.mark.parametrize("method", CHANNELS)
def test_channel_criteria_prune_and_shrink(convolutional, images, method):
    sparse = sparsify(
        convolutional, 0.5, data=images, method=method, granularity="channel", reconstruct=False
    )
    kernel = sparse.get_layer("first").get_weights()[0]
    assert (np.abs(kernel).sum((0, 1, 2)) == 0).sum() == 2
    small = keras_saliency.shrink_to(
        convolutional, channels=0.5, round_to=1, data=images, method=method, verbose=False
    )
    assert small.get_layer("first").filters == 2
    if method in ("fpgm", "orthogonality"):
        scores = criterion_of(method).channels(measured(convolutional)["first"])
        gone = np.abs(kernel).sum((0, 1, 2)) == 0
        assert set(np.flatnonzero(gone)) == set(np.argsort(scores)[:2])


def test_a_function_and_a_class_of_ones_own(dense, data):
    sparse = sparsify(dense, 0.5, method=lambda kernel: -np.abs(kernel.values), scope="layer")
    kept = np.abs(sparse.get_layer("hidden").get_weights()[0])
    w = np.abs(weights(dense, "hidden")[0])
    assert kept.max() < np.median(w) + 1e-6 and (kept == 0).sum() == 15

    @criteria.register
    class Rows(criteria.Criterion):
        name = "rows"
        needs = "x"

        def edges(self, kernel):
            assert kernel.inputs.shape[1:] == (1, kernel.shape[0])
            assert kernel.outputs.shape[1] == kernel.shape[1]
            return np.arange(kernel.size).reshape(kernel.shape)

    try:
        sparse = sparsify(dense, 0.5, data=data[0], method="rows", scope="layer", reconstruct=False)
        assert (sparse.get_layer("hidden").get_weights()[0][:3] == 0).all()
        with pytest.raises(ValueError, match=r"`method='rows'`.*needs\s*`data`"):
            sparsify(dense, 0.5, method="rows")
        with pytest.raises(ValueError, match="exists already"):

            @criteria.register
            class Other(criteria.Criterion):
                name = "rows"
    finally:
        from keras_saliency.sparsity.criteria.criterion import _CRITERIA

        del _CRITERIA["rows"]


def test_training_with_a_criterion_that_needs_labels(dense, data):
    model = keras.models.clone_model(dense)
    model.compile("sgd", "sparse_categorical_crossentropy")
    callback = keras_saliency.iSparseCallback(
        0.5, data=data, method="taylor", scope="layer", schedule="constant", min_edges=0
    )
    model.fit(*data, epochs=2, verbose=0, callbacks=[callback])
    # An edge that has just come back stands at 0 until it is trained.
    assert (model.get_layer("hidden").get_weights()[0] == 0).sum() >= 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "nothing"}, r"`method` must be one of .*'taylor'"),
        ({"method": "taylor"}, r"needs `data=\(x, y\)`"),
        ({"method": "wanda"}, "needs `data`"),
        ({"method": "fpgm"}, "granularity='channel'"),
        ({"method": "wanda", "scope": "global", "data": np.ones((4, 6))}, "scope='layer'"),
        ({"method": lambda kernel: np.ones(3)}, "array of the kernel's shape"),
        ({"method": lambda kernel: kernel.values * np.nan}, "gives NaN"),
        ({"method": 3}, "must be a name"),
    ],
)
def test_bad_input(dense, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sparsify(dense, 0.5, **arguments)


def test_gradients_need_a_loss(data):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="not compiled"):
        sparsify(model, 0.5, data=data, method="taylor")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sparse = sparsify(model, 0.5, data=data, method="taylor", loss=loss, reconstruct=False)
    assert (sparse.get_weights()[0] == 0).sum() == 9


def test_heads_go_whole(data):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((7, 8))
    x = keras.layers.MultiHeadAttention(4, 3, name="mha")(inputs, inputs)
    grouped = keras.layers.GroupQueryAttention(3, 4, 2, name="gqa")
    x = grouped(x, x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    sparse, report = sparsify(
        model, 0.5, method="magnitude", granularity="head", return_report=True
    )
    mha = {w.path.split("/")[-2]: np.array(w) for w in sparse.get_layer("mha").weights[::2]}
    gone = [np.abs(mha["query"]).sum((0, 2)) == 0, np.abs(mha["attention_output"]).sum((1, 2)) == 0]
    assert gone[0].sum() == 2
    np.testing.assert_array_equal(*gone)
    scores = sum(
        np.abs(np.array(w)).sum((0, 2) if "output" not in w.path else (1, 2))
        for w in model.get_layer("mha").weights[::2]
    )
    assert set(np.flatnonzero(gone[0])) == set(np.argsort(scores)[:2])
    gqa = {w.path.split("/")[-2]: np.array(w) for w in sparse.get_layer("gqa").weights[::2]}
    keys = np.abs(gqa["key"]).sum((0, 2)) == 0
    np.testing.assert_array_equal(np.repeat(keys, 2), np.abs(gqa["query"]).sum((0, 2)) == 0)
    assert keys.sum() == 1
    assert report.set_index("layer").loc["head", "reason"] == "it holds no attention heads"
    x = np.random.default_rng(0).normal(size=(40, 7, 8))
    fitted = sparsify(model, 0.5, data=x, granularity="head")
    assert (np.abs(np.array(fitted.get_layer("mha").weights[0])).sum((0, 2)) == 0).sum() == 2
    with pytest.raises(ValueError, match="granularity='channel'"):
        sparsify(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
            0.5,
            method="magnitude",
            granularity="head",
        )


def test_recurrent_layers_by_their_inputs():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((9, 4)), keras.layers.LSTM(5, name="lstm"), keras.layers.Dense(2)]
    )
    x = np.random.default_rng(0).normal(size=(30, 9, 4))
    with pytest.raises(ValueError, match=r"exclude=\['lstm/recurrent_kernel'\]"):
        sparsify(model, 0.5, data=x, method="wanda")
    sparse = sparsify(model, 0.5, data=x, method="wanda", exclude=["lstm/recurrent_kernel"])
    assert np.isfinite(sparse.predict(x, verbose=0)).all()
    unit = sparsify(
        model, 0.4, data=x, method="activation", granularity="channel", reconstruct=False
    )
    kernel = unit.get_layer("lstm").get_weights()[0].reshape(4, 4, 5)
    assert (np.abs(kernel).sum((0, 1)) == 0).sum() == 2


def test_ranks_of_obs_and_magnitude_agree_on_white_inputs():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
    x = np.random.default_rng(0).normal(size=(4000, 20))
    (kernel,) = measured(model, (x, None)).values()
    found = criteria.OBS().edges(kernel).reshape(-1)
    magnitude = criteria.Magnitude().edges(kernel).reshape(-1)
    assert stats.spearmanr(found, magnitude).statistic > 0.99
