"""iSparse in `fit()`: sparse training of any compiled model (G 4.5)."""

import warnings

from keras_saliency import validation
from keras_saliency.sparsity.criteria.criterion import check_data, criterion_of
from keras_saliency.sparsity.masking.regrowing import REGROW
from keras_saliency.sparsity.masking.targets import check_granularity, check_sparsity
from keras_saliency.sparsity.training.gradients import check_labels
from keras_saliency.sparsity.training.schedules import Schedule
from keras_saliency.sparsity.training.sparse_training import SparseTraining
from keras_saliency.sparsity.training.sparsifier import Sparsifier


class iSparseCallback(SparseTraining):
    """Sparsifies a model while `fit()` trains it (G 4.5, "train-with").

    The masks are computed on schedule, from the weights of the moment and what they contribute to
    the output. From then on a masked weight is exactly 0 in the model at the end of every batch,
    whatever the optimizer (momentum, weight decay, averages of the weights): on plain models
    as part of the compiled training step, on masked ones (from `sparsify`) by their layers.

    The epoch's logs gain `sparsity`, the share of masked edges, for every callback after this one
    in the list. `BackupAndRestore`, `ModelCheckpoint` and `EarlyStopping` work as ever: an
    interrupted run that `BackupAndRestore` resumes goes on with the same masks. One instance
    may serve several `fit` calls.

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
            target at `end`; or a function of the training batch, counted from 0, whose value
            replaces `sparsity`.
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
        UserWarning: When training begins, if the schedule will never mask anything.

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
        sparsity,
        data=None,
        method="isparse",
        schedule="polynomial",
        frequency="epoch",
        begin=0,
        end=None,
        *,
        regrow=True,
        regrow_share=0.3,
        power=0.5,
        min_edges=2,
        scores="inffs",
        scope=None,
        granularity="edge",
        order="forward",
        layers=None,
        exclude="auto",
        seed=0,
        normalization="pass",
        batch_size=32,
        loss=None,
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

    def make_sparsifier(self, model):
        epochs, steps = self.params.get("epochs", 1), self.params.get("steps")
        last = self._last_rise(epochs, steps)
        if self.schedule.needs_end and last is None:
            raise ValueError(
                f"`schedule={self.schedule.schedule!r}` needs `end`, since the number of batches "
                "of an epoch is not known."
            )
        if self._arguments["scope"] == "global" and self.schedule.schedule == "constant":
            raise ValueError(
                "`scope='global'` with `schedule='constant'` would take almost all edges of some "
                "layers at the first batch. Take schedule='polynomial', or scope='erk'."
            )
        sparsifier = Sparsifier(model, **self._arguments, last=last)
        target = max(sparsifier.maker.targets.values())
        if not self.schedule.ever_acts(epochs, steps, target):
            warnings.warn(
                f"iSparseCallback will mask nothing: begin={self.schedule.begin} in units of "
                f"frequency={self.schedule.frequency!r} lies at or after the end of a training of "
                f"{epochs} epoch(s) of {steps} batch(es), or the schedule stays at 0.",
                stacklevel=2,
            )
        self._epoch = None
        self._epoch_start = 0
        return sparsifier

    def _last_rise(self, epochs, steps):
        """Where `end=None` lies: at three quarters of the units of this training."""
        last = self.schedule.last_unit(epochs, steps)
        if last is None or not self.schedule.needs_end:
            return last
        end = min((last + 1) * 3 // 4, last)
        if end <= self.schedule.begin <= last:
            warnings.warn(
                "This training is too short for the sparsity to rise in units of "
                f"frequency={self.schedule.frequency!r}: the target stands at once. With "
                "frequency='batch' it rises from batch to batch.",
                stacklevel=2,
            )
        return max(end, self.schedule.begin)

    def on_epoch_begin(self, epoch, logs=None):
        sparsifier = self.sparsifier
        first = self._epoch is None
        self._epoch = epoch
        if first and epoch > 0 and sparsifier.batch == 0:
            # Resumed without this callback's state: the zeros of the model say what is masked.
            sparsifier.batch = epoch * (self.params.get("steps") or 0)
            if self.schedule.unit(sparsifier.batch, epoch) > self.schedule.begin:
                sparsifier.adopt_zeros()
        self._epoch_start = sparsifier.batch
        if self.schedule.by_epoch:
            self._update(self._epoch_start)

    def on_train_batch_begin(self, batch, logs=None):
        # Masks stand still within an execution of several steps: they are those of its last one.
        ahead = getattr(self.model, "steps_per_execution", 1) or 1
        steps = self.params.get("steps")
        last = batch + ahead - 1 if steps is None else min(batch + ahead, steps) - 1
        self._update(self._epoch_start + max(batch, last))

    def on_train_batch_end(self, batch, logs=None):
        self.sparsifier.batch = self._epoch_start + batch + 1

    def _update(self, batch):
        if self.sparsifier.is_due(batch, self._epoch):
            # JAX keeps the training state outside the model: this access brings it back, and
            # what is assigned then is what the next batch starts from.
            _ = self.model
            self.sparsifier.update(batch, self._epoch)
