"""Narrower feed-forward layers and fewer heads in a model of the same class, from its config."""

import contextlib

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.copying import check_built, copy_model
from keras_saliency.graph.symbolic import sublayers
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.reconstruction import refit
from keras_saliency.sparsity.shrinking.cost import count_operations, count_parameters

# Names under which a config says how wide the feed-forward layers are.
WIDTHS = ("intermediate_dim", "mlp_dim")
# Under which it says how large a head is, so that their number is free, and how many there are.
HEAD_SIZES = ("head_dim", "key_value_dim")
HEADS = ("num_query_heads", "num_heads")
KEYS = "num_key_value_heads"


def shrink_uniformly(model, what, share, data, scores_of, *, round_to, fits, verbose, **options):
    """The model with the same, smaller feed-forward width, and fewer heads, in every block.

    Which axes of which weights shrink is told by a model that is made with one unit less. Heads
    leave where the class takes the size of a head, about the same share of them as of the width.

    Args:
        model: A built model whose config has one of `WIDTHS`.
        what: `"flops"` or `"parameters"`.
        share: Share of it that may remain.
        data: Inputs, or `None`.
        scores_of: Function of the model that returns arrays of its kernels' shapes by the `id` of
            the variable; where one is missing, its absolute values count.
        round_to: The width is a multiple of this.
        fits: Whether the layers behind are fitted.
        verbose: Whether to print in one line how much was removed.
        **options: Of `refit.reconstruct`.

    Returns:
        A new model of the class of `model`.
    """
    check_built(model)
    plan = _Plan(model, what, data)
    sizes = plan.sizes_for(share, round_to)
    if all(size >= extent.units for size, extent in zip(sizes, plan.extents, strict=True)):
        return copy_model(model)
    scores = scores_of(model)
    keep = [x.kept(size, scores) for x, size in zip(plan.extents, sizes, strict=True)]
    source = model
    if fits:
        refit.check_finite(model, data)
        masks = {}
        for extent, kept in zip(plan.extents, keep, strict=True):
            masks |= extent.masks(kept)
        source = refit.reconstruct(
            model, lambda: copy_model(model), data, masks, verbose=verbose, **options
        ).copy
    small = plan.make(sizes)
    values = [ops.convert_to_numpy(v) for v in source.weights]
    for extent, kept in zip(plan.extents, keep, strict=True):
        extent.slice(values, kept)
    for value, old, new in zip(values, source.weights, small.weights, strict=True):
        new.assign(value)
        new.trainable = old.trainable
    if verbose:
        changes = ", ".join(x.told(size) for x, size in zip(plan.extents, sizes, strict=True))
        print(
            f"shrink_to: a {type(small).__name__} with {changes}; "
            f"parameters {count_parameters(model):,} -> {count_parameters(small):,}"
        )
    return small


class _Plan:
    """What of a model may shrink, and what that saves.

    Attributes:
        extents: The `_Extent` of the feed-forward width, and that of the heads if they may leave.
    """

    def __init__(self, model, what, data):
        self.model, self.what, self.data = model, what, data
        config = model.get_config()
        names = [name for name in WIDTHS if isinstance(config.get(name), int)]
        if not names or config[names[0]] < 2:
            raise ValueError(
                f"`uniform=True` makes a {type(model).__name__} from its config with another "
                f"feed-forward width, but the config of '{model.name}' names none of "
                f"{list(WIDTHS)}. Pass a backbone, or `uniform=False`."
            )
        self.extents = [_width_of(model, names[0], config[names[0]])]
        heads = _heads_of(config)
        if heads and data is not None:
            with contextlib.suppress(ValueError):  # of a shape that is not plain: heads stay
                self.extents.append(_Extent(model, *heads))

    def make(self, sizes):
        config = self.model.get_config()
        for extent, size in zip(self.extents, sizes, strict=True):
            config |= extent.config_for(size)
        return type(self.model).from_config(config)

    def sizes_for(self, share, round_to):
        """The largest sizes that meet the budget, which is linear in them.

        The width is a multiple of `round_to`; of all pairs with a number of heads that meet the
        budget, the one in which both keep about the same share.
        """
        whole = self._cost(self.model)
        width, *heads = self.extents
        each = [whole - self._cost(extent.probe) for extent in self.extents]
        found = []
        for count in range(heads[0].units, 0, -1) if heads else [0]:
            saved = each[1] * (heads[0].units - count) if heads else 0
            limit = int(np.floor(width.units - ((1 - share) * whole - saved) / each[0] + 1e-9))
            size = limit if limit < round_to else limit - limit % round_to
            if size >= 1:
                size = min(size, width.units)
                uneven = abs(size / width.units - count / heads[0].units) if heads else 0
                found.append((uneven, [size, count][: 1 + len(heads)]))
        if not found:
            least = whole - sum(e * (x.units - 1) for e, x in zip(each, self.extents, strict=True))
            raise ValueError(
                f"`{self.what}={share}` cannot be reached with `uniform=True`: with one "
                f"{' and one '.join(['feed-forward unit', 'head'][: len(each)])} left in every "
                f"block, a share of {least / whole:.3f} remains, since "
                f"{'' if heads else 'heads and '}the residual stream stays. Allow more."
            )
        sizes = min(found, key=lambda x: x[0])[1]
        if heads and sizes[1] < heads[0].units and not heads[0].is_exact(sizes[1], self.data):
            self.extents.pop()
            return self.sizes_for(share, round_to)
        return sizes

    def _cost(self, net):
        if self.what == "parameters":
            return count_parameters(net)
        shapes = [x.shape for x in self.model.inputs]
        if any(None in shape[1:] for shape in shapes):
            if self.data is None:
                raise ValueError(
                    "How long a sequence is decides what share its feed-forward layers have of "
                    "the operations. Pass `data`, inputs of the length that matters."
                )
            shapes = [(1, *x.shape[1:]) for x in tree.flatten(self.data)]
        count = count_operations(net, shapes)
        if count is None:
            raise ValueError(
                f"The operations of '{self.model.name}' cannot be counted: some layer does not "
                "say of what size its products are. Give the budget as `parameters`."
            )
        return count


def _width_of(model, name, value):
    try:
        return _Extent(model, {name: value}, value)
    except ValueError:
        if value % 2 or value < 4:
            raise
        return _Extent(model, {name: value}, value // 2)  # Gemma counts gates and units


def _heads_of(config):
    """The numbers of heads in a config and how many may leave one by one, or `None`.

    With grouped queries a key and value leave with the queries that read them.
    """
    names = [name for name in HEADS if isinstance(config.get(name), int)]
    if not names or not any(isinstance(config.get(name), int) for name in HEAD_SIZES):
        return None
    numbers = {names[0]: config[names[0]]}
    keys = config.get(KEYS)
    if isinstance(keys, int) and keys > 1:
        numbers[KEYS] = keys
    units = min(numbers.values())
    return (numbers, units) if units > 1 else None


class _Extent:
    """One size of a config, and the axes of a model's weights that follow it.

    Args:
        model: The model.
        numbers: Dict from argument to value: what changes together, each a multiple of `units`.
        units: How many parts may leave one by one.

    Attributes:
        probe: A model with one unit less.
        axes: Dict from the index of a weight to the axis that shrinks.
        groups: Dict from the index of a weight to the `id` of the layer around it, in which the
            units are the same.
    """

    def __init__(self, model, numbers, units):
        self.model, self.numbers, self.units = model, numbers, units
        self.probe = type(model).from_config(model.get_config() | self.config_for(units - 1))
        self.axes, self.groups = {}, {}
        self.kernels = {id(kernel.variable): kernel for kernel in maskable_kernels(model)}
        around = {}
        _note_parents(model, None, around)
        for index, (old, new) in enumerate(zip(model.weights, self.probe.weights, strict=True)):
            changed = [
                a for a, (m, n) in enumerate(zip(old.shape, new.shape, strict=True)) if m != n
            ]
            if not changed:
                continue
            parent, axis = around.get(id(old)), changed[0]
            size = old.shape[axis] // units  # of a unit
            plain = len(changed) == 1 and old.shape[axis] == size * units
            if not plain or new.shape[axis] != size * (units - 1) or parent is None:
                raise ValueError(
                    f"How the weight '{old.path}' of '{model.name}' follows its "
                    f"{next(iter(numbers))} is not plain: it is no single axis of that size. Pass "
                    "`uniform=False`."
                )
            self.axes[index] = axis
            self.groups[index] = parent

    def config_for(self, size):
        return {name: value // self.units * size for name, value in self.numbers.items()}

    def told(self, size):
        return ", ".join(
            f"{name} {value} -> {self.config_for(size)[name]}"
            for name, value in self.numbers.items()
        )

    def is_exact(self, size, data):
        """Whether a model of fewer units is the model in which nothing reads the others.

        It is not where a class computes something else from the number, say the scale of scores.
        """
        two = tree.map_structure(lambda x: x[:2], data)
        kept = {group: np.arange(size) for group in self.groups.values()}
        values = [ops.convert_to_numpy(v) for v in self.model.weights]
        silent = copy_model(self.model)
        for index, axis in self.axes.items():
            kernel = self.kernels.get(id(self.model.weights[index]))
            if kernel is not None and axis in kernel.input_axes:
                mask = self.masks(kept)[kernel.key]
                silent.weights[index].assign(np.where(mask, values[index], 0))
        self.slice(values, kept)
        small = type(self.model).from_config(self.model.get_config() | self.config_for(size))
        for value, new in zip(values, small.weights, strict=True):
            new.assign(value)
        wanted, given = (
            [ops.convert_to_numpy(y) for y in tree.flatten(net(two, training=False))]
            for net in (silent, small)
        )
        return all(
            np.abs(a - b).max() <= 1e-4 * np.abs(a).max() + 1e-6
            for a, b in zip(wanted, given, strict=True)
        )

    def kept(self, size, scores):
        """Dict from group to the sorted indices of the units that stay."""
        total = {}
        for index, variable in enumerate(self.model.weights):
            kernel = self.kernels.get(id(variable))
            axis = self.axes.get(index)
            if kernel is None or axis not in kernel.output_axes:
                continue
            edges = scores.get(id(variable))
            if edges is None:
                edges = np.abs(np.asarray(ops.convert_to_numpy(variable), "float64"))
            units = np.moveaxis(edges, axis, 0).reshape(self.units, -1).sum(1)
            mean = units.mean()
            group = self.groups[index]
            total[group] = total.get(group, 0) + (units / mean if mean > 0 else units)
        missing = [index for index, group in self.groups.items() if group not in total]
        if not total or any(id(self.model.weights[index]) in self.kernels for index in missing):
            raise ValueError(
                f"What leads into some layers of '{self.model.name}' that follow its "
                f"{next(iter(self.numbers))} is not known. Pass `uniform=False`."
            )
        if missing:  # a table of biases that all blocks share
            total = dict.fromkeys(self.groups.values(), sum(total.values()))
        return {
            group: np.sort(np.argsort(-units, kind="stable")[:size])
            for group, units in total.items()
        }

    def masks(self, keep):
        masks = {}
        for index, axis in self.axes.items():
            kernel = self.kernels.get(id(self.model.weights[index]))
            if kernel is not None:
                marks = np.zeros(kernel.shape[axis], bool)
                marks[self._places(index, keep)] = True
                shape = [1] * len(kernel.shape)
                shape[axis] = -1
                masks[kernel.key] = np.broadcast_to(marks.reshape(shape), kernel.shape).copy()
        return masks

    def slice(self, values, keep):
        """Take what stays out of a list of the weights' values, in place."""
        for index, axis in self.axes.items():
            values[index] = np.take(values[index], self._places(index, keep), axis)

    def _places(self, index, keep):
        """Where along its axis a weight has the units that stay, which lie side by side."""
        size = self.model.weights[index].shape[self.axes[index]] // self.units
        units = keep[self.groups[index]]
        return (units[:, None] * size + np.arange(size)).reshape(-1)


def _note_parents(layer, parent, found):
    """Fill a dict from the `id` of a weight to that of the layer around the one that owns it."""
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        found.setdefault(id(variable), parent)
    for child in sublayers(layer):
        if isinstance(child, keras.layers.Layer):
            inside = None if isinstance(layer, keras.Model) else id(layer)
            _note_parents(child, inside, found)
