"""From scores to masks: edges, N:M, channels and heads, per layer or over the whole model."""

import logging

import numpy as np
from keras import ops

from keras_saliency.graph.data import read_pairs
from keras_saliency.graph.reading import read
from keras_saliency.sparsity.criteria import ISparse
from keras_saliency.sparsity.criteria.criterion import check_data
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel, Measurements
from keras_saliency.sparsity.criteria.scores import HeldScores
from keras_saliency.sparsity.kernels import Skipped, maskable_kernels
from keras_saliency.sparsity.masking.channels import (
    channel_groups,
    kernels_of_outputs,
    units_of,
)
from keras_saliency.sparsity.masking.dropping import (
    drop_all_but_one,
    drop_edges,
    drop_globally,
    drop_with,
)
from keras_saliency.sparsity.masking.heads import attention_of, head_groups
from keras_saliency.sparsity.masking.options import MaskingOptions
from keras_saliency.sparsity.masking.shares import (
    erdos_renyi,
    is_depthwise,
    is_table,
    lamp,
    per_layer,
    total_count,
)
from keras_saliency.sparsity.masking.targets import check_sparsity, resolve_targets
from keras_saliency.sparsity.significance.scores import EdgeScores
from keras_saliency.sparsity.significance.walk import SignificanceWalk

_logger = logging.getLogger("keras_saliency")


class MaskMaker:
    """Computes masks for a model, once or again and again; changes nothing in it.

    Args:
        model: A built `keras.Model`.
        sparsity: As in `keras_saliency.sparsify`.
        data: What the criterion is measured on, `x` or `(x, y)`.
        options: `MaskingOptions`. `regrow=False` keeps what is masked masked.
        stored: Whether a masked edge of a masked layer competes by its stored weight.

    Attributes:
        kernels: The `Kernel` objects that get masks.
        targets: Dict from kernel key to its final sparsity.
        skipped: `Skipped` objects for the layers that stay dense.
    """

    def __init__(self, model, sparsity, data=None, options=None, *, stored=False):
        options = MaskingOptions() if options is None else options
        by_layer = isinstance(sparsity, dict) or callable(sparsity)
        if options.scope is None:
            lamp_scope = options.granularity == "edge" and not by_layer
            options = options.replaced(scope="lamp" if lamp_scope else "layer")
        elif by_layer and options.scope != "layer":
            raise ValueError(
                f"`scope={options.scope!r}` spreads one `sparsity` over the whole model; a dict or "
                "a function sets the shares itself. Drop `scope`, or pass a number as `sparsity`."
            )
        self.options = options
        self.model = model
        self.stored = stored
        self.data = read_pairs(model, data)
        check_data(options.criterion, *self.data[:2])
        named = options.layers is not None or isinstance(sparsity, dict)
        found = maskable_kernels(model, options.layers, options.excluded)
        if not len(found):
            raise ValueError(f"The model '{model.name}' has no layer that can be masked.")
        self.targets = resolve_targets(found, sparsity)
        self.kernels = [kernel for kernel in found if kernel.key in self.targets]
        if not self.kernels:
            raise ValueError("`sparsity` leaves every layer of the model dense.")
        self.skipped = list(found.skipped)
        if not named and not options.takes_all:
            self._leave(
                is_depthwise, "depthwise kernels take part with exclude=() or where they are named"
            )
        if options.granularity == "head":
            self._leave(lambda kernel: attention_of(kernel) is None, "it holds no attention heads")
            if any(attention_of(kernel) is None for kernel in self.kernels):
                raise ValueError(
                    "`granularity='head'` masks heads of attention layers, of which "
                    f"'{model.name}' has none. Take granularity='channel'."
                )
        if options.granularity == "channel" and not named:
            self._spare_outputs()
        if isinstance(options.granularity, tuple):
            if not named:
                self._leave(is_table, "a table is looked up, so N:M has nothing to speed up in it")
            self._check_neighbours()
        if options.scope in ("lamp", "erk", "global"):
            self._share = next(iter(self.targets.values()))
        if options.scope in ("lamp", "erk"):
            counts = self.counts()
            self.targets = {k.key: counts[k.key] / k.size for k in self.kernels}

    # What takes part.

    def _leave(self, spared, reason):
        """Leave kernels dense, if others remain."""
        gone = [kernel for kernel in self.kernels if spared(kernel)]
        if len(gone) == len(self.kernels):
            return
        self.skipped += [Skipped(kernel.key, kernel.layer, reason) for kernel in gone]
        self.kernels = [kernel for kernel in self.kernels if not spared(kernel)]
        self.targets = {kernel.key: self.targets[kernel.key] for kernel in self.kernels}

    def _spare_outputs(self):
        """Channels of the model's outputs, a classifier's classes, go only when named."""
        model = self.model
        try:
            outputs = kernels_of_outputs(model, self.data[0])
        except (ValueError, TypeError) as error:
            _logger.warning(
                "Which layers make the outputs of '%s' cannot be seen, so their channels are "
                "masked like others; leave those layers dense with `exclude`. The cause was: %s",
                model.name,
                error,
            )
            return
        spared = [kernel.path for kernel in self.kernels if id(kernel.variable) in outputs]
        if len(spared) == len(self.kernels):
            raise ValueError(
                f"All channels of '{model.name}' that can be masked are channels of its outputs. "
                f"Name the layers whose output channels may go: layers={spared}"
            )
        self._leave(
            lambda kernel: id(kernel.variable) in outputs,
            "its channels are channels of the model's outputs",
        )

    def _check_neighbours(self):
        n, m = self.options.granularity
        for kernel in self.kernels:
            extent = int(np.prod([kernel.shape[axis] for axis in kernel.input_axes]))
            if extent % m:
                raise ValueError(
                    f"`granularity={(n, m)}` needs input axes that {m} divides, but "
                    f"{kernel.key!r} has {extent} inputs (kernel shape {kernel.shape}). Leave it "
                    f"dense with exclude=[{kernel.key!r}]."
                )
        for key, target in self.targets.items():
            if abs(target - (1 - n / m)) > 1e-9:
                raise ValueError(
                    f"`granularity={(n, m)}` makes a sparsity of {1 - n / m:g}: pass "
                    f"sparsity={1 - n / m:g}. Received: {target:g} for {key!r}"
                )

    def counts(self, share=None):
        """How many edges each kernel loses: a dict by kernel key.

        Args:
            share: The sparsity of the moment in place of the target, for the scopes that spread
                one over the model.
        """
        scope = self.options.scope
        if scope == "layer":
            return per_layer(self.kernels, self.targets)
        share = self._share if share is None else share
        spread = {"lamp": lamp, "erk": erdos_renyi}
        if scope in spread:
            return spread[scope](self.kernels, share)
        masks = self.masks(share=share)
        return {key: int(mask.size - np.count_nonzero(mask)) for key, mask in masks.items()}

    # Masks.

    def masks(self, share=None, previous=None, step=0, values=None, scores=None, regrowth=None):
        """Compute the masks.

        Args:
            share: What the schedule gives: a number that replaces every target, or a function
                that turns a target into the sparsity of the moment. Default: the targets.
            previous: Dict from kernel key to boolean mask: what is masked now. Needed for
                `regrow=False` on plain models, and for `regrowth`.
            step: Makes the random masks of different steps differ.
            values: Function from a `Kernel` to the weights to score in place of the model's,
                or `None`.
            scores: Takes the place of `scores`, how output neurons score.
            regrowth: A `Regrowth` that moves edges, instead of letting masked ones compete.

        Returns:
            A dict from kernel key to a boolean array of the kernel's shape, `True` keeps.
        """
        scope, granularity = self.options.scope, self.options.granularity
        targets = {}
        for kernel in self.kernels:
            target = self.targets[kernel.key] if scope == "layer" else self._share
            value = target if share is None else share(target) if callable(share) else share
            targets[kernel.key] = check_sparsity(value, "the schedule's sparsity")
        now = next(iter(targets.values()))
        forced = {}
        if regrowth is not None or not self.options.regrow:
            forced = {
                key: ~np.asarray(mask, bool).reshape(-1) for key, mask in (previous or {}).items()
            }
        counts = {}
        if scope == "layer":
            counts = per_layer(self.kernels, targets)
        elif scope != "global" and share is None:  # counted already
            counts = per_layer(self.kernels, self.targets)
        elif scope != "global":
            counts = self.counts(now)
        count = sum(counts.values())
        if scope == "global":
            count = total_count(self.kernels, now)
        pairs = self._scored(step, values or (lambda kernel: None), scores, count)
        if granularity == "head":
            return self._heads(list(pairs), targets, forced)
        if scope == "global":
            return self._globally(_lifted(list(pairs)), now, forced)
        if granularity == "channel":
            return self._channels_per_layer(pairs, targets, forced)
        masks = {}
        for kernel, edges, decide in pairs:
            ((_, edges, _),) = _lifted([(kernel, edges, decide)])
            drop = drop_edges(
                kernel, edges, counts[kernel.key], forced.get(kernel.key), self.options
            )
            if regrowth is not None:
                drop = regrowth.move(kernel, edges, drop, counts[kernel.key], self.options)
            masks[kernel.key] = np.logical_not(drop, out=drop).reshape(kernel.shape)
            decide(masks[kernel.key])
        return masks

    def _scored(self, step, values, scores, count):
        """Yield `(kernel, scores, decide)`: of edges, or of channels where those are asked for."""
        walk = self.options.walk if scores is None else {**self.options.walk, "scores": scores}
        criterion = self.options.criterion
        if type(criterion) is ISparse:
            yield from self._significant(walk, values, criterion.power)
            return
        current = {}
        if not self.stored:
            for layer in self.model._flatten_layers():
                for variable, mask in getattr(layer, "kernel_masks", tuple)():
                    current[id(variable)] = ops.convert_to_numpy(mask)
        measurements = Measurements(
            self.model,
            self.kernels,
            *self.data,
            loss=self.options.loss,
            batch_size=self.options.batch_size,
            seed=self.options.seed,
            walk=walk,
        )
        measured = [
            MeasuredKernel(
                kernel,
                measurements,
                values(kernel),
                current.get(id(kernel.variable)),
                index,
                step,
            )
            for index, kernel in enumerate(self.kernels)
        ]
        criterion.prepare(measured, count)
        channels = self.options.granularity == "channel"
        for kernel, measure in zip(self.kernels, measured, strict=True):
            if channels:
                found = HeldScores(criterion.channel_scores(measure))
            else:
                found = criterion.scores(measure)
            yield kernel, found, lambda mask: None

    def _significant(self, options, values, power):
        """Significance, a kernel at a time, without an array of the kernel's size."""
        walk = SignificanceWalk(self.model, self.data[0], stored=self.stored, **options)
        walk.read = read  # the weights stay until the masks are made
        reached = {kernel.key for kernel in walk.kernels}
        lost = [kernel.key for kernel in self.kernels if kernel.key not in reached]
        tables = [k for k in self.kernels if k.key in lost and is_table(k)]
        if tables and len(tables) == len(lost) < len(self.kernels):
            # Looked up at constant indices, as positions are: no input decides what comes out.
            for kernel in tables:
                yield kernel, HeldScores(_magnitude(kernel, values)), lambda mask: None
            lost = []
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
                yield kernel, edges if power == 1 else edges.powered(power), walk.decide

    def _globally(self, pairs, sparsity, forced):
        # Equation 4.11 multiplies scores by a matrix norm per layer: taken literally, the layers
        # near the output would lose every edge. With a mean significance of 1 layers compare.
        if self.options.granularity == "channel":
            groups = channel_groups(pairs)
            scores = [HeldScores(group.scores) for group in groups]
            fixed = [group.forced(forced) for group in groups]
            count = round(sparsity * sum(group.scores.size for group in groups))
            drops = drop_all_but_one(scores, fixed, count)
            return _merged(group.masks(~drop) for group, drop in zip(groups, drops, strict=True))
        count = total_count([kernel for kernel, _, _ in pairs], sparsity)
        drops = drop_globally(pairs, count, forced, self.options.granularity)
        return {
            kernel.key: (~drop).reshape(kernel.shape)
            for (kernel, _, _), drop in zip(pairs, drops, strict=True)
        }

    def _heads(self, pairs, targets, forced):
        groups = head_groups(_lifted(pairs))
        fixed = [group.gone(forced) for group in groups]
        items = [HeldScores(group.scores) for group in groups]
        shares = [targets[group.kernels[0].key] for group in groups]
        if self.options.scope == "global":
            # Layers are of different sizes: a head counts by its share of its layer's scores.
            items = [HeldScores(x.array() / max(x.array().sum(), 1e-300)) for x in items]
            count = round(shares[0] * sum(x.size for x in items))
            drops = drop_all_but_one(items, fixed, count)
        else:
            drops = [
                drop_with([x], [mark], min(round(share * x.size), x.size - 1))[0]
                for x, mark, share in zip(items, fixed, shares, strict=True)
            ]
        return _merged(group.masks(~drop) for group, drop in zip(groups, drops, strict=True))

    def _channels_per_layer(self, pairs, targets, forced):
        masks = {}
        # Kernels of one recurrent cell lose the same units, so they wait for each other.
        waiting = {}
        for kernel, scores, decide in pairs:
            waiting.setdefault(id(kernel.owner), []).append((kernel, scores, decide))
            together = [k for k in self.kernels if k.owner is kernel.owner]
            if units_of(kernel) and len(waiting[id(kernel.owner)]) < len(together):
                continue
            for group in channel_groups(_lifted(waiting.pop(id(kernel.owner)))):
                target = targets[group.kernels[0].key]
                # No layer loses all of its channels.
                count = min(round(target * group.scores.size), group.scores.size - 1)
                items = [HeldScores(group.scores)]
                (drop,) = drop_with(items, [group.forced(forced)], count)
                found = group.masks(~drop)
                masks.update(found)
                if kernel.key in found:
                    decide(found[kernel.key])
        return masks


def _lifted(pairs):
    """The pairs with the lowest of negative scores counting as 0."""
    lowest = min([getattr(scores, "lowest", 0.0) for _, scores, _ in pairs], default=0.0)
    if lowest >= 0:
        return pairs
    return [(k, s.lifted(lowest) if hasattr(s, "lifted") else s, d) for k, s, d in pairs]


def _magnitude(kernel, values):
    given = values(kernel)
    given = read(kernel.variable) if given is None else given
    return np.abs(np.asarray(given, "float64"))


def _merged(found):
    return {key: mask for masks in found for key, mask in masks.items()}
