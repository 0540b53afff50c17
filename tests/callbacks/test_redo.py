"""ReDo: dormant neurons begin anew."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_saliency import ReDoCallback

X = np.random.default_rng(0).normal(size=(24, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 3)).astype("float32")


def value(variable):
    return np.array(ops.convert_to_numpy(variable))


def model():
    """Filter 1 of the first layer and unit 3 of the hidden one never fire."""
    keras.utils.set_random_seed(0)
    made = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(5, 3, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(7, activation="relu", bias_initializer="ones", name="hidden"),
            layers.Dense(3, name="head"),
        ]
    )
    norm, hidden = made.get_layer("norm"), made.get_layer("hidden")
    norm.beta.assign([0, -100, 0, 0, 0])
    hidden.bias.assign([0, 0, 0, -100, 0, 0, 0])
    return made


class Slots(keras.callbacks.Callback):
    """What stands when the second epoch begins, and what stood at the first one's last batch."""

    def read(self):
        _ = self.model
        found = {"/".join(w.path.split("/")[-2:]): value(w) for w in self.model.weights}
        slots = self.model.optimizer.variables
        return found, {w.path: value(w) for w in slots}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.weights, self.slots = self.read()

    def on_train_batch_end(self, batch, logs=None):
        if not hasattr(self, "weights"):
            self.before = self.read()[0]


OPTIMIZERS = {
    "adam": "adam",
    "rmsprop": "rmsprop",
    "averages": lambda: keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
}
if hasattr(keras.optimizers, "Muon"):
    OPTIMIZERS["muon"] = lambda: keras.optimizers.Muon(0.001)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dormant_neurons_begin_anew_and_others_stay(name):
    made = model()
    optimizer = OPTIMIZERS[name]
    made.compile(optimizer() if callable(optimizer) else optimizer, "mse")
    watch = Slots()
    redo = ReDoCallback(data=X)
    history = made.fit(
        X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[redo, watch], shuffle=False
    )
    assert redo.recycled == {0: 2} and history.history["recycled"] == [2, 0]
    now, before = watch.weights, watch.before
    new = np.arange(5) == 1
    assert (now["first/kernel"] != before["first/kernel"])[..., new].all()
    np.testing.assert_array_equal(now["first/kernel"][..., ~new], before["first/kernel"][..., ~new])
    np.testing.assert_array_equal(now["first/bias"][new], 0)
    np.testing.assert_array_equal(now["norm/beta"][new], 0)
    np.testing.assert_array_equal(now["norm/gamma"][new], 1)
    np.testing.assert_array_equal(now["norm/moving_variance"][new], 1)
    # Flattened, each filter is read at 16 positions; unit 3 has new weights there, but 0 from
    # the new filter.
    kernels = [w["hidden/kernel"].reshape(16, 5, 7) for w in (now, before)]
    assert (kernels[0][:, 1] == 0).all() and (kernels[1][:, 1] != 0).all()
    assert (kernels[0][:, ~new, 3] != kernels[1][:, ~new, 3]).all()
    rest = np.arange(7) != 3
    np.testing.assert_array_equal(kernels[0][:, ~new][..., rest], kernels[1][:, ~new][..., rest])
    assert now["hidden/bias"][3] == 1
    assert (now["head/kernel"][3] == 0).all() and (before["head/kernel"][3] != 0).all()
    np.testing.assert_array_equal(now["head/kernel"][rest], before["head/kernel"][rest])
    slots = {path: s for path, s in watch.slots.items() if s.shape == (3, 3, 2, 5)}
    assert slots
    for path, slot in slots.items():
        expected = now["first/kernel"][..., new] if "average" in path else 0
        np.testing.assert_allclose(slot[..., new], expected)
        assert slot[..., ~new].any()


def nested():
    flat = model()
    inner = keras.Sequential([keras.Input((6, 6, 2)), *flat.layers[:3]], name="inner")
    return keras.Sequential([keras.Input((6, 6, 2)), inner, *flat.layers[3:]])


def test_nested_models_are_treated_as_flat_ones():
    found = []
    for made in (model(), nested()):
        made.compile("adam", "mse")
        redo = ReDoCallback(data=X)
        made.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[redo], shuffle=False)
        assert redo.recycled == {0: 2}
        found.append({"/".join(w.path.split("/")[-2:]): value(w) for w in made.weights})
    for name, weight in found[0].items():
        np.testing.assert_allclose(found[1][name], weight, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_reduced_precision_trains_on(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        made = model()
        made.compile("adam", "mse")
        redo = ReDoCallback(data=X)
        made.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[redo])
    finally:
        keras.config.set_dtype_policy(before)
    assert redo.recycled == {0: 2}
    assert all(np.isfinite(w).all() for w in made.get_weights())


class Stop(keras.callbacks.Callback):
    """Breaks the training off in its third epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 2 and batch == 1:
            raise KeyboardInterrupt


def test_a_training_that_is_broken_off_goes_on_to_the_same_weights(tmp_path):
    def fit(folder, *more):
        made = model()
        made.compile("adam", "mse")
        redo = ReDoCallback(data=X)
        backup = keras.callbacks.BackupAndRestore(tmp_path / folder)
        callbacks = [redo, backup, *more]
        made.fit(X, Y, batch_size=8, epochs=4, verbose=0, shuffle=False, callbacks=callbacks)
        return made, redo

    whole, first = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("broken", Stop())
    again, second = fit("broken")
    assert set(second.recycled) < set(first.recycled) and first.recycled[0] == 2
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_dense_layers_are_enough():
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(7, activation="relu", name="hidden")
    made = keras.Sequential([keras.Input((2,)), hidden, layers.Dense(3)])
    hidden.bias.assign([-100.0] + [0.0] * 6)
    made.compile("sgd", "mse")
    redo = ReDoCallback(data=X[:, 0, 0])
    made.fit(X[:, 0, 0], Y, epochs=2, verbose=0, callbacks=[redo])
    assert redo.recycled == {0: 1} and value(hidden.bias)[0] > -1


def test_a_training_that_ends_before_the_first_look_is_warned_of():
    made = model()
    made.compile("sgd", "mse")
    redo = ReDoCallback(every=2, data=X)
    with pytest.warns(UserWarning, match=r"every=2 looks .* this training has 2"):
        made.fit(X, Y, epochs=2, verbose=0, callbacks=[redo])
    assert redo.recycled == {}


def test_it_looks_every_so_many_epochs_and_not_after_the_last():
    made = model()
    made.compile("sgd", "mse")
    redo = ReDoCallback(every=2, data=(X, Y))
    made.fit(X, Y, epochs=4, verbose=0, callbacks=[redo])
    assert list(redo.recycled) == [1] and redo.recycled[1] == 2


def test_channels_of_an_addition_stay():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(3, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.Conv2D(4, 3, padding="same", name="branch")(y)
    y = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    made = keras.Model(inputs, layers.Dense(3, name="head")(y))
    for name, count in (("stem", 4), ("inner", 3)):
        made.get_layer(name).bias.assign([-100.0] + [0.0] * (count - 1))
    made.compile("sgd", "mse")
    redo = ReDoCallback(data=X)
    made.fit(X, Y, epochs=2, verbose=0, callbacks=[redo])
    assert redo.recycled == {0: 1}
    assert value(made.get_layer("stem").bias)[0] < -99
    assert value(made.get_layer("inner").bias)[0] > -1


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({}, ValueError, "`data` is None"),
        ({"data": X, "tau": 1.0}, ValueError, "`tau`"),
        ({"data": X, "tau": -0.1}, ValueError, "`tau`"),
        ({"data": X, "every": 0}, ValueError, "`every`"),
        ({"data": X, "every": 1.5}, TypeError, "`every`"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, match):
    with pytest.raises(error, match=match):
        ReDoCallback(**kwargs)


@pytest.mark.parametrize(
    "stack",
    [
        [layers.Flatten],
        [lambda: layers.DepthwiseConv2D(3), lambda: layers.SeparableConv2D(4, 3), layers.Flatten],
        [lambda: layers.Reshape((6, 12)), lambda: layers.LSTM(4)],
    ],
    ids=["one layer", "depthwise", "recurrent"],
)
def test_a_model_without_hidden_neurons_is_refused(stack):
    made = keras.Sequential([keras.Input((6, 6, 2)), *[s() for s in stack], layers.Dense(3)])
    made.compile("sgd", "mse")
    with pytest.raises(ValueError, match="No chosen layer"):
        made.fit(X, Y, epochs=2, verbose=0, callbacks=[ReDoCallback(data=X)])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.full_like(X, np.nan), "`data` must be finite"),
        (X[:, 0], "must have the shape"),
        (X[:0], "holds no sample"),
    ],
    ids=["NaN", "shape", "empty"],
)
def test_data_that_cannot_be_measured_are_refused(data, match):
    made = model()
    made.compile("sgd", "mse")
    with pytest.raises(ValueError, match=match):
        made.fit(X, Y, epochs=2, verbose=0, callbacks=[ReDoCallback(data=data)])
