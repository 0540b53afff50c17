"""SANAttention in the models that users have: discovery, alignment, masks, bad input."""

import keras
import numpy as np
import pytest
from compat import to_numpy
from keras import layers, ops

from keras_saliency import CBAM, SANAttention, SqueezeExcite
from keras_saliency.graph.discovery import find_features, is_feature_layer

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(2, 12, 8, 3)).astype("float32")


def first_attention(model):
    return next(layer for layer in model._flatten_layers() if isinstance(layer, SANAttention))


def assert_pair(model, y_name, previous_name):
    """The (first) attention of `model` compares the outputs of these two layers."""
    inputs = first_attention(model)._inbound_nodes[0].input_tensors
    names = [tensor._keras_history.operation.name for tensor in inputs]
    assert names == [y_name, previous_name]


# ---- discovery ---------------------------------------------------------------------------------


def test_sequential_finds_the_pair_itself():
    model = keras.Sequential(
        [
            keras.Input((12, 8, 3), name="image"),
            layers.Conv2D(4, 3, padding="same", name="first"),
            layers.Conv2D(5, 3, padding="same", name="second"),
            layers.BatchNormalization(),
            layers.ReLU(name="relu"),
        ]
    )
    model.add(SANAttention())
    model.add(layers.GlobalAveragePooling2D())
    assert_pair(model, "relu", "first")
    image, first = model.inputs[0], model.get_layer("first").output
    features = keras.Model(image, [model.get_layer("relu").output, first])
    attention = first_attention(model)
    expected = to_numpy(attention(list(features(IMAGES)))).mean((1, 2))
    np.testing.assert_allclose(to_numpy(model(IMAGES)), expected, atol=1e-5)


def test_deferred_sequential_finds_the_pair_when_it_is_built(tmp_path):
    model = keras.Sequential(
        [layers.Conv2D(4, 3, name="first"), layers.Conv2D(5, 3, name="second"), SANAttention()]
    )
    output = to_numpy(model(IMAGES))
    assert_pair(model, "second", "first")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(to_numpy(loaded(IMAGES)), output, atol=1e-6)
    clone = keras.models.clone_model(model)
    clone(IMAGES)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(to_numpy(clone(IMAGES)), output, atol=1e-6)


def test_attended_sequential_trains_saves_clones_and_extends(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((12, 8, 3)),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            SANAttention(smoothing="depthwise"),
            layers.MaxPooling2D(),
            layers.Conv2D(5, 2, padding="same"),
            SANAttention(dilation_rate=2, name="second"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model.compile("adam", "mse")
    weights = [np.array(w) for w in model.get_weights()]
    model.fit(IMAGES, np.ones((2, 3)), verbose=0)
    assert all(np.any(a != b) for a, b in zip(model.get_weights(), weights, strict=True))
    output = model.predict(IMAGES, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), output, atol=1e-6)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(to_numpy(clone(IMAGES)), output, atol=1e-5)


def test_functional_model_with_scores_and_a_changed_view():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(image)
    y, scores = SANAttention()(x, return_attention_scores=True)
    assert y.shape == scores.shape == (None, None, None, 4)
    model = keras.Model(image, [y, scores])
    first = to_numpy(keras.Model(image, x)(IMAGES))
    attended, mask = (to_numpy(t) for t in model(IMAGES))
    assert mask.min() > 0 and mask.max() < 1
    np.testing.assert_allclose(attended, first * mask, atol=1e-6)
    # The same model on another extent; and the extents of a plain call.
    assert model.predict(IMAGES[:, :8, :6], verbose=0)[0].shape == (2, 4, 3, 4)


@pytest.mark.parametrize(
    "between",
    [
        lambda: [layers.Dropout(0.5), layers.Activation("tanh"), layers.PReLU()],
        lambda: [layers.GroupNormalization(2), layers.LayerNormalization(axis=(1, 2))],
        lambda: [layers.MaxPooling2D(2)],
        lambda: [SqueezeExcite(ratio=2), CBAM(ratio=2), SANAttention(smoothing=None)],
        lambda: [ops.relu, lambda x: x * 2.0],
    ],
    ids=["activations", "normalizations", "pooling", "attentions", "operations"],
)
def test_discovery_walks_through(between):
    image = keras.Input((12, 8, 3))
    convolution = layers.Conv2D(4, 3, padding="same")
    x = convolution(image)
    for layer in between():
        x = layer(x)
    assert find_features(x) == (convolution, image)
    assert keras.Model(image, SANAttention()(x)).output_shape == x.shape


class Doubling(layers.Layer):
    """A layer of the user's, with a kernel of its own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2 * shape[-1]))

    def call(self, x):
        return ops.matmul(x, self.kernel)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.LSTM(4, return_sequences=True),
        lambda: layers.Bidirectional(layers.GRU(4, return_sequences=True)),
        lambda: layers.Dense(4),
        lambda: layers.EinsumDense("btc,cd->btd", (None, 4)),
        lambda: layers.TimeDistributed(layers.Dense(4)),
        lambda: layers.Conv1D(4, 3, padding="causal"),
        lambda: layers.SeparableConv1D(4, 3, padding="same"),
        lambda: Doubling(),
        lambda: keras.Sequential([layers.Conv1D(4, 3, padding="same"), layers.ReLU()]),
    ],
    ids=["lstm", "bidirectional", "dense", "einsum", "time", "causal", "separable", "own", "block"],
)
def test_feature_layers_of_sequences(make):
    series = keras.Input((9, 3))
    layer = make()
    y = layers.ReLU()(layer(layers.Dense(5)(series)))
    found, previous = find_features(y)
    assert found is layer and previous.shape == (None, 9, 5)
    assert SANAttention()(y).shape == y.shape


def test_layers_that_only_rescale_are_no_feature_layers():
    for layer in [
        layers.BatchNormalization(),
        layers.PReLU(),
        layers.TimeDistributed(layers.BatchNormalization()),
        SqueezeExcite(ratio=2),
        SANAttention(),
    ]:
        shape = (2, 5, 7, 4)
        layer.build([shape, shape] if isinstance(layer, SANAttention) else shape)
        assert not is_feature_layer(layer)


def residual():
    x = keras.Input((8, 8, 3))
    return layers.add([layers.Conv2D(3, 3, padding="same")(x), x])


def deep_block():
    x = keras.Input((8, 8, 3))
    block = keras.Sequential([layers.Conv2D(3, 3), layers.Conv2D(3, 3)], name="block")
    return block(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: keras.Input((8, 8, 3), name="image"), ["image", "input of the model"]),
        (lambda: layers.ReLU()(keras.Input((8, 8, 3), name="im")), ["im", "input of the model"]),
        (residual, ["add", "2 inputs"]),
        (deep_block, ["block", "2 feature layers"]),
        (lambda: layers.Embedding(5, 4)(keras.Input((7,))), ["same number of axes", "(None, 7)"]),
    ],
    ids=["input", "activation", "residual", "nested", "embedding"],
)
def test_where_nothing_is_found_the_error_says_what_to_do(make, words):
    with pytest.raises(ValueError) as error:
        SANAttention()(make())
    for word in words:
        assert word in str(error.value)
    if "axes" not in words[0]:
        assert "[y, y_prev]" in str(error.value)


class Subclassed(keras.Model):
    def __init__(self, pair):
        super().__init__()
        self.convolution = layers.Conv2D(4, 3, padding="same")
        self.attention = SANAttention()
        self.pair = pair

    def call(self, x):
        y = self.convolution(x)
        return self.attention([y, x] if self.pair else y)


def test_subclassed_models_pass_the_pair():
    model = Subclassed(pair=True)
    model.compile("sgd", "mse")
    model.fit(IMAGES, np.zeros((2, 12, 8, 4)), verbose=0)
    assert model.predict(IMAGES, verbose=0).shape == (2, 12, 8, 4)
    with pytest.raises(ValueError, match=r"SANAttention\(\)\(\[y, y_prev\]\)"):
        Subclassed(pair=False)(IMAGES)


def test_shared_layer_takes_the_input_of_its_own_call():
    convolution = layers.Conv2D(3, 3, padding="same")
    image = keras.Input((8, 8, 3))
    once = convolution(image)
    twice = convolution(once)
    assert find_features(once)[1] is image
    assert find_features(twice)[1] is once


def test_nested_attended_model_serves_as_a_layer(tmp_path):
    block = keras.Sequential(
        [keras.Input((12, 8, 3)), layers.Conv2D(4, 3, padding="same"), SANAttention()]
    )
    image = keras.Input((12, 8, 3))
    model = keras.Model(image, layers.GlobalMaxPooling2D()(block(image)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(IMAGES, verbose=0), to_numpy(block(IMAGES)).max((1, 2)), atol=1e-5
    )


# ---- alignment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("extent", "previous"), [(8, (3, 3)), (8, (13, 8)), (7, (9, 8))])
def test_maps_that_cannot_be_aligned(extent, previous, known):
    shapes = [(2, extent, extent, 3), (2, *previous, 3)]
    with pytest.raises(ValueError, match="aligned") as error:
        if known:
            SANAttention()([keras.Input(s[1:]) for s in shapes])
        else:
            SANAttention()([np.zeros(s, "float32") for s in shapes])
    assert str(tuple(shapes[1][1:]))[1:-1] in str(error.value)


def test_misfit_that_shows_only_at_run_time_raises():
    image = keras.Input((None, None, 3))
    model = keras.Model(
        image, SANAttention()(layers.Conv2D(4, 3, strides=2, padding="same")(image))
    )
    with pytest.raises(Exception, match=r"aligned|[Rr]eshape|elements"):
        model.predict(IMAGES[:, :7], verbose=0)


# ---- masks -------------------------------------------------------------------------------------


def test_padding_of_an_embedded_text_changes_nothing():
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, 5, mask_zero=True)(tokens)
    x = SANAttention()(layers.LSTM(4, return_sequences=True)(x))
    model = keras.Model(tokens, layers.LSTM(3)(x))
    text = RNG.integers(1, 9, size=(2, 7))
    padded = np.pad(text, [(0, 0), (0, 4)])
    np.testing.assert_allclose(
        model.predict(padded, verbose=0), model.predict(text, verbose=0), atol=1e-6
    )


def test_masked_steps_of_a_pooled_y_prev_do_not_count():
    layer = SANAttention(smoothing=None, extrema=False)
    y = RNG.normal(size=(1, 3, 2)).astype("float32")
    previous = RNG.normal(size=(1, 6, 4)).astype("float32")
    full = to_numpy(layer([y[:, :2], previous[:, :4]]))
    previous[:, 4:] = 1e6
    mask = [np.array([[1, 1, 0]], bool), np.array([[1, 1, 1, 1, 0, 0]], bool)]
    result = to_numpy(layer([y, previous], mask=[ops.convert_to_tensor(m) for m in mask]))
    np.testing.assert_allclose(result[:, :2], full, atol=1e-6)
    assert np.isfinite(result).all()
    half = np.array([[1, 1, 1, 0, 0, 0]], bool)
    result = to_numpy(layer([y, previous], mask=[mask[0], ops.convert_to_tensor(half)]))
    d = np.abs(y[:, 1] - previous[:, 2].mean(-1, keepdims=True))
    np.testing.assert_allclose(result[:, 1], y[:, 1] / (1 + np.exp(-d)), atol=1e-6)


# ---- what else may come ------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 1], ids=["y", "y_prev"])
def test_a_nan_stays_local(where):
    layer = SANAttention(kernel_size=3)
    maps = [RNG.normal(size=(2, 9, 11, n)).astype("float32") for n in (3, 4)]
    clean = to_numpy(layer(maps))
    maps[where][1, 4, 5, 2] = np.nan
    result = to_numpy(layer(maps))
    touched = np.zeros(clean.shape[:3], bool)
    # The difference at the place itself, the extrema next to it, the smoothing of those.
    touched[1, 2:7, 3:8] = True
    np.testing.assert_array_equal(result[~touched], clean[~touched])
    assert np.isnan(result[1, 4, 5]).any()
    assert not np.isnan(result[1, 2]).any()


def test_no_extrema_in_constant_maps():
    maps = [np.full((1, 4, 5, 2), 3.0, "float32"), np.full((1, 4, 5, 7), 1.0, "float32")]
    _, scores = SANAttention(smoothing=None)(maps, return_attention_scores=True)
    np.testing.assert_allclose(to_numpy(scores), 1 / (1 + np.exp(-2.0)), rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"neighborhood": 2}, ["neighborhood", "2"]),
        ({"neighborhood": "3"}, ["neighborhood", "'3'"]),
        ({"smoothing": "gauss"}, ["smoothing", "'depthwise'", "'gauss'"]),
        ({"kernel_size": 0}, ["kernel_size", "0"]),
        ({"dilation_rate": (1, 2.5)}, ["dilation_rate", "2.5"]),
        ({"data_format": "NCHW"}, ["data_format", "'NCHW'"]),
    ],
)
def test_bad_arguments_are_named(kwargs, words):
    with pytest.raises((ValueError, TypeError)) as error:
        SANAttention(**kwargs)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([(2, 5), (2, 5)], ["3 to 5 axes", "(2, 5)"]),
        ([(2, 3, 3, 3, 3, 3)] * 2, ["3 to 5 axes"]),
        ([(2, 5, 3), (2, 5, 5, 3)], ["same number of axes", "(2, 5, 5, 3)"]),
        ([(2, 5, 3)], ["[y, y_prev]", "list of 1 tensors"]),
        ([(2, 5, 3)] * 3, ["[y, y_prev]", "list of 3 tensors"]),
    ],
)
def test_bad_inputs_are_named(inputs, words):
    with pytest.raises(ValueError) as error:
        SANAttention()([np.zeros(shape, "float32") for shape in inputs])
    for word in words:
        assert word in str(error.value)


def test_unequal_channels_need_alignment():
    maps = [np.zeros((2, 5, 7, 3), "float32"), np.zeros((2, 5, 7, 4), "float32")]
    with pytest.raises(ValueError, match=r"align_channels=False.*\(2, 5, 7, 4\)"):
        SANAttention(align_channels=False)(maps)


def test_window_of_another_rank_is_refused():
    with pytest.raises(ValueError, match="kernel_size"):
        SANAttention(kernel_size=(3, 3))([np.zeros((2, 5, 3), "float32")] * 2)
