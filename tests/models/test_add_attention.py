"""Attention put into models that exist already."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_saliency import CBAM, SANAttention, SqueezeExcite, add_attention, models
from keras_saliency.graph.discovery import is_attention_layer


@keras.saving.register_keras_serializable(package="tests")
class Unit(keras.layers.Layer):
    """Attention of weight 1: with it, a copy must compute what the original does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return inputs * 1.0

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="tests")
class Pair(Unit):
    """Attention that needs `y_prev`, of the extents of y."""

    takes_previous = True

    def build(self, input_shape):
        if input_shape[0][1:-1] != input_shape[1][1:-1]:
            raise ValueError(f"cannot align {input_shape}")

    def call(self, inputs):
        return inputs[0] + 0.0 * ops.mean(inputs[1], axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def conv(filters=4, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", **kwargs)


def cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            conv(activation="relu", name="a"),
            conv(5, name="b"),
            layers.BatchNormalization(),
            layers.ReLU(name="b_relu"),
            layers.Dropout(0.5),
            layers.MaxPooling2D(name="pool"),
            conv(6, strides=2, name="c"),
            layers.Flatten(),
            layers.Dense(7, activation="softmax"),
        ]
    )


def residual():
    inputs = keras.Input((8, 8, 3))
    x = conv(name="stem", activation="relu")(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(conv(name="one")(x)))
    y = layers.BatchNormalization()(conv(name="two")(y))
    x = layers.ReLU(name="merged")(layers.Add()([x, y]))
    y = conv(6, strides=2, name="three", activation="relu")(x)
    y = conv(6, name="four")(y)
    x = layers.Conv2D(6, 1, strides=2, name="shortcut")(x)
    x = layers.ReLU(name="merged_too")(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def shared():
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    twin = conv(name="twin", activation="relu")
    pool = layers.MaxPooling2D()
    merged = layers.Concatenate()([pool(twin(a)), pool(twin(b))])
    head = layers.Dense(2, name="head")(layers.GlobalMaxPooling2D()(merged))
    return keras.Model({"a": a, "b": b}, {"head": head, "maps": conv(1, name="maps")(merged)})


def nested():
    inner_input = keras.Input((8, 8, 3))
    y = conv(name="inside", activation="relu")(inner_input)
    y = layers.MaxPooling2D()(y)
    y = conv(5, name="last", activation="relu")(y)
    backbone = keras.Model(inner_input, y, name="backbone")
    block = keras.Sequential(
        [
            keras.Input((4, 4, 5)),
            layers.LayerNormalization(),
            conv(6, strides=2, name="strided", activation="relu"),
        ],
        name="block",
    )
    inputs = keras.Input((8, 8, 3))
    x = block(backbone(layers.Rescaling(0.5)(inputs), training=False))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@keras.saving.register_keras_serializable(package="tests")
def double(t):
    return t * 2.0


def operations():
    inputs = keras.Input((8, 8, 3))
    x = ops.relu(conv(name="a")(inputs) + 1.0)
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # With strides of its own: without, Keras's operation fails on JAX.
    x = ops.max_pool(x[:, 1:-1, 1:-1], 2, strides=2)
    x = layers.Lambda(double)(conv(name="b")(x))
    return keras.Model(inputs, ops.mean(x, axis=(1, 2)))


def recurrent():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 5, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
    x = layers.GRU(4, return_sequences=True, name="gru")(x)
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(3, name="last")(x)))


def temporal():
    return keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.Conv1D(4, 3, padding="causal", activation="relu", name="a"),
            layers.AveragePooling1D(2),
            layers.SeparableConv1D(5, 3, padding="same", name="b"),
            layers.GlobalMaxPooling1D(),
        ]
    )


def volume():
    return keras.Sequential(
        [
            keras.Input((4, 6, 8, 1)),
            layers.Conv3D(2, 3, padding="same", name="a"),
            layers.MaxPooling3D((1, 2, 2)),
            layers.Conv3D(3, 3, strides=2, padding="same", name="b"),
            layers.GlobalAveragePooling3D(),
        ]
    )


def gated():
    """A squeeze-and-excitation block by hand: its pooling is no bottleneck, its gate no stage."""
    inputs = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, padding="same", name="wise")(inputs)
    x = layers.Activation("swish", name="swish")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(2, 1, activation="relu", name="gate_in")(gate)
    gate = layers.Conv2D(3, 1, activation="sigmoid", name="gate_out")(gate)
    x = layers.Multiply()([gate, x])
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = layers.Conv2D(4, 3, strides=2, name="strided", activation="relu")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


# Builder -> (placement -> the stages behind which attention is due, in order).
MODELS = {
    cnn: (["b"], ["a", "b", "c"]),
    residual: (["two", "four"], ["stem", "one", "two", "three", "four"]),
    shared: (["twin", "twin"], ["twin", "twin"]),
    nested: (
        ["backbone/inside", "backbone/last", "block/strided"],
        ["backbone/inside", "backbone/last", "block/strided"],
    ),
    operations: (["a"], ["a", "b"]),
    recurrent: (["gru"], ["both", "gru"]),
    temporal: (["a", "b"], ["a", "b"]),
    volume: (["a", "b"], ["a", "b"]),
    gated: (["wise", "strided"], ["wise", "strided"]),
}
PLACED = [
    (builder, placement, stages)
    for builder, both in MODELS.items()
    for placement, stages in zip(("bottleneck", "full"), both, strict=True)
]
IDS = [f"{builder.__name__}-{placement}" for builder, placement, _ in PLACED]


def example(model, seed=0):
    rng = np.random.default_rng(seed)

    def make(t):
        shape = [2, *(5 if n is None else n for n in t.shape[1:])]
        if t.dtype == "int32":
            return np.sort(rng.integers(0, 9, shape))[:, ::-1].astype("int32")
        return rng.normal(size=shape).astype("float32")

    sequential = isinstance(model, keras.Sequential)
    return keras.tree.map_structure(make, model.inputs[0] if sequential else model.input)


def outputs(model, x):
    result = model(x, training=False)
    return [ops.convert_to_numpy(t) for t in keras.tree.flatten(result)]


def snapshot(model):
    layers_inside = model._flatten_layers()
    return (
        [w.copy() for w in model.get_weights()],
        str(model.get_config()),
        [(layer.name, len(layer._inbound_nodes)) for layer in layers_inside],
        [(layer.name, len(layer._outbound_nodes)) for layer in layers_inside],
    )


def assert_same(a, b):
    assert a[1:] == b[1:]
    for u, v in zip(a[0], b[0], strict=True):
        np.testing.assert_array_equal(u, v)


def stages(model):
    return [p.layer for p in model.attention_report.placed]


@pytest.mark.parametrize(("builder", "placement", "expected"), PLACED, ids=IDS)
def test_attention_of_weight_one_changes_no_output_and_stands_where_it_should(
    builder, placement, expected
):
    model = builder()
    x, before = example(model), snapshot(model)
    copy = add_attention(model, Unit, placement)
    assert_same(before, snapshot(model))
    assert stages(copy) == expected
    assert copy.output_shape == model.output_shape
    entrances = [[t._keras_history[0].name for t in m.inputs] for m in (copy, model)]
    assert entrances[0] == entrances[1]
    for a, b in zip(outputs(copy, x), outputs(model, x), strict=True):
        np.testing.assert_array_equal(a, b)
    names = {layer.name for layer in model._flatten_layers()}
    assert names - {model.name} <= {layer.name for layer in copy._flatten_layers()}


def test_attention_stands_before_dropout_padding_and_behind_the_merge():
    def read_by(copy, name):
        """Name of the layer that attention `name` reads."""
        (node,) = copy.get_layer(name)._inbound_nodes
        return node.input_tensors[0]._keras_history[0].name

    assert read_by(add_attention(cnn(), Unit), "b_attention") == "b_relu"
    assert read_by(add_attention(residual(), Unit, "full"), "two_attention") == "merged"
    assert read_by(add_attention(residual(), Unit, "full"), "four_attention") == "merged_too"
    copy = add_attention(gated(), Unit, "full")
    assert read_by(copy, "wise_attention") == "swish"
    assert copy.get_layer("pad").output.shape == (None, 9, 9, 3)


def test_every_reader_sees_the_attended_features():
    copy = add_attention(residual(), Unit)
    attended = copy.get_layer("two_attention")
    readers = {node.operation.name for node in attended._outbound_nodes}
    assert readers == {"three", "shortcut"}


@pytest.mark.filterwarnings("ignore:add_attention")
def test_y_prev_is_what_the_longest_branch_of_a_merge_was_applied_to():
    copy = add_attention(residual(), Pair, "full")
    (node,) = copy.get_layer("four_attention")._inbound_nodes
    y, y_prev = node.input_tensors
    assert y._keras_history[0].name == "merged_too"
    assert y_prev._keras_history[0].name == "three"
    (node,) = copy.get_layer("two_attention")._inbound_nodes
    # The features that "two" reads are attended themselves.
    assert node.input_tensors[1]._keras_history[0].name == "one_attention"


def test_y_prev_is_what_stood_before_the_padding():
    copy = add_attention(gated(), SANAttention, "full")
    (node,) = copy.get_layer("strided_attention")._inbound_nodes
    assert node.input_tensors[1].shape == (None, 8, 8, 3)
    assert not any(x.failed for x in copy.attention_report.left_out)


def test_a_layer_called_twice_shares_its_attention():
    copy = add_attention(shared(), SqueezeExcite, "full")
    attention = [layer for layer in copy.layers if is_attention_layer(layer)]
    assert [a.name for a in attention] == ["twin_attention"]
    assert len(attention[0]._inbound_nodes) == 2


def test_reasons_are_inspectable():
    report = add_attention(gated(), Unit, "full").attention_report
    assert {x.layer: x.reason for x in report.left_out} == {
        "gate_in": "features of shape (None, 1, 1, 2) have one position only",
        "gate_out": "features of shape (None, 1, 1, 3) have one position only",
    }
    assert "wise: wise_attention on (None, 8, 8, 3)" in str(report)
    assert "gate_in: features" in str(report)
    report = add_attention(recurrent(), Unit, "full").attention_report
    assert [tuple(x) for x in report.left_out] == [("last", "it returns its last step only", False)]
    report = add_attention(shared(), Unit, "full").attention_report
    assert [x.layer for x in report.left_out] == ["maps"]


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
def test_a_convolution_that_predicts_is_left_alone(activation):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, conv(2, activation=activation)(conv(activation="relu")(inputs)))
    assert len(add_attention(model, Unit, "full").attention_report.placed) == 1


def test_the_features_of_a_backbone_are_attended():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.ReLU()(conv(name="b")(conv(name="a")(inputs))))
    copy = add_attention(model, Unit, "full")
    assert stages(copy) == ["a", "b"]
    assert copy.output._keras_history[0].name == "b_attention"


@pytest.mark.parametrize("attention", ["san-depthwise", "cbam"])
def test_copies_train_save_and_load(attention, tmp_path):
    keras.utils.set_random_seed(3)
    model = nested()
    x, y = example(model), np.zeros((2, 3), "float32")
    copy = add_attention(model, attention, "full")
    assert copy.count_params() > model.count_params()
    before = [w.copy() for w in model.get_weights()]
    copy.compile("sgd", "mse")
    copy.fit(x, y, epochs=2, verbose=0)
    inner = copy.get_layer("backbone").get_layer("inside_attention")
    assert inner.trainable_variables
    copy.save(tmp_path / "copy.keras")
    loaded = keras.saving.load_model(tmp_path / "copy.keras")
    np.testing.assert_allclose(outputs(loaded, x)[0], outputs(copy, x)[0], atol=1e-6)
    # The original is still usable: its weights are its own.
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(outputs(model, x)[0]).all()


def test_compile_settings_are_kept():
    model = cnn()
    model.compile(keras.optimizers.SGD(0.03), "categorical_crossentropy", metrics=["accuracy"])
    copy = add_attention(model, Unit)
    assert copy.compiled and copy.loss == "categorical_crossentropy"
    np.testing.assert_allclose(float(copy.optimizer.learning_rate), 0.03, rtol=1e-6)
    assert copy.optimizer is not model.optimizer
    assert not add_attention(cnn(), Unit).compiled


def test_a_loss_of_ones_own_is_kept():
    def loss(y, p):
        return ops.mean(y - p)

    model = cnn()
    model.compile("sgd", loss, metrics=["accuracy"])
    copy = add_attention(model, Unit)
    assert copy.compiled and copy.loss is loss
    x = example(model)
    assert set(copy.evaluate(x, np.zeros((2, 7)), verbose=0, return_dict=True)) == {
        "loss",
        "accuracy",
    }


class Unnamed(keras.metrics.Metric):
    """A metric that its config does not make again."""

    def __init__(self, needed):
        super().__init__(name="unnamed")

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return ops.zeros(())


def test_settings_that_do_not_copy_are_reported():
    model = cnn()
    model.compile("sgd", "mse", metrics=[Unnamed(3)])
    with pytest.warns(UserWarning, match="not compiled"):
        copy = add_attention(model, Unit)
    assert not copy.compiled


def test_states_beyond_weights_are_kept():
    inputs = keras.Input((8, 8, 3))
    normalization = layers.Normalization()
    x = conv(name="a", activation="relu")(normalization(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    normalization.adapt(np.random.default_rng(0).normal(5, 3, size=(16, 8, 8, 3)))
    model.get_layer("a").trainable = False
    copy = add_attention(model, Unit)
    x = example(model)
    np.testing.assert_array_equal(outputs(copy, x)[0], outputs(model, x)[0])
    assert not copy.get_layer("a").trainable


def test_arguments_and_variants_reach_the_layer():
    copy = add_attention(cnn(), SANAttention, smoothing=None, name="scale")
    layer = copy.get_layer("scale_b_attention")
    assert isinstance(layer, SANAttention) and layer.smoothing is None
    copy = add_attention(cnn(), lambda: CBAM(ratio=3), "full")
    found = [layer for layer in copy.layers if isinstance(layer, CBAM)]
    assert len(found) == 3 and all(layer.ratio == 3 for layer in found)
    copy = add_attention(cnn(), "san-d", "full")
    assert copy.get_layer("a_attention").dilation_rate == 4


def test_attention_takes_precision_and_layout_of_the_layer_it_follows():
    # TensorFlow has no such convolution on a CPU.
    tensorflow = keras.backend.backend() == "tensorflow"
    layout = "channels_last" if tensorflow else "channels_first"
    inputs = keras.Input((4, 4))
    x = layers.Conv1D(4, 3, padding="same", data_format=layout, dtype="mixed_bfloat16", name="a")(
        inputs
    )
    y = layers.GlobalAveragePooling1D(data_format=layout)(x)
    copy = add_attention(keras.Model(inputs, y), SqueezeExcite, ratio=2)
    attention = copy.get_layer("a_attention")
    assert attention.data_format == layout
    assert attention.compute_dtype == "bfloat16"
    assert attention.squeeze.kernel.shape == (4, 2)


def test_masks_pass_through():
    model = recurrent()
    copy = add_attention(model, "san", "full")
    rng = np.random.default_rng(0)
    x = rng.integers(1, 9, (1, 6)).astype("int32")
    x[:, 4:] = 0
    short = keras.Input((4,), dtype="int32")
    cut = keras.models.clone_model(copy, input_tensors=short)
    cut.set_weights(copy.get_weights())
    np.testing.assert_allclose(outputs(copy, x)[0], outputs(cut, x[:, :4])[0], atol=1e-5)


def test_attention_is_not_added_twice():
    once = add_attention(cnn(), SqueezeExcite, "full")
    with pytest.raises(ValueError, match="attention weighs these features already"):
        add_attention(once, SqueezeExcite, "full")


def test_a_subclass_of_functional_models_keeps_its_class():
    class Mine(keras.Model):
        def hello(self):
            return "hello"

    plain = cnn()
    model = Mine(plain.inputs, plain.outputs)
    assert add_attention(model, Unit).hello() == "hello"


# ---- a trained model stays what it is --------------------------------------------------------


@pytest.mark.parametrize("placement", ["bottleneck", "full"])
@pytest.mark.parametrize(
    "attention", ["san", "san-d", "san-depthwise", "se", "scse", "cbam", "bam", SANAttention]
)
@pytest.mark.parametrize("builder", [cnn, residual, nested])
def test_outputs_are_equal_before_and_after(builder, attention, placement):
    model = builder()
    x = example(model)
    before = outputs(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy = add_attention(model, attention, placement)
    assert copy.attention_report.start == "identity"
    assert "start='identity'" in str(copy.attention_report)
    for a, b in zip(outputs(copy, x), before, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(keras.tree.flatten(copy.predict(x, verbose=0)), before, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("attention", ["ran", "self", "parameter-free", "san"])
def test_outputs_of_series_models_are_equal_too(attention):
    for model in (recurrent(), temporal()):
        x = example(model)
        copy = add_attention(model, attention, "full")
        for a, b in zip(outputs(copy, x), outputs(model, x), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_started_copy_learns_and_its_file_keeps_the_start(tmp_path):
    keras.utils.set_random_seed(0)
    model = cnn()
    x, y = example(model), np.eye(7, dtype="float32")[:2]
    copy = add_attention(model, "se", "full", ratio=2)
    copy.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy")
    copy.fit(x, y, epochs=2, verbose=0)
    attention = copy.get_layer("a_attention")
    assert np.abs(ops.convert_to_numpy(attention.excite.kernel)).max() > 0
    copy.save(tmp_path / "copy.keras")
    loaded = keras.saving.load_model(tmp_path / "copy.keras")
    assert loaded.get_layer("a_attention").start == "identity"
    np.testing.assert_allclose(outputs(loaded, x)[0], outputs(copy, x)[0], atol=1e-6)


def test_the_paper_start_is_one_argument_away():
    model = cnn()
    copy = add_attention(model, "se", start="paper")
    assert copy.attention_report.start == "paper"
    x = example(model)
    assert np.abs(outputs(copy, x)[0] - outputs(model, x)[0]).max() > 1e-4
    bound = functools.partial(SqueezeExcite, start="paper")
    assert add_attention(model, bound).attention_report.start == "paper"
    made = add_attention(model, lambda: CBAM(start="identity"))
    assert made.attention_report.start == "identity"


def test_attention_of_the_users_own_is_placed_as_it_is():
    report = add_attention(cnn(), Unit).attention_report
    assert report.start is None
    assert "takes no `start`" in str(report)
    for own in (Unit, lambda: Unit()):
        with pytest.raises(TypeError, match="takes no `start`"):
            add_attention(cnn(), own, start="identity")


def test_a_stem_that_cannot_be_aligned_is_left_out():
    inputs = keras.Input((17, 17, 3))
    x = layers.Conv2D(4, 4, strides=3, name="stem", activation="relu")(inputs)
    x = conv(name="body", activation="relu")(layers.MaxPooling2D(1, strides=1)(x))
    x = layers.MaxPooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    with pytest.warns(UserWarning, match="stem"):
        report = add_attention(model, SANAttention, "full").attention_report
    assert [p.layer for p in report.placed] == ["body"]
    assert [x.layer for x in report.left_out if x.failed] == ["stem"]


# ---- what does not work ----------------------------------------------------------------------


def test_places_that_cannot_be_aligned_are_left_out_with_one_warning():
    model = residual()
    before = snapshot(model)
    with pytest.warns(UserWarning, match="no attention at 1 places.*three.*align") as caught:
        copy = add_attention(model, Pair, "full")
    assert sum("add_attention" in str(w.message) for w in caught) == 1
    assert [x.layer for x in copy.attention_report.left_out if x.failed] == ["three"]
    assert stages(copy) == ["stem", "one", "two", "four"]
    assert_same(before, snapshot(model))


def failures():
    subclassed = type("Mine", (keras.Model,), {"call": lambda self, x: x})()
    dense = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    unbuilt = keras.Sequential([conv(), layers.MaxPooling2D()])
    flat = keras.Sequential([keras.Input((8, 8, 3)), conv(), layers.Flatten()])
    return {
        "subclassed": (subclassed, {}, ValueError, "subclassed model"),
        "unbuilt": (unbuilt, {}, ValueError, "no graph yet.*Input"),
        "no model": (conv(), {}, TypeError, "keras.Model"),
        "no place": (dense, {}, ValueError, "No attention could be placed"),
        "no bottleneck": (flat, {}, ValueError, "placement='full'"),
        "placement": (cnn(), {"placement": "top"}, ValueError, r"bottleneck.*full.*'top'"),
        "name": (cnn(), {"attention": "sen"}, ValueError, r"'sen'.*Valid names"),
        "instance": (cnn(), {"attention": CBAM()}, TypeError, "new layer for every place"),
        "nothing": (cnn(), {"attention": 3}, TypeError, "attention"),
        "no layer": (cnn(), {"attention": lambda: 3}, TypeError, "return a layer"),
        "argument": (cnn(), {"attention": "se", "ration": 3}, (TypeError, ValueError), "ration"),
        "shape": (cnn(), {"attention": layers.Flatten}, ValueError, "keep the shape"),
        "rank": (cnn(), {"attention": "ran"}, ValueError, "sequences"),
    }


@pytest.mark.parametrize("case", failures())
def test_failures_say_what_to_do_and_leave_the_model_alone(case):
    model, kwargs, error, message = failures()[case]
    is_graph = isinstance(model, (keras.Function, keras.Sequential)) and model.built
    before = snapshot(model) if is_graph else None
    with warnings.catch_warnings(), pytest.raises(error, match=message):
        add_attention(model, **kwargs)
    if before is not None:
        assert_same(before, snapshot(model))


def test_a_layer_that_cannot_be_copied_is_named():
    class Opaque(layers.Layer):
        def __init__(self, thing):
            super().__init__()
            self.thing = thing

        def call(self, x):
            return x

    inputs = keras.Input((8, 8, 3))
    x = Opaque(object())(conv()(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    with pytest.raises(ValueError, match="Opaque needs a `get_config`"):
        add_attention(model, Unit)


# ---- models of keras.applications ------------------------------------------------------------


def test_mobilenet_v2_in_both_placements():
    model = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, weights=None, classes=5
    )
    x = example(model)
    before = outputs(model, x)[0]
    bottleneck = add_attention(model, Unit)
    assert stages(bottleneck) == [
        "block_1_expand",
        "block_3_expand",
        "block_6_expand",
        "block_13_expand",
    ]
    np.testing.assert_array_equal(outputs(bottleneck, x)[0], before)
    np.testing.assert_array_equal(outputs(model, x)[0], before)


def test_a_network_that_is_made_with_attention_starts_as_printed():
    for attention in ("se", SqueezeExcite):
        model = models.LeNet5((12, 12, 1), 3, attention=attention)
        assert model.attention_report.start == "paper"
    chosen = models.LeNet5((12, 12, 1), 3, attention="se", attention_kwargs={"start": "identity"})
    assert chosen.attention_report.start == "identity"


def _with_lora(model):
    model.get_layer("head").enable_lora(2)
    head = model.get_layer("head")
    head.lora_kernel_b.assign(np.random.default_rng(0).normal(size=head.lora_kernel_b.shape))


def _quantised(model):
    model.get_layer("head").quantize("int8")


def _tied(model):
    head, other = model.get_layer("head"), model.get_layer("other")
    object.__setattr__(other, "_kernel", head._kernel)  # as if its `build` had taken it
    list.__setitem__(other._trainable_variables, 0, head._kernel)


@pytest.mark.parametrize("change", [_with_lora, _quantised, _tied])
def test_what_happened_to_a_layer_travels_along(change):
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(conv()(inputs))
    x = layers.Dense(x.shape[-1], name="other")(x)
    model = keras.Model(inputs, layers.Dense(x.shape[-1], name="head")(x))
    change(model)
    attended = add_attention(model, "se")
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    expected = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(attended(x)), expected, atol=1e-6)
    extra = {id(w) for layer in attended.layers for w in layer.weights if "attention" in layer.name}
    copied = [w for w in attended.weights if id(w) not in extra]
    assert [w.shape for w in copied] == [w.shape for w in model.weights]


@pytest.mark.parametrize(
    ("kwargs", "absolute"),
    [({}, False), ({"start": "paper"}, True), ({"absolute": True}, True)],
)
def test_added_as_the_identity_sans_difference_is_signed(kwargs, absolute):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(conv()(inputs)))
    attended = add_attention(model, **kwargs)
    (layer,) = [x for x in attended.layers if isinstance(x, SANAttention)]
    assert layer.absolute is absolute
