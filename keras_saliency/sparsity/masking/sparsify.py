"""From a dense model to a sparse one, and from masks to zeros (Garg 2020, section 4.4.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_saliency import validation
from keras_saliency.graph.copying import check_built, copy_model
from keras_saliency.graph.data import read_pairs
from keras_saliency.layers.masked.base import MaskedKernels, mask_variables
from keras_saliency.sparsity.criteria.criterion import Method, criterion_of
from keras_saliency.sparsity.masking.frame import kernel_frame
from keras_saliency.sparsity.masking.masks import MaskMaker
from keras_saliency.sparsity.masking.options import MaskingOptions
from keras_saliency.sparsity.masking.results import (
    masked_model,
    plain_copy,
    plain_layer,
    plain_values,
    sparse_value,
    take_over,
    take_over_masked,
    zero_in_place,
)
from keras_saliency.sparsity.masking.shares import SCOPES, Scope
from keras_saliency.sparsity.reconstruction import refit
from keras_saliency.sparsity.significance.walk import Order
from keras_saliency.typing import ArrayLike, Data, Layer, Layers

_logger = logging.getLogger("keras_saliency")


def sparsify(
    model: keras.Model,
    sparsity: float | Mapping[str, float] | Callable[[Layer], float | None],
    data: Data | None = None,
    method: Method = "auto",
    *,
    scores: str | ArrayLike | Sequence[ArrayLike] = "inffs",
    scope: Scope | None = None,
    granularity: str | tuple[int, int] = "edge",
    order: Order = "forward",
    layers: Layers | None = None,
    exclude: Layers | None = "auto",
    reconstruct: bool | Literal["auto"] = "auto",
    gate: bool | Literal["auto"] = "auto",
    masked: bool = False,
    inplace: bool = False,
    return_report: bool = False,
    loss: Callable[..., Any] | str | None = None,
    initial_weights: Sequence[ArrayLike] | None = None,
    seed: int | None = 0,
    normalization: str = "pass",
    max_samples: int | None = None,
    batch_size: int = 32,
    verbose: bool = False,
) -> Any:
    """Make a sparse model of a trained one, without labels and without retraining.

    The new model has the classes and the topology of the given one, with exact zeros where the
    edges of least worth were: plain Keras, which saves, loads and exports without this library.
    Where `data` are given, some hundred inputs, the weights that stay, biases and means of batch
    norms are then fitted layer by layer, so that each layer computes what it did (`reconstruct`).
    Lowest scores go first, on a tie the earlier position in the C-ordered
    flattened kernel (equation 4.5); no kernel loses all of its edges. The given model is not
    touched. `keras_saliency.KeepSparsity()` keeps the zeros while the result is trained on.

    Works on Sequential, functional and nested models, shared layers, wrappers such as
    `TimeDistributed` and `Bidirectional`, recurrent and attention layers, and on subclassed models
    that have a config (`get_config`, or constructor arguments that Keras can write into one); with
    `inplace=True` on every model. A LoRA update is merged into the kernel that is pruned.

    Args:
        model: A built `keras.Model`.
        sparsity: Share of the edges that go, in [0, 1): one number; a dict from layer name to
            number, the others stay dense; or a function that takes a layer and returns a number
            or `None` for dense.
        data: Inputs to fit the rest of the weights on and to score from: what `model.predict`
            takes, or `(x, y)` pairs of it, whose `y` is not used. Two hundred and more do best.
        method: Which edges go. `"auto"`: `"admm"` where edges or N:M are refitted, else
            `"isparse"`. `"admm"`: masks and weights found together (Boyd et al., 2011; Boža, 2024).
            `"isparse"`: significance for the output (Garg 2020, section 4.4). `"magnitude"`:
            `|weight|`.
            `"random"` (DropConnect). `"lottery"`: `|weight|`, and what stays goes back to its
            `initial_weights`, ready to be trained again. `"lamp"`, `"wanda"`, `"obs"`, `"taylor"`,
            `"snip"`, `"synflow"`; for channels `"fpgm"`, `"bn_scale"`, `"activation"`, `"apoz"`,
            `"activation_density"`, `"majority_vote"`, `"discriminant"`, `"hrank"`,
            `"orthogonality"`, `"oracle"`; an object of `sparsity.criteria`, or a function of a
            kernel that returns scores of its shape: `lambda kernel: abs(kernel.values)`.
        scores: How output neurons score: `"inffs"`, `"identity"`, `"pca"` (G table 4.3).
        scope: How the share is spread over the kernels that take part. `"layer"`: each loses the
            same share. `"global"`: all edges are ranked together. `"lamp"`: the shares that
            layer-adaptive magnitude gives (Lee et al., 2021), the masks by `method`. `"erk"`:
            density in proportion to the sum of a kernel's extents over their product (Evci et al.,
            2020). With these three the model loses exactly `round(sparsity * edges taking part)`.
            Default: `"lamp"` for edges, else `"layer"`.
        granularity: `"edge"`. `"channel"`: whole output channels, `round(sparsity * channels)`,
            those with the lowest sum of edge scores; the channels of the model's outputs stay,
            unless `layers` or a dict as `sparsity` names their layer. `"head"`: whole heads of
            attention layers, grouped queries by group. A pair `(n, m)`: of every m
            neighbors along the input axis the n best stay; `sparsity` must be `1 - n / m`.
        order: `"forward"`; or `"backward"` or `"random"`, where the scores of a layer know what is
            masked in the layers before it in that order (G 4.6.6).
        layers, exclude: Which layers: objects, names, glob patterns, compiled regular
            expressions, or predicates, or a list of these; see `maskable_kernels`. Depthwise
            kernels take part where `layers` or a dict as `sparsity` names them, or with
            `exclude=()`.
        reconstruct: Whether what stays is fitted to the dense model. `"auto"`: where `data` are
            given, but not for `"lottery"` with `initial_weights`.
        gate: Whether a quarter of the inputs is held out to tell if the refit does better than
            magnitude masks with weights as they are. `"auto"`: below 256 inputs.
        masked: Whether the model gets masked layers instead (`MaskedDense`, ...), in which a masked
            weight keeps its stored value, so that it may come back.
        inplace: Whether `model` itself is changed and returned, at the very end or not at all.
            Its compile settings and optimizer stay.
        return_report: Whether to return `(model, report)`: the frame of `sparsity_report` with
            the columns `target`, `reason` (why a kernel stayed dense), `refitted`,
            `error_masked` and `error`: the squared error over the variance of a kernel's outputs,
            with masks alone and as handed over. `report.attrs["gate"]` says who won and by how
            much.
        loss: For criteria that differentiate the loss, a function of `(y_true, y_pred)`, a
            `keras.losses.Loss` or its name. Default: what the model is compiled with.
        initial_weights: For `"lottery"`: the weights before training, as `model.get_weights()`
            gave them. Without them the weights stay.
        seed: Of `method="random"` and `order="random"`.
        normalization: Whether normalization layers `"pass"` or `"scale"` significance.
        max_samples: How many samples are read from a stream of data, which may be endless.
        batch_size: How many samples of `data` the model sees at once.
        verbose: Whether a progress bar is shown.

    Returns:
        A new model, compiled like the given one (with a fresh optimizer state); with
        `inplace=True` the given one; with `return_report=True` a pair of it and a frame.

    Raises:
        ValueError: If an argument is out of range, a name is unknown, `m` does not divide an input
            axis, the model is not built, cannot be copied, or holds a layer with weights for
            which there is no significance rule. The given model is then as it was.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(64, 8))
    sparse = keras_saliency.sparsify(model, 0.5, data=x)
    assert keras_saliency.sparsity_report(sparse)["zeros"].sum() == 88  # of 176 edges
    ```
    """
    for name, value in (("masked", masked), ("inplace", inplace), ("return_report", return_report)):
        validation.boolean(name, value)
    validation.choice("gate", gate, (True, False, "auto"))
    validation.choice("scope", scope, (*SCOPES, None))
    if not isinstance(method, str):
        method = criterion_of(method)
    if inplace and masked:
        raise ValueError(
            "`inplace=True` changes the weights of the model, not its layers, so it cannot be "
            "combined with `masked=True`. Drop one of them."
        )
    x, *targets = read_pairs(model, data, max_samples)
    data = None if x is None else (x, *targets)
    lottery = isinstance(method, str) and method == "lottery"
    rewinds = lottery and initial_weights is not None
    fits = refit.resolve(reconstruct, x) and not (rewinds and reconstruct == "auto")
    if fits:
        refit.check_finite(model, x)
    admm = _uses_admm(method, granularity, fits)
    # ADMM finds masks of its own; where it cannot, and for shares, other scores stand in.
    chosen = ("isparse" if scope == "global" else "magnitude") if admm else method
    options = MaskingOptions(
        method="isparse" if isinstance(chosen, str) and chosen == "auto" else chosen,
        scores=scores,
        scope=scope,
        granularity=granularity,
        order=order,
        layers=layers,
        exclude=exclude,
        seed=seed,
        normalization=normalization,
        batch_size=batch_size,
        loss=loss,
    )
    maker = MaskMaker(model, sparsity, data, options)
    rewound = _rewound(model, initial_weights, method)
    masks = maker.masks()
    done = None
    if fits:

        def magnitude():
            if isinstance(granularity, str) and granularity == "edge":
                shares = {key: 1 - mask.mean() for key, mask in masks.items()}
            else:
                shares = sparsity
            plain = options.replaced(method="magnitude", scope="layer", order="forward")
            return MaskMaker(model, shares, None, plain).masks()

        done = _refitted(model, maker, masks, x, admm, gate, magnitude, inplace, verbose)
        masks = done.sweep.masks
    if masked:
        sparse = masked_model(model, maker, masks, rewound)
        if done is not None:
            take_over_masked(sparse, model, masks, done.sweep, done.copy)
    elif inplace:
        sparse = model
        if done is not None:
            take_over(model, masks, done.sweep, done.copy)
        else:
            zero_in_place(model, maker, masks, rewound)
    elif done is not None:
        sparse = done.copy
    else:
        values = dict(rewound)
        for kernel in maker.kernels:
            values[id(kernel.variable)] = sparse_value(kernel, masks[kernel.key], rewound)
        sparse = plain_copy(model, values)
    return (sparse, _report(sparse, maker, done)) if return_report else sparse


def _uses_admm(method, granularity, fits):
    whole = isinstance(granularity, str) and granularity in ("channel", "head")
    if isinstance(method, str) and method == "auto":
        return fits and not whole
    if not (isinstance(method, str) and method == "admm"):
        criterion_of(method)
        return False
    if not fits:
        raise ValueError(
            "`method='admm'` finds masks while it fits the weights, so it needs `data` and "
            "`reconstruct`. Pass some hundred inputs as `data`, or take method='magnitude'."
        )
    if whole:
        raise ValueError(
            "`method='admm'` masks edges or N:M groups. Take method='isparse' for "
            f"granularity={granularity!r}."
        )
    return True


def _refitted(model, maker, masks, data, admm, gate, magnitude, inplace, verbose):
    def make_copy():
        try:
            return plain_copy(model)
        except ValueError:
            if inplace:  # fitted on the dense network's own inputs, without a copy
                return model
            raise

    counts = {}
    if admm:
        counts = {key: int(mask.size - np.count_nonzero(mask)) for key, mask in masks.items()}
    granularity = maker.options.granularity
    return refit.reconstruct(
        model,
        make_copy,
        data,
        masks,
        plain_masks=magnitude,
        gate=gate,
        counts=counts,
        neighbours=granularity if isinstance(granularity, tuple) else None,
        seed=maker.options.seed or 0,
        batch_size=maker.options.batch_size,
        verbose=verbose,
    )


def _report(sparse, maker, done):
    """`sparsity_report` of the result, with what was asked for and what the refit did."""
    report = kernel_frame(sparse)
    reasons = {skipped.path: skipped.reason for skipped in maker.skipped}
    errors = {} if done is None else done.sweep.errors
    keys = report["layer"]
    report["target"] = [maker.targets.get(key, np.nan) for key in keys]
    report["reason"] = [reasons.get(key, "") for key in keys]
    report["refitted"] = [key in errors for key in keys]
    report["error_masked"] = [errors.get(key, (np.nan, np.nan))[0] for key in keys]
    report["error"] = [errors.get(key, (np.nan, np.nan))[1] for key in keys]
    report.attrs["gate"] = None if done is None else done.gate
    taking = report[keys.isin(list(maker.targets))]
    report.attrs["taking_part"] = {
        "size": int(taking["size"].sum()),
        "zeros": int(taking["zeros"].sum()),
        "sparsity": float(taking["zeros"].sum() / max(taking["size"].sum(), 1)),
    }
    return report


def strip_masks(model: keras.Model) -> keras.Model:
    """Make a plain Keras model of a masked one: zeros where the masks are.

    Args:
        model: A model with masked layers, from `sparsify` or your own.

    Returns:
        A new model of Keras's own layers (and of your custom ones), with the weights `kernel *
        mask`. It saves to a file that loads without this library.

    Raises:
        ValueError: If the model is not built or cannot be copied.

    Example:

    ```python
    import keras
    import keras_saliency

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude")
    keras_saliency.strip_masks(sparse).save("small.keras")
    small = keras.saving.load_model("small.keras")  # needs Keras alone
    assert (small.get_weights()[0] == 0).sum() == 12
    ```
    """
    check_built(model)
    return copy_model(
        model,
        make=lambda layer: plain_layer(layer, isinstance(layer, MaskedKernels)),
        values=plain_values(model, merge=False),
    )


def _rewound(model, initial_weights, method):
    """Dict from the `id` of a weight to its initial value."""
    values = _check_initial_weights(model, initial_weights, method)
    if values is None:
        return {}
    held = {id(mask) for mask in mask_variables(model)}
    weights = [v for v in model.weights if id(v) not in held]
    return {id(v): np.array(value) for v, value in zip(weights, values, strict=True)}


def _check_initial_weights(model, initial_weights, method):
    if initial_weights is None:
        return None
    if not (isinstance(method, str) and method == "lottery"):
        raise ValueError(
            f"`initial_weights` belongs to method='lottery'. Received: method={method!r}"
        )
    if isinstance(initial_weights, keras.Model):
        initial_weights = initial_weights.get_weights()
    held = {id(mask) for mask in mask_variables(model)}
    shapes = [tuple(v.shape) for v in model.weights if id(v) not in held]
    given = [np.shape(value) for value in initial_weights]
    if given != shapes:
        raise ValueError(
            "`initial_weights` must hold the weights of the model before training, as "
            f"`model.get_weights()` gives them: shapes {shapes}. Received: shapes {given}"
        )
    return initial_weights
