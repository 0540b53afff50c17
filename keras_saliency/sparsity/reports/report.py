"""How sparse a model is, layer by layer, and what that saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_saliency.sparsity.criteria.criterion import Method
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking.frame import kernel_frame
from keras_saliency.typing import Data, DataFrame, Layers


def sparsity_report(
    model: keras.Model,
    layers: Layers | None = None,
    exclude: Layers | None = None,
    skipped: bool = False,
) -> DataFrame:
    """Tell how sparse a model is.

    Args:
        model: A built model, plain or masked.
        layers, exclude: Which layers to report; see `maskable_kernels`.
        skipped: Whether layers with weights that cannot be masked get a row too, with the reason
            in `note`.

    Returns:
        A pandas frame with a row per maskable kernel (a layer's name; `"lstm/recurrent_kernel"`
        where a layer has several) and the columns

        - `layer`, `type`, `shape`;
        - `size`, `zeros`, `kept`, `sparsity`: edges, those that are 0 in `kernel * mask`, the
          others, and the share of zeros;
        - `target`, `reached`: what `sparsify` was asked for, if it made the model in this
          process, and whether there are so many zeros;
        - `flops`, `flops_sparse`: floating-point operations per sample, a multiplication and an
          addition per edge and position, of all edges and of those that are kept; NaN where a
          position count is unknown (variable time or space);
        - `bytes_dense`, `bytes_compressed`: of the kernel, and of its kept values plus one bit
          per edge that tells where they are;
        - `note`: why a layer has no mask.

        `frame.attrs["skipped"]` is a dict from the layers that cannot be masked to the reasons,
        `frame.attrs["total"]` a dict of the sums, with the sparsity of the whole.

    Raises:
        ValueError, TypeError: As `maskable_kernels`.

    Example:

    ```python
    import keras
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, name="first"), keras.layers.Dense(3)]
    )
    sparse = keras_saliency.sparsify(model, {"first": 0.75}, method="magnitude")
    report = keras_saliency.sparsity_report(sparse)
    assert report["zeros"].tolist() == [96, 0]
    assert report.attrs["total"]["kept"] == 80
    ```
    """
    return kernel_frame(model, layers, exclude, skipped)


def sensitivity(
    model: keras.Model,
    data: Data,
    sparsities: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    method: Method = "isparse",
    *,
    metric: Callable[[keras.Model, Any], float | Mapping[str, float]] | None = None,
    samples: Data | None = None,
    layers: Layers | None = None,
    exclude: Layers | None = None,
    batch_size: int = 32,
    reconstruct: bool = False,
    **options: Any,
) -> DataFrame:
    """How much worse a model gets when one layer alone is sparse, layer by layer.

    Args:
        model: A built model; not touched.
        data: `(x, y)` or what else `model.evaluate` takes as its data.
        sparsities: The shares of edges to try, in [0, 1). 0 is always there, for comparison.
        method: As in `sparsify`.
        metric: Function of a model and the data that returns a number or a dict of numbers.
            Default: `model.evaluate`, for which the model must be compiled.
        samples: Inputs for the significance of the outputs. Default: up to 256 samples of `data`,
            where that is a pair of arrays; with `reconstruct=True` also what is fitted on.
        layers, exclude: Which layers to try; see `maskable_kernels`.
        batch_size: Of the evaluation.
        reconstruct: Whether to refit the edges that stay of the layer that is sparse, as
            `sparsify` does by default: what a layer costs after the refit, not before. A refit
            per layer and share, never held back by a gate.
        **options: More arguments of `sparsify`: `scores`, `granularity`, `seed`, ...

    Returns:
        A pandas frame with the columns `layer`, `sparsity`, `size`, and the metrics (`loss`, ...),
        a row per kernel and sparsity. `keras_saliency.visualization.plot_sensitivity` draws
        it.

    Raises:
        ValueError, TypeError: As `sparsify`; or if the model is not compiled and there is no
            `metric`, or there is nothing to refit on.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 8))
    frame = keras_saliency.sensitivity(model, (x, x[:, :3]), sparsities=(0.5, 0.9))
    assert frame["sparsity"].tolist() == [0.0, 0.5, 0.9] * 2  # for each of the layers
    print(frame[["layer", "sparsity", "loss"]])
    ```
    """
    import pandas as pd

    from keras_saliency import validation
    from keras_saliency.graph.copying import copy_model
    from keras_saliency.sparsity.masking.masks import MaskMaker
    from keras_saliency.sparsity.masking.options import MaskingOptions
    from keras_saliency.sparsity.masking.results import mask_model
    from keras_saliency.sparsity.masking.targets import check_sparsity

    validation.boolean("reconstruct", reconstruct)
    sparsities = sorted({0.0, *(check_sparsity(s, "sparsities") for s in sparsities)})
    if metric is None and not getattr(model, "compiled", False):
        raise ValueError(
            f"`sensitivity` evaluates the model '{model.name}', which is not compiled: compile it, "
            "or pass `metric`."
        )
    pair = data if isinstance(data, tuple) and len(data) in (2, 3) else None
    if samples is None and pair and (reconstruct or method == "isparse"):
        samples = keras.tree.map_structure(lambda x: x[:256], pair[0])
    makers = [
        (
            s,
            MaskMaker(
                model,
                s,
                samples,
                MaskingOptions(
                    method=method,
                    layers=layers,
                    exclude=exclude,
                    batch_size=batch_size,
                    **options,
                ),
            ),
        )
        for s in sparsities
        if s > 0
    ]
    trial = copy_model(model)

    refitted = _refitter(model, samples, batch_size, options) if reconstruct else None

    def measure(candidate=trial):
        if metric is not None:
            result = metric(candidate, data)
            return dict(result) if isinstance(result, dict) else {"metric": float(result)}
        if pair:
            return candidate.evaluate(*pair, batch_size=batch_size, verbose=0, return_dict=True)
        return candidate.evaluate(data, verbose=0, return_dict=True)

    wanted = [kernel.key for kernel in maskable_kernels(model, layers, exclude)]
    kernels = {k.key: k for k in maskable_kernels(trial) if k.key in wanted}
    mask_model(trial, list(kernels.values()))
    dense = measure()
    rows = [{"layer": key, "sparsity": 0.0, "size": k.size, **dense} for key, k in kernels.items()]
    for s, maker in makers:
        for key, mask in maker.masks().items():
            kernel = kernels[key]
            if refitted is not None:
                found = measure(refitted(key, mask))
                rows.append({"layer": key, "sparsity": s, "size": kernel.size, **found})
                continue
            name = kernel.name.lstrip("_")
            kernel.owner.set_mask(mask, name)
            rows.append({"layer": key, "sparsity": s, "size": kernel.size, **measure()})
            kernel.owner.set_mask(np.ones(kernel.shape, bool), name)
    frame = pd.DataFrame(rows)
    order = {key: i for i, key in enumerate(kernels)}
    return frame.sort_values(
        ["layer", "sparsity"], key=lambda column: column.map(lambda v: order.get(v, v))
    ).reset_index(drop=True)


def _refitter(model, samples, batch_size, options):
    """Function of a kernel's key and mask that returns a refitted copy, that kernel sparse."""
    from keras_saliency.graph.data import read_pairs
    from keras_saliency.sparsity.masking.results import plain_copy
    from keras_saliency.sparsity.reconstruction import refit

    refit.resolve(True, samples)
    x, *_ = read_pairs(model, samples)
    refit.check_finite(model, x)

    def refitted(key, mask):
        done = refit.reconstruct(
            model,
            lambda: plain_copy(model),
            x,
            {key: mask},
            gate=False,
            seed=options.get("seed") or 0,
            batch_size=batch_size,
            verbose=False,
        )
        return done.copy

    return refitted
