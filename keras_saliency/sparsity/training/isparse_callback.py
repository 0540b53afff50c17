"""iSparse in `fit()`: sparse training of any compiled model (G 4.5)."""

import functools
import warnings

import keras
import numpy as np

from keras_saliency.layers.masked.base import masked_in_place
from keras_saliency.sparsity.masking.masks import METHODS, check_granularity, check_sparsity
from keras_saliency.sparsity.training.schedules import Schedule
from keras_saliency.sparsity.training.sparsifier import Sparsifier

_STATE = "_isparse_state"


class iSparseCallback(keras.callbacks.Callback):
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

    Args:
        sparsity: Share of the edges that go; see `keras_saliency.sparsify`.
        data: Inputs, a sample of two or more, to score the output neurons with `"isparse"`.
        method: `"isparse"`, `"magnitude"`, `"random"` (drawn anew at each update: DropConnect) or
            `"lottery"` (the weights go back to where `fit` found them whenever the sparsity rises).
        schedule: `"constant"`, `"polynomial"` (cubic) or `"cosine"`, from 0 at `begin` to the
            target at `end`; or a function of the training batch, counted from 0, whose value
            replaces `sparsity`.
        frequency: How often masks are computed: `"epoch"`, `"batch"`, or a number of batches.
        begin, end: First and last time of that, counted in units of `frequency` from 0; `end=None`
            is the end of the training. The first masks stand before the first batch after
            `begin`; after `end` the masks stay.
        regrow: Whether a masked edge may come back at a later update.
        scores, scope, granularity, order, layers, exclude, seed, normalization, batch_size: As in
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
    callback = keras_saliency.iSparseCallback(0.75, data=x, schedule="polynomial", end=2)
    history = model.fit(x, x[:, :3], epochs=3, verbose=0, callbacks=[callback])
    print(history.history["sparsity"])  # rises to 0.75
    assert (model.layers[0].get_weights()[0] == 0).sum() >= 96
    ```
    """

    def __init__(
        self,
        sparsity,
        data=None,
        method="isparse",
        schedule="constant",
        frequency="epoch",
        begin=0,
        end=None,
        regrow=True,
        scores="inffs",
        scope="layer",
        granularity="edge",
        order="forward",
        layers=None,
        exclude=None,
        seed=0,
        normalization="pass",
        batch_size=32,
    ):
        super().__init__()
        if not callable(sparsity):
            for value in sparsity.values() if isinstance(sparsity, dict) else [sparsity]:
                if value is not None:
                    check_sparsity(value)
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
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
            # Without data all outputs count the same: say so here, not at every update.
            "scores": "identity" if data is None and isinstance(scores, str) else scores,
            "scope": scope,
            "granularity": granularity,
            "order": order,
            "layers": layers,
            "exclude": exclude,
            "seed": seed,
            "normalization": normalization,
            "batch_size": batch_size,
        }
        self.sparsifier = None
        self._hooks = None
        self._restored = {}

    def set_model(self, model):
        self.release()
        super().set_model(model)
        self._restored = {}
        # There before any callback's `on_train_begin`, so that `BackupAndRestore` finds it.
        self._model.__dict__[_STATE] = _State(self, name=_STATE)

    def on_train_begin(self, logs=None):
        model = self.model
        if model.optimizer is None:
            raise ValueError("iSparseCallback needs a model that is compiled with an optimizer.")
        epochs, steps = self.params.get("epochs", 1), self.params.get("steps")
        last = self.schedule.last_unit(epochs, steps)
        if self.schedule.needs_end and last is None:
            raise ValueError(
                f"`schedule={self.schedule.schedule!r}` needs `end`, since the number of batches "
                "of an epoch is not known."
            )
        self.release()
        self._model.__dict__[_STATE] = _State(self, name=_STATE)
        sparsifier = Sparsifier(model, **self._arguments, last=last)
        target = max(sparsifier.maker.targets.values())
        if not self.schedule.ever_acts(epochs, steps, target):
            warnings.warn(
                f"iSparseCallback will mask nothing: begin={self.schedule.begin} in units of "
                f"frequency={self.schedule.frequency!r} lies at or after the end of a training of "
                f"{epochs} epoch(s) of {steps} batch(es), or the schedule stays at 0.",
                stacklevel=2,
            )
        self.sparsifier = sparsifier
        self._hooks = _Hooks(model, sparsifier)
        self._epoch = None
        self._epoch_start = 0
        if self._restored:
            sparsifier.set_state(self._restored)
            self._restored = {}

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
        self._update(self._epoch_start)

    def on_train_batch_begin(self, batch, logs=None):
        self._update(self._epoch_start + batch)

    def on_train_batch_end(self, batch, logs=None):
        self.sparsifier.batch = self._epoch_start + batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["sparsity"] = self.sparsifier.sparsity

    def on_train_end(self, logs=None):
        self.release()

    def _update(self, batch):
        if self.sparsifier.is_due(batch, self._epoch):
            # JAX keeps the training state outside the model: this access brings it back, and
            # what is assigned then is what the next batch starts from.
            _ = self.model
            self.sparsifier.update(batch, self._epoch)

    def release(self):
        """Let go of the model, as at the end of training; needed only if training failed."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        if self._model is not None:
            self._model.__dict__.pop(_STATE, None)


class _State(keras.layers.Layer):
    """Has what a checkpoint needs besides the weights saved and loaded with the model.

    It is no layer of the model (nothing tracks it), but one of its attributes, which is where
    Keras looks for things to save.
    """

    def __init__(self, callback, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["_callback"] = callback

    def save_own_variables(self, store):
        sparsifier = self._callback.sparsifier
        if sparsifier is not None:
            for key, value in sparsifier.state().items():
                store[key] = value

    def load_own_variables(self, store):
        state = {key: np.array(store[key]) for key in store.keys()}  # noqa: SIM118  (a file)
        if self._callback.sparsifier is not None:
            self._callback.sparsifier.set_state(state)
        else:
            self._callback._restored = state


class _MaskConstraint(keras.constraints.Constraint):
    """The user's constraint, then the mask: every optimizer applies it after every update."""

    def __init__(self, mask, inner):
        self.mask = mask
        self.inner = inner

    def __call__(self, w):
        return masked_in_place(w if self.inner is None else self.inner(w), self.mask)


class _Hooks:
    """What keeps the masked weights of a plain model at 0 in `fit`, and its removal.

    A kernel's `constraint` is applied after the optimizer's update, averages and all, inside the
    compiled step and on every backend; so no weight has to leave the device for it.
    """

    def __init__(self, model, sparsifier):
        self.model = model
        self.sparsifier = sparsifier
        sparsifier.make_variables()
        self._pairs = sparsifier.plain_pairs()
        self._patched = []
        self._optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        if not self._pairs:
            return
        for variable, mask in self._pairs:
            variable.constraint = _MaskConstraint(mask, variable.constraint)
        if self._optimizer.use_ema:
            self._patch("_update_model_variables_moving_average", self._mask_averages)
        if keras.backend.backend() == "jax":
            # A compiled step sees what is in its state, and of that the optimizer sees its own
            # variables. The masks stay out of its files.
            self._optimizer._variables.extend(mask for _, mask in self._pairs)
            self._patch("save_own_variables", self._without_masks)
            self._patch("load_own_variables", self._without_masks)
        model.make_train_function(force=True)

    def remove(self):
        if not self._pairs:
            return
        for variable, _ in self._pairs:
            if isinstance(variable.constraint, _MaskConstraint):
                variable.constraint = variable.constraint.inner
        for name in self._patched:
            self._optimizer.__dict__.pop(name, None)
        if keras.backend.backend() == "jax":
            self._hide()
        self.model.train_function = None

    def _patch(self, name, wrapper):
        original = getattr(self._optimizer, name)

        @functools.wraps(original)
        def patched(*args, **kwargs):
            return wrapper(original, *args, **kwargs)

        self._optimizer.__dict__[name] = patched
        self._patched.append(name)

    def _mask_averages(self, original, trainable_variables):
        # The weights that an optimizer averages are those before the constraint. The averages
        # stand in for the weights at the end, and whenever `SwapEMAWeights` swaps them in.
        original(trainable_variables)
        masks = {id(variable): mask for variable, mask in self._pairs}
        averages = self._optimizer._model_variables_moving_average
        for variable, average in zip(trainable_variables, averages, strict=True):
            if average is not None and id(variable) in masks:
                average.assign(masked_in_place(average, masks[id(variable)]))

    def _hide(self):
        masks = {id(mask) for _, mask in self._pairs}
        variables = self._optimizer._variables
        hidden = [v for v in variables if id(v) in masks]
        variables[:] = [v for v in variables if id(v) not in masks]
        return hidden

    def _without_masks(self, original, *args, **kwargs):
        hidden = self._hide()
        try:
            return original(*args, **kwargs)
        finally:
            self._optimizer._variables.extend(hidden)
