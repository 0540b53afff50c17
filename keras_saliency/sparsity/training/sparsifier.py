"""Sparsification during training, for any training loop (G 4.5, "train-with")."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_saliency.layers.masked.base import masked, masked_in_place
from keras_saliency.sparsity.criteria.criterion import Method
from keras_saliency.sparsity.masking.assigning import assign_all
from keras_saliency.sparsity.masking.masks import MaskMaker
from keras_saliency.sparsity.masking.options import MaskingOptions
from keras_saliency.sparsity.masking.regrowing import Regrow, Regrowth, random_worth
from keras_saliency.sparsity.masking.shares import Scope
from keras_saliency.sparsity.significance.outputs import ConstantOutputs
from keras_saliency.sparsity.significance.walk import Order
from keras_saliency.sparsity.training.gradients import DenseGradients
from keras_saliency.sparsity.training.loops import LoopGuard
from keras_saliency.sparsity.training.masks_in_force import MasksInForce
from keras_saliency.sparsity.training.schedules import Schedule
from keras_saliency.sparsity.training.zeros import Kept, kernels_with_zeros
from keras_saliency.typing import ArrayLike, Data, Layer, Layers, Tensor


class Sparsifier(MasksInForce):
    """Keeps a model sparse while it is trained by a loop of your own.

    In a masked model (from `sparsify`, or with masked layers) the masks of the layers are set; a
    masked weight keeps its stored value and counts as 0. In a plain model the masked weights are
    set to 0; their last value is remembered for the scores, so that they can come back, at 0,
    when it is worth it (G 4.5 computes all scores anew).

    Args:
        model: A built model, plain or masked. It is changed in place.
        sparsity, data, method, scores, scope, granularity, order, layers, exclude, seed,
            normalization, batch_size, loss: As in `keras_saliency.sparsify`. With
            `method="lottery"` all trainable weights go back to where they stood when the
            `Sparsifier` was made whenever the sparsity rises; the optimizer's state stays.
        schedule: `"constant"`, `"polynomial"` (cubic), `"cosine"`, `"dense-sparse-dense"`, or a
            function of the training batch, counted from 0, whose value replaces `sparsity`.
        frequency: How often the masks are computed: `"batch"`, a number of batches, or `"epoch"`,
            for which `step` must be told the epoch.
        begin, end: First and last time of that, in units of `frequency`. All schedules but
            `"constant"` and functions need `end`.
        regrow: Whether a masked edge may come back at a later update; `"gradient"` and `"random"`
            move edges, as in `keras_saliency.iSparseCallback`, and need `end`.
        regrow_share, power, min_edges: See `keras_saliency.iSparseCallback`.

    Attributes:
        batch: How many batches were counted.
        masks: Dict from kernel key to the mask in force, a boolean array; empty before `begin`.

    Raises:
        ValueError, TypeError: As `sparsify` and `Schedule` do, before anything is changed.

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
    sparsifier = keras_saliency.Sparsifier(model, 0.75, data=x, frequency=4)
    for batch in np.split(x, 8):
        sparsifier.step()  # counts the batch, and computes the masks if it is time
        model.train_on_batch(batch, batch[:, :3])  # or an update of your own
        sparsifier.apply()  # masked weights are exactly 0 again
    assert (model.layers[0].get_weights()[0] == 0).sum() >= 96
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        sparsity: float | Mapping[str, float] | Callable[[Layer], float | None],
        data: Data | None = None,
        method: Method = "isparse",
        *,
        schedule: str | Callable[[int], float] = "constant",
        frequency: int | Literal["epoch", "batch"] = "batch",
        begin: int = 0,
        end: int | None = None,
        regrow: Regrow = True,
        regrow_share: float = 0.3,
        power: float = 1.0,
        min_edges: int = 0,
        scores: str | ArrayLike | Sequence[ArrayLike] = "inffs",
        scope: Scope = "layer",
        granularity: str | tuple[int, int] = "edge",
        order: Order = "forward",
        layers: Layers | None = None,
        exclude: Layers | None = None,
        seed: int | None = 0,
        normalization: str = "pass",
        batch_size: int = 32,
        loss: Callable[..., Any] | str | None = None,
        last: int | None = None,
    ):
        self.schedule = Schedule(schedule, frequency, begin, end)
        if self.schedule.needs_end and last is None:
            raise ValueError(f"`schedule={schedule!r}` needs `end`, in units of `frequency`.")
        options = MaskingOptions(
            method=method,
            scores=scores,
            scope=scope,
            granularity=granularity,
            order=order,
            layers=layers,
            exclude=exclude,
            seed=seed,
            regrow=regrow,
            regrow_share=regrow_share,
            power=power,
            min_edges=min_edges,
            normalization=normalization,
            batch_size=batch_size,
            loss=loss,
        )
        # Where edges move, what is masked counts as 0, and comes back at 0.
        self.maker = MaskMaker(model, sparsity, data, options, stored=not options.moves)
        self._start(model)
        self.last = last
        if options.moves and self.end is None:
            raise ValueError(
                f"`regrow={regrow!r}` moves fewer edges from update to update, none at `end`: pass "
                "`end`, in units of `frequency`."
            )
        if options.regrow == "gradient":
            self._gradients = DenseGradients(
                model,
                self.kernels,
                [mask for kernel in self.kernels if (mask := self._layer_mask(kernel)) is not None],
                self.maker.data,
                loss=options.loss,
                batch_size=options.batch_size,
                seed=options.seed,
            )
        if method == "lottery":
            self._initial = [ops.convert_to_numpy(v).copy() for v in model.trainable_variables]

    def _start(self, model):
        self.model = model
        self.keeps = False
        self.batch = 0
        self.last = None
        self._unit = None
        self._share = 0.0
        # Of kernels without a masked layer: the mask variables, and the values under the masks.
        self._variables = {}
        self._stored = {}
        self._initial = None
        self._gradients = None
        self._loop = LoopGuard(model)

    @property
    def _watched(self):
        """The variables that a loop should train."""
        return [variable for variable, _ in self.plain_pairs() if variable.trainable]

    @property
    def end(self) -> int | None:
        """The unit of the schedule's end, `None` where it has none."""
        return self.last if self.schedule.end is None else self.schedule.end

    @classmethod
    def from_zeros(
        cls, model: keras.Model, layers: Layers | None = None, exclude: Layers | None = None
    ) -> Sparsifier:
        """Make a `Sparsifier` that keeps the zeros which a model has, in a loop of one's own.

        The exact zeros of every maskable kernel that also has a nonzero become its mask; `apply`
        brings them back after an update. Kernels of zeros alone are left to train, and named in a
        warning, unless `layers` names them.

        Args:
            model: A built model, plain or masked.
            layers, exclude: Which layers; see `maskable_kernels`.

        Returns:
            A `Sparsifier` whose masks never change.

        Raises:
            ValueError: If no kernel has a zero.

        Example:

        ```python
        import keras
        import numpy as np
        import keras_saliency

        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        sparse = keras_saliency.sparsify(model, 0.5, method="magnitude")
        keeper = keras_saliency.Sparsifier.from_zeros(sparse)
        sparse.layers[0].kernel.assign(np.ones((8, 4)))  # an update of any kind
        keeper.apply()
        assert (sparse.layers[0].get_weights()[0] == 0).sum() == 16
        ```
        """
        kernels = kernels_with_zeros(model, layers, exclude)
        sparsifier = cls.__new__(cls)
        sparsifier._start(model)
        sparsifier.maker = Kept(kernels)
        sparsifier.schedule = Schedule("constant", "batch")
        sparsifier.keeps = True
        sparsifier.adopt_zeros()
        return sparsifier

    def step(self, epoch: int | None = None) -> bool:
        """Count a batch; before it, compute the masks if the schedule says so.

        Args:
            epoch: Index of the epoch, for `frequency="epoch"`.

        Returns:
            Whether the masks were computed.
        """
        if self.schedule.by_epoch and epoch is None:
            raise ValueError("`frequency='epoch'` needs the epoch: call `step(epoch)`.")
        acted = self.update(self.batch, epoch)
        self.batch += 1
        return acted

    def is_due(self, batch: int, epoch: int | None = None) -> bool:
        """Whether masks are to be computed before this batch."""
        unit = self.schedule.unit(batch, epoch)
        if self.keeps or unit == self._unit or unit < self.schedule.begin:
            return False
        # Where the end was stepped over, the target is still due, once.
        end = self.end
        return end is None or unit <= end or self._unit is None or self._unit < end

    def update(self, batch: int, epoch: int | None = None) -> bool:
        """Compute the masks, if that is due before this batch; returns whether it was."""
        if not self.is_due(batch, epoch):
            return False
        first = self._unit is None
        unit = self._unit = self.schedule.unit(batch, epoch)

        def share(target):
            return self.schedule.sparsity(unit, batch, target, self.last)

        if self.schedule.has_dense_end and unit >= self.end:
            self._release()
            return True
        if self._initial is not None:
            now = max(share(target) for target in self.maker.targets.values())
            if now <= self._share:  # the winning ticket is being trained
                return False
            self._share = now
        regrowth = self._regrowth(unit, batch)
        arguments = {
            "previous": self.masks,
            "step": batch,
            "values": self._values,
            "regrowth": regrowth,
        }
        try:
            masks = self.maker.masks(share, **arguments)
        except ConstantOutputs as error:
            if first:
                raise
            warnings.warn(
                f"{error} The model has collapsed in training; for this update of the masks all "
                "output neurons count the same.",
                stacklevel=2,
            )
            masks = self.maker.masks(share, scores="identity", **arguments)
        self._set(masks, {} if regrowth is None else regrowth.came)
        return True

    def _release(self):
        """Unmask everything; what was masked begins at 0."""
        masks = self.masks
        dense = {kernel.key: np.ones(kernel.shape, bool) for kernel in self.kernels}
        self._stored = {}
        self._set(dense, {key: ~mask for key, mask in masks.items()})

    def _regrowth(self, unit, batch):
        """What moves in the update at a time, `None` where nothing is to."""
        options = self.maker.options
        if not options.moves:
            return None
        share = options.regrow_share * self.schedule.fall(unit, self.end)
        if self._gradients is None:
            return Regrowth(share, random_worth(options.seed, batch))
        return Regrowth(share, self._gradients.at(batch, self.masks))

    def apply(self, trainable_variables: Sequence[Tensor] | None = None) -> list[Tensor] | None:
        """Set the masked weights of a plain model to 0, whatever an optimizer made of them.

        Args:
            trainable_variables: For stateless loops on JAX: the values of
                `model.trainable_variables`, outside of compiled functions (of `from_zeros`, whose
                masks never change, inside too). Default: the model's own variables are changed.

        Returns:
            The given values with zeros in place, else `None`.

        Raises:
            ValueError: On JAX, if nothing trains the model's own variables, or a compiled function
                would hold on to the masks of the moment.
        """
        pairs = self.plain_pairs()
        if trainable_variables is None:
            self._loop.before_apply(self._watched, self.batch, self.keeps)
            for variable, mask in pairs:
                variable.assign(masked_in_place(variable, mask))
            self._loop.look(self._watched)
            return None
        self._loop.of_values(self.keeps)
        masks = {id(variable): mask for variable, mask in pairs}
        return [
            masked(value, masks[id(variable)]) if id(variable) in masks else value
            for variable, value in zip(
                self.model.trainable_variables, trainable_variables, strict=True
            )
        ]

    @property
    def _regrow(self):
        """Whether masked edges compete by the values that they had."""
        return self.maker.options.regrow is True

    def _values(self, kernel):
        """A plain kernel with the values that its masked edges had when they were masked."""
        stored = self._stored.get(kernel.key)
        if stored is None or not self._regrow or self._initial is not None:
            return None
        values = np.array(ops.convert_to_numpy(kernel.variable))
        values[~ops.convert_to_numpy(self._variables[kernel.key])] = stored
        return values

    def _set(self, masks, came):
        """Bring all masks into force. Prepared first, so that nothing fails half-way.

        Args:
            masks, came: Dicts from kernel key to a boolean array: what stays, and what of it is
                to be 0.
        """
        self.make_variables()
        self._loop.before_update(self._watched)
        jobs = []
        for kernel in self.kernels:
            mask = masks[kernel.key]
            fresh = came.get(kernel.key)
            if fresh is not None and fresh.any():
                value = np.where(fresh, 0, ops.convert_to_numpy(kernel.variable))
                jobs.append((kernel.variable, value))
            variable = self._layer_mask(kernel)
            if variable is None:
                variable = self._variables[kernel.key]
                values = self._values(kernel)
                if values is None:
                    values = ops.convert_to_numpy(kernel.variable)
                if self._regrow and self._initial is None:
                    self._stored[kernel.key] = values[~mask]
            else:
                targets = kernel.owner.__dict__.setdefault("mask_targets", {})
                targets[kernel.name.lstrip("_")] = self.maker.targets[kernel.key]
            jobs.append((variable, mask))
        rewind = []
        if self._initial is not None:
            rewind = list(zip(self.model.trainable_variables, self._initial, strict=True))
        assign_all([*jobs, *rewind])
        assign_all([(variable, None, mask) for variable, mask in self.plain_pairs()])
        self._loop.look(self._watched)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs besides the model's weights: a dict of arrays."""
        unit = -1 if self._unit is None else self._unit
        state = {
            "batch": np.array(self.batch),
            "share": np.array(self._share),
            "unit": np.array(unit),
        }
        for i, kernel in enumerate(self.kernels):
            if kernel.key in self._variables:
                state[f"mask_{i}"] = ops.convert_to_numpy(self._variables[kernel.key])
            if kernel.key in self._stored:
                state[f"stored_{i}"] = self._stored[kernel.key]
        for i, value in enumerate(self._initial or ()):
            state[f"initial_{i}"] = value
        return state

    def set_state(self, state: Mapping[str, ArrayLike]) -> None:
        """Go on from what `state()` gave."""
        if "batch" not in state:
            return
        self.batch = int(np.array(state["batch"]))
        self._share = float(np.array(state["share"]))
        unit = int(np.array(state["unit"]))
        self._unit = None if unit < 0 else unit
        self.make_variables()
        for i, kernel in enumerate(self.kernels):
            if f"mask_{i}" in state and kernel.key in self._variables:
                self._variables[kernel.key].assign(np.array(state[f"mask_{i}"], dtype=bool))
            if f"stored_{i}" in state:
                self._stored[kernel.key] = np.array(state[f"stored_{i}"])
        if self._initial is not None:
            self._initial = [np.array(state[f"initial_{i}"]) for i in range(len(self._initial))]
