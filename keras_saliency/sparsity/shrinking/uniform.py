"""Narrower feed-forward layers in a model of the same class, made from its config."""

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


def shrink_uniformly(model, what, share, data, scores_of, *, round_to, fits, verbose, **options):
    """The model with the same, smaller feed-forward width in every block.

    Which axes of which weights shrink is told by a model that is made with a width one smaller.

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
    plan = _Plan(model)
    width = plan.width_for(what, share, data, round_to)
    if width >= plan.width:
        return copy_model(model)
    keep = plan.kept(width, scores_of(model))
    source = model
    if fits:
        refit.check_finite(model, data)
        masks = plan.masks(keep)
        source = refit.reconstruct(
            model, lambda: copy_model(model), data, masks, verbose=verbose, **options
        ).copy
    small = plan.make(width)
    for index, (old, new) in enumerate(zip(source.weights, small.weights, strict=True)):
        value = ops.convert_to_numpy(old)
        if index in plan.axes:
            value = np.take(value, keep[plan.groups[index]], plan.axes[index])
        new.assign(value)
        new.trainable = old.trainable
    if verbose:
        print(
            f"shrink_to: a {type(small).__name__} with {plan.name} {plan.width} -> {width}; "
            f"parameters {count_parameters(model):,} -> {count_parameters(small):,}"
        )
    return small


class _Plan:
    """Which axes of a model's weights are its feed-forward width, and which go together.

    Attributes:
        name: The argument of the config.
        width: Its value.
        axes: Dict from the index of a weight to the axis that shrinks.
        groups: Dict from the index of a weight to the `id` of the layer around it, in which the
            units are the same.
    """

    def __init__(self, model):
        self.model = model
        self.config = model.get_config()
        names = [name for name in WIDTHS if isinstance(self.config.get(name), int)]
        if not names or self.config[names[0]] < 2:
            raise ValueError(
                f"`uniform=True` makes a {type(model).__name__} from its config with another "
                f"feed-forward width, but the config of '{model.name}' names none of "
                f"{list(WIDTHS)}. Pass a backbone, or `uniform=False`."
            )
        self.name = names[0]
        self.width = self.config[self.name]
        self.probe = self.make(self.width - 1)
        self.axes, self.groups = {}, {}
        around = {}
        _note_parents(model, None, around)
        for index, (old, new) in enumerate(zip(model.weights, self.probe.weights, strict=True)):
            changed = [
                a for a, (m, n) in enumerate(zip(old.shape, new.shape, strict=True)) if m != n
            ]
            if not changed:
                continue
            parent = around.get(id(old))
            if len(changed) > 1 or old.shape[changed[0]] != self.width or parent is None:
                raise ValueError(
                    f"How the weight '{old.path}' of '{model.name}' follows its {self.name} is "
                    "not plain: it is no single axis of that size. Pass `uniform=False`."
                )
            self.axes[index] = changed[0]
            self.groups[index] = parent
        kernels = maskable_kernels(model)
        self.kernels = {id(kernel.variable): kernel for kernel in kernels}

    def make(self, width):
        return type(self.model).from_config({**self.config, self.name: width})

    def width_for(self, what, share, data, round_to):
        """The largest multiple of `round_to` that meets the budget, which is linear in it."""
        if what == "parameters":
            whole, less = count_parameters(self.model), count_parameters(self.probe)
        else:
            whole, less = self._operations(data)
        each = whole - less
        limit = int(np.floor(self.width - (1 - share) * whole / each + 1e-9))
        width = limit if limit < round_to else limit - limit % round_to
        if width < 1:
            least = 1 - each * (self.width - 1) / whole
            raise ValueError(
                f"`{what}={share}` cannot be reached with `uniform=True`: with one feed-forward "
                f"unit left in every block, a share of {least:.3f} remains, since heads and the "
                "residual stream stay. Allow more."
            )
        return min(width, self.width)

    def _operations(self, data):
        shapes = [x.shape for x in self.model.inputs]
        if any(None in shape[1:] for shape in shapes):
            if data is None:
                raise ValueError(
                    "How long a sequence is decides what share its feed-forward layers have of "
                    "the operations. Pass `data`, inputs of the length that matters."
                )
            shapes = [(1, *x.shape[1:]) for x in tree.flatten(data)]
        counts = [count_operations(net, shapes) for net in (self.model, self.probe)]
        if None in counts:
            raise ValueError(
                f"The operations of '{self.model.name}' cannot be counted: some layer does not "
                "say of what size its products are. Give the budget as `parameters`."
            )
        return counts

    def kept(self, width, scores):
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
            units = np.moveaxis(edges, axis, 0).reshape(self.width, -1).sum(1)
            mean = units.mean()
            group = self.groups[index]
            total[group] = total.get(group, 0) + (units / mean if mean > 0 else units)
        missing = set(self.groups.values()) - set(total)
        if missing:
            raise ValueError(
                f"What leads into some feed-forward layers of '{self.model.name}' is not known. "
                "Pass `uniform=False`."
            )
        return {
            group: np.sort(np.argsort(-units, kind="stable")[:width])
            for group, units in total.items()
        }

    def masks(self, keep):
        masks = {}
        for index, variable in enumerate(self.model.weights):
            kernel = self.kernels.get(id(variable))
            if kernel is not None and index in self.axes:
                marks = np.zeros(self.width, bool)
                marks[keep[self.groups[index]]] = True
                shape = [1] * len(kernel.shape)
                shape[self.axes[index]] = -1
                masks[kernel.key] = np.broadcast_to(marks.reshape(shape), kernel.shape).copy()
        return masks


def _note_parents(layer, parent, found):
    """Fill a dict from the `id` of a weight to that of the layer around the one that owns it."""
    for variable in layer._trainable_variables + layer._non_trainable_variables:
        found.setdefault(id(variable), parent)
    for child in sublayers(layer):
        if isinstance(child, keras.layers.Layer):
            inside = None if isinstance(layer, keras.Model) else id(layer)
            _note_parents(child, inside, found)
