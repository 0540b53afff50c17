"""Some of the inputs at a time: what an attribution method works on."""

import contextlib
import inspect
import warnings

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.attribution.passes import check_ids
from keras_saliency.attribution.places import candidates, channel_axis, places_of
from keras_saliency.attribution.resizing import resize


def batches_of(passes):
    """The inputs in batches of at most `batch_size`, in order."""
    for start in range(0, passes.count, passes.batch_size):
        yield Batch(passes, np.arange(start, min(start + passes.batch_size, passes.count)))


class Batch:
    """Some of the inputs, at most `batch_size`: what an attribution method works on.

    Attributes:
        values: List of the moving values, `(rows, ...)`: floats, or vectors of embedded ids.
        chosen: Positions of the rows among all inputs.
    """

    def __init__(self, passes, chosen):
        self.passes = passes
        self.chosen = chosen
        self.masks = [passes.input_mask(i, chosen) for i in passes.moving]
        self._classes = None
        self.values = [
            self.embedded(i, passes.inputs[i][chosen])
            if passes.embeddings[i]
            else passes.inputs[i][chosen]
            for i in passes.moving
        ]

    def __len__(self):
        return len(self.chosen)

    def embedded(self, i, ids, name="inputs"):
        """The vectors of ids, given as `name`, at the first embedding that input `i` feeds."""
        layer, _ = self.passes.embeddings[i][0]
        check_ids(name, ids, layer)
        with keras.StatelessScope():
            vectors = layer.call(ops.convert_to_tensor(ids))
        return ops.convert_to_numpy(vectors).astype("float32")

    def _extras(self, copies):
        passes = self.passes
        chosen = np.tile(self.chosen, copies)
        fixed = []
        for i, x in enumerate(passes.inputs):
            moves = i in passes.moving and not passes.embeddings[i]
            fixed.append(np.zeros((), "float32") if moves else x[chosen])
        space = None
        if hasattr(passes.target.value, "masks"):
            space = passes.output_shape[1:-1]
        target = passes.target.rows(chosen, space)
        if self._classes is not None and not passes.target.callable:
            target = np.tile(self._classes, copies)
        masks = [passes.input_mask(i, chosen) for i in passes.mask_calls.values()]
        return {"fixed": fixed, "target": target, "masks": masks}

    def settle(self):
        """Score what the clean inputs' highest outputs are from now on, in every copy."""
        if self.passes.target.value is None and self._classes is None:
            result = self.passes.run(self.values, self._extras(1), inputs=False)
            self._classes = result["others"].get("classes")
        return self

    def outputs(self):
        return self.passes.run(self.values, self._extras(1), inputs=False)["others"]["outputs"]

    def look(self, values=None, copies=1, inputs=True):
        """Scores, gradients and what the taps saw; a dict as `differentiate` returns it."""
        values = self.values if values is None else values
        values = [x.astype(y.dtype, copy=False) for x, y in zip(values, self.values, strict=True)]
        return self.passes.run(values, self._extras(copies), copies, inputs)

    def gradients(self, values=None):
        """Derivatives of the scores by the values, a list of arrays as these."""
        return self.look(values)["gradients"]

    def copies(self, count, make):
        """Over copies of the batch, as many at once as `batch_size` allows.

        Args:
            count: How many copies.
            make: Function of a number that returns the values of that copy.

        Yields:
            Tuples of the values and the gradients of one copy, lists of arrays.
        """
        self.settle()
        for values, result, number in self._chunks(count, make, True):
            for j in range(number):
                part = slice(j * len(self), (j + 1) * len(self))
                yield [x[part] for x in values], [g[part] for g in result["gradients"]]

    def scores(self, count, make):
        """Scores `(count, rows)` of copies of the batch, made as for `copies`."""
        return np.concatenate(list(self.scores_by_parts(count, make)))

    def scores_by_parts(self, count, make):
        """The same in parts `(copies, rows)`, each before the copies of the next are made."""
        self.settle()
        for _, result, number in self._chunks(count, make, False):
            yield result["scores"].reshape(-1, len(self))[:number]

    def _chunks(self, count, make, inputs):
        at_once = max(1, min(count, self.passes.batch_size // len(self)))
        at_once = -(-count // -(-count // at_once))
        for start in range(0, count, at_once):
            made = [make(j) for j in range(start, min(start + at_once, count))]
            number = len(made)
            made += [made[-1]] * (at_once - number)  # one shape, so that nothing compiles anew
            values = [np.concatenate(parts) for parts in zip(*made, strict=True)]
            yield values, self.look(values, at_once, inputs), number

    # ------------------------------------------------------------------ features of a layer

    @contextlib.contextmanager
    def scoring(self, classes):
        """Within it the score is that of these classes, one per row."""
        before, self._classes = self._classes, classes
        try:
            yield
        finally:
            self._classes = before

    def features(self, layer=None, grid=None):
        """What layers see: tuples of features and their gradients, channels last, and a mask.

        With several inputs each has its own; `positions` says for which of `values` each is.

        Args:
            layer: A layer, its name or path, or a list of these; the deepest with positions.
            grid: Rows and columns of the tokens of an image model, where they cannot be told.
        """
        passes = self.passes
        if passes.places is None:
            passes.places = places_of(passes, Batch(passes, np.arange(1)), layer)
        passes.taps = list(dict.fromkeys(place.layer for place in passes.places))
        result = self.look(inputs=False)
        taps, passes.taps = passes.taps, []
        found = []
        for place in passes.places:
            tap, number = place.layer, place.number
            keys = [key for key in result["marked"] if key[0] == taps.index(tap)]
            keys = [key for key in keys if number is None or key[1] == number]
            keys = [key for key in keys if key in result["marked_gradients"]]
            # On some backends what the score does not depend on has a gradient of zeros.
            keys = [k for k in keys if result["marked_gradients"][k].any()] or keys
            if not keys:
                raise ValueError(
                    f"`layer`: the score does not depend on the output of '{tap.name}'. Layers "
                    f"with positions: {candidates(passes.model)}"
                )
            key = max(keys, key=lambda k: k[1])
            f, g = result["marked"][key], result["marked_gradients"][key]
            if f.ndim < 3:
                raise ValueError(
                    f"`layer`: the output of '{tap.name}', of shape {f.shape}, has no positions. "
                    f"Layers with positions: {candidates(passes.model)}"
                )
            axis = channel_axis(tap, f.ndim)
            f, g = np.moveaxis(f, axis, -1), np.moveaxis(g, axis, -1)
            mask = result["others"].get(("mask", key))
            if mask is not None and mask.shape != f.shape[:2]:
                mask = None
            f, g = (self.on_grid(x, grid, place.position) for x in (f, g))
            found.append((f, g, mask))
        return found

    @property
    def positions(self):
        """For which of `values` each of the last `features` is."""
        return [place.position for place in self.passes.places]

    def attention(self):
        """Attention scores `(rows, heads, time, time)` by layer, in order, and their gradients."""
        passes = self.passes
        layers = [x for x in passes.layers_within() if hasattr(x, "_masked_softmax")]
        if not layers:
            others = [
                x.name
                for x in passes.layers_within()
                if "return_attention_scores" in inspect.signature(x.call).parameters
            ]
            if others:
                raise ValueError(
                    f"The attention of {others} is no matrix of tokens by tokens whose products "
                    "rollout and relevance could take. Use 'integrated_gradients', 'occlusion' or "
                    "'grad_cam'; `visualization.plot_heads` draws the heads of XM2A, "
                    "`visualization.plot_attention` the masks of SAN."
                )
            raise ValueError(
                f"The model '{passes.model.name}' has no layer whose attention can be asked for "
                "its scores: keras.layers.MultiHeadAttention, GroupQueryAttention or a subclass."
            )
        passes.attention = layers
        result = self.look(inputs=False)
        passes.attention = []
        scores, gradients, skipped = [], [], []
        for key in sorted(result["marked"], key=lambda k: k[1]):
            a = result["marked"][key]
            if a.ndim != 4 or a.shape[-1] != a.shape[-2]:  # cross-attention
                skipped.append(a.shape[1:])
                continue
            scores.append(a)
            gradients.append(result["marked_gradients"].get(key, np.zeros_like(a)))
        if not scores or len({a.shape[-1] for a in scores}) > 1:
            raise ValueError(
                "Rollout and relevance need self-attention over the same tokens in every layer. "
                f"Received: {[(x.name) for x in layers]}, scores {[a.shape[1:] for a in scores]}"
            )
        if skipped:
            warnings.warn(
                "Cross-attention has no place in rollout and relevance: scores (heads, queries, "
                f"keys) of {skipped} are left out.",
                stacklevel=4,
            )
        return scores, gradients

    def on_grid(self, f, grid, position=0):
        """Tokens of an image model as rows and columns, class and register tokens left out."""
        space = self.space(position)
        if f.ndim != 3 or len(space) != 2:
            if f.ndim - 2 != len(space):
                raise ValueError(
                    f"`layer`: an output of shape {f.shape} has other space axes than the input, "
                    f"whose extent is {space}. Name another layer."
                )
            return f
        tokens = f.shape[1]
        if grid is None:
            sides = [
                (h, h * space[1] // space[0])
                for h in range(1, tokens + 1)
                if h * space[1] % space[0] == 0 and 0 <= tokens - h * (h * space[1] // space[0]) < 9
            ]
            if not sides:
                raise ValueError(
                    f"{tokens} tokens are no grid in the proportions of {space}. Pass the rows and "
                    "columns of the patches, for example `grid=(14, 14)`."
                )
            grid = sides[-1]
        h, w = (validation.integer("grid", n) for n in grid)
        if h * w > tokens:
            raise ValueError(f"`grid` must hold at most {tokens} tokens. Received: grid={grid}")
        return f[:, tokens - h * w :].reshape(len(f), h, w, -1)

    def space(self, position=0):
        """The extent of an input that maps are laid over; a table's is that of its columns."""
        i = self.passes.moving[position]
        return self.passes.space_of(i) or self.passes.inputs[i].shape[1:]

    def over_channels(self, maps, position=0):
        """Maps with an axis of one channel where the values have their channels."""
        i = self.passes.moving[position]
        if maps.ndim == self.values[position].ndim:
            return maps
        axis = maps.ndim if self.passes.embeddings[i] else self.passes.channels_of(i)
        return np.expand_dims(maps, axis)

    def with_values(self, position, values):
        """All values, those of one input replaced."""
        return [values if j == position else x for j, x in enumerate(self.values)]

    def placed(self, maps):
        """By input the mean of its maps, at its extent if they differ; `None` where it has none."""
        found = []
        for position in range(len(self.values)):
            own = [x for x, j in zip(maps, self.positions, strict=True) if j == position]
            if len({x.shape for x in own}) > 1:
                own = [resize(x, self.space(position)) for x in own]
            found.append(sum(own) / len(own) if own else None)
        return found
