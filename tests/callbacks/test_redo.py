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


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_dormant_neurons_begin_anew_and_others_stay(optimizer):
    made = model()
    made.compile(optimizer, "mse")
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
    slots = [s for path, s in watch.slots.items() if s.shape == (3, 3, 2, 5)]
    assert slots
    for slot in slots:
        assert (slot[..., new] == 0).all() and slot[..., ~new].any()


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


def test_a_model_without_hidden_neurons_is_refused():
    made = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(3)])
    made.compile("sgd", "mse")
    with pytest.raises(ValueError, match="No chosen layer"):
        made.fit(X, Y, verbose=0, callbacks=[ReDoCallback(data=X)])
