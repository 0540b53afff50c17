"""A process that is killed goes on, when it is started again, as if nothing had been."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np

SCRIPT = """
    import os, signal, sys
    import keras, numpy as np
    from keras import layers
    import keras_saliency
    from keras_saliency import KeepSparsity, iSparseCallback

    class Then(keras.callbacks.Callback):
        # In the middle of the third epoch of five.
        def __init__(self, what):
            super().__init__()
            self.what = what
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch
        def on_train_batch_begin(self, batch, logs=None):
            if self.epoch == 2 and batch == 1:
                self.what()

    X = np.random.default_rng(0).normal(size=(24, 7)).astype("float32")
    Y = np.tanh(X[:, :5] * 2)
    MAGNITUDE = {"method": "magnitude", "scope": "layer"}

    def callbacks(kind):
        if kind == "moving":  # RigL in one layer and SET in the other
            options = {"frequency": 2, "end": 6, **MAGNITUDE}
            return [
                iSparseCallback(0.6, (X, Y), regrow="gradient", layers="first", **options),
                iSparseCallback(0.4, regrow="random", layers="last", **options),
            ]
        if kind == "dense-sparse-dense":  # sparse in the second and the third epoch
            schedule = {"schedule": kind, "begin": 1, "end": 3}
            return [iSparseCallback(0.6, X, regrow="random", **schedule)]
        return [KeepSparsity()]

    def train(kind, folder, *others, save_freq="epoch"):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((7,)),
                layers.Dense(12, activation="tanh", name="first"),
                layers.Dense(5, name="last"),
            ]
        )
        if kind != "moving":
            masked = kind == "dense-sparse-dense"
            share = 0.0 if masked else 0.5
            model = keras_saliency.sparsify(model, share, masked=masked, **MAGNITUDE)
        model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), "mse")
        backup = keras.callbacks.BackupAndRestore(os.path.join(folder, kind), save_freq=save_freq)
        order = [backup, *callbacks(kind)] if kind == "moving" else [*callbacks(kind), backup]
        options = {"epochs": 5, "batch_size": 8, "shuffle": False, "verbose": 0}
        model.fit(X, Y, callbacks=[*order, *others], **options)
        np.savez(os.path.join(folder, kind + ".npz"), *model.get_weights())

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    whole, broken, inside, what = sys.argv[1:]
    KINDS = ["moving", "dense-sparse-dense", "keep"]
    if what == "die":  # each waits for the next one, and the last one kills them all
        stop = Then(lambda: train("moving", inside, Then(die), save_freq=2))
        for kind in KINDS:
            stop = Then(lambda kind=kind, stop=stop: train(kind, broken, stop))
        stop.what()
    for kind in KINDS:
        train(kind, broken)
        train(kind, whole)
    train("moving", inside, save_freq=2)
"""


def test_regrowth_dense_sparse_dense_and_kept_zeros_survive_a_kill(tmp_path):
    folders = [tmp_path / name for name in ("whole", "broken", "inside")]
    for folder in folders:
        folder.mkdir()
    for what, status in (("die", -signal.SIGKILL), ("resume", 0)):
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, folders), what],
            env=os.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == status, result.stderr[-3000:]
        # Keras deletes a backup at the end of the training.
        assert len([path for path in folders[1].iterdir() if path.is_dir()]) == 3 * (status != 0)
    whole, broken, inside = folders
    for kind, arrays in (("moving", 4), ("dense-sparse-dense", 6), ("keep", 4)):
        one, other = np.load(whole / f"{kind}.npz"), np.load(broken / f"{kind}.npz")
        assert len(one.files) == arrays
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"{kind} {name}")
    shares = {"moving": (50, 24), "keep": (42, 30)}
    for kind, counts in shares.items():
        found = np.load(whole / f"{kind}.npz")
        assert tuple(int((found[f"arr_{i}"] == 0).sum()) for i in (0, 2)) == counts
    # Saved within an epoch, which Keras begins again: another run, with the same promise.
    found = np.load(inside / "moving.npz")
    assert tuple(int((found[f"arr_{i}"] == 0).sum()) for i in (0, 2)) == shares["moving"]
