"""Schedules that come to their end: dense-sparse-dense, the best epoch, and what is warned of."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency import Sparsifier, iSparseCallback

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 7)).astype("float32")
Y = np.tanh(X[:, :5] * 2)
SIZES = (7 * 11, 11 * 5)


def numpy(x):
    return np.array(ops.convert_to_numpy(x))


def mlp(masked=False, **options):
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [keras.Input((7,)), layers.Dense(11, activation="tanh"), layers.Dense(5)]
    )
    if masked:
        model = keras_saliency.sparsify(model, 0.0, method="magnitude", masked=True)
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    return model


def zeros(model):
    return keras_saliency.sparsity_report(model)["zeros"].tolist()


class Watch(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.zeros, self.first = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.first.append(numpy(self.model.layers[0].kernel))

    def on_train_batch_end(self, batch, logs=None):
        self.zeros.append(zeros(self.model))


def fit(model, *callbacks, epochs=6, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options).history


def magnitude(sparsity, **options):
    options = {"method": "magnitude", "scope": "layer", "regrow": False, **options}
    return iSparseCallback(sparsity, **options)


# ---- dense-sparse-dense ----------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("frequency", ["epoch", 2, "batch"])
def test_the_middle_third_is_sparse_and_what_was_masked_begins_at_zero(frequency, masked):
    model, watch = mlp(masked), Watch()
    callback = magnitude(0.6, schedule="dense-sparse-dense", frequency=frequency)
    history = fit(model, callback, watch)
    share = [round(0.6 * size) for size in SIZES]
    # 6 epochs of 3 batches: batches 6 to 11 are the middle third.
    assert watch.zeros == [[0, 0]] * 6 + [share] * 6 + [[0, 0]] * 6
    rounded = sum(share) / sum(SIZES)
    assert history["sparsity"] == pytest.approx([0, 0, rounded, rounded, 0, 0])
    if masked:  # neither does what is stored beneath a mask come back
        assert (watch.first[12] == 0).sum() == share[0]
    assert callback.at_target


def test_begin_and_end_and_every_regrowth_may_be_chosen():
    for regrow in (True, "random"):
        model, watch = mlp(), Watch()
        options = {"schedule": "dense-sparse-dense", "begin": 1, "end": 3, "regrow": regrow}
        fit(model, magnitude(0.6, **options), watch, epochs=4)
        first = [a for a, _ in watch.zeros]
        assert first[:3] == first[9:] == [0, 0, 0]
        assert all(round(0.6 * 77) <= count for count in first[3:9])
    sparsifier = Sparsifier(
        mlp(), 0.6, method="magnitude", schedule="dense-sparse-dense", begin=1, end=2
    )
    shares = []
    for _ in range(4):
        sparsifier.step()
        shares.append(sparsifier.sparsity)
    assert shares == [0, sum(round(0.6 * size) for size in SIZES) / 132, 0, 0]


def test_a_lottery_may_end_dense():
    model = mlp()
    fit(model, magnitude(0.6, schedule="dense-sparse-dense", method="lottery"), epochs=3)
    assert zeros(model) == [0, 0]


def test_three_phases_need_three_units():
    with pytest.raises(ValueError, match="frequency='batch'"):
        fit(mlp(), magnitude(0.6, schedule="dense-sparse-dense"), epochs=2)
    with pytest.raises(ValueError, match="frequency='batch'"):
        fit(mlp(), magnitude(0.6, schedule="dense-sparse-dense", begin=5), epochs=6)
    with pytest.raises(ValueError, match="scope='erk'"):
        fit(mlp(), magnitude(0.6, schedule="dense-sparse-dense", scope="global"))
    with pytest.raises(ValueError, match="`end`"):
        Sparsifier(mlp(), 0.6, method="magnitude", schedule="dense-sparse-dense")


# ---- the best epoch --------------------------------------------------------------------------


def rising(**options):
    # Epochs 0 to 3: 0, 0.422, 0.525, 0.6, the last two at the target.
    return magnitude(0.6, schedule="polynomial", end=2, **options)


TARGET = [round(0.6 * size) for size in SIZES]


class Worse(keras.callbacks.Callback):
    """A measure that the first epoch has best, and the third of those at the target."""

    def on_epoch_end(self, epoch, logs=None):
        logs["worse"] = [0.0, 1.0, 5.0, 3.0, 4.0, 6.0][epoch]


@pytest.mark.parametrize("masked", [False, True])
def test_the_checkpoint_keeps_the_best_epoch_at_the_target(masked, tmp_path):
    callback, path = rising(), tmp_path / "best.keras"
    best = {"monitor": "worse", "mode": "min", "save_best_only": True}
    keeps = callback.checkpoint(path, **best)
    assert isinstance(keeps, keras.callbacks.ModelCheckpoint)
    dense = keras.callbacks.ModelCheckpoint(tmp_path / "dense.keras", **best)
    weights = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(model.get_weights())
    )
    model = mlp(masked)
    fit(model, Worse(), keeps, callback, dense, watch)
    saved = keras.saving.load_model(path)
    assert zeros(saved) == TARGET
    for one, other in zip(saved.get_weights(), weights[3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert zeros(keras.saving.load_model(tmp_path / "dense.keras")) == [0, 0]


def test_the_checkpoint_counts_batches_at_the_target(tmp_path):
    callback = rising()
    path = tmp_path / "{epoch}-{batch}.weights.h5"
    keeps = callback.checkpoint(path, save_freq=2, save_weights_only=True)
    fit(mlp(), callback, keeps, epochs=4)
    names = sorted(path.name for path in tmp_path.iterdir())
    # Epochs count from 1 here, and the third is the first at the target.
    assert names == ["3-2.weights.h5", "4-1.weights.h5", "4-3.weights.h5"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_early_stopping_waits_for_the_target_and_restores_it(first, masked):
    callback, model = rising(), mlp(masked)
    stop = callback.early_stopping(
        monitor="worse", mode="min", patience=2, restore_best_weights=True
    )
    callbacks = [Worse(), stop, callback] if first else [Worse(), callback, stop]
    history = fit(model, *callbacks)
    assert len(history["loss"]) == 6 and stop.best_epoch == 3
    assert zeros(model) == TARGET
    fit(model, callback, epochs=3)  # and nothing is said of the training before


def test_functions_of_the_batch_are_at_the_target_where_they_end():
    seen = []
    callback = magnitude(0.1, schedule=lambda batch: 0.7 if batch < 3 else min(0.05 * batch, 0.6))
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(callback.at_target)
    )
    fit(mlp(), callback, record)
    assert seen == [True, False, False, False, True, True]


# ---- warnings --------------------------------------------------------------------------------


def test_a_training_that_ends_before_the_target_says_so():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    model = mlp()
    with pytest.warns(UserWarning, match=r"sparsity of 0\b.*end=4.*early_stopping"):
        fit(model, magnitude(0.6), Stop(), epochs=6)
    with pytest.warns(UserWarning, match="dense-sparse-dense"):
        fit(model, magnitude(0.6, schedule="dense-sparse-dense", end=7), epochs=6)


@pytest.mark.parametrize("masked", [False, True])
def test_a_denser_model_that_is_restored_is_told_of(masked):
    best = {"monitor": "worse", "mode": "min", "patience": 9, "restore_best_weights": True}
    model, callback = mlp(masked), rising()
    with pytest.warns(UserWarning, match=r"denser epoch were restored: the model has 0 zeros.*79"):
        fit(model, Worse(), keras.callbacks.EarlyStopping(**best), callback)
    fit(model, callback, epochs=3)  # once


def test_it_is_told_at_the_next_use_and_not_where_the_model_was_trained_on():
    best = {"monitor": "worse", "mode": "min", "patience": 9, "restore_best_weights": True}
    model, callback = mlp(), rising()
    fit(model, Worse(), callback, keras.callbacks.EarlyStopping(**best))
    with pytest.warns(UserWarning, match="After the last training"):
        fit(model, callback, epochs=3)
    fit(model, epochs=1)  # free again, by the user's will
    fit(model, callback, epochs=3)


if keras.backend.backend() == "jax":

    def test_the_state_comes_to_the_model_where_masks_are_due_and_not_at_every_batch():
        model, callback = mlp(), magnitude(0.6, frequency=4, end=2)
        fetched, masked = [], []
        fetch = model.jax_state_sync

        class Count(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                masked.append(callback.sparsifier._unit)
                fetched.append(len(calls))

        calls = []
        model.jax_state_sync = lambda: (calls.append(0), fetch())
        fit(model, callback, Count(), epochs=1, batch_size=2)
        # Twelve batches, masks before the first, the fifth and the ninth.
        assert masked == [0] * 4 + [1] * 4 + [2] * 4
        steps = [b > a for a, b in itertools.pairwise(fetched)]
        assert steps == [False, False, False, True] * 2 + [False] * 3


def test_a_model_that_is_built_by_its_data_is_masked_before_the_first_batch():
    model = keras.Sequential([layers.Dense(11, activation="tanh"), layers.Dense(5)])
    model.compile("adam", "mse")
    watch = Watch()
    fit(model, magnitude(0.6, data=X, schedule="constant"), watch, epochs=1)
    assert watch.zeros == [TARGET] * 3


def test_the_masks_may_be_read_at_every_batch_end():
    callback, seen = magnitude(0.6, schedule="constant"), []

    class Read(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([int((~mask).sum()) for mask in callback.sparsifier.masks.values()])

    fit(mlp(), callback, Read(), epochs=1)
    assert seen == [TARGET] * 3
