"""What criteria may ask about a kernel: values, inputs, outputs, gradients, significance."""

from __future__ import annotations

import zlib
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.gradients import loss_gradients, without_gradients
from keras_saliency.graph.listening import listening
from keras_saliency.graph.reading import read
from keras_saliency.graph.steps import Steps
from keras_saliency.sparsity.kernels import Kernel
from keras_saliency.sparsity.reconstruction.views import view_of
from keras_saliency.sparsity.significance.call import effective
from keras_saliency.sparsity.significance.walk import SignificanceWalk
from keras_saliency.typing import ArrayLike

# Rows that a kernel's inputs are drawn to, where they have many positions.
ROWS = 8192
# Numbers that are held at once.
HELD = 1 << 27


class MeasuredKernel:
    """One kernel, and what can be measured of it; each measure is taken when it is asked for.

    Attributes:
        key, layer, owner, shape, size, input_axes, output_axes: As those of
            `sparsity.maskable_kernels`.
        values: float64 array, the kernel in use: a LoRA update included, zeros where it is masked.
        mask: Boolean array of what is not masked, or `None`.
        view: How the kernel multiplies its input, or `None`.
        outputs_count: Integer, the number of output channels.
    """

    def __init__(
        self,
        kernel: Kernel,
        measurements: Measurements,
        values: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        index: int = 0,
        step: int = 0,
    ):
        self.kernel = kernel
        self.measurements = measurements
        self.mask = mask
        self.index = index
        self.step = step
        self._values = values
        self.key = kernel.key
        self.layer = kernel.layer
        self.owner = kernel.owner
        self.shape = kernel.shape
        self.size = kernel.size
        self.input_axes = kernel.input_axes
        self.output_axes = kernel.output_axes
        self.outputs_count = int(np.prod([self.shape[axis] for axis in self.output_axes]))

    @property
    def stored(self) -> np.ndarray:
        """The kernel as it is held, in its own precision: to be read at once, not to be kept."""
        if self._values is None:
            return read(effective(self.owner, self.kernel.name))
        return self._values

    @property
    def values(self) -> np.ndarray:
        values = np.array(self.stored, "float64")
        return values if self.mask is None else values * self.mask

    @cached_property
    def view(self) -> Any:
        return view_of(self.kernel)

    @property
    def inputs(self) -> np.ndarray:
        """(rows, groups, inputs): what the kernel multiplies, patches for convolutions; rows are
        drawn where there are many positions."""
        return self.measurements.inputs(self)

    @property
    def outputs(self) -> np.ndarray:
        """(rows, channels): what the kernel makes of `inputs`, bias added, before the
        activation."""
        made = np.einsum("ngd,gdo->ngo", self.inputs, self.view.matrix(self.values))
        made = made.reshape(len(made), -1)
        if self.view.bias is None:
            return made
        bias = np.array(ops.convert_to_numpy(self.view.bias), "float64")
        return made + bias.reshape(-1) if bias.size == made.shape[1] else made

    @property
    def activations(self) -> np.ndarray:
        """(samples, positions, channels): the features, behind batch norm and activation."""
        return self.measurements.activations(self)

    @property
    def gradient(self) -> np.ndarray:
        """float64 array of the kernel's shape: of the loss, the mean over the samples."""
        return self.measurements.gradient(self)

    @property
    def significance(self) -> np.ndarray:
        """One value for each output channel (Garg 2020, equation 4.8)."""
        return self.measurements.significance(self)

    @property
    def norm(self) -> keras.layers.BatchNormalization | None:
        """The batch norm right behind the layer, where the graph shows one, else `None`."""
        return self.measurements.behind(self)[0]

    @property
    def labels(self) -> np.ndarray:
        """The targets in `data`, one integer a sample."""
        return self.measurements.labels

    def by_channel(self, array: np.ndarray) -> np.ndarray:
        """(edges, channels): an array of the kernel's shape, an output channel a column."""
        rest = [axis for axis in range(len(self.shape)) if axis not in self.output_axes]
        return array.transpose([*rest, *self.output_axes]).reshape(-1, self.outputs_count)

    def by_units(self, vector: ArrayLike) -> np.ndarray:
        """A score for each column of the kernel, of one score for each channel or unit."""
        vector = np.asarray(vector, "float64")
        return np.tile(vector, self.outputs_count // max(vector.size, 1))


class Measurements:
    """Measures a model on data, for all kernels that take part.

    Args:
        model: The model.
        kernels: The `Kernel` objects that take part.
        x, y, sample_weight: Nests of arrays, or `None`.
        loss: In place of the loss that the model was compiled with.
        batch_size: How many samples pass through the model at once.
        seed: Of the positions that are drawn.
        walk: Keyword arguments of `SignificanceWalk`.
    """

    def __init__(
        self,
        model,
        kernels,
        x=None,
        y=None,
        sample_weight=None,
        *,
        loss=None,
        batch_size=32,
        seed=0,
        walk=None,
    ):
        self.model = model
        self.kernels = list(kernels)
        self.x, self.y, self.sample_weight = x, y, sample_weight
        self.loss = loss
        self.batch_size = batch_size
        self.seed = seed or 0
        self._walk = walk or {}
        self._inputs = {}

    @property
    def samples(self):
        return len(tree.flatten(self.x)[0])

    def batches(self):
        for start in range(0, self.samples, self.batch_size):
            part = slice(start, start + self.batch_size)
            yield tree.map_structure(lambda a, s=part: a[s], self.x)

    @cached_property
    def labels(self):
        y = np.asarray(tree.flatten(self.y)[0])
        if y.ndim > 1 and y.shape[-1] > 1:
            y = y.argmax(-1)
        return np.unique(y.reshape(len(y), -1)[:, 0], return_inverse=True)[1]

    # Inputs.

    def inputs(self, measured):
        if measured.key not in self._inputs:
            self._inputs = {}
            self._collect(measured)
        if not len(self._inputs.get(measured.key, ())):
            raise ValueError(
                f"The inputs of {measured.key!r} cannot be seen: it is no product of its layer's "
                "inputs with one kernel, or no input reaches it. Leave it out with "
                f"exclude=[{measured.key!r}], or take method='magnitude'."
            )
        return self._inputs[measured.key]

    def _collect(self, measured):
        """Rows of a kernel, and of those after it that fit into memory beside it."""
        start = [k.key for k in self.kernels].index(measured.key)
        wanted, held = [], 0
        for kernel in self.kernels[start:]:
            view = view_of(kernel)
            if view is None:
                continue
            groups, width, _ = view.matrix(np.empty(kernel.shape, bool)).shape
            held += groups * width * max(ROWS, self.samples)
            if wanted and held > HELD:
                break
            wanted.append((kernel, view))
        rng = {
            k.key: np.random.default_rng([self.seed, zlib.crc32(k.key.encode())]) for k, _ in wanted
        }
        found = {kernel.key: [] for kernel, _ in wanted}
        by_layer = {}
        for kernel, view in wanted:
            by_layer.setdefault(id(view.layer), (view.layer, []))[1].append((kernel, view))
        places = max(16, -(-ROWS // self.samples))

        def listener(group):
            def handler(call, args, kwargs):
                x = args[0] if args else next(iter(kwargs.values()))
                for kernel, view in group:
                    array = view.prepare(ops.stop_gradient(x))
                    count, chosen = view.positions(array), None
                    if count > places:
                        chosen = rng[kernel.key].integers(0, count, (len(array), places))
                    found[kernel.key].append(view.rows(array, chosen).astype("float32"))
                return call(*args, **kwargs)

            return handler

        self._run({layer: listener(group) for layer, group in by_layer.values()})
        self._inputs = {key: np.concatenate(x) if x else () for key, x in found.items()}

    def _run(self, handlers):
        with listening(handlers), without_gradients():
            for batch in self.batches():
                self.model(batch, training=False)

    # Features.

    @cached_property
    def _steps(self):
        return Steps(self.model) if is_functional(self.model) else None

    def behind(self, measured):
        """The batch norm right behind a kernel's layer, or `None`, and where its feature ends."""
        layer = measured.layer
        norm, last = None, layer
        if self._steps is None:
            return norm, last
        steps = [step for step in self._steps.steps if step.operation is layer]
        while len(steps) == 1:
            readers = self._steps.readers(steps[0].outputs[0])
            if len(readers) != 1 or steps[0].outputs[0] in self._steps.outputs:
                break
            operation = readers[0].operation
            if norm is None and isinstance(operation, keras.layers.BatchNormalization):
                norm = operation
            elif not _is_activation(operation):
                break
            last = operation
            steps = [readers[0]]
            if _is_activation(operation):
                break
        return norm, last

    def activations(self, measured):
        _, operation = self.behind(measured)
        first = getattr(measured.layer, "data_format", None) == "channels_first"
        found = []

        def handler(call, args, kwargs):
            result = call(*args, **kwargs)
            y = tree.flatten(result)[0]
            found.append(np.asarray(ops.convert_to_numpy(ops.stop_gradient(y)), "float32"))
            return result

        held = 0
        with listening({operation: handler}), without_gradients():
            for batch in self.batches():
                before = len(found)
                self.model(batch, training=False)
                held += sum(x.size for x in found[before:])
                if held > HELD:
                    break
        if not found:
            raise ValueError(f"No input reaches {measured.key!r}: leave it out with `exclude`.")
        trailing = [measured.shape[axis] for axis in measured.output_axes]
        parts = []
        for x in found:
            x = np.moveaxis(x, 1, -1) if first and x.ndim > 2 else x
            channels = x.shape[-1]
            if tuple(x.shape[-len(trailing) :]) == tuple(trailing):
                channels = int(np.prod(trailing))
            parts.append(x.reshape(len(x), -1, channels))
        if measured.outputs_count % parts[0].shape[-1]:
            raise ValueError(
                f"The features of {measured.key!r} cannot be told from the outputs of "
                f"'{operation.name}'. Leave it out with exclude=[{measured.key!r}]."
            )
        return np.concatenate(parts)

    # Derivatives.

    @cached_property
    def _gradients(self):
        variables = [kernel.variable for kernel in self.kernels]
        arrays = loss_gradients(
            self.model,
            variables,
            self.x,
            self.y,
            self.sample_weight,
            loss=self.loss,
            batch_size=self.batch_size,
        )
        return dict(zip([k.key for k in self.kernels], arrays, strict=True))

    def gradient(self, measured):
        return self._gradients[measured.key]

    @cached_property
    def _significances(self):
        walk = SignificanceWalk(self.model, self.x, **{**self._walk, "order": "forward"})
        return {kernel.key: edges.factor for kernel, edges in walk}

    def significance(self, measured):
        factor = self._significances.get(measured.key)
        if factor is None:
            raise ValueError(f"{measured.key!r} lies on no path to an output of the model.")
        factor = np.broadcast_to(factor, measured.shape)
        return measured.by_channel(factor).mean(0)


def _is_activation(operation):
    kinds = (
        keras.layers.Activation,
        keras.layers.ReLU,
        keras.layers.LeakyReLU,
        keras.layers.ELU,
        keras.layers.PReLU,
    )
    return isinstance(operation, kinds) or type(operation).__name__ in ("Relu", "Relu6", "Silu")
