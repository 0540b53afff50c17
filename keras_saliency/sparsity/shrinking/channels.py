"""What shrinking knows of a layer: its channels, the edges between them, and one rule per class."""

import keras
import numpy as np

_RULES = {}


class KeepLayer(Exception):
    """Raised by a rule whose layer cannot lose channels; the message says why."""


class Channels:
    """The entries of one axis of a tensor.

    Attributes:
        axis: Non-negative axis of the tensor, the batch axis included.
        ids: Integer vector, one number per entry. Entries with equal or tied numbers leave
            together.
        values: float64 vector: the value of an entry that is one constant, whatever the input and
            the position; NaN for all others.
    """

    __slots__ = ("axis", "ids", "values")

    def __init__(self, axis, ids, values=None):
        self.axis = axis
        self.ids = np.asarray(ids, "int64")
        if values is None:
            values = np.full(len(self.ids), np.nan)
        self.values = np.asarray(values, "float64")

    def __len__(self):
        return len(self.ids)


class Edges:
    """A kernel between input and output channels.

    Attributes:
        weight: Name of the kernel, dotted for what lies in a sublayer.
        inputs: `Channels` that enter.
        outputs: Numbers of the channels that leave.
        input_axes, output_axes: Axes of the kernel over which `inputs` and `outputs` run.
        nonzero: (inputs, outputs) whether any of the kernel's entries differs from zero.
        bias: Name of the weight to which a constant input can be added, or `None`.
        add_bias: Whether a missing bias may be added to the layer.
    """

    __slots__ = (
        "add_bias",
        "bias",
        "input_axes",
        "inputs",
        "nonzero",
        "output_axes",
        "outputs",
        "weight",
    )

    def __init__(self, weight, inputs, outputs, axes):
        self.weight = weight
        self.inputs = inputs
        self.outputs = outputs
        self.input_axes, self.output_axes = axes
        self.nonzero = None
        self.bias = None
        self.add_bias = False

    def matrix(self, kernel):
        """View `kernel` as (positions, inputs, outputs)."""
        axes = self.input_axes + self.output_axes
        kernel = np.moveaxis(kernel, axes, range(-len(axes), 0))
        return kernel.reshape(-1, len(self.inputs), len(self.outputs))

    def unmatrix(self, matrix, shape):
        """The inverse of `matrix` for a kernel of the given shape."""
        axes = self.input_axes + self.output_axes
        rest = [extent for axis, extent in enumerate(shape) if axis not in axes]
        matrix = matrix.reshape(rest + [shape[axis] for axis in axes])
        return np.moveaxis(matrix, range(-len(axes), 0), axes)


def register_shrink_rule(layer_class):
    """Register which channels of a layer class go together, for `shrink` and `shrink_to`.

    A rule is called once for every call of such a layer in the model, with one `call` object:

    - `call.layer`, `call.args`, `call.kwargs`, `call.input_shapes`, `call.output_shapes`.
    - `call.input(index=0, axis=-1)`: the `Channels` of one axis of an input tensor.
    - `call.new(size)`: numbers for channels that the layer creates.
    - `call.edges(weight, channels, ids, ...)`: a kernel from input to output channels; returns the
      values of the outputs that are constant.
    - `call.slice(weight, {axis: ids})`: a weight that loses entries with its channels.
    - `call.configure(argument=ids)`: a constructor argument that counts channels.
    - `call.tie(a, b)`: channels that must go together.
    - `call.activate(function, ids, values)`: what an activation makes of constants.
    - `call.keep(reason)`: gives up; the layer and the channels around it stay as they are.

    It returns the `Channels` of the output, or a list with one entry for each output tensor.

    Rules are looked up along the layer's `__mro__`. A subclass with a `call` of its own does not
    inherit its parent's rule, since it may do something else.

    Args:
        layer_class: A `keras.Layer` subclass, or a `keras.Operation` subclass.

    Returns:
        A decorator, which returns the rule unchanged.

    Raises:
        TypeError: If `layer_class` is not a layer class, or the rule cannot be called.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import register_shrink_rule


    class Mixer(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, input_shape):
            self.w = self.add_weight(shape=(input_shape[-1], self.units))

        def call(self, x):
            return keras.ops.matmul(x, self.w)

        def get_config(self):
            return {**super().get_config(), "units": self.units}


    @register_shrink_rule(Mixer)
    def mixer(call):
        x = call.input()
        ids = call.new(call.layer.units)
        call.configure(units=ids)
        values = call.edges("w", x, ids, bias=None)
        return call.output(ids, values=values)
    ```
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Operation)):
        raise TypeError(
            "`layer_class` must be a class of layers (or of Keras operations). "
            f"Received: layer_class={layer_class!r}"
        )

    def decorator(rule):
        if not callable(rule):
            raise TypeError(f"A shrink rule must be callable. Received: {rule!r}")
        _RULES[layer_class] = rule
        return rule

    return decorator


def find_rule(layer):
    """Returns the rule of the layer's class or of an ancestor whose `call` it shares, or `None`."""
    own = type(layer).call
    for cls in type(layer).__mro__:
        if cls in _RULES:
            return _RULES[cls] if cls.call is own or cls is type(layer) else None
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name in _RULES:
            return _RULES[name]
    return None


def read_weight(layer, name):
    """Returns a weight as a NumPy array, or `None`.

    Args:
        layer: A layer.
        name: Attribute name, dotted for what lies in a sublayer: `"cell.kernel"`.
    """
    _, variable = find_weight(layer, name)
    if variable is None:
        return None
    value = keras.ops.convert_to_numpy(variable)
    if value.dtype.kind not in "fiub":
        value = value.astype("float32")  # bfloat16
    return value


def find_weight(layer, name):
    """Returns the (sub)layer that owns a weight, and its variable."""
    *path, last = name.split(".")
    for part in path:
        layer = getattr(layer, part)
    # Under LoRA `kernel` is a property; the variable carries an underscore.
    variable = layer.__dict__.get(f"_{last}", None)
    if variable is None:
        variable = getattr(layer, last, None)
    return layer, variable


_ELEMENTWISE = {}


def is_elementwise(function):
    """Whether an activation function treats every number by itself; found out by trying."""
    if function is None or function is keras.activations.linear:
        return True
    key = function if not isinstance(function, keras.layers.Layer) else type(function)
    if key not in _ELEMENTWISE:
        x = np.random.default_rng(7).normal(0, 3, (3, 11)).astype("float32")

        def apply(x):
            return keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x)))

        try:
            y = apply(x)
            known = (
                y.shape == x.shape
                and np.allclose(apply(x.T.copy()).T, y, rtol=1e-5, atol=1e-6)
                and np.allclose(apply(x[1:, :5].copy()), y[1:, :5], rtol=1e-5, atol=1e-6)
            )
        except Exception:
            known = False
        _ELEMENTWISE[key] = known
    return _ELEMENTWISE[key]


def apply_elementwise(function, values):
    """Apply an elementwise function to the known entries of a vector."""
    known = ~np.isnan(values)
    if function is None or function is keras.activations.linear or not known.any():
        return values
    result = np.full_like(values, np.nan)
    # Of few different lengths, since some backends compile anew for each.
    x = np.zeros((1, 1 << int(known.sum() - 1).bit_length()), "float64")
    x[0, : known.sum()] = values[known]
    y = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x)))
    result[known] = y.astype("float64")[0, : known.sum()]
    return result


class LayerCall:
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
        return LayerCall(
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
        """These channels stay. `statistics`: only because others are normalised with them."""
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
