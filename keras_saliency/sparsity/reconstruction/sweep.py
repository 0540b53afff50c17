"""What is left after pruning is fitted to what the dense network computes, layer by layer."""

import logging
import zlib
from itertools import chain

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.gradients import without_gradients
from keras_saliency.graph.steps import Steps
from keras_saliency.sparsity.ranking import drop_lowest, neighbours_to_drop
from keras_saliency.sparsity.reconstruction.padding import (
    carried_masks,
    draw,
    given_masks,
    mask_for,
)
from keras_saliency.sparsity.reconstruction.recording import recorded
from keras_saliency.sparsity.reconstruction.solve import Sums, admm, ridge_of
from keras_saliency.sparsity.reconstruction.views import view_of

_logger = logging.getLogger("keras_saliency")

# Rows that a layer is fitted on, where its inputs have many positions.
ROWS = 8192
# How often a model without a graph, or a layer made of layers, is run at most.
PASSES = 48
# Numbers in the sums that are held at once for layers inside a layer.
HELD = 1 << 27


class Refit:
    """The sweep over a model and the copy of it that is pruned.

    The dense network's tensors and the pruned network's are carried along side by side, step by
    step from the input, and each kernel is fitted on the inputs that it will really see: those
    that the pruned layers before it make. The copy is changed; the model never is.

    Args:
        model: The dense model.
        copy: What becomes the sparse model: a copy of `model` with plain layers. It may be the
            model itself, whose weights are then read, and must be set from `values` at the end.
        kernels: The `Kernel` objects of `copy` that take part.
        data: Inputs, a nest of arrays.
        masks: Dict from kernel key to a boolean array: the masks to fit under.
        counts: Dict from kernel key to how many edges go, for kernels whose masks are found here,
            by ADMM; those in `masks` stand in where a kernel has no least-squares problem.
        fit: Whether weights are fitted; else only the shift of the outputs' means is taken up.
        neighbors: A pair (n, m) where n of every m neighbors along the inputs stay.
        seed: Of the positions that are drawn.
        batch_size: How many samples a layer sees at once.
        verbose: Whether a progress bar is shown.
    """

    def __init__(
        self,
        model,
        copy,
        kernels,
        data,
        masks,
        *,
        counts=None,
        fit=True,
        neighbours=None,
        seed=0,
        batch_size=32,
        verbose=False,
    ):
        self.model = model
        self.copy = copy
        self.kernels = list(kernels)
        self.data = data
        self.masks = dict(masks)
        self.counts = counts or {}
        self.fit = fit
        self.neighbours = neighbours
        self.seed = seed
        self.batch_size = batch_size
        self.verbose = verbose
        self.samples = len(tree.flatten(data)[0])
        self.ridge = ridge_of(self.samples)
        if self.samples < 16 and fit:
            _logger.warning(
                "Only %d inputs were given to refit '%s' on: the fit is held close to the weights "
                "as they are. Some hundred inputs do better.",
                self.samples,
                model.name,
            )
        self.errors = {}  # kernel key -> (error of the masks alone, error after the fit)
        self.values = {}  # id of a variable of the copy -> (variable, its new value)
        self._dense_layers = dict(zip(map(id, _layers(copy)), _layers(model), strict=True))
        self._views = {}
        for kernel in self.kernels:
            view = view_of(kernel)
            if view is not None:
                self._views[kernel.key] = view

    def run(self):
        """Fit all kernels; returns `self`."""
        with without_gradients():  # else PyTorch keeps all that was computed on the way
            return self._run()

    def _run(self):
        def dense(batch):
            return self.model(batch, training=False)

        if self.copy is self.model:
            self._intercept(self.kernels, dense, None, self._batches())
        elif is_functional(self.model):
            self._sweep()
        else:
            self._one_by_one(dense, lambda batch: self.copy(batch, training=False))
        for kernel in self.kernels:
            if id(kernel.variable) not in self.values:
                self.mask_alone(kernel)
        return self

    # Steps.

    def _batches(self):
        for start in range(0, self.samples, self.batch_size):
            stop = start + self.batch_size
            yield tree.map_structure(lambda x, a=start, b=stop: x[a:b], self.data)

    def _sweep(self):
        dense, pruned = Steps(self.model), Steps(self.copy)
        streams = [
            [steps.feed(net, batch) for batch in self._batches()]
            for steps, net in ((dense, self.model), (pruned, self.copy))
        ]
        uses = {}
        for step in pruned.steps:
            uses[id(step.operation)] = uses.get(id(step.operation), 0) + 1
        todo = {}
        for kernel in self.kernels:
            for step in pruned.steps:
                if _holds(step.operation, kernel.layer):
                    todo.setdefault(id(step.operation), []).append(kernel)
                    break
        shared = [k for k in self.kernels if uses.get(id(k.layer), 0) > 1]
        if shared:
            self._fit_shared(shared)
        progress = self._progress(len(pruned.steps))
        for i, (a, b) in enumerate(zip(dense.steps, pruned.steps, strict=True)):
            kernels = [k for k in todo.pop(id(b.operation), []) if k.key not in self.errors]
            outer = [k for k in kernels if k.layer is b.operation and b.inputs]
            self._fit_step(outer, a, b, streams, pruned)
            inner = [k for k in kernels if k.layer is not b.operation]
            for part in self._in_order(inner, lambda b=b: b.run(streams[1][0])):
                self._intercept(
                    part,
                    lambda values, a=a: a.run(values),
                    lambda values, b=b: b.run(values),
                    list(zip(*streams, strict=True)),
                    self._masks(b, streams[1]),
                )
                self._mask_rest(part)
            self._mask_rest(outer)
            dense.advance(i, streams[0])
            pruned.advance(i, streams[1])
            progress.update()
        progress.close()

    def _one_by_one(self, dense, pruned):
        """A model without a graph: it runs once for kernels that read the same tensor."""
        batches = [(batch, batch) for batch in self._batches()]
        progress = self._progress(len(self.kernels))
        for part in self._in_order(self.kernels, lambda: pruned(batches[0][0])):
            self._intercept(part, dense, pruned, batches)
            self._mask_rest(part)
            progress.update(len(part))
        progress.close()

    def _in_order(self, kernels, run):
        """Kernels in lists, in the order of their calls; those that read the same tensor together.

        So a kernel is fitted on what the fitted ones before it in the same layer make. There are
        at most `PASSES` lists.
        """
        if len(kernels) < 2:
            return [kernels] if kernels else []
        order = []
        with recorded({id(k.layer): k.layer for k in kernels}, order):
            run()
        reads = {}
        for key, x in order:  # it holds the tensors, so that no two have the same `id`
            reads.setdefault(key, id(x))
        lists = {number: [] for number in [*reads.values(), None]}  # the last: never called
        for kernel in kernels:
            lists[reads.get(id(kernel.layer))].append(kernel)
        lists = [part for part in lists.values() if part]
        few = -(-len(lists) // PASSES)
        return [[*chain(*lists[i : i + few])] for i in range(0, len(lists), few)]

    def _masks(self, step, stream):
        """For each batch the masks that may mark padding in a step's inputs."""
        tensors = ([values[number] for number in step.inputs] for values in stream)
        return [
            given_masks(self.model, batch) + carried_masks(x)
            for batch, x in zip(self._batches(), tensors, strict=True)
        ]

    def _progress(self, count):
        from tqdm import tqdm

        return tqdm(total=count, desc="refit", disable=not self.verbose, leave=False, delay=2)

    # Kernels.

    def _fit_step(self, kernels, dense_step, step, streams, steps):
        for kernel in kernels:
            view = self._views.get(kernel.key)
            if view is None:
                continue
            number = step.inputs[0]
            if not self._checked(view, streams[1][0][number][:2]):
                continue
            norm = self._only_reader(step, steps) if view.bias is None else None
            masks = self._masks(step, streams[1])
            pairs = (
                (p[number], d[dense_step.inputs[0]], mask)
                for d, p, mask in zip(*streams, masks, strict=True)
            )
            self._fit(kernel, view, self._sums(kernel, view, pairs, norm is not None), norm)

    def _checked(self, view, x):
        try:
            return view.check(x)
        except (ValueError, TypeError, KeyError):
            return False

    def _only_reader(self, step, steps):
        """The batch norm behind a layer without bias and activation, if nothing else reads it."""
        activation = getattr(step.operation, "activation", None)
        if activation not in (None, keras.activations.linear):
            return None
        readers = steps.readers(step.outputs[0])
        if len(readers) != 1 or step.outputs[0] in steps.outputs:
            return None
        norm = readers[0].operation
        uses = sum(s.operation is norm for s in steps.steps)
        if not isinstance(norm, keras.layers.BatchNormalization) or uses > 1:
            return None
        return norm

    def _sums(self, kernel, view, pairs, centred=False):
        """Sums over the pairs of inputs, pruned and dense, each with masks that may fit them."""
        weights = view.matrix(np.array(ops.convert_to_numpy(kernel.variable), "float64"))
        rng = np.random.default_rng([self.seed, zlib.crc32(kernel.key.encode())])
        sums = None
        for pruned, dense, masks in pairs:
            same = pruned is dense
            pruned = view.prepare(pruned)
            dense = pruned if same else view.prepare(dense)
            places = view.positions(pruned)
            wanted = max(16, -(-ROWS // self.samples))
            mask = mask_for(pruned, places, masks)
            chosen, real = draw(rng, len(pruned), places, wanted, mask)
            if sums is None:
                rows = self.samples * min(places, wanted)
                sums = Sums(weights, rows, centred or view.bias is not None)

            def rows_of(x, chosen=chosen, real=real):
                rows = view.rows(x, chosen)
                return rows if real is None else rows[real.reshape(-1)]

            rows = rows_of(pruned)
            sums.add(rows, rows if same else rows_of(dense))
        return sums

    def _fit(self, kernel, view, sums, norm=None):
        if sums is None or not np.isfinite(sums.square_y).all() or not sums.count:
            return
        problems = sums.finish(self.ridge)
        mask = self.masks[kernel.key]
        if kernel.key in self.counts:
            flat = admm(problems, self.counts[kernel.key], self._chooser(kernel, view))
            mask = view.kernel(flat).astype(bool)
            self.masks[kernel.key] = mask
        else:
            flat = view.matrix(np.asarray(mask))
        masked = [np.where(m, p.weights, 0) for m, p in zip(flat, problems, strict=True)]
        fitted = masked
        if self.fit:
            fitted = [p.fit(m) for m, p in zip(flat, problems, strict=True)]
        scale = sums.variance or 1.0
        before = sum(p.error(w) for p, w in zip(problems, masked, strict=True)) / scale
        after = sum(p.error(w) for p, w in zip(problems, fitted, strict=True)) / scale
        if not np.isfinite(after) or after > before:  # rounding, where nothing can be gained
            fitted, after = masked, before
        fitted = np.stack(fitted)
        self.errors[kernel.key] = (before, after)
        self._set(kernel.variable, np.where(mask, view.kernel(fitted), 0))
        if sums.centred:
            shift = sums.mean_y - np.einsum("gi,gio->go", sums.mean_p, fitted)
            if view.bias is not None:
                self._set(view.bias, view.shift_bias(shift))
            else:
                moved = np.array(ops.convert_to_numpy(norm.moving_mean), "float64")
                self._set(norm.moving_mean, moved - shift.reshape(-1))

    def _chooser(self, kernel, view):
        def choose(scores, count):
            array = view.kernel(scores)
            items = [_Scores(array)]
            if self.neighbours is not None:
                allowed = neighbours_to_drop(array, kernel.input_axes, *self.neighbours)
                count = min(count, int(allowed.sum()))
                items = [_Scores(np.where(allowed.reshape(array.shape), array, np.inf))]
            (drop,) = drop_lowest(items, count)
            return view.matrix(drop.reshape(array.shape))

        return choose

    def _mask_rest(self, kernels):
        for kernel in kernels:
            if kernel.key not in self.errors:
                self.mask_alone(kernel)

    def mask_alone(self, kernel):
        """A kernel without a least-squares problem: zeros where its mask says, nothing fitted."""
        values = np.array(ops.convert_to_numpy(kernel.variable))
        self._set(kernel.variable, np.where(self.masks[kernel.key], values, 0))

    def _set(self, variable, value):
        """Remember a new value; in a copy it also stands at once, for the layers behind it."""
        value = value.astype("float32" if variable.dtype == "bfloat16" else variable.dtype)
        self.values[id(variable)] = variable, value
        if self.copy is not self.model:
            variable.assign(value)

    # Layers that are called inside other layers, or more than once.

    def _fit_shared(self, kernels):
        """Layers with several uses: on the dense network's inputs of all of them."""
        self._intercept(
            kernels, lambda batch: self.model(batch, training=False), None, self._batches()
        )

    def _intercept(self, kernels, run_dense, run_pruned, batches, masks=None):
        """Fit kernels on the inputs that their layers are called with.

        Args:
            kernels: `Kernel` objects of the copy.
            run_dense, run_pruned: Functions of what `batches` holds that call the layers of the
                model and of the copy. Without the second the dense inputs stand for both.
            batches: Batches of the model's inputs, or pairs of the two streams' tensors.
            masks: For each batch a list of the masks that may mark padding.
        """
        batches = list(batches)
        if masks is None:
            masks = [given_masks(self.model, batch) for batch in self._batches()]
        views = [(k, self._views[k.key]) for k in kernels if k.key in self._views]
        while views:
            held, part = 0, []
            while views and (not part or held < HELD):
                kernel, view = views.pop(0)
                held += view.matrix(np.empty(kernel.shape, bool)).shape[1] ** 2
                part.append((kernel, view))
            self._intercept_part(part, run_dense, run_pruned, batches, masks)

    def _intercept_part(self, part, run_dense, run_pruned, batches, masks):
        mine = {id(view.layer): view.layer for _, view in part}
        theirs = {key: self._dense_layers[key] for key in mine}
        collected = {kernel.key: [] for kernel, _ in part}
        seen = {}
        for batch, known in zip(batches, masks, strict=True):
            given, other = (batch, None) if run_pruned is None else batch
            with recorded(theirs) as dense:
                run_dense(given)
            pruned = dense
            if run_pruned is not None:
                with recorded(mine) as pruned:
                    run_pruned(other)
            for kernel, view in part:
                a, b = dense[id(view.layer)], pruned[id(view.layer)]
                if kernel.key not in seen and b:
                    seen[kernel.key] = isinstance(view.layer, keras.layers.RNN) or self._checked(
                        view, b[0][:2]
                    )
                if seen.get(kernel.key) and len(a) == len(b):
                    collected[kernel.key] += zip(b, a, [known] * len(b), strict=True)
        for kernel, view in part:
            if collected[kernel.key]:
                self._fit(kernel, view, self._sums(kernel, view, collected.pop(kernel.key)))


class _Scores:
    def __init__(self, array):
        self.size = array.size
        self._flat = np.ascontiguousarray(array).reshape(-1)

    def blocks(self):
        yield 0, self.size, self._flat


def _layers(model):
    return model._flatten_layers()


def _holds(operation, layer):
    return operation is layer or (
        isinstance(operation, keras.layers.Layer)
        and any(layer is part for part in operation._flatten_layers())
    )
