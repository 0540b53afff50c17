"""From scores to masks: edges, N:M and channels, per layer or over the whole model (G 4.4.3)."""

import logging

import numpy as np
from keras import ops

from keras_saliency.graph.data import first_sample, read_inputs
from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.trace import flatten_model
from keras_saliency.sparsity.kernels import Skipped, maskable_kernels
from keras_saliency.sparsity.masking.channels import (
    channel_groups,
    kernels_of_outputs,
    others,
    units_of,
)
from keras_saliency.sparsity.masking.shares import (
    SCOPES,
    erdos_renyi,
    is_depthwise,
    lamp,
    per_layer,
    total_count,
)
from keras_saliency.sparsity.masking.targets import (
    check_granularity,
    check_sparsity,
    resolve_targets,
)
from keras_saliency.sparsity.ranking import drop_lowest, neighbours_to_drop
from keras_saliency.sparsity.registry import ADVICE, has_rule
from keras_saliency.sparsity.significance.scores import BLOCK, EdgeScores
from keras_saliency.sparsity.significance.walk import ORDERS, SignificanceWalk

_logger = logging.getLogger("keras_saliency")

METHODS = ("isparse", "magnitude", "random", "lottery")


class RandomScores:
    """Seeded random scores, the same at every pass (DropConnect, G 4.6.1)."""

    def __init__(self, shape, seed, mask=None):
        self.shape = tuple(shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.exponent = 0
        self._seed = seed
        self._mask = None if mask is None else mask.reshape(-1)

    def blocks(self, length=BLOCK):
        rng = np.random.default_rng(self._seed)
        for start in range(0, self.size, length):
            stop = min(start + length, self.size)
            block = rng.random(stop - start)
            yield start, stop, block if self._mask is None else block * self._mask[start:stop]

    def array(self):
        return np.concatenate([block for _, _, block in self.blocks()]).reshape(self.shape)


class _Array:
    """Scores that are held."""

    def __init__(self, array):
        self.size = array.size
        self._flat = array.reshape(-1)

    def blocks(self):
        for start in range(0, self.size, BLOCK):
            stop = min(start + BLOCK, self.size)
            yield start, stop, self._flat[start:stop]


class _Limited:
    """Edge scores of which only the positions in `allowed` may be dropped."""

    def __init__(self, edges, allowed=None):
        self.size = edges.size
        self._edges = edges
        self._allowed = allowed

    def blocks(self):
        for start, stop, block in self._edges.blocks():
            if self._allowed is not None:
                # Even an infinite score that is allowed stays below the ones that are not.
                block = np.minimum(block, np.finfo(np.float64).max)
                block = np.where(self._allowed[start:stop], block, np.inf)
            yield start, stop, block


class MaskMaker:
    """Computes masks for a model, once or again and again; changes nothing in it.

    Args: those of `keras_saliency.sparsify`. `regrow=False` keeps what is masked masked;
    `stored=True` lets a masked edge of a masked layer compete by its stored weight.

    Attributes:
        kernels: The `Kernel` objects that get masks.
        targets: Dict from kernel key to its final sparsity.
        skipped: `Skipped` objects for the layers that stay dense.
    """

    def __init__(
        self,
        model,
        sparsity,
        data=None,
        method="isparse",
        *,
        scores="inffs",
        scope="layer",
        granularity="edge",
        order="forward",
        layers=None,
        exclude=None,
        seed=0,
        regrow=True,
        stored=False,
        normalization="pass",
        batch_size=32,
        power=1.0,
        min_edges=0,
    ):
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
        self.granularity = check_granularity(granularity)
        by_layer = isinstance(sparsity, dict) or callable(sparsity)
        scope = self._scope(scope, by_layer)
        if order not in ORDERS:
            raise ValueError(f"`order` must be one of {ORDERS}. Received: order={order!r}")
        if scope == "global" and order != "forward":
            raise ValueError(
                "`scope='global'` ranks all edges at once, so `order` must be 'forward'. "
                f"Received: order={order!r}"
            )
        self._all_in = isinstance(exclude, (tuple, list)) and not exclude
        exclude = None if isinstance(exclude, str) and exclude == "auto" else exclude
        found = maskable_kernels(model, layers, exclude)
        if not len(found):
            raise ValueError(f"The model '{model.name}' has no layer that can be masked.")
        self.targets = resolve_targets(found, sparsity)
        self.kernels = [kernel for kernel in found if kernel.key in self.targets]
        if not self.kernels:
            raise ValueError("`sparsity` leaves every layer of the model dense.")
        self.skipped = list(found.skipped)
        if layers is None and not isinstance(sparsity, dict) and not self._all_in:
            self._spare_depthwise()
        if self.granularity == "channel" and layers is None and not isinstance(sparsity, dict):
            self._spare_outputs(model, data)
        if isinstance(self.granularity, tuple):
            self._check_neighbours()
        self.model = model
        self.data = data
        self.method = method
        self.scope = scope
        self.seed = seed
        self.regrow = regrow
        self.stored = stored
        self.power = power
        self.min_edges = min_edges
        self.batch_size = batch_size
        if scope in ("lamp", "erk", "global"):
            self._share = next(iter(self.targets.values()))
        if scope in ("lamp", "erk"):
            counts = self.counts()
            self.targets = {k.key: counts[k.key] / k.size for k in self.kernels}
        self._walk = {
            "scores": scores,
            "order": order,
            "seed": seed,
            "layers": layers,
            "exclude": exclude,
            "normalization": normalization,
            "batch_size": batch_size,
        }

    def _scope(self, scope, by_layer):
        """The scope, `None` written out."""
        if scope is None:
            return "lamp" if self.granularity == "edge" and not by_layer else "layer"
        if scope not in SCOPES:
            raise ValueError(f"`scope` must be one of {SCOPES}. Received: scope={scope!r}")
        if by_layer and scope != "layer":
            raise ValueError(
                f"`scope={scope!r}` spreads one `sparsity` over the whole model; a dict or a "
                "function sets the shares itself. Drop `scope`, or pass a number as `sparsity`."
            )
        if scope in ("lamp", "erk") and self.granularity != "edge":
            raise ValueError(
                f"`scope={scope!r}` counts edges, so it cannot be combined with "
                f"`granularity={self.granularity!r}`. Take scope='layer' or 'global'."
            )
        return scope

    def _spare_depthwise(self):
        """Depthwise kernels are few and matter much: they take part when they are named."""
        spared = [kernel for kernel in self.kernels if is_depthwise(kernel)]
        if len(spared) == len(self.kernels):
            return
        reason = "depthwise kernels take part with exclude=() or where they are named"
        self.skipped += [Skipped(kernel.key, kernel.layer, reason) for kernel in spared]
        self.kernels = [kernel for kernel in self.kernels if not is_depthwise(kernel)]
        self.targets = {kernel.key: self.targets[kernel.key] for kernel in self.kernels}

    def counts(self, share=None):
        """How many edges each kernel loses: a dict by kernel key.

        Args:
            share: The sparsity of the moment in place of the target, for the scopes that spread
                one over the model.
        """
        if self.scope == "layer":
            return per_layer(self.kernels, self.targets)
        share = self._share if share is None else share
        spread = {"lamp": lamp, "erk": erdos_renyi}
        if self.scope in spread:
            return spread[self.scope](self.kernels, share)
        masks = self.masks(share=share)
        return {key: int(mask.size - np.count_nonzero(mask)) for key, mask in masks.items()}

    def _spare_outputs(self, model, data):
        """Channels of the model's outputs, a classifier's classes, go only when named."""
        try:
            sample = None if is_functional(model) else first_sample(read_inputs(model, data))
            known = {id(kernel.variable) for kernel in maskable_kernels(model)}
            outputs = kernels_of_outputs(flatten_model(model, sample, has_rule, ADVICE), known)
        except (ValueError, TypeError) as error:
            _logger.warning(
                "Which layers make the outputs of '%s' cannot be seen, so their channels are "
                "masked like others; leave those layers dense with `exclude`. The cause was: %s",
                model.name,
                error,
            )
            return
        spared = [kernel for kernel in self.kernels if id(kernel.variable) in outputs]
        self.kernels = [kernel for kernel in self.kernels if id(kernel.variable) not in outputs]
        if not self.kernels:
            raise ValueError(
                f"All channels of '{model.name}' that can be masked are channels of its outputs. "
                "Name the layers whose output channels may go: "
                f"layers={[kernel.path for kernel in spared]}"
            )
        reason = "its channels are channels of the model's outputs"
        self.skipped += [Skipped(kernel.key, kernel.layer, reason) for kernel in spared]
        self.targets = {kernel.key: self.targets[kernel.key] for kernel in self.kernels}

    def _check_neighbours(self):
        n, m = self.granularity
        for kernel in self.kernels:
            extent = int(np.prod([kernel.shape[axis] for axis in kernel.input_axes]))
            if extent % m:
                raise ValueError(
                    f"`granularity={self.granularity}` needs input axes that {m} divides, but "
                    f"{kernel.key!r} has {extent} inputs (kernel shape {kernel.shape}). Leave it "
                    f"dense with exclude=[{kernel.key!r}]."
                )
        for key, target in self.targets.items():
            if abs(target - (1 - n / m)) > 1e-9:
                raise ValueError(
                    f"`granularity={self.granularity}` makes a sparsity of {1 - n / m:g}: pass "
                    f"sparsity={1 - n / m:g}. Received: {target:g} for {key!r}"
                )

    def masks(self, share=None, previous=None, step=0, values=None, scores=None):
        """Compute the masks.

        Args:
            share: What the schedule gives: a number that replaces every target, or a function
                that turns a target into the sparsity of the moment. Default: the targets.
            previous: Dict from kernel key to boolean mask: what is masked now. Needed for
                `regrow=False` on plain models.
            step: Makes the random masks of different steps differ.
            values: Function from a `Kernel` to the weights to score in place of the model's,
                or `None`.
            scores: Takes the place of `scores`, how output neurons score.

        Returns:
            A dict from kernel key to a boolean array of the kernel's shape, `True` keeps.
        """
        spread = self.scope != "layer"
        targets = {}
        for kernel in self.kernels:
            target = self._share if spread else self.targets[kernel.key]
            value = target if share is None else share(target) if callable(share) else share
            targets[kernel.key] = check_sparsity(value, "the schedule's sparsity")
        previous = previous or {}
        forced = {}
        if not self.regrow:
            forced = {key: ~np.asarray(mask, bool).reshape(-1) for key, mask in previous.items()}
        pairs = self._scored(step, values or (lambda kernel: None), scores)
        if self.scope == "global":
            pairs = list(pairs)
            return self._global(pairs, next(iter(targets.values())), forced)
        if self.granularity == "channel":
            return self._channels_per_layer(pairs, targets, forced)
        if spread:
            counts = self.counts(next(iter(targets.values())))
        else:
            counts = per_layer(self.kernels, targets)
        masks = {}
        for kernel, edges, decide in pairs:
            drop = self._edges(kernel, edges, counts[kernel.key], forced.get(kernel.key))
            masks[kernel.key] = np.logical_not(drop, out=drop).reshape(kernel.shape)
            decide(masks[kernel.key])
        return masks

    def _scored(self, step, values, scores=None):
        """Yield `(kernel, edge scores, decide)`."""
        if self.method == "isparse":
            options = self._walk if scores is None else {**self._walk, "scores": scores}
            walk = SignificanceWalk(self.model, self.data, stored=self.stored, **options)
            reached = {kernel.key for kernel in walk.kernels}
            lost = [kernel.key for kernel in self.kernels if kernel.key not in reached]
            if lost:
                raise ValueError(
                    f"{lost} lie on no path to an output of '{self.model.name}', so they have no "
                    f"significance for it. Leave them dense with exclude={lost}."
                )
            for kernel, edges in walk:
                if kernel.key in self.targets:
                    given = values(kernel)
                    if given is not None:
                        edges = EdgeScores(given, edges.factor, edges.exponent)
                    if self.power != 1:
                        edges = edges.powered(self.power)
                    yield kernel, edges, walk.decide
            return
        current = {}
        if not self.stored:
            for layer in self.model._flatten_layers():
                for variable, mask in getattr(layer, "kernel_masks", tuple)():
                    current[id(variable)] = ops.convert_to_numpy(mask)
        for index, kernel in enumerate(self.kernels):
            if self.method == "random":
                seed = [self.seed or 0, step, index]
                edges = RandomScores(kernel.shape, seed, current.get(id(kernel.variable)))
            else:
                given = values(kernel)
                if given is None:
                    given = ops.convert_to_numpy(kernel.variable)
                ones = np.ones((1,) * given.ndim)
                edges = EdgeScores(given, ones, mask=current.get(id(kernel.variable)))
            yield kernel, edges, lambda mask: None

    def _edges(self, kernel, edges, count, forced):
        """Flat boolean array of the edges that go."""
        allowed = None
        if isinstance(self.granularity, tuple):
            allowed = neighbours_to_drop(edges.array(), kernel.input_axes, *self.granularity)
            count = min(count, int(np.count_nonzero(allowed)))
        elif self.min_edges:
            allowed = self._spared(kernel, edges, count)
        if forced is not None:
            allowed = ~forced if allowed is None else allowed & ~forced
            count = min(max(count - int(np.count_nonzero(forced)), 0), int(allowed.sum()))
        items = [edges if allowed is None else _Limited(edges, allowed)]
        (drop,) = drop_lowest(items, count)
        return drop if forced is None else drop | forced

    def _spared(self, kernel, edges, count):
        """Flat boolean array: all edges but the `min_edges` best of each output, where the share
        leaves so many."""
        outputs = [kernel.shape[axis] for axis in kernel.output_axes]
        least = min(self.min_edges, (kernel.size - count) // max(int(np.prod(outputs)), 1))
        if not least:
            return None
        scores = edges.array()
        order = [*others(kernel), *kernel.output_axes]
        moved = scores.transpose(order).reshape(-1, int(np.prod(outputs)))
        best = np.argsort(-moved, axis=0, kind="stable")[:least]
        allowed = np.ones(moved.shape, bool)
        np.put_along_axis(allowed, best, False, axis=0)
        shape = [kernel.shape[axis] for axis in order]
        return allowed.reshape(shape).transpose(np.argsort(order)).reshape(-1)

    def _global(self, pairs, sparsity, forced):
        # Equation 4.11 multiplies scores by a matrix norm per layer: taken literally, the layers
        # near the output would lose every edge. With a mean significance of 1 layers compare.
        if self.granularity == "channel":
            groups = channel_groups(pairs)
            scores = [_Array(group.scores) for group in groups]
            fixed = [group.forced(forced) for group in groups]
            count = round(sparsity * sum(group.scores.size for group in groups))
            drops = _drop_with(scores, fixed, count)
            return {
                key: mask
                for group, drop in zip(groups, drops, strict=True)
                for key, mask in group.masks(~drop).items()
            }
        allowed = [
            neighbours_to_drop(edges.array(), kernel.input_axes, *self.granularity)
            if isinstance(self.granularity, tuple)
            else None
            for kernel, edges, _ in pairs
        ]
        items = [
            _Limited(edges, allow) for (_, edges, _), allow in zip(pairs, allowed, strict=True)
        ]
        count = total_count([kernel for kernel, _, _ in pairs], sparsity)
        if isinstance(self.granularity, tuple):
            count = min(count, sum(int(allow.sum()) for allow in allowed))
        fixed = [forced.get(kernel.key) for kernel, _, _ in pairs]
        drops = _drop_with(items, fixed, count)
        for i, (_, edges, _) in enumerate(pairs):
            if drops[i].all():  # no kernel loses everything: its best edge stays
                best = np.ones(edges.size, bool)
                best[np.argmax(edges.array())] = False
                items[i] = _Limited(edges, best if allowed[i] is None else best & allowed[i])
        if any(drop.all() for drop in drops):
            drops = _drop_with(items, fixed, count)
        return {
            kernel.key: (~drop).reshape(kernel.shape)
            for (kernel, _, _), drop in zip(pairs, drops, strict=True)
        }

    def _channels_per_layer(self, pairs, targets, forced):
        masks = {}
        # Kernels of one recurrent cell lose the same units, so they wait for each other.
        waiting = {}
        for kernel, edges, decide in pairs:
            waiting.setdefault(id(kernel.owner), []).append((kernel, edges, decide))
            together = [k for k in self.kernels if k.owner is kernel.owner]
            if units_of(kernel) and len(waiting[id(kernel.owner)]) < len(together):
                continue
            for group in channel_groups(waiting.pop(id(kernel.owner))):
                target = targets[group.kernels[0].key]
                count = round(target * group.scores.size)
                (drop,) = _drop_with([_Array(group.scores)], [group.forced(forced)], count)
                found = group.masks(~drop)
                masks.update(found)
                if kernel.key in found:
                    decide(found[kernel.key])
        return masks


def _drop_with(items, forced, count):
    """`drop_lowest`, where what is `forced` goes in any case and counts."""
    if all(mark is None for mark in forced):
        return drop_lowest(items, count)
    forced = [
        np.zeros(item.size, bool) if mark is None else mark
        for item, mark in zip(items, forced, strict=True)
    ]
    count = max(count - sum(int(mark.sum()) for mark in forced), 0)
    free = [_Limited(item, ~mark) for item, mark in zip(items, forced, strict=True)]
    drops = drop_lowest(free, count)
    return [drop | mark for drop, mark in zip(drops, forced, strict=True)]
