"""One call of a layer, as a shrink rule sees it."""

import numpy as np

from keras_saliency.sparsity.shrinking.channels import (
    Channels,
    Edges,
    apply_elementwise,
    find_weight,
    is_elementwise,
    read_weight,
)


class KeepLayer(Exception):
    """Raised by a rule whose layer cannot lose channels; the message says why."""


class ShrinkCall:
    """One call of a layer, as a shrink rule sees it; see `register_shrink_rule`."""

    def __init__(self, groups, layer, path, args, kwargs, inputs, shapes, prefix=""):
        self.groups = groups
        self.layer = layer
        self.path = path
        self.args = args
        self.kwargs = kwargs
        self.inputs = inputs
        self.input_shapes, self.output_shapes = shapes
        self.prefix = prefix
        self.kernels = []
        self.slices = {}
        self.arguments = {}
        self.work = []
        self.created = []

    # What a rule asks.

    def read(self, name):
        return read_weight(self.layer, name)

    def input(self, index=0, axis=-1):
        """The `Channels` of one axis of input `index`."""
        shape = self.input_shapes[index]
        axis %= len(shape)
        channels = self.inputs[index]
        if channels is not None and channels.axis == axis:
            return channels
        if channels is not None:
            self.pin(channels.ids, "another axis of the tensor is needed")
        if shape[axis] is None:
            self.keep("the number of its input channels is not known")
        return self.groups.fresh(axis, shape[axis], "not followed on this axis")

    def channel_axis(self, rank):
        first = getattr(self.layer, "data_format", "channels_last") == "channels_first"
        return 1 if first else rank - 1

    def inside(self, layer, name):
        """A call of a layer in this one, found under the attribute `name`."""
        shapes = self.input_shapes, self.output_shapes
        prefix = f"{self.prefix}{name}."
        return ShrinkCall(
            self.groups, layer, self.path, self.args, self.kwargs, self.inputs, shapes, prefix
        )

    def absorb(self, part):
        """Take over what a rule reported of a call made by `inside`."""
        self.kernels += part.kernels
        self.slices |= part.slices
        self.arguments |= part.arguments
        self.work += part.work
        self.created += part.created

    # What a rule reports.

    def new(self, size, rounded=True):
        """Numbers for channels that the layer creates; `rounded`: `round_to` applies to them."""
        ids = self.groups.new(size)
        self.created.append(ids)
        if rounded:
            self.groups.rounded.append(ids)
        return ids

    def output(self, ids, axis=-1, values=None, index=0):
        return Channels(axis % len(self.output_shapes[index]), ids, values)

    def keep(self, reason):
        raise KeepLayer(reason)

    def pin(self, ids, reason, statistics=False):
        """These channels stay. `statistics`: only because others are normalized with them."""
        self.groups.pin(ids, f"'{self.path}': {reason}", statistics)

    def tie(self, a, b):
        self.groups.tie(a, b)

    def slice(self, weight, axes):
        """`weight` has entries of channels along `axes`, a dict from axis to ids."""
        _, variable = find_weight(self.layer, weight)
        if variable is not None:
            rank = len(variable.shape)
            self.slices[self.prefix + weight] = {axis % rank: ids for axis, ids in axes.items()}

    def configure(self, *path, **arguments):
        """Constructor arguments: ids that are counted, or a function of a counting function."""
        for name, ids in arguments.items():
            self.arguments[(*path, name)] = ids

    def costs(self, weight, positions):
        """`weight` is multiplied at so many positions; `None` where they are not known."""
        self.work.append((self.prefix + weight, positions))

    def costs_each(self, ids, operations):
        """Every channel of `ids` costs so many multiplications besides those of the weights."""
        self.work.append((ids, operations))

    def activate(self, function, ids, values):
        """The values behind an activation; channels that it mixes stay."""
        if is_elementwise(function):
            return apply_elementwise(function, values)
        self.pin(ids, "its activation mixes channels or is not known")
        return np.full(len(ids), np.nan)

    def edges(
        self,
        weight,
        inputs,
        outputs,
        input_axes=-2,
        output_axes=-1,
        bias="bias",
        padded=False,
        add_bias=False,
        positions=1,
        slices=True,
    ):
        """A kernel between channels; returns the constant values of its outputs, bias included.

        Args:
            weight: Name of the kernel.
            inputs: `Channels`, one entry for each index of the kernel's `input_axes`.
            outputs: Numbers of the output channels, likewise.
            input_axes, output_axes: An axis of the kernel, or a tuple.
            bias: Name of a weight, a vector over the outputs, to which a constant can be added.
            padded: Whether the layer pads with zeros, so that a constant is no constant there.
            add_bias: Whether the layer has an argument `use_bias` that may be switched on.
            positions: How often the kernel is applied to one sample, for counting operations.
            slices: Whether kernel and bias lose entries with the channels.

        Returns:
            float64 vector with NaN where an output is no constant.
        """
        kernel = self.read(weight)
        axes = []
        for given in (input_axes, output_axes):
            given = (given,) if isinstance(given, int) else tuple(given)
            axes.append(tuple(axis % kernel.ndim for axis in given))
        report = Edges(self.prefix + weight, inputs, np.asarray(outputs), axes)
        matrix = report.matrix(kernel)
        report.nonzero = np.any(matrix != 0, axis=0)
        offset = self.read(bias) if bias else None
        report.bias = None if padded or offset is None else self.prefix + bias
        report.add_bias = add_bias and offset is None and not padded and not self.prefix
        self.kernels.append(report)
        self.costs(weight, positions)
        if slices:
            self.slice(weight, _by_axis(kernel.shape, axes[0], inputs.ids, axes[1], outputs))
            if offset is not None and offset.ndim == len(axes[1]):
                self.slice(bias, _by_axis(offset.shape, (), [], range(offset.ndim), outputs))
            elif offset is not None:  # a GRU's: one row for the input, one for the state
                self.slice(bias, {-1: outputs})
        unknown = np.isnan(inputs.values)
        if padded:
            unknown |= inputs.values != 0
        constant = ~report.nonzero[unknown].any(0)
        values = np.full(len(outputs), np.nan)
        values[constant] = 0.0
        carried = np.flatnonzero(~unknown & (inputs.values != 0))
        if constant.any() and len(carried):
            total = matrix[:, carried][:, :, constant].astype("float64").sum(0)
            values[constant] += inputs.values[carried] @ total
        if offset is not None:
            values += offset.reshape(-1) if offset.size == len(values) else offset[0]
        return values


def _by_axis(shape, input_axes, input_ids, output_axes, output_ids):
    """Ids along each axis of a kernel whose channels run over one or more axes."""
    result = {}
    for axes, ids in ((tuple(input_axes), input_ids), (tuple(output_axes), output_ids)):
        if len(axes) < 2:
            result.update(dict.fromkeys(axes, np.asarray(ids)))
            continue
        # Channels over several axes go along the first; the others stay whole.
        block = np.asarray(ids).reshape([shape[axis] for axis in axes])
        result[axes[0]] = block.reshape(len(block), -1)[:, 0]
    return result
