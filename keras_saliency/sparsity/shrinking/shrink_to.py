"""Channel pruning to a budget, at once or in steps: whole groups, lowest scores first."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np

from keras_saliency import validation
from keras_saliency.graph.compiling import copy_compile
from keras_saliency.graph.copying import copy_model
from keras_saliency.graph.data import read_pairs
from keras_saliency.graph.selection import selected
from keras_saliency.sparsity.criteria import ISparse, Magnitude, Random
from keras_saliency.sparsity.criteria.criterion import Method, check_data, criterion_of
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel, Measurements
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.channels import kernels_of_outputs
from keras_saliency.sparsity.reconstruction import refit
from keras_saliency.sparsity.shrinking.budget import Budget
from keras_saliency.sparsity.shrinking.channels import find_weight, read_weight
from keras_saliency.sparsity.shrinking.groups import ChannelGroups
from keras_saliency.sparsity.shrinking.rebuild import rebuild
from keras_saliency.sparsity.shrinking.shorten import shorten
from keras_saliency.sparsity.shrinking.shrink import summary, without_masks
from keras_saliency.sparsity.shrinking.uniform import shrink_uniformly
from keras_saliency.sparsity.significance.walk import edge_significance
from keras_saliency.typing import Data, Layers

_SCOPES = ("layer", "global")


def shrink_to(
    model: keras.Model,
    *,
    flops: float | None = None,
    parameters: float | None = None,
    channels: float | None = None,
    blocks: float | None = None,
    data: Data | None = None,
    method: Method = "isparse",
    scope: Literal["layer", "global"] = "layer",
    round_to: int = 8,
    uniform: bool = False,
    exclude: Layers | None = None,
    reconstruct: bool | Literal["auto"] = "auto",
    gate: bool | Literal["auto"] = "auto",
    steps: int = 1,
    fine_tune: Callable[[keras.Model], Any] | None = None,
    loss: Callable[..., Any] | str | None = None,
    seed: int | None = 0,
    batch_size: int = 32,
    verbose: bool = True,
) -> keras.Model:
    """Prune a model to a share of its size by removing the least significant channel groups.

    Channels that additions, products, norms and the like tie together are scored and removed
    together, so the model shrinks through residual connections too. The channels of the model's
    outputs stay. Where `data` are given, what reads removed channels is fitted to do with those
    that stay, layer by layer, so that the model holds without labels and without training.

    Args:
        model: A built Functional or Sequential model. It is not changed.
        flops: Share of the operations that may remain, in (0, 1]. Give exactly one of `flops`,
            `parameters`, `channels` and `blocks`.
        parameters: Share of the parameters that may remain.
        channels: Share of the channels of every layer (`scope="layer"`) or of the model
            (`scope="global"`) that remains, rounded.
        blocks: Share of the residual blocks that stay, rounded: those that change most what passes
            through them (1 - cosine of what enters and leaves, on `data`). Blocks are what a
            class makes as many of as its config says (KerasHub's backbones and the tasks around
            them; the result is of that class), and in other functional models every addition of
            a tensor and of what layers make of it, and layers made of layers that are repeated.
        data: Inputs to fit the rest of the weights on and to score from: what `model.predict`
            takes, or `(x, y)` pairs of it. Two hundred and more do best.
        method: What a channel is worth: `"isparse"` (significance for the output, G 4.4),
            `"magnitude"` (sums of absolute weights), `"random"`, or another criterion; see
            `keras_saliency.sparsify`.
        scope: `"layer"`: the same share everywhere; `"global"`: all groups compete, by scores
            relative to their layer's mean.
        round_to: Every layer keeps a multiple of this many channels, where it has so many.
        uniform: Whether every block keeps equally many feed-forward units, and the result is of
            the model's own class, made from its config with the new width: KerasHub's backbones,
            and models of one's own whose config names `intermediate_dim` or `mlp_dim`. Where it
            names `head_dim` or `key_value_dim` too and `data` are given, about the same share of
            the heads leaves; else they stay. For `flops` or `parameters`, in one step.
        exclude: Layers to keep as they are; see `shrink`.
        reconstruct: Whether what stays is fitted to the dense model. `"auto"`: where `data` are
            given.
        gate: Whether a quarter of the inputs is held out to tell if the fit does better than
            weights as they are. `"auto"`: below 256 inputs.
        steps: In how many equal steps the budget is reached; each scores what is left anew.
        fine_tune: Function that trains the model it is given, called between the steps, `steps - 1`
            times; say `lambda model: model.fit(x, y)`. If it returns a model, that one goes on.
        loss: For criteria that differentiate the loss; by default the model's own.
        seed: Of `method="random"`, and of the positions that the fit draws.
        batch_size: Integer, how many samples a layer sees at once.
        verbose: Whether to print in one line how much was removed.

    Returns:
        A new, smaller model of plain Keras layers; see `shrink`. With `uniform=True` one of the
        class of `model`.

    Raises:
        TypeError: If `model` is not a `keras.Model`, or a number is none.
        ValueError: If an argument is out of range, the budget cannot be reached, or `shrink`
            would refuse the model. What the last step would meet is looked for before the first.

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
    budgets = {"flops": flops, "parameters": parameters, "channels": channels, "blocks": blocks}
    given = {name: share for name, share in budgets.items() if share is not None}
    if len(given) != 1:
        raise ValueError(
            "Give exactly one of `flops`, `parameters`, `channels` and `blocks`. "
            f"Received: {sorted(given) or 'none'}"
        )
    ((what, share),) = given.items()
    if isinstance(share, bool) or not isinstance(share, numbers.Real):
        raise TypeError(f"`{what}` must be a number in (0, 1]. Received: {share!r}")
    if not 0 < share <= 1:
        raise ValueError(f"`{what}` must lie in (0, 1]. Received: {share!r}")
    criterion_of(method)
    validation.choice("scope", scope, _SCOPES)
    validation.choice("gate", gate, (True, False, "auto"))
    round_to = validation.integer("round_to", round_to)
    batch_size = validation.integer("batch_size", batch_size)
    seed = validation.seed(seed)
    steps = validation.integer("steps", steps)
    _check_fine_tune(fine_tune, steps)
    validation.boolean("uniform", uniform)
    if uniform:
        _check_uniform(what, steps, exclude, scope)
    if what == "blocks":
        _check_blocks(method, scope)
    given_model = model
    targets = (None, None)
    if data is not None and isinstance(model, keras.Model):
        data, *targets = read_pairs(model, data)
    fits = refit.resolve(reconstruct, data)
    pairs = None if data is None else (data, *targets)
    if what == "blocks":
        model, exclude = without_masks(model, exclude)
        options = {"gate": gate, "seed": seed, "batch_size": batch_size, "verbose": verbose}
        options |= {"steps": steps, "fine_tune": fine_tune}
        return shorten(model, share, data, exclude=exclude, fits=fits, **options)
    if uniform:
        scores_of = _channel_scores_of(method, pairs, seed, loss, batch_size)
        options = {"gate": gate, "seed": seed, "batch_size": batch_size, "verbose": verbose}
        small = shrink_uniformly(
            model, what, share, data, scores_of, round_to=round_to, fits=fits, **options
        )
        copy_compile(given_model, small)
        return small
    first = None
    for step in range(1, steps + 1):
        model, exclude = without_masks(model, exclude)
        groups = ChannelGroups(model, exclude)
        budget = Budget(groups, what, data, round_to)
        scores = group_scores(groups, pairs, method, seed, loss, batch_size)
        if first is None:
            first = budget
            last = budget.choose(share, scope, scores)  # refused, if at all, before training
        if steps == 1:
            live = last
        else:
            budget.begins_from(first)
            part = 1 - (1 - share) * step / steps
            live = budget.approach(part, first, scope, scores, final=step == steps)
        names = [layer.name for layer in selected(model, exclude, "exclude")]
        if fits and not live.all():
            fitted = _refitted(
                groups, live, data, gate=gate, seed=seed, batch_size=batch_size, verbose=verbose
            )
            groups = ChannelGroups(fitted, names or None)
        small = rebuild(groups, live)
        copy_compile(given_model, small)
        if verbose:
            print(summary("shrink_to", groups, live, small))
        if step < steps:
            trained = fine_tune(small) if fine_tune is not None else None
            model = trained if isinstance(trained, keras.Model) else small
            exclude = names or None
    return small


def _check_uniform(what, steps, exclude, scope):
    for name, wrong in (
        (what, what in ("channels", "blocks")),
        ("steps", steps != 1),
        ("exclude", exclude is not None),
        ("scope", scope != "layer"),
    ):
        if wrong:
            raise ValueError(
                "`uniform=True` gives every block the same width, to a share of `flops` or "
                f"`parameters`, in one step. Leave out `{name}`, or pass `uniform=False`."
            )


def _check_blocks(method, scope):
    for name, wrong in (("method", method != "isparse"), ("scope", scope != "layer")):
        if wrong:
            raise ValueError(
                "`blocks` keeps the blocks that change most what passes through them; channels are "
                f"not scored. Leave out `{name}`."
            )


def _channel_scores_of(method, pairs, seed, loss, batch_size):
    criterion = criterion_of(method)

    def scores(model):
        return _channel_scores(model, pairs, criterion, seed, loss, batch_size)

    return scores


def _check_fine_tune(fine_tune, steps):
    if fine_tune is None:
        return
    if not callable(fine_tune):
        raise TypeError(
            "`fine_tune` must be a function of a model, say `lambda model: model.fit(x, y)`. "
            f"Received: {fine_tune!r}"
        )
    if steps == 1:
        raise ValueError(
            "`fine_tune` trains between steps, and there is one. Pass `steps`, say steps=5, or "
            "train the model that `shrink_to` returns."
        )


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
    return refit.reconstruct(model, lambda: copy_model(model), data, masks, **options).copy


def group_scores(groups, data=None, method="isparse", seed=0, loss=None, batch_size=32):
    """(count,) the score of every group: the mean over the kernels that make its channels.

    A channel's score in one kernel is the sum of its edges' scores, or what the criterion gives the
    channel, relative to the mean over the layer.
    """
    criterion = criterion_of(method)
    if isinstance(criterion, Random):
        return np.random.default_rng(seed).random(groups.count)
    found = _channel_scores(groups.model, data, criterion, seed, loss, batch_size)
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


def _channel_scores(model, data, criterion, seed, loss, batch_size):
    """Arrays of the kernels' shapes whose sums over a channel are its score, by the weight's id."""
    kernels = maskable_kernels(model)
    x, y, sample_weight = read_pairs(model, data)
    if type(criterion) is ISparse:
        scores = edge_significance(model, x, "identity" if x is None else "inffs")
        found = [(k, scores[k.key]) for k in kernels if k.key in scores]
        return {id(k.variable): edges for k, edges in found}
    if type(criterion) is Magnitude:
        return {}
    check_data(criterion, x, y)
    measurements = Measurements(
        model, kernels, x, y, sample_weight, loss=loss, batch_size=batch_size, seed=seed
    )
    measured = [MeasuredKernel(k, measurements, index=i) for i, k in enumerate(kernels)]
    outputs = kernels_of_outputs(model)
    measured = [m for m in measured if id(m.kernel.variable) not in outputs]
    criterion.prepare(measured, 0)
    found = {}
    for m in measured:
        channels = criterion.channel_scores(m)
        channels = channels - min(channels.min(), 0)  # a copy: the array may be the user's
        spread = channels / (m.size // channels.size)
        rest = [axis for axis in range(len(m.shape)) if axis not in m.output_axes]
        order = [*rest, *m.output_axes]
        outputs_shape = [m.shape[axis] for axis in m.output_axes]
        array = np.broadcast_to(
            spread.reshape(outputs_shape), [m.shape[axis] for axis in order]
        ).transpose(np.argsort(order))
        found[id(m.kernel.variable)] = array
    return found
