"""Filters of a model that are dropped, and brought back new, while it is trained."""

import keras
import numpy as np
from keras import ops

from keras_saliency.graph.data import read_pairs
from keras_saliency.layers.masked.base import MaskedKernels
from keras_saliency.sparsity.criteria.criterion import check_data
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel, Measurements
from keras_saliency.sparsity.kernels import has_filters, maskable_kernels
from keras_saliency.sparsity.masking.assigning import assign_all
from keras_saliency.sparsity.masking.channels import kernels_of_outputs


class FilterCycles:
    """The filters of hidden layers, of which some are dropped for a while.

    A filter is an output channel of a convolution, or a unit of a dense layer: its part of the
    kernel, its bias, and its gamma and beta in the batch norm right behind. What `Hooks` asks for
    is what a `Sparsifier` has.

    Args:
        model: A built model.
        share: Share of all filters that are dropped.
        criterion: A `Criterion`.
        layers, exclude: Which layers, see `maskable_kernels`.
        data: Data for the criterion, or `None`.
        seed: Of new filters.
        batch_size: Of the criterion's passes through the model.
    """

    def __init__(self, model, share, criterion, layers, exclude, data, seed, batch_size):
        self.model = model
        self.criterion = criterion
        self.seed = seed
        self.batch_size = batch_size
        self.data = read_pairs(model, data)
        check_data(criterion, *self.data[:2], argument="criterion")
        self.kernels = hidden_kernels(model, layers, exclude, self.data[0])
        measurements = Measurements(model, self.kernels)
        self.banks = [
            Bank(kernel, MeasuredKernel(kernel, measurements).norm) for kernel in self.kernels
        ]
        total = sum(bank.count for bank in self.banks)
        self.count = round(share * total)
        most = total - len(self.banks)
        if not 0 < self.count <= most:
            limits = f"at least 1 and at most {most} can go" if most else "none can go"
            raise ValueError(
                f"`share={share}` is {self.count} of {total} filters in {len(self.banks)} hidden "
                f"layers, and {limits}, for every layer keeps one."
            )
        self.seen = 0  # batches
        self.cycle = -1  # of the filters that are dropped now, or were last
        self.dropped = False
        self._variables = None

    # What `Hooks` asks for.

    def make_variables(self):
        if self._variables is None:
            self._variables = [
                (
                    variable,
                    axis,
                    bank,
                    keras.Variable(
                        np.ones(variable.shape, bool),
                        dtype="bool",
                        trainable=False,
                        name=f"filters_{number}_{place}",
                    ),
                )
                for number, bank in enumerate(self.banks)
                for place, (variable, axis) in enumerate(bank.weights)
            ]

    def plain_pairs(self):
        return [(variable, mask) for variable, _, _, mask in self._variables or ()]

    @property
    def sparsity(self):
        """Share of the edges of the hidden layers that are dropped now."""
        if not self.dropped:
            return 0.0
        gone = sum(bank.gone.mean() * bank.kernel.size for bank in self.banks)
        return float(gone / sum(bank.kernel.size for bank in self.banks))

    # Dropping and bringing back.

    def drop(self, cycle):
        """Drop the filters that matter least."""
        self.make_variables()
        x, y, weight = self.data
        measurements = Measurements(
            self.model, self.kernels, x, y, weight, batch_size=self.batch_size, seed=self.seed
        )
        measured = [MeasuredKernel(kernel, measurements) for kernel in self.kernels]
        edges = round(self.count * np.mean([bank.kernel.size / bank.count for bank in self.banks]))
        self.criterion.prepare(measured, edges)
        scores = [self.criterion.channel_scores(kernel) for kernel in measured]
        self._let_go(lowest(scores, self.count))
        self.cycle, self.dropped = cycle, True

    def _let_go(self, gone):
        jobs = []
        for bank, which in zip(self.banks, gone, strict=True):
            bank.gone = which
            bank.old = bank.columns()[:, which]
        for variable, axis, bank, mask in self._variables:
            keep = np.broadcast_to(along(~bank.gone, axis, len(variable.shape)), variable.shape)
            jobs.append((mask, keep))
        assign_all(jobs)
        assign_all([(variable, None, mask) for variable, mask in self.plain_pairs()])

    def bring_back(self):
        """Give what was dropped new weights, in directions that nothing in its layer points to."""
        jobs = []
        slots = slots_of(self.model.optimizer)
        for number, bank in enumerate(self.banks):
            if not bank.gone.any():
                continue
            rng = np.random.default_rng([self.seed, max(self.cycle, 0), number])
            columns = bank.columns()
            kept = columns[:, ~bank.gone]
            columns[:, bank.gone] = new_filters(kept, bank.old, rng)
            values = bank.renewed(columns)
            for variable, axis in bank.weights:
                value = np.array(ops.convert_to_numpy(variable))
                fresh = np.broadcast_to(along(bank.gone, axis, value.ndim), value.shape)
                value = np.where(fresh, values[id(variable)], value)
                jobs.append((variable, value))
                for slot, start in slots.get(id(variable), ()):
                    held = np.array(ops.convert_to_numpy(slot))
                    new = values[id(variable)] if start is None else start
                    jobs.append((slot, np.where(fresh, new, held)))
            jobs += bank.statistics()
        jobs += [(mask, np.ones(mask.shape, bool)) for _, mask in self.plain_pairs()]
        assign_all(jobs)
        for bank in self.banks:
            bank.gone = np.zeros(bank.count, bool)
        self.dropped = False

    # What a checkpoint needs.

    def state(self):
        state = {"seen": np.array(self.seen), "cycle": np.array(self.cycle)}
        state["dropped"] = np.array(self.dropped)
        for number, bank in enumerate(self.banks):
            state[f"gone_{number}"] = bank.gone
            state[f"old_{number}"] = bank.old
        return state

    def set_state(self, state):
        if "cycle" not in state:
            return
        self.make_variables()
        self.seen = int(np.array(state["seen"]))
        self.cycle = int(np.array(state["cycle"]))
        self.dropped = bool(np.array(state["dropped"]))
        for number, bank in enumerate(self.banks):
            bank.gone = np.array(state[f"gone_{number}"], dtype=bool)
            bank.old = np.array(state[f"old_{number}"])
        assign_all(
            (mask, np.broadcast_to(along(~bank.gone, axis, len(mask.shape)), mask.shape))
            for _, axis, bank, mask in self._variables
        )


class Bank:
    """The filters of one layer, and the weights that belong to them."""

    def __init__(self, kernel, norm):
        self.kernel = kernel
        owner = kernel.owner
        self.count = int(np.prod([kernel.shape[axis] for axis in kernel.output_axes]))
        self.norm = norm if norm is not None and norm.moving_mean.shape == (self.count,) else None
        self.weights = [(kernel.variable, kernel.output_axes[0])]
        bias = getattr(owner, "bias", None)
        self.bias = bias if bias is not None and tuple(bias.shape) == (self.count,) else None
        self.norms = []
        if self.norm is not None:
            self.norms = [v for v in (self.norm.gamma, self.norm.beta) if v is not None]
        for variable in ([self.bias] if self.bias is not None else []) + self.norms:
            self.weights.append((variable, 0))
        self.weights = [(v, axis) for v, axis in self.weights if v.trainable]
        self.gone = np.zeros(self.count, bool)
        self.old = np.zeros((kernel.size // self.count, 0))

    def columns(self):
        """float64 (weights, filters)."""
        values = np.array(ops.convert_to_numpy(self.kernel.variable), "float64")
        return np.moveaxis(values, self.kernel.output_axes[0], -1).reshape(-1, self.count)

    def renewed(self, columns):
        """Dict from the id of each weight to what a new filter has there."""
        axis = self.kernel.output_axes[0]
        shape = list(self.kernel.shape)
        shape.append(shape.pop(axis))
        values = {id(self.kernel.variable): np.moveaxis(columns.reshape(shape), -1, axis)}
        if self.bias is not None:
            values[id(self.bias)] = _initial(self.kernel.owner.bias_initializer, self.bias)
        for variable in self.norms:
            values[id(variable)] = 1.0 if variable is self.norm.gamma else 0.0
        return values

    def statistics(self):
        """Jobs that give the batch norm's statistics of new filters their first values."""
        if self.norm is None:
            return []
        return [
            (variable, np.where(self.gone, value, ops.convert_to_numpy(variable)))
            for variable, value in ((self.norm.moving_mean, 0.0), (self.norm.moving_variance, 1.0))
        ]


def hidden_kernels(model, layers, exclude, x):
    """The kernels of hidden layers that have filters."""
    found = [kernel for kernel in maskable_kernels(model, layers, exclude) if has_filters(kernel)]
    masked = [kernel.key for kernel in found if isinstance(kernel.owner, MaskedKernels)]
    if masked:
        raise ValueError(
            f"The layers {masked[:5]} are masked already. Bring the masks into the weights with "
            "`keras_saliency.strip_masks(model)` first."
        )
    kernels, seen = [], set(kernels_of_outputs(model, x))
    for kernel in found:
        if id(kernel.variable) not in seen and kernel.variable.trainable:
            seen.add(id(kernel.variable))
            kernels.append(kernel)
    if not kernels:
        raise ValueError(
            f"No chosen layer of '{model.name}' has filters to drop: convolutions without groups "
            "and dense layers have, those of the model's outputs and frozen ones left out."
        )
    return kernels


def lowest(scores, count):
    """Which filters go: the lowest of all layers together, but never the last of a layer.

    Args:
        scores: A list of vectors, one a layer.
        count: How many filters go.

    Returns:
        A list of boolean vectors.
    """
    layer = np.concatenate([np.full(len(s), i) for i, s in enumerate(scores)])
    place = np.concatenate([np.arange(len(s)) for s in scores])
    left = [len(s) for s in scores]
    gone = [np.zeros(len(s), bool) for s in scores]
    for index in np.argsort(np.concatenate(scores), kind="stable"):
        i = layer[index]
        if count and left[i] > 1:
            gone[i][place[index]] = True
            left[i] -= 1
            count -= 1
    return gone


def new_filters(kept, old, rng):
    """Filters orthogonal to `kept`, to `old` and to each other, as far as the dimension allows.

    Where it is exhausted, what is oldest gives way: first what was dropped, then what was kept.

    Args:
        kept, old: (weights, filters), float64.
        rng: A NumPy generator.

    Returns:
        As many filters as `old` has, at the mean norm of `kept`.
    """
    dimension, count = old.shape
    norm = np.linalg.norm(kept, axis=0).mean() if kept.size else 0.0
    if not norm > 0:
        norm = np.linalg.norm(old, axis=0).mean() or 1.0
    held = _basis(kept, np.zeros((dimension, 0)))
    held = np.concatenate([held, _basis(old, held)], axis=1)
    free = rng.normal(size=(dimension, min(count, dimension - held.shape[1])))
    new, _ = np.linalg.qr(_without(free, held))
    # Beyond that every direction is taken: they are handed out from the last one on.
    directions = np.concatenate([new, held[:, ::-1]], axis=1)
    directions = directions[:, np.minimum(np.arange(count), dimension - 1)]
    return norm * directions * rng.choice([-1.0, 1.0], count)


def _basis(vectors, held):
    """An orthonormal basis of what `vectors` have beyond the basis `held`, most of it first."""
    rest = _without(vectors, held)
    if not rest.size:
        return rest
    directions, size, _ = np.linalg.svd(rest, full_matrices=False)
    scale = np.linalg.norm(vectors, axis=0).max()
    return directions[:, size > 1e-10 * max(scale, 1e-300)]


def _without(vectors, held):
    for _ in range(2):  # twice is enough: what rounding left goes too
        vectors = vectors - held @ (held.T @ vectors)
    return vectors


def along(vector, axis, rank):
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _initial(initializer, variable):
    made = keras.initializers.get(initializer)(tuple(variable.shape), dtype="float32")
    return ops.convert_to_numpy(made)


def slots_of(optimizer):
    """Dict from the id of a weight to its slots: `(variable, what an entry starts at)`.

    `None` stands for the weight itself: averages of the weights start there.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    weights = optimizer._trainable_variables
    found = {id(variable): [] for variable in weights}
    for name, held in vars(optimizer).items():
        if name in ("_variables", "_trainable_variables"):
            continue
        if not isinstance(held, list | tuple) or len(held) != len(weights):
            continue
        start = 0.0
        if name == "_model_variables_moving_average":
            start = None
        elif name == "_accumulators":
            start = getattr(optimizer, "initial_accumulator_value", 0.0)
        for variable, slot in zip(weights, held, strict=True):
            # Slots of another shape belong to rows, columns or the whole of a weight.
            if getattr(slot, "shape", None) is not None and slot.shape == variable.shape:
                found[id(variable)].append((slot, start))
    return found
