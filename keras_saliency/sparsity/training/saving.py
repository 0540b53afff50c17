"""Keras's callbacks that keep the best epoch, of those at the target sparsity."""

import keras


class TargetCheckpoint(keras.callbacks.ModelCheckpoint):
    """Keras's `ModelCheckpoint`, that sees what `pruning` has at its target alone.

    Made by `iSparseCallback.checkpoint`.
    """

    def __init__(self, pruning, filepath, **kwargs):
        super().__init__(filepath, **kwargs)
        self.pruning = pruning

    def on_train_batch_end(self, batch, logs=None):
        if self.pruning.at_target:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.pruning.at_target:
            super().on_epoch_end(epoch, logs)


class TargetEarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's `EarlyStopping`, that sees what `pruning` has at its target alone.

    Made by `iSparseCallback.early_stopping`.
    """

    def __init__(self, pruning, **kwargs):
        super().__init__(**kwargs)
        self.pruning = pruning

    def on_epoch_end(self, epoch, logs=None):
        if self.pruning.at_target:
            super().on_epoch_end(epoch, logs)
