"""ReDo: neurons that have fallen silent begin anew."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.graph.data import read_pairs
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel, Measurements
from keras_saliency.sparsity.masking.assigning import assign_all
from keras_saliency.sparsity.shrinking.channels import find_weight
from keras_saliency.sparsity.shrinking.groups import ChannelGroups
from keras_saliency.sparsity.training.filter_cycles import (
    Bank,
    along,
    hidden_kernels,
    slots_of,
)
from keras_saliency.typing import Data, Layers


class ReDoCallback(keras.callbacks.Callback):
    """Gives dormant neurons new weights while a model is trained.

    A filter of a convolution, or a unit of a hidden dense layer, is dormant where the mean of its
    `|feature|` over data and positions is at most `tau` times the mean over its layer. Its kernel
    and bias become as initialized, as do gamma, beta and statistics of the batch norm right behind;
    what reads it starts at 0, so that the model computes nearly what it did; optimizer slots of
    all these entries are 0. This happens at the end of every `every`-th epoch but the last.

    Layers take part as in `RePrCallback`. Channels that an addition or a norm over channels ties
    to others cannot start anew alone: layers that have them are left out.

    Source: Sokar et al. (2023), "The dormant neuron phenomenon in deep reinforcement learning".

    Args:
        tau: Float, at least 0 and below 1. Default 0.025.
        every: Integer, epochs from one look to the next. Default 1.
        data: Inputs on which features are measured, or `(inputs, targets)`; a few hundred are
            enough. Needed.
        layers, exclude: Which layers, see `maskable_kernels`. Default: all.
        seed: Integer, of the new weights. Default 0.
        batch_size: Integer, of the passes through the model. Default 32.

    Attributes:
        recycled: Dict from epoch to how many neurons began anew then, of the epochs of the last
            `fit` alone.

    Raises:
        TypeError, ValueError: If an argument is none of the above; when training begins, if `data`
            holds NaN or infinity, the graph of the model cannot be seen, or no layer has neurons
            that can begin anew.

    Warns:
        UserWarning: When training begins, if it ends before the first look.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    redo = keras_saliency.ReDoCallback(data=x)
    history = model.fit(x, x[:, :3], epochs=2, verbose=0, callbacks=[redo])
    print(redo.recycled, history.history["recycled"])
    ```
    """

    def __init__(
        self,
        tau: float = 0.025,
        every: int = 1,
        data: Data | None = None,
        layers: Layers | None = None,
        exclude: Layers | None = None,
        seed: int | None = 0,
        batch_size: int = 32,
    ):
        super().__init__()
        self.tau = validation.number("tau", tau, 0, 1, below=True)
        self.every = validation.integer("every", every)
        if data is None:
            raise ValueError(
                "`data` is None, and which neurons are dormant is measured on it. Pass some inputs "
                "of the training: `ReDoCallback(data=x)`."
            )
        self._data = data
        self._layers = layers
        self._exclude = exclude
        self._seed = validation.seed(seed)
        self._batch_size = validation.integer("batch_size", batch_size)
        self.recycled = {}

    def on_train_begin(self, logs=None):
        model = self.model
        if not model.built:
            raise ValueError("ReDoCallback needs a model that is built. Call it on a batch first.")
        self.recycled = {}
        self._x = read_pairs(model, self._data)[0]
        self._check_finite()
        self._warn_if_short()
        kernels = hidden_kernels(model, self._layers, self._exclude, self._x)
        measurements = Measurements(model, kernels)
        readers = _Readers(model)
        self._banks = []
        for kernel in kernels:
            places = readers.of(kernel)
            if places is not None:
                bank = Bank(kernel, MeasuredKernel(kernel, measurements).norm)
                self._banks.append((bank, places))
        if not self._banks:
            raise ValueError(
                f"No chosen layer of '{model.name}' has neurons that can begin anew: additions tie "
                "them to others, or nothing with weights reads them alone."
            )

    def _check_finite(self):
        for array in keras.tree.flatten(self._x):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(
                    "`data` must be finite: of NaN or infinity no neuron's size can be told."
                )

    def _warn_if_short(self):
        epochs = self.params.get("epochs", 1)
        if epochs <= self.every:
            warnings.warn(
                f"every={self.every} looks for dormant neurons behind epoch {self.every} first, "
                f"but never behind the last, and this training has {epochs} epochs: none begins "
                "anew. Look more often, or train longer.",
                stacklevel=3,
            )

    def on_epoch_end(self, epoch, logs=None):
        count = 0
        if (epoch + 1) % self.every == 0 and epoch + 1 < self.params.get("epochs", epoch + 2):
            count = self._recycle(epoch)
            self.recycled[epoch] = count
        if logs is not None:
            logs["recycled"] = count

    def _dormant(self):
        kernels = [bank.kernel for bank, _ in self._banks]
        measured = Measurements(
            self.model, kernels, self._x, batch_size=self._batch_size, seed=self._seed
        )
        for bank, _ in self._banks:
            features = MeasuredKernel(bank.kernel, measured).activations
            size = np.abs(features).mean((0, 1), dtype="float64")
            yield size <= self.tau * size.mean()

    def _recycle(self, epoch):
        _ = self.model  # JAX keeps the training state outside the model; this brings it back
        fresh = {}  # the id of a weight: variable, where it is new, what it is there
        count = 0

        def renew(variable, where, value):
            where = np.broadcast_to(where, tuple(variable.shape))
            held = fresh.setdefault(id(variable), [variable, np.zeros(where.shape, bool), None])
            old = ops.convert_to_numpy(variable) if held[2] is None else held[2]
            held[2] = np.where(where, value, old)
            held[1] = held[1] | where

        dormant = list(self._dormant())
        for number, ((bank, _), gone) in enumerate(zip(self._banks, dormant, strict=True)):
            if gone.any():
                bank.gone = gone
                count += int(gone.sum())
                values = bank.renewed(self._first(bank, epoch, number))
                for variable, axis in bank.weights:
                    renew(variable, along(gone, axis, len(variable.shape)), values[id(variable)])
                for variable, value in bank.statistics():
                    renew(variable, gone, value)
        # Last, so that what two new neurons have between them is 0 too.
        for (_, places), gone in zip(self._banks, dormant, strict=True):
            for variable, index in places if gone.any() else ():
                rows = np.isin(index, np.flatnonzero(gone))
                renew(variable, rows, 0.0)
        slots = slots_of(self.model.optimizer)
        jobs = []
        for variable, where, value in fresh.values():
            jobs.append((variable, value))
            for slot, start in slots.get(id(variable), ()):
                new = value if start is None else start
                jobs.append((slot, np.where(where, new, ops.convert_to_numpy(slot))))
        assign_all(jobs)
        return count

    def _first(self, bank, epoch, number):
        """A kernel as initialized, as columns; drawn anew each time."""
        initializer = bank.kernel.owner.kernel_initializer
        config = initializer.get_config()
        if "seed" in config:
            seed = np.random.default_rng([self._seed, epoch, number]).integers(2**31 - 1)
            initializer = type(initializer).from_config({**config, "seed": int(seed)})
        value = ops.convert_to_numpy(initializer(bank.kernel.shape, dtype="float32"))
        axis = bank.kernel.output_axes[0]
        return np.moveaxis(np.array(value, "float64"), axis, -1).reshape(-1, bank.count)


class _Readers:
    """Which entries of which weights read the channels of a kernel."""

    def __init__(self, model):
        self.groups = ChannelGroups(model)
        self.pinned = self.groups.pinned()

    def of(self, kernel):
        """`[(variable, index of the channel that each of its entries reads, -1 for none)]`.

        `None` where a channel is tied to others or read by something without weights.
        """
        groups, labels = self.groups, self.groups.labels
        own = None
        for call in groups.calls.values():
            for edges in call.kernels:
                if find_weight(call.layer, edges.weight)[1] is kernel.variable:
                    own = edges
        if own is None:
            return None
        made = labels[own.outputs]
        makers = [labels[e.outputs] for e in groups.edges if e is not own]
        shared = bool(makers) and np.isin(made, np.concatenate(makers)).any()
        if self.pinned[made].any() or shared or len(set(made)) < len(made):
            return None
        index = {label: place for place, label in enumerate(made)}
        places = []
        for call in groups.calls.values():
            for edges in call.kernels:
                read = np.array([index.get(i, -1) for i in labels[edges.inputs.ids]])
                if (read >= 0).any():
                    variable = find_weight(call.layer, edges.weight)[1]
                    shape = tuple(variable.shape)
                    whole = edges.matrix(np.full(shape, -1))
                    whole = np.broadcast_to(read[:, None], whole.shape)
                    places.append((variable, edges.unmatrix(whole.copy(), shape)))
        return places or None
