"""`KeepSparsity`, and what every sparse training must leave behind: nothing."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_saliency
from keras_saliency import KeepSparsity, Sparsifier, iSparseCallback

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8)).astype("float32")
Y = X[:, :3]


def numpy(x):
    return np.array(ops.convert_to_numpy(x))


def model(optimizer=None, **options):
    made = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="tanh", bias_initializer="ones"),
            layers.Dense(3),
        ]
    )
    made.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **options)
    return made


def pruned(optimizer=None, **options):
    sparse = keras_saliency.sparsify(model(), 0.75, method="magnitude", scope="layer")
    sparse.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **options)
    return sparse


def zeros(made):
    return [int((numpy(layer.kernel) == 0).sum()) for layer in made.layers]


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(zeros(self.model))


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "weight decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "averages": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_at_every_batch_end(name):
    sparse, watch = pruned(OPTIMIZERS[name]()), Watch()
    before = [numpy(layer.kernel).copy() for layer in sparse.layers]
    history = sparse.fit(
        X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[KeepSparsity(), watch]
    )
    assert watch.seen == [[96, 36]] * 8
    assert history.history["sparsity"] == [0.75, 0.75]
    for old, layer in zip(before, sparse.layers, strict=True):
        assert np.abs(numpy(layer.kernel) - old).max() > 1e-3  # the rest is trained
        assert layer.kernel.constraint is None


def test_masked_models_keep_their_masks():
    sparse = keras_saliency.sparsify(model(), 0.75, method="magnitude", scope="layer", masked=True)
    sparse.fit(X, Y, verbose=0, callbacks=[KeepSparsity()])
    assert keras_saliency.sparsity_report(sparse)["zeros"].tolist() == [96, 36]


def test_kernels_of_zeros_alone_train_unless_they_are_named():
    made = model()
    made.layers[0].kernel.assign(numpy(made.layers[0].kernel) * (RNG.random((8, 16)) < 0.5))
    made.layers[1].kernel.assign(np.zeros((16, 3)))
    kept = zeros(made)[0]
    with pytest.warns(UserWarning, match="dense.*zeros alone"):
        made.fit(X, Y, verbose=0, epochs=3, callbacks=[KeepSparsity()])
    assert zeros(made)[0] == kept and zeros(made)[1] < 48
    made.layers[1].kernel.assign(np.zeros((16, 3)))
    made.fit(X, Y, verbose=0, callbacks=[KeepSparsity(layers=made.layers[1])])
    assert zeros(made)[1] == 48
    with pytest.raises(ValueError, match="has a zero to keep"):
        model().fit(X, Y, verbose=0, callbacks=[KeepSparsity()])


def test_a_loop_of_ones_own_keeps_zeros():
    sparse = pruned()
    keeper = Sparsifier.from_zeros(sparse)
    assert not keeper.step() and keeper.sparsity == 0.75
    sparse.train_on_batch(X, Y)
    keeper.apply()
    assert zeros(sparse) == [96, 36]


def test_two_callbacks_have_their_own_states_and_logs_and_leave_in_any_order():
    made = model()
    first, last = (layer.name for layer in made.layers)
    history = made.fit(
        X,
        Y,
        epochs=2,
        verbose=0,
        callbacks=[
            iSparseCallback(0.5, method="magnitude", scope="layer", layers=first),
            iSparseCallback(0.25, method="magnitude", scope="layer", layers=last),
            iSparseCallback(0.75, method="magnitude", scope="layer", layers=first),
        ],
    ).history
    assert history["sparsity"][-1] == 0.5
    assert history["sparsity_1"][-1] == 0.25
    assert history["sparsity_2"][-1] == 0.75
    assert zeros(made)[0] >= 96 and zeros(made)[1] in (12, 13)  # one may just have come back
    assert all(v.constraint is None for v in made.trainable_variables)
    assert not any(name.startswith("_isparse") for name in vars(made))
    made.fit(X, Y, epochs=3, verbose=0)
    assert sum(zeros(made)) <= 2


@pytest.mark.parametrize("again", ["another callback", "no callback", "the same callback"])
def test_a_training_that_an_exception_ends_leaves_nothing(again):
    made = model()
    callback = iSparseCallback(0.75, method="magnitude", schedule="constant", scope="layer")
    with pytest.raises(KeyboardInterrupt):
        made.fit(X, Y, epochs=3, verbose=0, callbacks=[callback, Interrupt(1)])
    if again == "no callback":
        made.fit(X, Y, epochs=4, verbose=0)
        assert sum(zeros(made)) <= 2
    else:
        if again == "another callback":
            callback = iSparseCallback(0.25, method="magnitude", schedule="constant", scope="layer")
        history = made.fit(X, Y, epochs=4, verbose=0, callbacks=[callback]).history
        share = 0.25 if again == "another callback" else 0.75
        assert history["sparsity"] == [share] * 4
        assert zeros(made)[0] <= share * 128 + 8  # some have just come back
    assert all(v.constraint is None for v in made.trainable_variables)


@pytest.mark.parametrize("first", [True, False])
def test_a_second_fit_in_one_process_is_restored_whatever_the_order(first, tmp_path):
    def run(stop, folder):
        keras.utils.set_random_seed(3)
        made = model()
        callback = iSparseCallback(
            0.8, method="magnitude", schedule="polynomial", end=5, scope="layer"
        )
        backup = keras.callbacks.BackupAndRestore(tmp_path / folder, delete_checkpoint=False)
        callbacks = [backup, callback] if first else [callback, backup]
        options = {"batch_size": 16, "epochs": 6, "shuffle": False, "verbose": 0}
        if stop:
            with pytest.raises(KeyboardInterrupt):
                made.fit(X, Y, callbacks=[*callbacks, Interrupt(3)], **options)
        made.fit(X, Y, callbacks=callbacks, **options)
        return [numpy(layer.kernel) != 0 for layer in made.layers]

    for a, b in zip(run(False, "whole"), run(True, "twice"), strict=True):
        np.testing.assert_array_equal(a, b)


STEPS = (1,) if keras.backend.backend() == "torch" else (1, 4, 8)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("frequency", ["epoch", "batch", 2, 3])
def test_the_target_is_reached_under_every_frequency_and_execution(steps, frequency):
    made = model(steps_per_execution=steps)
    callback = iSparseCallback(
        0.75, method="magnitude", schedule="polynomial", frequency=frequency, scope="layer"
    )
    epochs = 2 if frequency == "epoch" else 1
    made.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=[callback])
    assert zeros(made) == [96, 36]


def test_a_training_that_begins_past_the_end_has_the_target():
    made = model()
    callback = iSparseCallback(
        0.75, method="magnitude", schedule="polynomial", end=2, scope="layer"
    )
    made.fit(X, Y, initial_epoch=4, epochs=5, verbose=0, callbacks=[callback])
    assert zeros(made) == [96, 36]


def test_lora_counts_as_the_kernel_in_use_and_merges_under_the_zeros(caplog):
    sparse = pruned()
    sparse.layers[0].enable_lora(2)
    history = sparse.fit(X, Y, epochs=3, verbose=0, callbacks=[KeepSparsity()]).history
    assert history["sparsity"][-1] < 0.6  # the update of the first kernel is dense
    assert "merge_lora" in caplog.text
    report = keras_saliency.sparsity_report(sparse)
    assert report["zeros"].tolist()[0] < 96
    update = numpy(sparse.layers[0].kernel)
    assert keras_saliency.merge_lora(sparse) is sparse
    assert not sparse.layers[0].lora_enabled
    assert zeros(sparse) == [96, 36]
    kept = numpy(sparse.layers[0].kernel) != 0
    np.testing.assert_allclose(numpy(sparse.layers[0].kernel)[kept], update[kept], atol=1e-6)


def test_the_defaults_rise_to_the_target_and_starve_no_output():
    made = model()
    callback = iSparseCallback(0.9, data=X)
    history = made.fit(X, Y, epochs=8, verbose=0, callbacks=[callback]).history["sparsity"]
    assert history == sorted(history) and history[0] == 0
    # From three quarters on at the target, exactly, over the model.
    total = round(0.9 * 176) / 176
    assert history[6] == history[7] == total and history[4] < total
    masks = callback.sparsifier.masks
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.9 * 176)
    shares = {key: 1 - mask.mean() for key, mask in masks.items()}
    first, last = (shares[layer.name] for layer in made.layers)
    assert last < 0.9 < first  # ERK leaves the smaller kernel denser
    for mask in masks.values():
        least = min(2, int(mask.sum()) // mask.shape[1])
        assert (mask.sum(0) >= least).all()


def test_a_training_of_one_epoch_has_the_target_at_once_and_says_so():
    made = model()
    with pytest.warns(UserWarning, match="frequency='batch'"):
        made.fit(X, Y, verbose=0, callbacks=[iSparseCallback(0.5, method="magnitude")])
    assert sum(zeros(made)) >= 88
    with pytest.raises(ValueError, match=r"scope=.global.*scope=.erk"):
        callback = iSparseCallback(0.9, data=X, scope="global", schedule="constant")
        made.fit(X, Y, verbose=0, callbacks=[callback])
