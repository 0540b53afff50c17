"""How many channel groups each layer keeps, so that a model meets its budget."""

import numpy as np
from keras import tree

from keras_saliency.graph.functional import functional_of
from keras_saliency.sparsity.shrinking.cost import operations, parameters
from keras_saliency.sparsity.shrinking.groups import ChannelGroups


class Budget:
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
        self.widths = [len(labels) for labels in self.dimensions]
        self.names = self._names()
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
                if weight is None or isinstance(weight, str):
                    call.work.append((weight, positions))
                elif own:
                    call.work.append((own.pop(0), positions))
                else:
                    call.work.append((None, positions * len(weight)))

    def cost(self, live, calls=None):
        count = operations if self.what == "flops" else parameters
        return count(self.groups, live, self.calls if calls is None else calls)

    def size(self):
        """What the budget is a share of."""
        if self.what == "channels":
            return sum(len(labels) for labels in self.dimensions)
        return self.cost(self.everything())

    def begins_from(self, first):
        """Take shares of the widths that the model had before it shrank, those of `first`."""
        before = dict(zip(first.names, first.widths, strict=True))
        self.widths = [before.get(n, w) for n, w in zip(self.names, self.widths, strict=True)]

    def approach(self, share, first, scope, scores, final):
        """The groups that are kept to come down to a share of what `first` had."""
        if not (self.what == "channels" and scope == "layer"):
            share = share * first.size() / self.size()
        if share >= 1:
            return self.everything()
        try:
            return self.choose(share, scope, scores)
        except ValueError:  # so near already that a step of channels is too large
            if final and self.what != "channels":
                raise
            return self.everything()

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
        live = self._live(kept, scores)
        left = limit - self.cost(live)
        affected = self._affected_calls()
        kept = [*kept]
        for index, labels in enumerate(self.dimensions):
            count = min(kept[index] + self.steps[index], len(labels))
            wider = live.copy()
            wider[labels] = True
            wider[self._lowest(index, count, scores)] = False
            calls = affected[index]
            more = self.cost(wider, calls) - self.cost(live, calls)
            if more <= left:
                kept[index], live, left = count, wider, left - more
        return kept

    def _affected_calls(self):
        """By dimension, the calls whose cost depends on its width."""
        affected = [[] for _ in self.dimensions]
        dimension = self._dimension_of_groups()
        for call in self.calls:
            ids = [ids for axes in call.slices.values() for ids in axes.values()]
            ids += [weight for weight, _ in call.work if not isinstance(weight, (str, type(None)))]
            found = set().union(*(dimension[self.groups.labels[i]].tolist() for i in ids))
            for index in found - {-1}:
                affected[index].append(call)
        return affected

    def _kept(self, index, wanted):
        """How many groups a dimension keeps, given how many are wanted."""
        labels, step = self.dimensions[index], self.steps[index]
        least = max(1, int(self.pinned[labels].sum()))
        step = step if len(labels) >= step else 1
        return int(np.clip(max(step, step * round(wanted / step)), least, len(labels)))

    def _per_layer(self, share):
        return [self._kept(i, share * width) for i, width in enumerate(self.widths)]

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
        for index, count in enumerate(kept):
            live[self._lowest(index, count, scores)] = False
        return live

    def _lowest(self, index, count, scores):
        """The groups that a dimension loses to keep `count`."""
        labels = self.dimensions[index]
        order = np.where(self.pinned[labels], np.inf, scores[labels])
        lost = labels[np.argsort(order, kind="stable")[: len(labels) - count]]
        return lost[~self.pinned[lost]]

    def _dimension_of_groups(self):
        """By group the number of its dimension, or -1."""
        dimension = np.full(self.groups.count, -1)
        for index, labels in enumerate(self.dimensions):
            dimension[labels] = index
        return dimension

    def _names(self):
        """What the dimensions are called in this model and in those that are made of it."""
        names = [[] for _ in self.dimensions]
        dimension = self._dimension_of_groups()
        for call in self.groups.calls.values():
            for i, ids in enumerate(call.created):
                for found in set(dimension[self.groups.labels[ids]].tolist()) - {-1}:
                    names[found].append((call.path, i))
        return [tuple(name) for name in names]


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
