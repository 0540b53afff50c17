"""RePr: filters that overlap are dropped for a while, and come back orthogonal."""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import keras

from keras_saliency import validation
from keras_saliency.sparsity.criteria.criterion import Method, check_data, criterion_of
from keras_saliency.sparsity.training.filter_cycles import FilterCycles
from keras_saliency.sparsity.training.sparse_training import SparseTraining
from keras_saliency.typing import Data, Layers

Unit = Literal["epoch", "batch"]
UNITS = get_args(Unit)


class RePrCallback(SparseTraining):
    """Drops the worst filters for a while, trains the others, and brings the dropped ones back new.

    After `full` units of training, the `share` of all filters that is worth least, by default those
    that overlap most with others of their layer, is dropped: kernel, bias, and gamma and beta of
    the batch norm right behind stand at exactly 0 for `reduced` units. Then they come back with
    kernels orthogonal to all others of the layer and to what they were, at the others' mean norm,
    with first biases and norms, and optimizer slots of 0. The model is plain throughout.

    Filters are those of convolutions and the units of hidden dense layers; layers whose channels
    are the model's outputs, depthwise, separable and grouped convolutions, masked and frozen layers
    take no part, and every layer keeps a filter. Slots that an optimizer shares among the entries
    of a weight stay (Adafactor's). What is dropped when `fit` ends comes back then.

    Source: Prakash (2019), chapter 5.

    Args:
        share: Float in (0, 1). Share of all filters that are dropped. Default 0.3.
        full: Integer, units of training before each drop. Default 20.
        reduced: Integer, units of training without what was dropped. Default 10.
        cycles: Integer, how often. Default 3: with the other defaults 90 epochs.
        criterion: What a filter is worth: a name (see `sparsify`), a `Criterion`, or a function.
            Default `"orthogonality"`: 1 less its overlap (equation 5.2).
        unit: `"epoch"` or `"batch"`.
        layers, exclude: Which layers: objects, names, glob patterns, compiled regular expressions,
            or predicates, or a list of these; see `maskable_kernels`. Default: all.
        seed: Integer, of the new filters. Default 0.
        data: What `criterion` needs, inputs or `(inputs, targets)`. Default: none.
        batch_size: Integer, of the criterion's passes through the model. Default 32.

    Attributes:
        sparsifier: What drops and brings back, `None` before training.

    Raises:
        TypeError, ValueError: If an argument is none of the above; when training begins, if no
            layer has filters to drop, or `share` is none of them or all; later, if weights are NaN.

    Warns:
        UserWarning: When training begins, if it ends before the last cycle does.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    callback = keras_saliency.RePrCallback(0.25, full=1, reduced=1, cycles=1)
    history = model.fit(x, x[:, 0, :2, 0], epochs=3, verbose=0, callbacks=[callback])
    assert history.history["sparsity"] == [0.0, 0.25, 0.0]
    ```
    """

    def __init__(
        self,
        share: float = 0.3,
        full: int = 20,
        reduced: int = 10,
        cycles: int = 3,
        criterion: Method = "orthogonality",
        unit: Unit = "epoch",
        layers: Layers | None = None,
        exclude: Layers | None = None,
        seed: int | None = 0,
        data: Data | None = None,
        batch_size: int = 32,
    ):
        super().__init__()
        self.share = validation.number("share", share, 0, 1, above=True, below=True)
        self.full = validation.integer("full", full)
        self.reduced = validation.integer("reduced", reduced)
        self.cycles = validation.integer("cycles", cycles)
        self.unit = validation.choice("unit", unit, UNITS)
        self._criterion = criterion_of(criterion, "criterion")
        if data is None:
            check_data(self._criterion, None, None, argument="criterion")
        self._layers = layers
        self._exclude = exclude
        self._seed = validation.seed(seed)
        self._data = data
        self._batch_size = validation.integer("batch_size", batch_size)

    def make_sparsifier(self, model: keras.Model) -> FilterCycles:
        if not model.built:
            raise ValueError(
                "RePrCallback needs a model that is built, to know its filters. Call it on a batch "
                "of data first."
            )
        cycles = FilterCycles(
            model,
            self.share,
            self._criterion,
            self._layers,
            self._exclude,
            self._data,
            self._seed,
            self._batch_size,
        )
        self._epoch_start = 0
        self._warn_if_short()
        return cycles

    def _warn_if_short(self):
        units = self.params.get("epochs", 1)
        if self.unit == "batch":
            steps = self.params.get("steps")
            if steps is None:
                return
            units *= steps
        needed = self.cycles * (self.full + self.reduced)
        if units < needed:
            done = units // (self.full + self.reduced)
            warnings.warn(
                f"{self.cycles} cycle(s) of full={self.full} and reduced={self.reduced} need "
                f"{needed} units of unit={self.unit!r}, and this training has {units}: it comes to "
                f"the end of {done}. Shorten them, or train longer.",
                stacklevel=3,
            )

    def _phase(self, unit):
        """The cycle that a unit belongs to, and whether filters are dropped in it."""
        cycle, place = divmod(unit, self.full + self.reduced)
        return cycle, cycle < self.cycles and place >= self.full

    def _go_to(self, unit):
        cycles = self.sparsifier
        cycle, dropped = self._phase(unit)
        if cycles.dropped and not (dropped and cycle == cycles.cycle):
            _ = self.model  # JAX keeps the training state outside the model; this brings it back
            cycles.bring_back()
        if dropped and not cycles.dropped:
            _ = self.model
            cycles.drop(cycle)

    def on_epoch_begin(self, epoch, logs=None):
        cycles = self.sparsifier
        if epoch > 0 and cycles.seen == 0:  # resumed without this callback's state
            cycles.seen = epoch * (self.params.get("steps") or 0)
        self._epoch_start = cycles.seen
        if self.unit == "epoch":
            self._go_to(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self.unit == "batch":
            self._go_to(self._epoch_start + batch)

    def on_train_batch_end(self, batch, logs=None):
        self.sparsifier.seen = self._epoch_start + batch + 1

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self.sparsifier.dropped:
            _ = self.model
            self.sparsifier.bring_back()
