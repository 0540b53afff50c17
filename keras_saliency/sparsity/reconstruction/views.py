"""The least-squares problem that a kernel takes part in: its inputs as rows, itself as a matrix.

A view turns the input of a layer into rows (samples, groups, inputs) and its kernel into a matrix
(groups, inputs, outputs), such that `rows @ matrix` is what the layer adds its bias to. Whether it
does is checked on two samples before it is used.
"""

import keras
import numpy as np
from keras import layers, ops


class View:
    """How a kernel multiplies its input.

    Attributes:
        layer: The layer whose input the rows are made of.
        bias: The variable that takes a shift of the outputs, or `None`.
    """

    bias = None

    def __init__(self, layer, owner, variable):
        self.layer = layer
        self.owner = owner
        self.variable = variable

    def prepare(self, x):
        """The layer's input as an array with channels last."""
        return np.asarray(ops.convert_to_numpy(x))

    def shift_bias(self, shift):
        """The bias with `shift` (groups, outputs) added."""
        bias = np.array(ops.convert_to_numpy(self.bias), "float64")
        return bias + shift.reshape(bias.shape)

    def check(self, x):
        """Whether rows and matrix give what the layer computes, its activation left out."""
        return True


class _Linear(View):
    """Inputs on the last axis, all other axes but the first are positions."""

    def positions(self, x):
        return int(np.prod(x.shape[1:-1], dtype="int64"))

    def rows(self, x, chosen=None):
        flat = x.reshape(len(x), -1, x.shape[-1])
        if chosen is not None:
            flat = np.take_along_axis(flat, chosen[:, :, None], axis=1)
        return flat.reshape(-1, 1, x.shape[-1])

    def matrix(self, kernel):
        return kernel.reshape(1, -1, kernel.shape[-1])

    def kernel(self, matrix):
        return matrix.reshape(self.variable.shape)


class _Dense(_Linear):
    def __init__(self, layer, owner, variable):
        super().__init__(layer, owner, variable)
        self.bias = layer.bias

    def check(self, x):
        return _agrees(self, x, lambda y: y)


class _Recurrent(_Linear):
    """The part of a recurrent layer's gates that its input makes."""

    def __init__(self, layer, owner, variable):
        super().__init__(layer, owner, variable)
        self.bias = getattr(owner, "bias", None)

    def shift_bias(self, shift):
        bias = np.array(ops.convert_to_numpy(self.bias), "float64")
        if bias.ndim == 2:  # a GRU's: the first row belongs to the input
            bias[0] += shift.reshape(-1)
            return bias
        return bias + shift.reshape(bias.shape)


class _Einsum(View):
    def __init__(self, layer, owner, variable):
        super().__init__(layer, owner, variable)
        left, out = layer.equation.replace(" ", "").split("->")
        self.x, self.k = left.split(",")
        if "..." in layer.equation:
            raise ValueError("an ellipsis")
        x, k = self.x, self.k
        self.outer = [c for c in x if c not in k]
        self.group = [c for c in x if c in k and c in out]
        self.inner = [c for c in x if c in k and c not in out]
        self.new = [c for c in k if c not in x]
        if any(c not in out for c in self.outer + self.new) or not self.inner:
            raise ValueError("a sum over one operand alone")
        self.out = out
        labels = set(layer.bias_axes or "")
        if layer.bias is not None and labels == set(self.group + self.new):
            self.bias = layer.bias
            self._labels = [c for c in out if c in labels]

    def positions(self, x):
        return int(
            np.prod([n for n, c in zip(x.shape, self.x, strict=True) if c in self.outer][1:])
        )

    def rows(self, x, chosen=None):
        x = x.transpose([self.x.index(c) for c in self.outer + self.group + self.inner])
        extents = x.shape[len(self.outer) :]
        groups = int(np.prod(extents[: len(self.group)], dtype="int64"))
        x = x.reshape(len(x), -1, groups, int(np.prod(extents[len(self.group) :])))
        if chosen is not None:
            x = np.take_along_axis(x, chosen[:, :, None, None], axis=1)
        return x.reshape(-1, *x.shape[2:])

    def _order(self):
        return [self.k.index(c) for c in self.group + self.inner + self.new]

    def _size(self, labels):
        shape = dict(zip(self.k, self.variable.shape, strict=True))
        return int(np.prod([shape[c] for c in labels], dtype="int64"))

    def matrix(self, kernel):
        shape = [self._size(part) for part in (self.group, self.inner, self.new)]
        return kernel.transpose(self._order()).reshape(shape)

    def kernel(self, matrix):
        shape = [self.variable.shape[i] for i in self._order()]
        return matrix.reshape(shape).transpose(np.argsort(self._order()))

    def shift_bias(self, shift):
        sizes = dict(zip(self.k, self.variable.shape, strict=True))
        labels = self.group + self.new
        shift = shift.reshape([sizes[c] for c in labels])
        shift = shift.transpose([labels.index(c) for c in self._labels])
        bias = np.array(ops.convert_to_numpy(self.bias), "float64")
        return bias + shift.reshape(bias.shape)

    def check(self, x):
        def arrange(y):
            labels = self.outer + self.group + self.new
            kernel = dict(zip(self.k, self.variable.shape, strict=True))
            sizes = dict(zip(self.x, x.shape, strict=True)) | kernel
            y = y.reshape([sizes[c] for c in labels])
            return y.transpose([labels.index(c) for c in self.out])

        return _agrees(self, x, arrange)


class _Convolution(View):
    """A convolution of any rank, with groups, strides, dilation and padding."""

    def __init__(self, layer, owner, variable):
        super().__init__(layer, owner, variable)
        self.bias = layer.bias
        self.size = layer.kernel_size
        self.strides = layer.strides
        self.dilation = layer.dilation_rate
        self.groups = getattr(layer, "groups", 1)

    def prepare(self, x):
        x = super().prepare(x)
        return np.moveaxis(x, 1, -1) if self.layer.data_format == "channels_first" else x

    def _pads(self, extents):
        pads = []
        for n, k, s, d in zip(extents, self.size, self.strides, self.dilation, strict=True):
            reach = (k - 1) * d + 1
            total = max((-(-n // s) - 1) * s + reach - n, 0)
            before = {"valid": 0, "same": total // 2, "causal": reach - 1}[self.layer.padding]
            after = total - before if self.layer.padding == "same" else 0
            pads.append((before, after))
        return pads

    def _extents(self, x):
        return [
            (n + sum(pad) - (k - 1) * d - 1) // s + 1
            for n, pad, k, s, d in zip(
                x.shape[1:-1],
                self._pads(x.shape[1:-1]),
                self.size,
                self.strides,
                self.dilation,
                strict=True,
            )
        ]

    def positions(self, x):
        return int(np.prod(self._extents(x)))

    def _windows(self, x, chosen):
        """(samples, positions, *kernel_size, channels)"""
        extents = self._extents(x)
        if chosen is None:
            chosen = np.broadcast_to(np.arange(np.prod(extents)), (len(x), np.prod(extents)))
        x = np.pad(x, [(0, 0), *self._pads(x.shape[1:-1]), (0, 0)])
        rank = len(self.size)
        index = [np.arange(len(x)).reshape(-1, *[1] * (rank + 1))]
        for axis, place in enumerate(np.unravel_index(chosen, extents)):
            shape = [*place.shape, *[1] * rank]
            offsets = np.arange(self.size[axis]) * self.dilation[axis]
            offsets = offsets.reshape([-1 if i == axis else 1 for i in range(rank)])
            index.append((place * self.strides[axis]).reshape(shape) + offsets)
        return x[tuple(index)]

    def rows(self, x, chosen=None):
        windows = self._windows(x, chosen)
        taps = int(np.prod(self.size))
        windows = windows.reshape(-1, taps, self.groups, windows.shape[-1] // self.groups)
        return windows.transpose(0, 2, 1, 3).reshape(len(windows), self.groups, -1)

    def matrix(self, kernel):
        kernel = kernel.reshape(-1, self.groups, kernel.shape[-1] // self.groups)
        return kernel.transpose(1, 0, 2)

    def kernel(self, matrix):
        return matrix.transpose(1, 0, 2).reshape(self.variable.shape)

    def check(self, x):
        def arrange(y):
            y = y.reshape(len(x), *self._extents(x), -1)
            return np.moveaxis(y, -1, 1) if self.layer.data_format == "channels_first" else y

        return _agrees(self, x, arrange)


class _Depthwise(_Convolution):
    def __init__(self, layer, owner, variable):
        super().__init__(layer, owner, variable)
        self.groups = variable.shape[-2]

    def matrix(self, kernel):
        kernel = kernel.reshape(-1, *kernel.shape[-2:])
        return kernel.transpose(1, 0, 2)

    def kernel(self, matrix):
        return matrix.transpose(1, 0, 2).reshape(self.variable.shape)


class _Pointwise(_Linear):
    """The second part of a separable convolution, on what the first makes."""

    def __init__(self, layer, owner, variable):
        super().__init__(layer, owner, variable)
        self.bias = layer.bias

    def prepare(self, x):
        layer = self.layer
        x = ops.depthwise_conv(
            ops.convert_to_tensor(x, layer.compute_dtype),
            ops.cast(layer.depthwise_kernel, layer.compute_dtype),
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )
        x = super().prepare(x)
        return np.moveaxis(x, 1, -1) if layer.data_format == "channels_first" else x

    def check(self, x):
        first = self.layer.data_format == "channels_first"
        return _agrees(
            self, x, lambda y: np.moveaxis(y, -1, 1) if first else y, self.prepare(x).shape[:-1]
        )


class _Transposed(_Convolution):
    """A transposed convolution: a plain one on the input with zeros between its values."""

    def __init__(self, layer, owner, variable):
        super().__init__(layer, owner, variable)
        self.stretch = layer.strides
        self.strides = (1,) * len(self.size)
        self.early = 0  # whether an odd crop takes more from the front

    def _extents(self, x):
        shape = (1, *self._plain(x), x.shape[-1])
        if self.layer.data_format == "channels_first":
            shape = (1, x.shape[-1], *self._plain(x))
        out = self.layer.compute_output_shape(shape)
        return list(out[2:] if self.layer.data_format == "channels_first" else out[1:-1])

    def _plain(self, x):
        return x.shape[1:-1]

    def _windows(self, x, chosen):
        extents = self._extents(x)
        wide = np.zeros(
            (
                len(x),
                *[(n - 1) * s + 1 for n, s in zip(self._plain(x), self.stretch, strict=True)],
                x.shape[-1],
            ),
            x.dtype,
        )
        wide[(slice(None), *[slice(None, None, s) for s in self.stretch])] = x
        pads = []
        for n, e, k, d in zip(wide.shape[1:-1], extents, self.size, self.dilation, strict=True):
            reach = (k - 1) * d
            crop = n + reach - e
            before = reach - (crop + self.early) // 2 if crop > 0 else reach
            pads.append((before, max(e + reach - n - before, 0)))
        wide = np.pad(wide, [(0, 0), *pads, (0, 0)])
        if chosen is None:
            chosen = np.broadcast_to(np.arange(np.prod(extents)), (len(x), np.prod(extents)))
        rank = len(self.size)
        index = [np.arange(len(x)).reshape(-1, *[1] * (rank + 1))]
        for axis, place in enumerate(np.unravel_index(chosen, extents)):
            offsets = np.arange(self.size[axis]) * self.dilation[axis]
            offsets = offsets.reshape([-1 if i == axis else 1 for i in range(rank)])
            index.append(place.reshape([*place.shape, *[1] * rank]) + offsets)
        return wide[tuple(index)]

    def matrix(self, kernel):
        rank = len(self.size)
        kernel = np.flip(kernel, tuple(range(rank))).swapaxes(-1, -2)
        return kernel.reshape(1, -1, kernel.shape[-1])

    def kernel(self, matrix):
        *taps, outputs, inputs = self.variable.shape
        kernel = matrix.reshape(*taps, inputs, outputs).swapaxes(-1, -2)
        return np.flip(kernel, tuple(range(len(taps))))

    def check(self, x):
        if super().check(x):
            return True
        self.early = 1
        return super().check(x)


def _agrees(view, x, arrange, leading=None):
    """Whether a view's product is the layer's, on a few samples."""
    layer = view.layer
    rows = view.rows(view.prepare(x)).astype("float64")
    kernel = np.array(ops.convert_to_numpy(view.variable), "float64")
    result = np.einsum("ngd,gdo->ngo", rows, view.matrix(kernel))
    if view.bias is not None:
        zero = np.zeros(result.shape[1:])
        bias = view.shift_bias(zero)
        shifted = result + _unshift(view, bias, result.shape[1:])
        result = shifted
    result = result.reshape(len(result), -1)
    shape = (*(leading or view.prepare(x).shape[:-1]), result.shape[-1])
    result = arrange(result.reshape(shape) if isinstance(view, _Linear) else result)
    activation = getattr(layer, "activation", None)
    if activation is not None:
        result = ops.convert_to_numpy(activation(ops.convert_to_tensor(result.astype("float32"))))
    wanted = np.array(ops.convert_to_numpy(layer(x)), "float64")
    if result.shape != wanted.shape:
        return False
    scale = np.abs(wanted).max() + 1e-6
    half = keras.backend.standardize_dtype(layer.compute_dtype) in ("float16", "bfloat16")
    return bool(np.abs(result - wanted).max() <= (3e-2 if half else 2e-3) * scale)


def _unshift(view, bias, shape):
    """The bias as (groups, outputs)."""
    if isinstance(view, _Einsum):
        sizes = dict(zip(view.k, view.variable.shape, strict=True))
        bias = bias.reshape([sizes[c] for c in view._labels])
        labels = view.group + view.new
        return bias.transpose([view._labels.index(c) for c in labels]).reshape(shape)
    return bias.reshape(shape)


_VIEWS = (
    (layers.Dense, "_kernel", _Dense),
    (layers.EinsumDense, "_kernel", _Einsum),
    ((layers.Conv1D, layers.Conv2D, layers.Conv3D), "_kernel", _Convolution),
    (
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        "kernel",
        _Transposed,
    ),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), "kernel", _Depthwise),
    ((layers.SeparableConv1D, layers.SeparableConv2D), "pointwise_kernel", _Pointwise),
    ((layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell), "kernel", _Recurrent),
)


def view_of(kernel):
    """The `View` of a `Kernel`, or `None` where no least-squares problem is known."""
    for classes, name, view in _VIEWS:
        if isinstance(kernel.owner, classes) and kernel.name == name:
            try:
                return view(kernel.layer, kernel.owner, kernel.variable)
            except ValueError:
                return None
    return None
