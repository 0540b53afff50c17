"""From masks to a sparse model that computes what the dense one did, or close to it."""

import keras
import numpy as np
from keras import ops, tree

from keras_saliency import validation
from keras_saliency.graph.copying import layers_of, own_variables
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.reconstruction.gate import (
    LEAST,
    TRUSTED,
    distance,
    output_kinds,
    split,
)
from keras_saliency.sparsity.reconstruction.recalibrate import recalibrate
from keras_saliency.sparsity.reconstruction.sweep import Refit
from keras_saliency.sparsity.significance.outputs import model_outputs


def resolve(reconstruct, data, argument="reconstruct"):
    """Whether to reconstruct: `"auto"` does where there are data."""
    validation.choice(argument, reconstruct, (True, False, "auto"))
    if reconstruct is True and data is None:
        raise ValueError(
            f"`{argument}=True` fits the weights that stay to what the model computes, for which "
            "it needs `data`: some hundred inputs, no labels. Received: data=None"
        )
    return data is not None if reconstruct == "auto" else reconstruct


class Reconstruction:
    """What a refit has done.

    Attributes:
        copy: The sparse model.
        sweep: The `Refit`, with masks, errors and new values.
        gate: `None`, or a dict: which of `"refit"` and `"masks"` won, and their distances.
    """

    def __init__(self, copy, sweep, gate=None):
        self.copy = copy
        self.sweep = sweep
        self.gate = gate


def reconstruct(model, make_copy, data, masks, *, plain_masks=None, gate="auto", **options):
    """Refit a pruned copy of a model, if that is better than leaving the weights as they are.

    Args:
        model: The dense model.
        make_copy: Function that returns a copy of it to prune.
        data: Inputs, a nest of arrays.
        masks: Dict from kernel key to a boolean array. The kernels that it names take part.
        plain_masks: Function that returns the masks which compete without a refit, or `None` for
            the same.
        gate: `True`, `False`, or `"auto"`: below 256 inputs.
        **options: Of `Refit`.

    Returns:
        A `Reconstruction`.
    """
    validation.choice("gate", gate, (True, False, "auto"))
    count = len(tree.flatten(data)[0])
    gated = count >= LEAST and (count < TRUSTED if gate == "auto" else gate)

    def kernels_of(copy):
        return [kernel for kernel in maskable_kernels(copy) if kernel.key in masks]

    def refit(part, copy=None):
        copy = make_copy() if copy is None else copy
        sweep = Refit(model, copy, kernels_of(copy), part, masks, **options)
        return Reconstruction(copy, sweep.run())

    first = make_copy()
    if not gated or first is model:
        return refit(data, first)

    def leave(part):
        copy = make_copy()
        norms = [
            x for x in copy._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)
        ]
        rest = {k: v for k, v in options.items() if k not in ("counts", "neighbours")}
        kernels = kernels_of(copy)
        left = masks if plain_masks is None else plain_masks()
        sweep = Refit(model, copy, kernels, part, left, fit=False, **rest)
        if norms:
            for kernel in kernels:
                sweep.mask_alone(kernel)
            recalibrate(copy, part, reference=model, batch_size=options.get("batch_size", 32))
            for norm in norms:
                for v in (norm.moving_mean, norm.moving_variance):
                    sweep.values[id(v)] = v, np.array(ops.convert_to_numpy(v))
        else:
            sweep.run()
        return Reconstruction(copy, sweep)

    seed, batch_size = options.get("seed", 0), options.get("batch_size", 32)
    rest, held = split(data, seed)
    wanted = model_outputs(model, held, batch_size)
    kinds = output_kinds(model, len(wanted))
    found = {
        name: distance(wanted, model_outputs(make(rest).copy, held, batch_size), kinds)
        for name, make in (("refit", refit), ("masks", leave))
    }
    winner = "refit" if found["refit"] <= found["masks"] else "masks"
    result = refit(data) if winner == "refit" else leave(data)
    result.gate = {"winner": winner, **found}
    return result


def check_finite(model, data):
    """Refuse data and weights that no fit can follow."""
    for x in tree.flatten(data):
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(
                "`data` holds NaN or infinity, which no fit can follow. Remove those samples, or "
                "pass `reconstruct=False`."
            )
    for v in model.weights:
        if not keras.backend.is_float_dtype(v.dtype):
            continue
        if not np.isfinite(np.asarray(ops.convert_to_numpy(v), "float32")).all():
            raise ValueError(
                f"The weight '{v.path}' of '{model.name}' holds NaN or infinity, so its outputs "
                "cannot be fitted. Train it anew, or pass `reconstruct=False`."
            )


def counterparts(source, target):
    """Dict from the `id` of a variable of `source` to that of the same name in `target`."""
    found = {}
    for old, new in zip(layers_of(source), layers_of(target), strict=True):
        named = {v.name: v for v in own_variables(new)}
        for variable in own_variables(old):
            if variable.name in named:
                found[id(variable)] = named[variable.name]
    return found
