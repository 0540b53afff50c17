"""iSparse in `fit()`: sparse training of any compiled model (G 4.5)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
from keras import ops, tree

from keras_saliency import validation
from keras_saliency.graph.data import read_pairs
from keras_saliency.sparsity.criteria.criterion import Method, check_data, criterion_of
from keras_saliency.sparsity.masking.regrowing import REGROW, Regrow
from keras_saliency.sparsity.masking.shares import Scope
from keras_saliency.sparsity.masking.targets import check_granularity, check_sparsity
from keras_saliency.sparsity.significance.walk import Order
from keras_saliency.sparsity.training.gradients import check_labels
from keras_saliency.sparsity.training.saving import TargetCheckpoint, TargetEarlyStopping
from keras_saliency.sparsity.training.schedules import Schedule
from keras_saliency.sparsity.training.sparse_training import SparseTraining
from keras_saliency.sparsity.training.sparsifier import Sparsifier
from keras_saliency.typing import ArrayLike, Data, FilePath, Layer, Layers


class iSparseCallback(SparseTraining):
    """Sparsifies a model while `fit()` trains it (G 4.5, "train-with").

    The masks are computed on schedule, from the weights of the moment and what they contribute to
    the output. From then on a masked weight is exactly 0 in the model at the end of every batch,
    whatever the optimizer (momentum, weight decay, averages of the weights): on plain models
    as part of the compiled training step, on masked ones (from `sparsify`) by their layers.

    The epoch's logs gain `sparsity`, the share of masked edges, for every callback after this one
    in the list. An interrupted run that `BackupAndRestore` resumes goes on with the same masks. A
    `ModelCheckpoint` or `EarlyStopping` that keeps the best epoch may keep one from before the
    target; those from the methods `checkpoint` and `early_stopping` see epochs at the target
    alone. One instance may serve several `fit` calls.

    On a plain model an edge that comes back stands at 0 until it is trained, so there may be more
    zeros than masked edges; in a masked model it comes back with its stored weight. After
    training a plain model is what it was, with zeros; nothing of this library is left in it.

    The paper's setting is `schedule="constant", scope="layer", power=1, min_edges=0`.

    Args:
        sparsity: Share of the edges that go; see `keras_saliency.sparsify`.
        data: Inputs, a sample of two or more, to score the output neurons with `"isparse"`; or
            what `method` is measured on, `(x, y)` where it needs labels.
        method: `"isparse"`, `"magnitude"`, `"random"` (drawn anew at each update: DropConnect),
            `"lottery"` (the weights go back to where `fit` found them whenever the sparsity rises),
            or another method of `keras_saliency.sparsify`.
        schedule: `"constant"`, `"polynomial"` (cubic) or `"cosine"`, from 0 at `begin` to the
            target at `end`; `"dense-sparse-dense"` (Han et al., 2017): at the target from `begin`
            to `end`, by default the middle third, then dense again, what was masked at 0 first;
            or a function of the training batch, counted from 0, whose value replaces `sparsity`.
        frequency: How often masks are computed: `"epoch"`, `"batch"`, or a number of batches.
        begin, end: First and last time of that, counted in units of `frequency` from 0. `end=None`
            of a rising schedule is three quarters of this training, so that the rest trains at
            the target. The first masks stand before the first batch after `begin`; after `end`
            the masks stay.
        regrow: Whether a masked edge may come back at a later update. `"gradient"` is RigL (Evci et
            al., 2020): masked edges do not compete; a share of the edges that the criterion keeps
            goes, lowest first, and as many masked ones come, at 0, those with the largest gradient
            of the loss on `data=(x, y)`. `"random"` is SET (Mocanu et al., 2018): those that come
            are drawn. Both keep the number of edges of each kernel exact.
        regrow_share: Float, the share of the kept edges that moves at the first update; it falls
            along a cosine to 0 at `end`.
        power: Float, the power of a neuron's significance in the scores of its edges. At 90 % the
            paper's 1 starves neurons: without outgoing edges they get no incoming ones.
        min_edges: Integer, how many best edges of each output always stay, where the share leaves
            so many.
        scope: As in `keras_saliency.sparsify`; by default `"erk"` for edges.
        scores, granularity, order, layers, exclude, seed, normalization, batch_size, loss: As in
            `keras_saliency.sparsify`.

    Raises:
        ValueError, TypeError: If an argument is out of range. What depends on the model is
            checked when training begins, before anything is changed.

    Warns:
        UserWarning: When training begins, if the schedule will never mask anything. When it ends,
            if that was before the target, or if a model was restored that is denser than the
            target; where it is restored after this callback's end, at its next use.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 8))
    callback = keras_saliency.iSparseCallback(0.75, data=x)
    history = model.fit(x, x[:, :3], epochs=8, verbose=0, callbacks=[callback])
    print(history.history["sparsity"])  # rises to 0.75 at three quarters of the training
    assert keras_saliency.sparsity_report(model)["zeros"].sum() >= 132  # of 176 edges
    ```
    """

    def __init__(
        self,
        sparsity: float | Mapping[str, float] | Callable[[Layer], float | None],
        data: Data | None = None,
        method: Method = "isparse",
        schedule: str | Callable[[int], float] = "polynomial",
        frequency: int | Literal["epoch", "batch"] = "epoch",
        begin: int = 0,
        end: int | None = None,
        *,
        regrow: Regrow = True,
        regrow_share: float = 0.3,
        power: float = 0.5,
        min_edges: int = 2,
        scores: str | ArrayLike | Sequence[ArrayLike] = "inffs",
        scope: Scope | None = None,
        granularity: str | tuple[int, int] = "edge",
        order: Order = "forward",
        layers: Layers | None = None,
        exclude: Layers = "auto",
        seed: int | None = 0,
        normalization: str = "pass",
        batch_size: int = 32,
        loss: Callable[..., Any] | str | None = None,
    ):
        super().__init__()
        if not callable(sparsity):
            for value in sparsity.values() if isinstance(sparsity, dict) else [sparsity]:
                if value is not None:
                    check_sparsity(value)
        criterion = criterion_of(method)
        if "x" in criterion.needs and data is None:
            check_data(criterion, None, None)
        validation.choice("regrow", regrow, REGROW)
        if regrow == "gradient" and data is None:
            check_labels(None)
        check_granularity(granularity)
        self.schedule = Schedule(schedule, frequency, begin, end)
        self._now = None
        self._final_batch = None
        # The optimizer and its step at the end of a training, and how many edges were masked.
        self._ended = None
        self._masked = None
        self._arguments = {
            "sparsity": sparsity,
            "data": data,
            "method": method,
            "schedule": schedule,
            "frequency": frequency,
            "begin": begin,
            "end": end,
            "regrow": regrow,
            "regrow_share": validation.number("regrow_share", regrow_share, 0, 1),
            # Without data all outputs count the same: say so here, not at every update.
            "scores": "identity" if data is None and isinstance(scores, str) else scores,
            "scope": self._scope(scope, sparsity, granularity),
            "power": power,
            "min_edges": min_edges if granularity == "edge" else 0,
            "granularity": granularity,
            "order": order,
            "layers": layers,
            "exclude": exclude,
            "seed": seed,
            "normalization": normalization,
            "batch_size": batch_size,
            "loss": loss,
        }

    @staticmethod
    def _scope(scope, sparsity, granularity):
        if scope is None:
            spread = granularity == "edge" and not (
                isinstance(sparsity, dict) or callable(sparsity)
            )
            return "erk" if spread else "layer"
        return scope

    def checkpoint(self, filepath: FilePath, **kwargs: Any) -> keras.callbacks.ModelCheckpoint:
        """Make a `ModelCheckpoint` that sees epochs and batches at the target alone.

        Args:
            filepath: Where it saves, as for `keras.callbacks.ModelCheckpoint`.
            **kwargs: Its other arguments.

        Returns:
            A `keras.callbacks.ModelCheckpoint`, for the same `fit` as this callback.
        """
        return TargetCheckpoint(self, filepath, **kwargs)

    def early_stopping(self, **kwargs: Any) -> keras.callbacks.EarlyStopping:
        """Make an `EarlyStopping` that sees epochs at the target alone.

        Args:
            **kwargs: The arguments of `keras.callbacks.EarlyStopping`.

        Returns:
            A `keras.callbacks.EarlyStopping`, for the same `fit` as this callback.
        """
        return TargetEarlyStopping(self, **kwargs)

    @property
    def at_target(self) -> bool:
        """Whether the training is where the schedule leads to: at the full sparsity, or dense
        again with `"dense-sparse-dense"`."""
        if self.sparsifier is None or self._now is None:
            return False
        batch, epoch = self._now
        return self.sparsifier.schedule.finished(
            batch, epoch, self.sparsifier.last, self._final_batch
        )

    def set_model(self, model):
        self._look_back()
        super().set_model(model)

    def make_sparsifier(self, model: keras.Model) -> Sparsifier:
        epochs, steps = self.params.get("epochs", 1), self.params.get("steps")
        last = self.schedule.last_unit(epochs, steps)
        if self.schedule.needs_end and last is None:
            raise ValueError(
                f"`schedule={self.schedule.schedule!r}` needs `end`, since the number of batches "
                "of an epoch is not known."
            )
        at_once = self.schedule.schedule in ("constant", "dense-sparse-dense")
        if self._arguments["scope"] == "global" and at_once:
            raise ValueError(
                f"`scope='global'` with `schedule={self.schedule.schedule!r}` would take almost "
                "all edges of some layers at once. Take schedule='polynomial', or scope='erk'."
            )
        begin, last = self._begin_and_end(last)
        if not model.built and self._arguments["data"] is not None:
            # TensorFlow builds a model in its first step, which is too late for masks before it.
            inputs = read_pairs(model, self._arguments["data"])[0]
            model(tree.map_structure(lambda x: ops.convert_to_tensor(x[:1]), inputs))
        sparsifier = Sparsifier(model, **{**self._arguments, "begin": begin}, last=last)
        target = max(sparsifier.maker.targets.values())
        self._acts = sparsifier.schedule.ever_acts(epochs, steps, target, last)
        if not self._acts:
            warnings.warn(
                f"iSparseCallback will mask nothing: begin={begin} in units of "
                f"frequency={self.schedule.frequency!r} lies at or after the end of a training of "
                f"{epochs} epoch(s) of {steps} batch(es), or the schedule stays at 0.",
                stacklevel=2,
            )
        self._final_batch = None if steps is None else epochs * steps - 1
        self._epoch = None
        self._epoch_start = 0
        self._now = None
        return sparsifier

    def _begin_and_end(self, last):
        """`begin`, and where `end=None` lies: a rising schedule's at three quarters of the units
        of this training, a dense-sparse-dense one's at two thirds."""
        schedule = self.schedule
        if not schedule.needs_end:
            return schedule.begin, last
        units = last + 1
        if schedule.has_dense_end:
            third = units // 3
            begin = schedule.begin or third
            end = max(units - third, begin + 1)
            if not third or end > last:
                raise ValueError(
                    "`schedule='dense-sparse-dense'` needs three phases, and this training has "
                    f"{units} unit(s) of frequency={schedule.frequency!r}, begin={begin}. Take "
                    "frequency='batch', or more epochs."
                )
            return begin, end
        end = min(units * 3 // 4, last)
        if end <= schedule.begin <= last:
            warnings.warn(
                "This training is too short for the sparsity to rise in units of "
                f"frequency={schedule.frequency!r}: the target stands at once. With "
                "frequency='batch' it rises from batch to batch.",
                stacklevel=3,
            )
        return schedule.begin, max(end, schedule.begin)

    def on_epoch_begin(self, epoch, logs=None):
        sparsifier = self.sparsifier
        schedule = sparsifier.schedule
        first = self._epoch is None
        self._epoch = epoch
        if first and epoch > 0 and sparsifier.batch == 0:
            # Resumed without this callback's state: the zeros of the model say what is masked.
            sparsifier.batch = epoch * (self.params.get("steps") or 0)
            if schedule.unit(sparsifier.batch, epoch) > schedule.begin:
                sparsifier.adopt_zeros()
        self._epoch_start = sparsifier.batch
        if schedule.by_epoch:
            self._update(self._epoch_start)

    def on_train_batch_begin(self, batch, logs=None):
        # Masks stand still within an execution of several steps: they are those of its last one.
        ahead = getattr(self._model, "steps_per_execution", 1) or 1
        steps = self.params.get("steps")
        last = batch + ahead - 1 if steps is None else min(batch + ahead, steps) - 1
        self._update(self._epoch_start + max(batch, last))

    def on_train_batch_end(self, batch, logs=None):
        self.sparsifier.batch = self._epoch_start + batch + 1

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._masked = self.sparsifier.masked if self.at_target else None

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self._epoch is None or not self._acts:
            return
        if self.at_target:
            optimizer = self.model.optimizer
            self._ended = (optimizer, _steps(optimizer))
            self._compare("Weights of a denser epoch were restored")
            return
        schedule, end = self.sparsifier.schedule, self.sparsifier.end
        warnings.warn(
            f"The training ended at a sparsity of {self.sparsifier.sparsity:.3g}, before its "
            f"schedule came to its end: schedule={schedule.schedule!r}, end={end} in units of "
            f"frequency={schedule.frequency!r}. Train on, pass an earlier `end`, or stop with "
            "`callback.early_stopping(...)`, which waits for the target.",
            stacklevel=2,
        )

    def _look_back(self):
        """Warn, once, if what stands in the model since the last training is denser."""
        ended, self._ended = self._ended, None
        if ended is not None and _steps(ended[0]) == ended[1]:  # nobody trained it since
            self._compare("After the last training weights of a denser epoch were restored")

    def _compare(self, what):
        zeros = self.sparsifier.zeros
        if self._masked is not None and zeros < self._masked:
            self._ended = None
            warnings.warn(
                f"{what}: the model has {zeros} zeros where {self._masked} edges were masked at "
                "the end. Keep the best epoch with `callback.checkpoint(...)` or "
                "`callback.early_stopping(...)`, which see epochs at the target alone.",
                stacklevel=3,
            )

    def _update(self, batch):
        self._now = (batch, self._epoch)
        if self.sparsifier.is_due(batch, self._epoch):
            # JAX keeps the training state outside the model: this access brings it back, and
            # what is assigned then is what the next batch starts from.
            _ = self.model
            self.sparsifier.update(batch, self._epoch)


def _steps(optimizer):
    """How many updates an optimizer has made; a distributed one's count is no number itself."""
    return int(ops.convert_to_numpy(optimizer.iterations))
