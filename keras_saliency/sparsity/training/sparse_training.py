"""What the callbacks that keep a model sparse in `fit` have in common."""

from __future__ import annotations

import itertools
import logging

import keras

from keras_saliency.graph.lora import lora_layers
from keras_saliency.sparsity.training.filter_cycles import FilterCycles
from keras_saliency.sparsity.training.hooks import Hooks, State
from keras_saliency.sparsity.training.sparsifier import Sparsifier

_logger = logging.getLogger("keras_saliency")


class SparseTraining(keras.callbacks.Callback):
    """Holds masked weights at 0 through a `fit`; subclasses say which, in `make_sparsifier`.

    Attributes:
        sparsifier: The `Sparsifier` at work, `None` before training begins.
    """

    def __init__(self):
        super().__init__()
        self.sparsifier = None
        self._hooks = None
        self._restored = {}
        self._slot = None

    def make_sparsifier(self, model: keras.Model) -> Sparsifier | FilterCycles:
        """Return the `Sparsifier` of a training that begins; raise where an argument is wrong."""
        raise ValueError(f"{type(self).__name__} must define `make_sparsifier`.")

    def set_model(self, model):
        self.release()
        super().set_model(model)
        # What is restored before training begins belongs to the sparsifier that is made then.
        self.sparsifier = None
        self._restored = {}
        self._slot = self._free_slot(self._model.__dict__)
        # There before any callback's `on_train_begin`, so that `BackupAndRestore` finds it.
        self._model.__dict__[self._slot] = State(self, name=self._slot)

    def _free_slot(self, attributes):
        """Each callback of a training has a place of its own for its state."""
        for index in itertools.count():
            name = f"_isparse_state_{index}" if index else "_isparse_state"
            held = attributes.get(name)
            # A state whose callback has hooks is left from a training that an exception ended.
            if held is None or held.callback is self or held.callback._hooks is not None:
                self._log_key = f"sparsity_{index}" if index else "sparsity"
                return name

    def on_train_begin(self, logs=None):
        model = self.model
        if model.optimizer is None:
            raise ValueError(
                f"{type(self).__name__} needs a model that is compiled with an optimizer."
            )
        self.release()
        self._model.__dict__[self._slot] = State(self, name=self._slot)
        sparsifier = self.make_sparsifier(model)
        self.sparsifier = sparsifier
        self._hooks = Hooks(model, sparsifier)
        if self._restored:
            sparsifier.set_state(self._restored)
            self._restored = {}

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self._log_key] = self.sparsifier.sparsity

    def on_train_end(self, logs=None):
        self.release()
        carriers = [
            kernel.key
            for kernel in self.sparsifier.kernels
            if kernel.owner in lora_layers(self.model) and not hasattr(kernel.owner, "kernel_masks")
        ]
        if carriers:
            _logger.warning(
                "The kernels %s carry a LoRA update, which is dense: the zeros beneath are lost "
                "when the model is saved or exported, unless `keras_saliency.merge_lora(model)` "
                "comes first.",
                carriers,
            )

    def release(self) -> None:
        """Let go of the model, as at the end of training; needed only if training failed."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        if self._model is not None and self._slot is not None:
            self._model.__dict__.pop(self._slot, None)
