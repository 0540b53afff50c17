"""Maps against independent references, and the promises that hold for every method."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency import attribution, saliency_map

OPTIONS = {
    "smooth_grad": {"samples": 3},
    "smooth_taylor": {"samples": 3},
    "integrated_gradients": {"steps": 60},
    "expected_gradients": {"samples": 3},
    "robust_cam": {"top": 2},
    "score_cam": {"channels": 3},
    "occlusion": {"window": 4},
    "rise": {"samples": 5},
}
IMAGE_METHODS = [
    "gradient",
    "gradient_x_input",
    *OPTIONS,
    "cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "hires_cam",
    "layer_cam",
    "eigen_cam",
    "random",
]


def drawn(model, seed=0, scale=0.5):
    """The same weights on every backend."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, scale, w.shape) for w in model.get_weights()])
    return model


def linear_head(activation=None):
    """One convolution, mean, one dense layer: maps of it can be written down."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(3, 3, padding="same", activation="relu", name="features"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(4, activation=activation, name="head"),
        ]
    )
    return drawn(model)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(5, 8, 8, 2)).astype("float32")


def features_of(model, x):
    return np.asarray(ops.convert_to_numpy(model.get_layer("features")(x)), "float64")


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_grad_cam_is_what_its_equation_says(images, activation):
    model = linear_head(activation)
    f = features_of(model, images)
    kernel = np.asarray(model.get_layer("head").get_weights()[0], "float64")
    classes = model.predict(images, verbose=0).argmax(axis=1)
    expected = np.einsum("nhwk,kn->nhw", f, kernel[:, classes]) / 64
    expected = np.maximum(expected, 0)
    found = saliency_map(model, images, normalize=None)
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    top = expected.max(axis=(1, 2), keepdims=True)
    scaled = np.divide(expected, top, out=np.zeros_like(expected), where=top > 0)
    np.testing.assert_allclose(saliency_map(model, images), scaled, atol=1e-5)
    signed = np.einsum("nhwk,kn->nhw", f, kernel[:, classes])
    found = saliency_map(model, images, "cam", normalize=None)
    np.testing.assert_allclose(found, signed, atol=1e-5 * np.abs(signed).max())


def test_the_family_of_grad_cam(images):
    model = linear_head()
    f = features_of(model, images)
    w = np.asarray(model.get_layer("head").get_weights()[0], "float64")[:, 1] / 64
    g = np.broadcast_to(w, f.shape)
    alpha = g**2 / (2 * g**2 + f.sum(axis=(1, 2), keepdims=True) * g**3)
    plus = ((alpha * np.maximum(g, 0)).sum(axis=(1, 2), keepdims=True) * f).sum(axis=-1)
    for method, expected in {
        "hires_cam": np.maximum((f * g).sum(axis=-1), 0),
        "layer_cam": np.maximum((f * np.maximum(g, 0)).sum(axis=-1), 0),
        "grad_cam_plus_plus": np.maximum(plus, 0),
        "eigen_cam": np.stack(
            [
                np.abs(row.reshape(64, 3) @ np.linalg.svd(row.reshape(64, 3))[2][0]).reshape(8, 8)
                for row in f
            ]
        ),
    }.items():
        found = saliency_map(model, images, method, target=1, normalize=None)
        np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max(), err_msg=method)


def test_gradients_are_finite_differences(images):
    model = linear_head("softmax")
    target = np.array([0, 1, 2, 3, 0])
    found = attribution.input_gradients(model, images[:, :, :, :], target)

    def logits(x):
        f = np.asarray(ops.convert_to_numpy(model.get_layer("features")(x)), "float64")
        kernel, bias = model.get_layer("head").get_weights()
        return (f.mean(axis=(1, 2)) @ kernel + bias)[np.arange(5), target]

    step = np.zeros_like(images)
    for place in [(0, 0, 0), (3, 4, 1), (7, 7, 0)]:
        step[:] = 0
        step[:, *place] = 1e-2
        slope = (logits(images + step) - logits(images - step)) / 2e-2
        np.testing.assert_allclose(found[:, *place], slope, atol=2e-3 * np.abs(found).max())
    probabilities = attribution.input_gradients(model, images, target, logits=False)
    assert np.abs(probabilities).max() < np.abs(found).max()


def test_integrated_gradients_add_up_to_the_fall_of_the_score(images):
    model = linear_head("softmax")
    logits = linear_head()
    baseline = np.full((8, 8, 2), 0.3)
    values = saliency_map(
        model, images, "integrated_gradients", target=2, steps=200, baseline=baseline, reduce=None
    )
    ends = logits.predict(images, verbose=0), logits.predict(baseline[None], verbose=0)
    np.testing.assert_allclose(
        values.sum(axis=(1, 2, 3)), (ends[0] - ends[1])[:, 2], atol=2e-3 * np.abs(ends[0]).max()
    )


def test_occlusion_is_the_fall_of_the_score(images):
    model = linear_head()
    found = saliency_map(model, images, "occlusion", target=1, window=4, stride=4, normalize=None)
    scores = model.predict(images, verbose=0)[:, 1]
    for i, j in [(0, 0), (4, 4)]:
        hidden = images.copy()
        hidden[:, i : i + 4, j : j + 4] = 0
        fall = scores - model.predict(hidden, verbose=0)[:, 1]
        expected = np.broadcast_to(fall[:, None, None], (5, 4, 4))
        np.testing.assert_allclose(found[:, i : i + 4, j : j + 4], expected, atol=1e-5)


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_maps_do_not_depend_on_the_batch_and_leave_the_model_alone(images, method):
    model = linear_head("softmax")
    model.compile("sgd", "mse")
    before = [np.array(w) for w in model.get_weights()]
    options = dict(OPTIONS.get(method, {}))
    if method == "expected_gradients":
        options["background"] = images[:3]
    whole = saliency_map(model, images, method, **options)
    parts = saliency_map(model, images, method, batch_size=2, **options)
    assert whole.shape == (5, 8, 8) and whole.dtype == np.float32
    assert np.isfinite(whole).all() and whole.max() == pytest.approx(1)
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.compiled and not any("call" in x.__dict__ for x in model.layers)
    if keras.backend.backend() == "torch":
        assert all(v.value.grad is None for v in model.trainable_variables)


def test_a_map_without_a_positive_value_is_warned_of():
    model = linear_head()
    model.get_layer("head").set_weights([np.full((3, 4), -1.0), np.zeros(4)])
    x = np.ones((2, 8, 8, 2))
    with pytest.warns(UserWarning, match="speaks for"):
        assert (saliency_map(model, x, target=0) == 0).all()


def test_a_backbone_within_a_model_is_looked_into(images):
    inner = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.Conv2D(3, 3, name="deep"), layers.ReLU(name="end")],
        name="backbone",
    )
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), inner, layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )
    drawn(model)
    found = saliency_map(model, images, target=0)
    for layer in ("end", "backbone/end", inner.layers[-1], ["end"]):
        np.testing.assert_array_equal(found, saliency_map(model, images, target=0, layer=layer))
    assert (found != saliency_map(model, images, target=0, layer="deep")).any()


class Classifier(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.filter = layers.Conv1D(4, 3, activation="relu")
        self.pool = layers.GlobalMaxPooling1D()
        self.head = layers.Dense(3, activation="softmax")

    def call(self, x):
        return self.head(self.pool(self.filter(x)))


def test_a_model_with_a_call_of_its_own():
    model = Classifier()
    x = np.random.default_rng(0).normal(size=(3, 9, 2))
    model(x)
    drawn(model)
    with pytest.warns(UserWarning, match="probabilities"):
        found = saliency_map(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # said once
        np.testing.assert_array_equal(found, saliency_map(model, x, layer=model.filter))
    assert found.shape == (3, 9) and found.max() == 1


def words():
    ids = keras.Input((None,), dtype="int32")
    h = layers.Embedding(20, 4, mask_zero=True)(ids)
    h = layers.GRU(5, return_sequences=True, name="steps")(h)
    h = layers.GlobalAveragePooling1D()(h)
    return drawn(keras.Model(ids, layers.Dense(3)(h)))


def series():
    x = keras.Input((None, 3))
    h = layers.Masking()(x)
    h = layers.LSTM(5, return_sequences=True)(h)
    h = layers.GlobalAveragePooling1D()(h)
    return drawn(keras.Model(x, layers.Dense(3)(h)))


@pytest.mark.parametrize(
    "method", ["gradient", "smooth_grad", "integrated_gradients", "grad_cam", "eigen_cam"]
)
@pytest.mark.parametrize("kind", ["words", "series"])
def test_what_is_padded_has_the_map_that_it_has_alone(kind, method):
    rng = np.random.default_rng(0)
    if kind == "words":
        model, x = words(), rng.integers(1, 20, (2, 6))
    else:
        model, x = series(), rng.normal(size=(2, 6, 3)).astype("float32")
    padded = np.concatenate([x, np.zeros_like(x[:, :3])], axis=1)
    target = 0 if kind == "words" else 1
    options = {"target": target, "normalize": None, **OPTIONS.get(method, {})}
    alone = saliency_map(model, x, method, **options)
    found = saliency_map(model, padded, method, **options)
    assert alone.shape == (2, 6) and np.abs(alone).max() > 0
    np.testing.assert_allclose(found[:, :6], alone, atol=1e-5 * np.abs(alone).max())
    assert (found[:, 6:] == 0).all()


def test_gradients_of_ids_are_those_of_their_vectors():
    model = words()
    ids = np.array([[3, 7, 7, 1]])
    table = np.array(model.layers[1].get_weights()[0])
    values = saliency_map(model, ids, "integrated_gradients", target=0, steps=300, reduce=None)
    assert values.shape == (1, 4, 4)
    scores = [model.predict(ids, verbose=0)[0, 0]]
    model.layers[1].set_weights([np.zeros_like(table)])
    scores.append(model.predict(ids, verbose=0)[0, 0])
    assert values.sum() == pytest.approx(scores[0] - scores[1], abs=2e-3)


@pytest.mark.parametrize(
    "ids, options, message",
    [
        (99, {"method": "gradient"}, "`inputs` must be ids"),
        (-1, {"method": "gradient"}, "`inputs` must be ids"),
        (1, {"method": "occlusion", "fill": 99}, "`fill` must be ids"),
        (1, {"method": "occlusion", "fill": 0.5}, "`fill` must be an integer"),
        (1, {"method": "integrated_gradients", "baseline": np.full(4, 99)}, "`baseline` must be"),
        (1, {"method": "expected_gradients", "background": np.full((2, 4), 99)}, "`background`"),
    ],
)
def test_ids_that_the_embedding_does_not_know(ids, options, message):
    with pytest.raises(ValueError, match=message):
        saliency_map(words(), np.array([[1, 2, 3, ids]]), **options)


def test_several_inputs_and_outputs():
    a, b = keras.Input((6, 2), name="a"), keras.Input((3,), name="b")
    flag = keras.Input((3,), dtype="bool", name="flag")
    h = layers.Concatenate()([layers.Flatten()(a), b, ops.cast(flag, "float32")])
    model = keras.Model({"a": a, "b": b, "flag": flag}, [layers.Dense(2)(h), layers.Dense(4)(h)])
    drawn(model)
    data = {"a": np.ones((2, 6, 2)), "b": np.ones((2, 3)), "flag": np.ones((2, 3), bool)}
    with pytest.raises(ValueError, match=r"2 outputs.*`target` must be a function"):
        saliency_map(model, data, "gradient")
    found = saliency_map(
        model, data, "gradient", target=lambda y: y[1][:, 3], reduce=None, batch_size=1
    )
    kernel = model.layers[-1].get_weights()[0][:, 3]
    assert found["flag"] is None
    np.testing.assert_allclose(found["a"][1].ravel(), kernel[:12], atol=1e-6)
    np.testing.assert_allclose(found["b"][0], kernel[12:15], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*speaks for")
def test_a_region_of_a_segmentation(images):
    x = keras.Input((8, 8, 2))
    h = layers.Conv2D(3, 3, padding="same", activation="relu", name="features")(x)
    model = drawn(keras.Model(x, layers.Conv2D(2, 1, activation="softmax", name="head")(h)))
    mask = np.zeros((8, 8))
    mask[2:4, 5:7] = 1
    with pytest.raises(ValueError, match="Region"):
        saliency_map(model, images)
    region = attribution.Region(mask, 1)
    found = saliency_map(model, images, "hires_cam", target=region, normalize=None)
    kernel = model.get_layer("head").get_weights()[0][0, 0, :, 1]
    expected = np.maximum((features_of(model, images) * kernel).sum(axis=-1) * mask / 4, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    with pytest.raises(ValueError, match="a value above 0"):
        saliency_map(model, images, target=attribution.Region(mask * 0, 1))
    with pytest.raises(ValueError, match="shape"):
        saliency_map(model, images, target=attribution.Region(mask[:4], 1))


class ClassToken(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="normal")

    def call(self, x):
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] + 1, shape[2])


def transformer():
    x = keras.Input((16, 16, 3))
    h = layers.Reshape((16, 8))(layers.Conv2D(8, 4, 4)(x))
    h = ClassToken()(h)
    for i in range(2):
        n = layers.LayerNormalization(name=f"norm_{i}")(h)
        h = h + layers.MultiHeadAttention(2, 4, name=f"attention_{i}")(n, n)
    return drawn(keras.Model(x, layers.Dense(4)(layers.LayerNormalization()(h)[:, 0])))


def test_a_transformer_with_a_class_token():
    model = transformer()
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    found = saliency_map(model, x, target=1)
    assert found.shape == (2, 16, 16)
    # Behind the last attention one token alone reaches the score.
    np.testing.assert_array_equal(found, saliency_map(model, x, target=1, layer="norm_1"))
    with pytest.raises(ValueError, match="grid"):
        saliency_map(model, x, grid=(5, 5))
    h, scores = None, []
    inner = keras.Model(model.input, [model.get_layer(f"norm_{i}").output for i in range(2)])
    for i, n in enumerate(inner(x)):
        scores.append(
            ops.convert_to_numpy(
                model.get_layer(f"attention_{i}")(n, n, return_attention_scores=True)[1]
            )
        )
    for a in scores:
        step = (a.mean(axis=1) + np.eye(17)) / 2
        h = step if h is None else step @ h
    rollout = saliency_map(model, x, "attention_rollout", token=0, normalize=None, resize=False)
    np.testing.assert_allclose(rollout, h[:, 0, 1:].reshape(2, 4, 4), atol=1e-5)
    relevance = saliency_map(model, x, "attention_relevance", token=0, target=1)
    assert (relevance != saliency_map(model, x, "attention_relevance", token=0, target=2)).any()


def test_half_precision_is_close():
    def build(policy):
        return drawn(
            keras.Sequential(
                [
                    keras.Input((12, 12, 1)),
                    layers.Conv2D(4, 3, activation="gelu", dtype=policy),
                    layers.Conv2D(4, 3, activation="gelu", dtype=policy),
                    layers.GlobalAveragePooling2D(dtype=policy),
                    layers.Dense(3, activation="softmax", dtype="float32"),
                ]
            )
        )

    x = np.random.default_rng(0).normal(size=(2, 12, 12, 1)).astype("float32")
    half, single = build("mixed_float16"), build("float32")
    for method in ("gradient", "grad_cam", "integrated_gradients"):
        a, b = (saliency_map(m, x, method, target=1) for m in (half, single))
        np.testing.assert_allclose(a, b, atol=0.03, err_msg=method)


def test_within_fit_it_sees_the_weights_of_the_moment(images):
    class Look(keras.callbacks.Callback):
        seen = ()

        def on_train_batch_end(self, batch, logs=None):
            self.seen = [*self.seen, saliency_map(self.model, images, "gradient", reduce=None)]

    runs = []
    for look in (None, Look()):
        keras.utils.set_random_seed(0)  # of the dropout
        model = linear_head()
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(
            images,
            np.ones((5, 4)),
            epochs=2,
            batch_size=3,
            shuffle=False,
            verbose=0,
            callbacks=[look] if look else [],
        )
        runs.append(model.get_weights())
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert len(look.seen) == 4 and (look.seen[0] != look.seen[1]).any()
    np.testing.assert_array_equal(
        look.seen[-1], saliency_map(model, images, "gradient", reduce=None)
    )


def test_a_changed_model_is_looked_at_anew(images):
    model = linear_head()
    saliency_map(model, images, "gradient")
    for change in ("weights", "activation"):
        if change == "weights":
            drawn(model, seed=5)
        else:
            model.get_layer("features").activation = keras.activations.tanh
        fresh = linear_head()
        fresh.get_layer("features").activation = model.get_layer("features").activation
        fresh.set_weights(model.get_weights())
        np.testing.assert_allclose(
            saliency_map(model, images, "gradient"),
            saliency_map(fresh, images, "gradient"),
            atol=1e-6,
        )


def test_methods_of_ones_own(images):
    @attribution.register_method("squared_gradient_of_a_test", reduce="sum")
    def squared(batch):
        return [g**2 for g in batch.gradients()]

    model = linear_head()
    gradients = attribution.input_gradients(model, images)
    found = saliency_map(model, images, "squared_gradient_of_a_test", normalize=None)
    np.testing.assert_allclose(found, (gradients**2).sum(axis=-1), rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="exists already"):
        attribution.register_method("squared_gradient_of_a_test")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "gradcam"}, r"`method` must be one of.*grad_cam"),
        ({"layer": "nothing"}, r"no layer 'nothing'.*features"),
        ({"layer": "head"}, "has no positions"),
        ({"method": "gradient", "layer": "features"}, "reads no layer"),
        ({"target": 9}, "from 0 to 3"),
        ({"target": [1, 2]}, "one entry per input, 5"),
        ({"target": lambda y: y}, "one score per row"),
        ({"steps": 3}, "no option 'steps'"),
        ({"method": "expected_gradients"}, "`background` must be given"),
        ({"method": "integrated_gradients", "baseline": np.zeros((3, 3))}, "`baseline` must"),
        ({"method": "integrated_gradients", "baseline": np.nan}, "`baseline` must be finite"),
        ({"method": "expected_gradients", "background": [[np.nan]]}, "`background` must be finite"),
        ({"method": "occlusion", "fill": np.nan}, "`fill` must be a number"),
        ({"method": "occlusion", "fill": "mean"}, "`fill` must be a number"),
        ({"reduce": "mean"}, "`reduce`"),
        ({"reduce": None}, "makes maps"),
        ({"normalize": "l2"}, "`normalize`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"method": "attention_rollout"}, "no layer whose attention"),
        ({"method": "occlusion", "segments": np.zeros((3, 3), int)}, "`segments`"),
    ],
)
def test_what_cannot_be_is_said(images, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        saliency_map(linear_head("softmax"), images, **options)


def test_inputs_that_cannot_be(images):
    model = linear_head()
    with pytest.raises(ValueError, match="batch axis"):
        saliency_map(model, images[0])
    with pytest.raises(ValueError, match="no sample"):
        saliency_map(model, images[:0])
    with pytest.raises(ValueError, match="finite"):
        saliency_map(model, images * np.nan)
    flat = drawn(keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")]))
    with pytest.raises(ValueError, match="integrated_gradients"):
        saliency_map(flat, np.ones((2, 4)))
    with pytest.raises(ValueError, match="lambda y: -y"):
        saliency_map(flat, np.ones((2, 4)), "gradient", target=1)
    assert keras_saliency.saliency_map(flat, np.ones((2, 4)), "gradient").shape == (2, 4)
