import keras
import numpy as np
import pytest

from keras_saliency import DatasetStatistics, RACKNet, RecurrentConv2D
from keras_saliency.callbacks import KernelSharingCallback, update_kernel_sharing
from keras_saliency.racknet.kernel_sharing import most_similar
from keras_saliency.sparsity import count_operations

CLUSTERS = [[3, 5], [2, 2, 4]]
STATS = DatasetStatistics.from_counts(CLUSTERS, (11, 7, 3), num_classes=4)
# A network of two racks, one with layers that can share, that is cheap to train.
SMALL = DatasetStatistics.from_counts([[3, 5], [2]], (7, 5, 3), num_classes=4)


def small_model(**kwargs):
    if kwargs.get("network") == "rcnn":
        kwargs.setdefault("steps", 1)
    return RACKNet.from_statistics(SMALL, 17, **kwargs)


def kernels_of(model):
    return [x.filters for x in model.layers if isinstance(x, keras.layers.Conv2D | RecurrentConv2D)]


def images(n=8, shape=(7, 5, 3), seed=0):
    return np.random.default_rng(seed).uniform(size=(n, *shape)).astype("float32")


def output(model, x=None):
    return keras.ops.convert_to_numpy(model(images() if x is None else x, training=False))


@pytest.mark.parametrize("network", ["cnn", "rcnn"])
@pytest.mark.parametrize("activation", ["relu", "maxout"])
def test_every_kind_trains_saves_and_loads(network, activation, tmp_path):
    model = small_model(network=network, activation=activation, dropout=0.1)
    assert kernels_of(model) == [7, 4, 6]
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    before = [np.array(w) for w in model.trainable_weights]
    y = np.arange(8) % 4
    history = model.fit(images(), y, epochs=1, verbose=0, callbacks=[KernelSharingCallback()])
    assert np.isfinite(history.history["loss"]).all()
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert not np.array_equal(keras.ops.convert_to_numpy(variable), old), variable.path
    expected = model.predict(images(), verbose=0)
    np.testing.assert_allclose(expected.sum(-1), 1, atol=1e-5)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(output(loaded), expected, atol=1e-6)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(output(clone), expected, atol=1e-6)


@pytest.mark.parametrize("network", ["cnn", "rcnn"])
@pytest.mark.parametrize("activation", ["relu", "maxout"])
def test_every_layer_has_its_part_of_the_budget(network, activation):
    model = RACKNet.from_statistics(STATS, 43, network=network, activation=activation)
    assert RACKNet.allocate(STATS, 43) == [[11, 6], [10, 10, 6]]
    assert kernels_of(model) == [11, 6, 10, 10, 6]


def test_racks_are_separated_by_pooling():
    model = RACKNet.from_statistics(STATS, 43)
    shapes = {layer.name: tuple(layer.output.shape) for layer in model.layers}
    assert shapes["rack1_conv2"][1:3] == (11, 7)
    assert shapes["rack2_conv1"][1:3] == (6, 4)
    assert shapes["head"] == (None, 4)


def test_pooling_dropout_and_windows_are_as_asked():
    model = RACKNet.from_statistics(
        STATS, 43, pooling="max", dropout=0.0, kernel_size=[[3, 5], [1, 3, 7]]
    )
    assert isinstance(model.get_layer("rack2_pool"), keras.layers.MaxPooling2D)
    assert not any(isinstance(x, keras.layers.Dropout) for x in model.layers)
    windows = [x.kernel_size[0] for x in model.layers if hasattr(x, "kernel_size")]
    assert windows == [3, 5, 1, 3, 7]


def test_more_racks_than_halvings_still_build():
    stats = DatasetStatistics.from_counts([[1]] * 6, (8, 8, 1))
    model = RACKNet.from_statistics(stats, 12, num_classes=3)
    assert model(np.ones((2, 8, 8, 1), "float32")).shape == (2, 3)


def test_images_of_any_size():
    stats = DatasetStatistics.from_counts([[3, 5], [2]], (None, None, 3), num_classes=4)
    for network in ("cnn", "rcnn"):
        model = RACKNet.from_statistics(stats, 17, network=network, steps=1)
        for size in (9, 14):
            assert model(images(2, (size, size + 1, 3))).shape == (2, 4)


def test_channels_first():
    stats = DatasetStatistics.from_counts([[3, 5], [2]], (3, 7, 5), 4, data_format="channels_first")
    first = RACKNet.from_statistics(stats, 17, network="rcnn", activation="maxout", steps=1)
    last = small_model(network="rcnn", activation="maxout")
    first.set_weights(last.get_weights())
    assert tuple(first.get_layer("rack2_conv1").output.shape) == (None, 3, 4, 3)
    if keras.backend.backend() == "tensorflow":
        return  # its pooling on a CPU knows channels_last alone
    x = images(2)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(first(np.moveaxis(x, -1, 1))),
        keras.ops.convert_to_numpy(last(x)),
        atol=1e-5,
    )


def test_regression():
    model = small_model(num_classes=1, task="regression")
    assert model.get_layer("head").activation is keras.activations.linear
    model.compile("rmsprop", "mse")
    model.fit(images(), np.linspace(-1, 1, 8), verbose=0)
    assert model.predict(images(), verbose=0).shape == (8, 1)


def test_pixels_are_rescaled_inside():
    import dataclasses

    stats = dataclasses.replace(SMALL, value_range=(0.0, 255.0))
    wide = RACKNet.from_statistics(stats, 17)
    narrow = small_model()
    wide.set_weights(narrow.get_weights())
    x = images(3)
    np.testing.assert_allclose(output(wide, x * 255), output(narrow, x), atol=1e-5)


def test_batch_normalisation_is_one_argument():
    model = RACKNet.from_statistics(STATS, 43, normalization="batch")
    assert sum(isinstance(x, keras.layers.BatchNormalization) for x in model.layers) == 5


# ---- weight sharing --------------------------------------------------------------------


def test_most_similar_is_the_largest_cosine():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 3, 7)), rng.normal(size=(3, 3, 5))
    expected = [
        max(
            range(5),
            key=lambda h: np.vdot(a[..., f], b[..., h]) / np.linalg.norm(b[..., h]),
        )
        for f in range(7)
    ]
    assert most_similar(a, b).tolist() == expected
    assert most_similar(100 * a, b * rng.uniform(1, 9, size=5)).tolist() == expected


def test_the_mapping_is_right_when_built_and_after_loading(tmp_path):
    model = RACKNet.from_statistics(STATS, 43, network="rcnn")
    shared = [x for x in model.layers if getattr(x, "mapping", None) is not None]
    assert [x.name for x in shared] == ["rack1_conv2", "rack2_conv2", "rack2_conv3"]
    assert update_kernel_sharing(model) == 0
    first, second = model.get_layer("rack1_conv1"), model.get_layer("rack1_conv2")
    own, theirs = (keras.ops.convert_to_numpy(x.kernel).mean(2) for x in (second, first))
    mapping = keras.ops.convert_to_numpy(second.mapping)
    assert mapping.tolist() == most_similar(own, theirs).tolist()
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert update_kernel_sharing(loaded) == 0
    loaded.get_layer("rack1_conv2").mapping.assign((mapping + 1) % 11)
    assert update_kernel_sharing(loaded) == len(mapping)


@pytest.mark.parametrize("frequency", ["epoch", "batch", 2])
def test_the_callback_keeps_the_mapping_true(frequency):
    model = small_model(network="rcnn")
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    layer = model.get_layer("rack1_conv2")
    layer.mapping.assign(np.zeros(4, "int32"))
    layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape))

    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if not seen:
                layer = self.model.get_layer("rack1_conv2")
                seen.append(keras.ops.convert_to_numpy(layer.mapping).tolist())

    callbacks = [KernelSharingCallback(frequency), Watch()]
    model.fit(images(), np.arange(8) % 4, batch_size=4, verbose=0, callbacks=callbacks)
    assert len(set(seen[0])) > 1, "the mapping was not refreshed before the first batch"
    assert update_kernel_sharing(model) == 0, "the mapping is not that of the last weights"


def numpy(values):
    return [keras.ops.convert_to_numpy(v).copy() for v in values]


def sharing_chain():
    """A model of one rack, and its three layers: each takes over patterns of the one before."""
    stats = DatasetStatistics.from_counts([[2, 3, 4]], (7, 5, 3), num_classes=4)
    model = RACKNet.from_statistics(stats, 17, network="rcnn", steps=1, dropout=0.0)
    assert kernels_of(model) == [6, 6, 5]
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    return model, [model.get_layer(f"rack1_conv{j}") for j in (1, 2, 3)]


def fit(model, x, **kwargs):
    model.fit(
        x, np.arange(8) % 4, batch_size=4, verbose=0, callbacks=[KernelSharingCallback()], **kwargs
    )


def test_a_chain_of_sharing_layers_trains_saves_and_loads(tmp_path):
    model, chain = sharing_chain()
    for layer in chain[1:]:
        layer.mapping.assign(np.zeros(layer.filters, "int32"))
    fit(model, images(), epochs=2)
    kernels = numpy(layer.kernel for layer in chain)
    used = kernels[0].mean(2)
    for kernel, mapping in zip(kernels[1:], numpy(x.mapping for x in chain[1:]), strict=True):
        own = kernel.mean(2)
        assert mapping.tolist() == most_similar(own, used).tolist()
        # What the layer after it compares with is what this one uses, not what it holds.
        taken = used[..., mapping]
        used = taken * np.linalg.norm(own, axis=(0, 1)) / np.linalg.norm(taken, axis=(0, 1))
    expected = output(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(output(loaded), expected, atol=1e-6)
    assert update_kernel_sharing(loaded) == 0
    fit(loaded, images())
    assert np.isfinite(output(loaded)).all()


def test_the_gradient_of_the_last_layer_reaches_the_kernels_it_follows():
    model, chain = sharing_chain()
    # Images of zeros teach the first two layers nothing; the last one sees a constant, and its
    # patterns are, by way of the second layer, those of the first.
    # The biases keep every unit of the last two layers awake.
    for layer, bias in zip(chain[1:], (0.1, 1.0), strict=True):
        layer.bias.assign(np.full(layer.filters, bias))
        layer.recurrent_kernel.assign(np.zeros(layer.recurrent_kernel.shape))
    (before,) = numpy([chain[0].kernel])
    followed, last = numpy(layer.mapping for layer in chain[1:])
    fit(model, np.zeros((8, 7, 5, 3), "float32"), epochs=1)
    (after,) = numpy([chain[0].kernel])
    change = np.abs(after - before).max((0, 1, 2))
    assert change.max() > 1e-5
    reached = np.flatnonzero(change > 1e-3 * change.max())
    assert set(reached.tolist()) == set(followed[last].tolist()) < set(range(6))


def test_sharing_can_be_left_out():
    model = RACKNet.from_statistics(STATS, 43, network="rcnn", share_weights=False)
    assert all(getattr(x, "mapping", None) is None for x in model.layers)


def test_layers_with_other_windows_do_not_share():
    model = RACKNet.from_statistics(STATS, 43, network="rcnn", kernel_size=[[3, 5], [3, 3, 5]])
    shared = [x.name for x in model.layers if getattr(x, "mapping", None) is not None]
    assert shared == ["rack2_conv2"]


@pytest.mark.parametrize("frequency", ["step", 0, 1.5, None, True])
def test_a_bad_frequency_is_named(frequency):
    with pytest.raises(ValueError, match="`frequency` must be"):
        KernelSharingCallback(frequency)


# ---- bad input -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"budget": 4}, ValueError, "at least the number of layers, 5"),
        ({"network": "lstm"}, ValueError, "`network` must be one of"),
        ({"activation": "tanh"}, ValueError, "`activation` must be one of"),
        ({"pooling": "none"}, ValueError, "`pooling` must be one of"),
        ({"task": "ranking"}, ValueError, "`task` must be one of"),
        ({"normalization": "layer"}, ValueError, "`normalization` must be one of"),
        ({"strategy": "best"}, ValueError, "`strategy` must be one of"),
        ({"dropout": 1.0}, ValueError, "`dropout` must be a number"),
        ({"dropout": "0.5"}, ValueError, "`dropout` must be a number"),
        ({"kernel_size": 0}, ValueError, "`kernel_size` must be"),
        ({"kernel_size": "wide"}, ValueError, "`kernel_size` must be"),
        ({"kernel_size": [[3], [3, 3, 3]]}, ValueError, "`kernel_size` must be"),
        ({"num_classes": 1}, ValueError, "`num_classes` must be at least 2"),
        ({"num_classes": 2.5}, TypeError, "`num_classes` must be an integer"),
        ({"steps": -1}, ValueError, "`steps` must be an integer >= 0"),
        ({"head": "dense"}, ValueError, "`head` must be one of"),
        ({"parameters": 900}, ValueError, "Give one of `budget`, `parameters` and `macs`"),
        ({"budget": 400, "parameters": 9, "macs": 9}, ValueError, "Give one of `budget`"),
        ({"budget": 400, "parameters": 9}, ValueError, "`parameters` must be at least"),
        ({"budget": 400, "macs": 2.5}, TypeError, "`macs` must be an integer"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, match):
    with pytest.raises(error, match=match):
        RACKNet.from_statistics(STATS, **{"budget": 43, **kwargs})


def test_unknown_classes_are_asked_for():
    stats = DatasetStatistics.from_counts(CLUSTERS, (11, 7, 3))
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        RACKNet.from_statistics(stats, 43)


def test_statistics_of_another_type_are_refused():
    with pytest.raises(TypeError, match="`statistics` must be a DatasetStatistics"):
        RACKNet.from_statistics(CLUSTERS, 43)


@pytest.mark.parametrize("network", ["cnn", "rcnn"])
@pytest.mark.parametrize(("name", "limit"), [("parameters", 6000), ("macs", 60_000)])
def test_a_limit_is_met_and_one_kernel_more_would_exceed_it(network, name, limit):
    def cost(model):
        return model.count_params() if name == "parameters" else count_operations(model) // 2

    model = RACKNet.from_statistics(SMALL, network=network, **{name: limit})
    budget = sum(layer.filters for layer in model.layers if hasattr(layer, "filters"))
    wider = RACKNet.from_statistics(SMALL, budget + 1, network=network)
    assert cost(model) <= limit < cost(wider)


def test_a_limit_of_operations_needs_images_of_a_known_size():
    open_ended = DatasetStatistics.from_counts(CLUSTERS, (None, None, 3), 4)
    with pytest.raises(ValueError, match="`macs` needs images of a known size"):
        RACKNet.from_statistics(open_ended, macs=10_000)


def test_the_head_reads_positions_where_they_are_few():
    def head(shape, **kwargs):
        stats = DatasetStatistics.from_counts(CLUSTERS, shape, 4)
        model = RACKNet.from_statistics(stats, 17, **kwargs)
        return [layer.name for layer in model.layers][-2]

    assert head((16, 16, 1)) == "flatten"
    assert head((16, 16, 1), head="pool") == "pool"
    assert head((64, 64, 1)) == head((None, None, 1)) == "pool"
