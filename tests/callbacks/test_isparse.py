"""Sparse training: `iSparseCallback` in `fit()`, and `Sparsifier` in loops of one's own."""

import itertools
import os
import subprocess
import sys
import textwrap

import compat
import keras
import numpy as np
import pytest
from keras import layers

import keras_saliency
from keras_saliency import Sparsifier, iSparseCallback
from keras_saliency.sparsity.training.schedules import Schedule

# The paper's setting (Garg 2020, section 4.5), whose numbers are known in advance.
PAPER = {"schedule": "constant", "scope": "layer", "power": 1, "min_edges": 0}


def paper(*args, **kwargs):
    return iSparseCallback(*args, **{**PAPER, **kwargs})


BACKEND = keras.backend.backend()
SIZES = {"first": 7 * 12, "last": 12 * 5}


def mlp(optimizer=None, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((7,)),
            layers.Dense(12, activation="tanh", name="first"),
            layers.Dense(5, name="last"),
        ]
    )
    model.compile(optimizer or keras.optimizers.Adam(0.05), "mse", **kwargs)
    return model


def samples(count=24):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 7)).astype("float32")
    return x, np.tanh(x[:, :5] * 2).astype("float32")


def zeros(model):
    """Zeros in `kernel * mask`, per layer."""
    counts = {}
    for layer in model.layers:
        kernel = compat.to_numpy(layer.kernel)
        if hasattr(layer, "mask"):
            kernel = kernel * compat.to_numpy(layer.mask)
        counts[layer.name] = int((kernel == 0).sum())
    return counts


class Watch(keras.callbacks.Callback):
    """Counts the zeros at every batch end."""

    def on_train_begin(self, logs=None):
        self.zeros, self.sparsity = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.zeros.append(zeros(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.sparsity.append(logs["sparsity"])


def train(model, callback, *callbacks, epochs=3, batch_size=8, **kwargs):
    x, y = samples()
    watch = Watch()
    history = model.fit(
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[callback, watch, *callbacks],
        **kwargs,
    )
    return watch, history


def expected(sparsity):
    return {name: round(sparsity * size) for name, size in SIZES.items()}


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.02, momentum=0.9),
    "lion": lambda: keras.optimizers.Lion(0.01, weight_decay=0.01),
    "ema": lambda: keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.5),
    "ema-overwrite": lambda: keras.optimizers.Adam(
        0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_are_zero_at_every_batch_end_whatever_the_optimizer(name):
    model = mlp(OPTIMIZERS[name]())
    before = [np.array(w) for w in model.get_weights()]
    # Two free epochs fill momenta and averages before the weights are masked.
    callback = paper(0.6, method="magnitude", begin=1, regrow=False)
    watch, history = train(model, callback)
    assert watch.zeros[:3] == [{"first": 0, "last": 0}] * 3
    assert watch.zeros[3:] == [expected(0.6)] * 6
    assert zeros(model) == expected(0.6)
    assert history.history["sparsity"] == pytest.approx([0, 0.6, 0.6], abs=0.01)
    kept = compat.to_numpy(model.layers[0].kernel) != 0
    assert (before[0][kept] != compat.to_numpy(model.layers[0].kernel)[kept]).all()
    # Nothing is left behind.
    assert model.layers[0]._kernel.constraint is None
    assert all(v.dtype != "bool" for v in model.optimizer.variables)
    assert not [name for name in vars(model) if "isparse" in name]


def test_a_model_that_collapses_is_masked_on_with_a_warning():
    class Collapse(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.layers[-1].kernel.assign(np.zeros((12, 5)))

    model = mlp()
    callback = paper(0.4, data=samples()[0], schedule="polynomial", end=1)
    with pytest.warns(UserWarning, match="collapsed"):
        train(model, callback, Collapse(), epochs=2)
    assert zeros(model)["first"] >= expected(0.4)["first"]
    with pytest.raises(ValueError, match="does not vary"):  # before anything is changed
        train(model, paper(0.4, data=np.zeros((4, 7))))


def test_swapped_in_averages_have_the_zeros():
    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(zeros(self.model))
            kernels.append(compat.to_numpy(self.model.layers[0].kernel).copy())

    counts, kernels = [], []
    for callbacks in ([], [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]):
        keras.utils.set_random_seed(0)
        callback = paper(0.4, method="magnitude", regrow=False)
        train(mlp(OPTIMIZERS["ema"]()), callback, *callbacks, Record(), epochs=2)
    assert counts == [expected(0.4)] * 4
    assert np.abs(kernels[0] - kernels[2]).max() > 1e-4  # the averages were in the model


def test_masked_models_have_their_masks_set():
    model = mlp()
    sparse = keras_saliency.sparsify(model, 0.2, method="magnitude", masked=True, scope="layer")
    stored = compat.to_numpy(sparse.layers[0].kernel).copy()
    masks = []
    watch, _ = train(
        sparse,
        paper(0.6, data=samples()[0]),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: masks.append(compat.to_numpy(sparse.layers[0].mask))
        ),
        epochs=4,
    )
    assert watch.zeros == [expected(0.6)] * 12
    assert (compat.to_numpy(sparse.layers[0].kernel) != 0).all() and (stored != 0).all()
    # A masked edge may come back.
    assert any((later & ~earlier).any() for earlier, later in itertools.pairwise(masks))


def test_a_user_s_constraint_still_holds():
    inputs = keras.Input((7,))
    model = keras.Model(inputs, layers.Dense(5, kernel_constraint="non_neg", name="only")(inputs))
    model.compile("sgd", "mse")
    x, y = samples()
    constraint = model.layers[1]._kernel.constraint
    model.fit(x, -y, verbose=0, callbacks=[paper(0.4, method="magnitude")])
    kernel = compat.to_numpy(model.layers[1].kernel)
    assert (kernel >= 0).all() and (kernel == 0).sum() >= round(0.4 * 35)
    assert model.layers[1]._kernel.constraint is constraint


def test_edges_come_back_on_plain_models_unless_regrow_is_off():
    def masks_over_time(regrow):
        found = []

        class Record(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                found.append(callback.sparsifier.masks["first"])

        callback = paper(0.5, data=samples()[0], regrow=regrow)
        keras.utils.set_random_seed(3)
        train(mlp(), callback, Record(), epochs=6)
        return found

    free, fixed = masks_over_time(True), masks_over_time(False)
    assert any((b & ~a).any() for a, b in itertools.pairwise(free))
    for a, b in itertools.pairwise(fixed):
        np.testing.assert_array_equal(a, b)


if BACKEND != "torch":  # Keras runs one step at a time there

    def test_steps_per_execution():
        model = mlp(steps_per_execution=3)
        watch, _ = train(model, paper(0.6, method="magnitude", regrow=False), batch_size=4)
        assert watch.zeros and all(count == expected(0.6) for count in watch.zeros)


@pytest.mark.parametrize("frequency", ["epoch", "batch", 2])
def test_schedule_rises_to_the_target_and_stays_past_its_end(frequency):
    end = {"epoch": 2, "batch": 6, 2: 3}[frequency]
    callback = paper(
        0.8,
        method="magnitude",
        schedule="polynomial",
        frequency=frequency,
        end=end,
        regrow=False,
    )
    watch, _ = train(mlp(), callback, epochs=4)  # 3 batches per epoch
    shares = [count["first"] for count in watch.zeros]
    units = {
        "epoch": [b // 3 for b in range(12)],
        "batch": list(range(12)),
        2: [b // 2 for b in range(12)],
    }
    curve = [0.8 * (1 - (1 - min(u, end) / end) ** 3) for u in units[frequency]]
    assert shares == [round(s * SIZES["first"]) for s in curve]
    assert watch.sparsity[-1] == pytest.approx(0.8, abs=0.01)


def test_schedule_may_be_any_function_of_the_batch():
    seen = []

    def schedule(batch):
        seen.append(batch)
        return 0.05 * batch

    watch, _ = train(
        mlp(),
        paper(0.3, method="random", schedule=schedule, frequency="batch", regrow=False),
    )
    assert sorted(set(seen)) == list(range(9))
    assert [c["last"] for c in watch.zeros] == [round(0.05 * b * 60) for b in range(9)]


def test_schedules_are_pure_functions():
    schedule = Schedule("cosine", "batch", begin=2, end=6)
    values = [schedule.sparsity(u, batch=u, target=0.8) for u in range(9)]
    np.testing.assert_allclose(values[:3], 0)
    assert values[4] == pytest.approx(0.4) and values[6:] == [0.8] * 3
    assert Schedule("constant", 5, begin=1).unit(batch=14, epoch=0) == 2
    assert [Schedule(end=3, begin=1).is_due(u) for u in range(5)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_lottery_goes_back_to_the_first_weights():
    model = mlp(keras.optimizers.SGD(0.0))
    first = [np.array(w) for w in model.get_weights()]

    class Shift(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for layer in self.model.layers:
                layer.bias.assign(compat.to_numpy(layer.bias) + 1)

    train(model, paper(0.5, method="lottery", begin=1), Shift(), epochs=2)
    for layer, kernel, bias in zip(model.layers, first[::2], first[1::2], strict=True):
        mine = compat.to_numpy(layer.kernel)
        np.testing.assert_array_equal(mine[mine != 0], kernel[mine != 0])
        np.testing.assert_array_equal(compat.to_numpy(layer.bias), bias + 1)
    assert zeros(model) == expected(0.5)


def test_one_instance_serves_two_fits():
    callback = paper(0.5, method="magnitude", regrow=False)
    for _ in range(2):
        model = mlp()
        watch, _ = train(model, callback, epochs=1)
        assert watch.zeros == [expected(0.5)] * 3
    free = keras.callbacks.LambdaCallback()
    model.fit(*samples(), verbose=0, callbacks=[free])
    assert zeros(model)["first"] < expected(0.5)["first"]  # nothing holds them any longer


def test_models_save_and_clone_during_training_as_ever(tmp_path):
    model = mlp()
    seen = []

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.save(tmp_path / f"{epoch}.keras")
            seen.append([np.array(w) for w in self.model.get_weights()])
            assert len(keras.models.clone_model(self.model).weights) == 4

    train(model, paper(0.5, method="magnitude"), Save(), epochs=2)
    loaded = keras.saving.load_model(tmp_path / "0.keras")
    for value, mine in zip(loaded.get_weights(), seen[0], strict=True):
        np.testing.assert_array_equal(value, mine)
    assert loaded.optimizer.iterations.numpy() == 3


def test_early_stopping_restores_the_best_weights_with_their_zeros(tmp_path):
    model = mlp(keras.optimizers.SGD(0.5))
    stop = keras.callbacks.EarlyStopping("loss", patience=1, restore_best_weights=True, mode="max")
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.weights.h5",
        "loss",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )
    callback = paper(
        0.5, method="magnitude", schedule=lambda b: 0.5 if b < 3 else 0.7, regrow=False
    )
    watch, history = train(model, callback, stop, checkpoint, epochs=6)
    assert len(history.history["loss"]) == 2 and watch.zeros[-1] == expected(0.7)
    assert zeros(model) == expected(0.5)
    other = mlp()
    other.load_weights(tmp_path / "best.weights.h5")
    for value, mine in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, mine)


def run_script(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )


RUN = """
    import os, sys
    import keras, numpy as np
    from keras import layers
    import keras_saliency

    class Interrupt(keras.callbacks.Callback):
        # In the middle of the second epoch, while the schedule still rises.
        def __init__(self, what):
            super().__init__()
            self.what = what
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch
        def on_train_batch_begin(self, batch, logs=None):
            if self.epoch == 1 and batch == 1:
                self.what()

    def train(kind, folder, *callbacks):
        keras.utils.set_random_seed(1)
        x = np.random.default_rng(0).normal(size=(24, 7)).astype("float32")
        y = np.tanh(x[:, :5] * 2)
        model = keras.Sequential(
            [keras.Input((7,)), layers.Dense(12, activation="tanh"), layers.Dense(5)]
        )
        if kind == "masked":
            options = {"method": "magnitude", "scope": "layer", "masked": True}
            model = keras_saliency.sparsify(model, 0.1, **options)
        model.compile(keras.optimizers.Adam(0.05), "mse")
        masks = keras_saliency.iSparseCallback(
            0.7, x, schedule="polynomial", frequency=2, end=3, scope="layer"
        )
        backup = keras.callbacks.BackupAndRestore(os.path.join(folder, kind))
        both = [backup, masks] if kind == "plain" else [masks, backup]
        model.fit(
            x, y, epochs=3, batch_size=8, shuffle=False, verbose=0, callbacks=[*both, *callbacks]
        )
        np.savez(os.path.join(folder, kind + ".npz"), *model.get_weights())

    whole, broken, what = sys.argv[1:]
    if what == "die":  # both at once: the plain run waits for the masked one, which is killed
        train(
            "plain",
            broken,
            Interrupt(lambda: train("masked", broken, Interrupt(lambda: os._exit(9)))),
        )
    for folder in (broken, whole):
        for kind in ("plain", "masked"):
            train(kind, folder)
"""


def test_a_killed_run_resumes_and_ends_like_one_that_was_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    for what, status in (("die", 9), ("resume", 0)):
        result = run_script(RUN, str(whole), str(broken), what)
        assert result.returncode == status, result.stderr[-3000:]
        # Keras deletes a backup at the end of the training.
        assert [(broken / kind).exists() for kind in ("plain", "masked")] == [status == 9] * 2
    for kind, arrays in (("plain", 4), ("masked", 6)):
        one, other = np.load(whole / f"{kind}.npz"), np.load(broken / f"{kind}.npz")
        assert len(one.files) == arrays
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
        if kind == "plain":
            assert round(0.7 * 84) <= (one["arr_0"] == 0).sum() < 84


def test_resuming_from_a_saved_model_keeps_its_zeros(tmp_path):
    x, y = samples()
    model = mlp()
    callback = paper(0.5, method="magnitude", end=0)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[callback])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = compat.to_numpy(loaded.layers[0].kernel) == 0
    loaded.fit(
        x,
        y,
        initial_epoch=1,
        epochs=3,
        verbose=0,
        callbacks=[paper(0.5, method="magnitude", end=0)],
    )
    np.testing.assert_array_equal(compat.to_numpy(loaded.layers[0].kernel) == 0, before)


@pytest.mark.parametrize("name", ["adam", "ema"])
def test_training_that_fails_leaves_no_half_masked_weights(name):
    model = mlp(OPTIMIZERS[name]())

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.seen == 4:
                raise KeyboardInterrupt
            self.seen += 1

        def on_train_begin(self, logs=None):
            self.seen = 0

    callback = paper(0.5, method="magnitude", regrow=False)
    with pytest.raises(KeyboardInterrupt):
        train(model, callback, Fail())
    assert zeros(model) == expected(0.5)
    callback.release()
    assert model.layers[0]._kernel.constraint is None
    if name == "adam":
        watch, _ = train(model, callback, epochs=1)
        assert watch.zeros == [expected(0.5)] * 3


# ---- more than one device ------------------------------------------------------------------

DATA_PARALLEL = """
    import os
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = flags + " --xla_force_host_platform_device_count=4"
    import keras, numpy as np
    from keras import layers
    import keras_saliency
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(64, 7)).astype("float32")
    for masked in (False, True):
        model = keras.Sequential([keras.Input((7,)), layers.Dense(12), layers.Dense(5)])
        if masked:
            options = {"method": "magnitude", "scope": "layer", "masked": True}
            model = keras_saliency.sparsify(model, 0.5, **options)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
        counts = []
        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                layer = self.model.layers[0]
                kernel = np.array(layer.kernel)
                if masked:
                    kernel = kernel * np.array(layer.mask)
                counts.append(int((kernel == 0).sum()))
        paper = {"schedule": "constant", "scope": "layer", "power": 1, "min_edges": 0}
        callback = keras_saliency.iSparseCallback(0.5, data=x[:8], regrow=False, **paper)
        model.fit(x, x[:, :5], epochs=2, batch_size=16, verbose=0, callbacks=[callback, Watch()])
        assert counts == [42] * 8, counts
        assert len(model.layers[0].bias.value.sharding.device_set) == 4
"""

MIRRORED = """
    import tensorflow as tf
    cpus = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpus[0], two)
    import keras, numpy as np
    from keras import layers
    import keras_saliency
    x = np.random.default_rng(0).normal(size=(64, 7)).astype("float32")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for masked in (False, True):
        with strategy.scope():
            model = keras.Sequential([keras.Input((7,)), layers.Dense(12), layers.Dense(5)])
            if masked:
                options = {"method": "magnitude", "scope": "layer", "masked": True}
                model = keras_saliency.sparsify(model, 0.5, **options)
            model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
        counts = []
        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                layer = self.model.layers[0]
                kernel = keras.ops.convert_to_numpy(layer.kernel)
                if masked:
                    kernel = kernel * keras.ops.convert_to_numpy(layer.mask)
                counts.append(int((kernel == 0).sum()))
        paper = {"schedule": "constant", "scope": "layer", "power": 1, "min_edges": 0}
        callback = keras_saliency.iSparseCallback(0.5, data=x[:8], regrow=False, **paper)
        model.fit(x, x[:, :5], epochs=2, batch_size=16, verbose=0, callbacks=[callback, Watch()])
        assert counts == [42] * 8, counts
"""


if BACKEND == "jax":

    def test_data_parallel_training_keeps_the_zeros():
        result = run_script(DATA_PARALLEL)
        assert result.returncode == 0, result.stderr[-3000:]


if BACKEND == "tensorflow":

    def test_mirrored_training_keeps_the_zeros():
        result = run_script(MIRRORED)
        assert result.returncode == 0, result.stderr[-3000:]


# ---- loops of one's own ----------------------------------------------------------------------


def test_sparsifier_in_a_loop_of_one_s_own():
    x, y = samples()
    model = mlp()
    sparsifier = Sparsifier(
        model, 0.6, data=x, schedule="polynomial", frequency=2, end=3, regrow=False
    )
    counts = []
    for _ in range(10):
        sparsifier.step()
        model.train_on_batch(x, y)
        assert sparsifier.apply() is None
        counts.append(zeros(model)["first"])
    curve = [0.6 * (1 - (1 - min(u, 3) / 3) ** 3) for u in (0, 0, 1, 1, 2, 2, 3, 3, 3, 3)]
    assert counts == [round(s * 84) for s in curve]
    assert sparsifier.sparsity == pytest.approx(0.6, abs=0.01)
    assert {key: int((~mask).sum()) for key, mask in sparsifier.masks.items()} == expected(0.6)


def test_sparsifier_applies_to_the_values_of_stateless_loops():
    x, _ = samples()
    model = mlp()
    sparsifier = Sparsifier(model, 0.5, data=x)
    sparsifier.step()
    values = [keras.ops.ones(v.shape) for v in model.trainable_variables]
    masked = [compat.to_numpy(v) for v in sparsifier.apply(values)]
    np.testing.assert_array_equal(masked[0], sparsifier.masks["first"].astype("float32"))
    assert (masked[1] == 1).all()
    assert zeros(model) == expected(0.5)


def test_sparsifier_goes_on_from_its_state():
    x, y = samples()
    model = mlp()
    one = Sparsifier(model, 0.5, data=x, frequency=3)
    for _ in range(4):
        one.step()
        model.train_on_batch(x, y)
        one.apply()
    other = Sparsifier(model, 0.5, data=x, frequency=3)
    other.set_state(one.state())
    assert other.batch == 4
    for key, mask in one.masks.items():
        np.testing.assert_array_equal(other.masks[key], mask)


# ---- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"\[0, 1\)"),
        ({"sparsity": {"first": 1.2}}, r"\[0, 1\)"),
        ({"method": "best"}, "isparse"),
        ({"schedule": "linear"}, "cosine"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": "step"}, "frequency"),
        ({"begin": -1}, "begin"),
        ({"begin": 5, "end": 4}, "end"),
        ({"granularity": "rows"}, "channel"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        paper(**{"sparsity": 0.5, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": {"third": 0.5}}, "third"),
        ({"granularity": (2, 4)}, "inputs"),
        ({"data": samples()[0][:1]}, "sample"),
        ({"layers": "third"}, "third"),
        ({"schedule": lambda batch: 1.5}, r"\[0, 1\)"),
    ],
)
def test_bad_arguments_for_the_model_are_refused_before_training(arguments, message):
    model = mlp()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        train(model, paper(**{"sparsity": 0.5, **arguments}))
    for value, mine in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, mine)


def test_warns_when_the_schedule_never_acts():
    with pytest.warns(UserWarning, match="will mask nothing"):
        train(mlp(), paper(0.5, method="magnitude", begin=7))
    with pytest.warns(UserWarning, match="will mask nothing"):
        train(mlp(), paper(0.5, schedule="cosine", frequency=1000, end=3))


def test_sparsifier_needs_an_end_and_an_epoch():
    model = mlp()
    with pytest.raises(ValueError, match="end"):
        Sparsifier(model, 0.5, schedule="cosine", method="magnitude")
    with pytest.raises(ValueError, match="epoch"):
        Sparsifier(model, 0.5, frequency="epoch", method="magnitude").step()
