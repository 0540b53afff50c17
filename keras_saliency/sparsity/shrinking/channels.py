"""What shrinking knows of a layer: its channels, the edges between them, its weights by name."""

import keras
import numpy as np


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
