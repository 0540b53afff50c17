"""One-shot channel pruning to a budget: whole groups, lowest scores first."""

import numbers

import keras
import numpy as np
from keras import tree

from keras_saliency.graph.compiling import copy_compile
from keras_saliency.graph.copying import copy_model
from keras_saliency.graph.data import read_inputs
from keras_saliency.graph.functional import functional_of
from keras_saliency.graph.selection import selected
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.reconstruction import refit
from keras_saliency.sparsity.shrinking.channels import find_weight, read_weight
from keras_saliency.sparsity.shrinking.cost import operations, parameters
from keras_saliency.sparsity.shrinking.groups import ChannelGroups
from keras_saliency.sparsity.shrinking.rebuild import rebuild
from keras_saliency.sparsity.shrinking.shrink import summary, without_masks
from keras_saliency.sparsity.significance.walk import edge_significance

_METHODS = ("isparse", "magnitude", "random")
_SCOPES = ("layer", "global")


def shrink_to(
    model,
    *,
    flops=None,
    parameters=None,
    channels=None,
    data=None,
    method="isparse",
    scope="layer",
    round_to=8,
    exclude=None,
    reconstruct="auto",
    gate="auto",
    seed=0,
    batch_size=32,
    verbose=True,
):
    """Prune a model to a share of its size by removing the least significant channel groups.

    Channels that additions, products, norms and the like tie together are scored and removed
    together, so the model shrinks through residual connections too. The channels of the model's
    outputs stay. Where `data` are given, what reads removed channels is fitted to do with those
    that stay, layer by layer, so that the model holds without labels and without training.

    Args:
        model: A built Functional or Sequential model. It is not changed.
        flops: Share of the operations that may remain, in (0, 1]. Give exactly one of `flops`,
            `parameters` and `channels`.
        parameters: Share of the parameters that may remain.
        channels: Share of the channels of every layer (`scope="layer"`) or of the model
            (`scope="global"`) that remains, rounded.
        data: Inputs to fit the rest of the weights on and to score from: what `model.predict`
            takes, or `(x, y)` pairs of it. Two hundred and more do best.
        method: `"isparse"` (significance for the output, G 4.4), `"magnitude"` (sums of absolute
            weights), or `"random"`.
        scope: `"layer"`: the same share everywhere; `"global"`: all groups compete, by scores
            relative to their layer's mean.
        round_to: Every layer keeps a multiple of this many channels, where it has so many.
        exclude: Layers to keep as they are; see `shrink`.
        reconstruct: Whether what stays is fitted to the dense model. `"auto"`: where `data` are
            given.
        gate: Whether a quarter of the inputs is held out to tell if the fit does better than
            weights as they are. `"auto"`: below 256 inputs.
        seed: Of `method="random"`, and of the positions that the fit draws.
        batch_size: Integer, how many samples a layer sees at once.
        verbose: Whether to print in one line how much was removed.

    Returns:
        A new, smaller model of plain Keras layers; see `shrink`.

    Raises:
        TypeError: If `model` is not a `keras.Model`, or a number is none.
        ValueError: If an argument is out of range, the budget cannot be reached, or `shrink`
            would refuse the model.

    Example:

    ```python
    import keras
    from keras_saliency import shrink_to
    from keras_saliency.sparsity import count_operations

    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    small = shrink_to(model, flops=0.5, method="magnitude")
    assert count_operations(small) <= 0.5 * count_operations(model)
    ```
    """
    budgets = {"flops": flops, "parameters": parameters, "channels": channels}
    given = {name: share for name, share in budgets.items() if share is not None}
    if len(given) != 1:
        raise ValueError(
            "Give exactly one of `flops`, `parameters` and `channels`. "
            f"Received: {sorted(given) or 'none'}"
        )
    ((what, share),) = given.items()
    if isinstance(share, bool) or not isinstance(share, numbers.Real):
        raise TypeError(f"`{what}` must be a number in (0, 1]. Received: {share!r}")
    if not 0 < share <= 1:
        raise ValueError(f"`{what}` must lie in (0, 1]. Received: {share!r}")
    if method not in _METHODS:
        raise ValueError(f"`method` must be one of {_METHODS}. Received: method={method!r}")
    if scope not in _SCOPES:
        raise ValueError(f"`scope` must be one of {_SCOPES}. Received: scope={scope!r}")
    if isinstance(round_to, bool) or not isinstance(round_to, numbers.Integral) or round_to < 1:
        raise ValueError(f"`round_to` must be a positive integer. Received: {round_to!r}")
    given_model = model
    if data is not None and isinstance(model, keras.Model):
        data = read_inputs(model, data)
    fits = refit.resolve(reconstruct, data)
    model, exclude = without_masks(model, exclude)
    groups = ChannelGroups(model, exclude)
    budget = _Budget(groups, what, data, round_to)
    live = budget.choose(share, scope, group_scores(groups, data, method, seed))
    if fits and not live.all():
        names = [layer.name for layer in selected(model, exclude, "exclude")]
        fitted = _refitted(
            groups, live, data, gate=gate, seed=seed, batch_size=batch_size, verbose=verbose
        )
        groups = ChannelGroups(fitted, names or None)
    small = rebuild(groups, live)
    copy_compile(given_model, small)
    if verbose:
        print(summary("shrink_to", groups, live, small))
    return small


def _refitted(groups, live, data, **options):
    """A copy of the model in which nothing reads what goes, fitted to compute the same."""
    model = groups.model
    refit.check_finite(model, data)
    known = {id(kernel.variable): kernel.key for kernel in maskable_kernels(model)}
    masks = {}
    for call in groups.calls.values():
        for edges in call.kernels:
            _, variable = find_weight(call.layer, edges.weight)
            if id(variable) in known:
                shape = tuple(variable.shape)
                stays = edges.matrix(np.ones(shape, bool))
                stays &= live[groups.labels[edges.inputs.ids]][:, None]
                stays &= live[groups.labels[edges.outputs]]
                masks[known[id(variable)]] = edges.unmatrix(stays, shape)
    return refit.reconstruct(
        model,
        lambda: copy_model(model),
        lambda copy: [kernel for kernel in maskable_kernels(copy) if kernel.key in masks],
        data,
        masks,
        plain_masks=lambda: masks,
        **options,
    ).copy


def group_scores(groups, data=None, method="isparse", seed=0):
    """(count,) the score of every group: the mean over the kernels that make its channels.

    A channel's score in one kernel is the sum of its edges' scores, relative to the mean over the
    layer.
    """
    if method == "random":
        return np.random.default_rng(seed).random(groups.count)
    found = _significance(groups.model, data) if method == "isparse" else {}
    total, times = np.zeros(groups.count), np.zeros(groups.count)

    def add(ids, scores):
        mean = scores.mean()
        np.add.at(total, groups.labels[ids], scores / mean if mean > 0 else scores)
        np.add.at(times, groups.labels[ids], 1)

    for call in groups.calls.values():
        for edges in call.kernels:
            _, variable = find_weight(call.layer, edges.weight)
            scores = found.get(id(variable))
            if scores is None:
                scores = np.abs(read_weight(call.layer, edges.weight))
            add(edges.outputs, edges.matrix(scores).sum((0, 1), dtype="float64"))
        if not call.kernels and call.created:  # grouped convolutions, embeddings
            name, axes = next(iter(call.slices.items()))
            axis, ids = next(iter(axes.items()))
            weight = np.moveaxis(np.abs(read_weight(call.layer, name)), axis, -1)
            add(ids, weight.reshape(-1, len(ids)).sum(0, dtype="float64"))
    return total / np.maximum(times, 1)


def _significance(model, data):
    """Edge scores by the identity of the weight."""
    scores = edge_significance(model, data, "identity" if data is None else "inffs")
    kernels = maskable_kernels(model)
    return {id(k.variable): scores[k.key] for k in kernels if k.key in scores}


class _Budget:
    """Decides how many groups each dimension keeps.

    A dimension is what users call the width of a layer: all groups of the layers whose channels
    are tied to each other.
    """

    def __init__(self, groups, what, data, round_to):
        self.groups = groups
        self.what = what
        self.pinned = groups.pinned(statistics=False)
        self.dimensions = _dimensions(groups)
        rounded = np.zeros(groups.count, bool)
        for ids in groups.rounded:
            rounded[groups.labels[ids]] = True
        self.steps = [round_to if rounded[d].all() else 1 for d in self.dimensions]
        self.calls = list(groups.calls.values())
        if what == "flops":
            self._measure(data)

    def everything(self):
        return np.ones(self.groups.count, bool)

    def _measure(self, data):
        """How often each weight is applied, excluded layers and open sizes included."""
        inputs = functional_of(self.groups.model).inputs
        shapes = [x.shape for x in inputs]
        if any(None in shape[1:] for shape in shapes) and data is not None:
            shapes = [(1, *x.shape[1:]) for x in tree.flatten(data)][: len(inputs)]
        every = ChannelGroups(self.groups.model, input_shapes=shapes).every_call
        work = {id(call.layer): [] for call in every}
        for call in every:
            work[id(call.layer)] += call.work
        for call in self.calls:
            own = [ids for ids, _ in call.work if not isinstance(ids, str)]
            call.work = []
            for weight, positions in work[id(call.layer)]:
                if positions is None:
                    raise ValueError(
                        f"How often the layer '{call.path}' is applied is not known, so operations "
                        "cannot be counted. Pass `data`, a batch of inputs of the size that "
                        "matters."
                    )
                if isinstance(weight, str):
                    call.work.append((weight, positions))
                elif own:
                    call.work.append((own.pop(0), positions))
                else:
                    call.work.append((None, positions * len(weight)))

    def cost(self, live):
        if self.what == "flops":
            return operations(self.groups, live, self.calls)
        return parameters(self.groups, live)

    def choose(self, share, scope, scores):
        if not self.dimensions:
            raise ValueError("The model has no channels that could be removed.")
        select = self._per_layer if scope == "layer" else self._globally(scores)
        if self.what == "channels":
            live = self._live(select(share), scores)
            if live.all() and share < 1:
                raise ValueError(
                    f"`channels={share}` removes nothing: every layer that may shrink keeps a "
                    "multiple of `round_to` channels, and none has enough of them. Lower "
                    "`round_to`."
                )
            return live
        limit = share * self.cost(self.everything())
        if self.cost(self.everything()) <= limit:
            return self.everything()
        smallest = self.cost(self._live(select(0.0), scores))
        if smallest > limit:
            least = smallest / self.cost(self.everything())
            raise ValueError(
                f"`{self.what}={share}` cannot be reached: with one step of channels left in every "
                f"layer that may shrink, a share of {least:.3f} remains. Lower `round_to`, or "
                "exclude fewer layers."
            )
        low, high = 0.0, 1.0
        for _ in range(24):
            middle = (low + high) / 2
            if self.cost(self._live(select(middle), scores)) <= limit:
                low = middle
            else:
                high = middle
        return self._live(self._fill(select(low), limit, scores), scores)

    def _fill(self, kept, limit, scores):
        """Widen single dimensions by a step each, where the budget still allows it."""
        for index, labels in enumerate(self.dimensions):
            wider = [*kept]
            wider[index] = min(kept[index] + self.steps[index], len(labels))
            if self.cost(self._live(wider, scores)) <= limit:
                kept = wider
        return kept

    def _kept(self, index, wanted):
        """How many groups a dimension keeps, given how many are wanted."""
        labels, step = self.dimensions[index], self.steps[index]
        least = max(1, int(self.pinned[labels].sum()))
        step = step if len(labels) >= step else 1
        return int(np.clip(max(step, step * round(wanted / step)), least, len(labels)))

    def _per_layer(self, share):
        return [self._kept(i, share * len(d)) for i, d in enumerate(self.dimensions)]

    def _globally(self, scores):
        ranked = np.sort(np.concatenate([scores[d] for d in self.dimensions]))

        def select(share):
            drop = round((1 - share) * len(ranked))
            bar = ranked[drop] if drop < len(ranked) else np.inf
            return [
                self._kept(i, int((scores[d] >= bar).sum())) for i, d in enumerate(self.dimensions)
            ]

        return select

    def _live(self, kept, scores):
        live = self.everything()
        for labels, count in zip(self.dimensions, kept, strict=True):
            order = np.where(self.pinned[labels], np.inf, scores[labels])
            drop = np.argsort(order, kind="stable")[: len(labels) - count]
            live[labels[drop]] = False
        return live | self.pinned


def _dimensions(groups):
    """Lists of group numbers; dimensions whose channels all stay are left out."""
    from scipy import sparse

    sources = [groups.labels[ids] for call in groups.calls.values() for ids in call.created]
    if not sources:
        return []
    rows = np.concatenate([np.full(len(s), i) for i, s in enumerate(sources)])
    columns = np.concatenate(sources)
    shape = (len(sources), groups.count)
    incidence = sparse.coo_matrix((np.ones(len(rows), "int32"), (rows, columns)), shape).tocsr()
    _, parts = sparse.csgraph.connected_components(incidence @ incidence.T, directed=False)
    found = []
    pinned = groups.pinned(statistics=False)
    for part in range(parts.max() + 1):
        labels = np.unique(
            np.concatenate([s for s, p in zip(sources, parts, strict=True) if p == part])
        )
        if not pinned[labels].all():
            found.append(labels)
    return found
