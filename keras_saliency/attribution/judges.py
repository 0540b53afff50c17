"""Is a map right? Judges that need no person: frames with a row per input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_saliency import validation
from keras_saliency.attribution.registry import METHODS
from keras_saliency.attribution.targets import Region, activation_handlers
from keras_saliency.graph.data import read_inputs
from keras_saliency.graph.functional import functional_of, is_functional
from keras_saliency.typing import ArrayLike, Data, DataFrame


def _single(model, inputs) -> np.ndarray:
    x = read_inputs(model, inputs, argument="inputs")
    parts = tree.flatten(x)
    if len(parts) != 1:
        raise ValueError(f"`inputs` must be one array. Received: {len(parts)} of them")
    x = np.asarray(parts[0], "float32")
    if not np.isfinite(x).all():
        raise ValueError("`inputs` must be finite. Received: NaN or infinite values.")
    return x


def _maps_for(maps, x) -> np.ndarray:
    maps = validation.array("maps", maps, finite=True).astype("float64")
    if maps.shape != x.shape[:-1]:
        raise ValueError(
            f"`maps` must have the shape {x.shape[:-1]}, one value per position of each input, "
            f"channels last. Received: {maps.shape}"
        )
    return maps


def probabilities_of(model, x, batch_size=32):
    """A function from inputs to what the model says of them, as probabilities.

    Whether the model ends in logits is settled once, from its last layer or else from its outputs
    for `x`: of another batch they may all lie in [0, 1] by chance.

    Args:
        model: A model that returns `(inputs, classes)`, or `(inputs, 1)` for two classes.
        x: Inputs.
        batch_size: How many of them pass at once.

    Returns:
        A function of inputs that returns a float64 array `(inputs, classes)`.
    """

    def outputs_of(inputs):
        y = np.asarray(model.predict(inputs, batch_size=batch_size, verbose=0), "float64")
        if y.ndim != 2:
            raise ValueError(f"The model's output must be (inputs, classes). Received: {y.shape}")
        return y

    logits = _are_logits(model, outputs_of(x))

    def probabilities(inputs):
        import scipy.special

        y = outputs_of(inputs)
        if y.shape[1] == 1:
            y = scipy.special.expit(y) if logits else y
            return np.concatenate([1 - y, y], axis=1)
        return scipy.special.softmax(y, axis=1) if logits else y

    return probabilities


def _are_logits(model, outputs):
    if activation_handlers(model)[0]:
        return False
    if is_functional(model):
        last = functional_of(model).outputs[0]._keras_history.operation
        if getattr(last, "activation", None) is keras.activations.linear:
            return True
    if (outputs < 0).any():
        return True
    if outputs.shape[1] == 1:
        return bool((outputs > 1).any())
    return not np.allclose(outputs.sum(axis=1), 1, atol=1e-3)


def _classes(target, probabilities):
    if target is None:
        return probabilities.argmax(axis=1)
    target = np.broadcast_to(np.asarray(target), (len(probabilities),))
    if target.dtype.kind not in "iu" or (target < 0).any():
        raise validation.wrong("target", "None, an int, or one int per input", target)
    if (target >= probabilities.shape[1]).any():
        raise validation.wrong("target", f"below {probabilities.shape[1]}", target)
    return target


def deletion_insertion(
    model: keras.Model,
    inputs: Data,
    maps: ArrayLike,
    steps: int = 20,
    target: ArrayLike | Callable[..., Any] | Region | None = None,
    fill: float | str = 0.0,
    batch_size: int = 32,
) -> DataFrame:
    """How fast a class goes when what a map shows is deleted, and comes when it is inserted.

    Areas under the probability of a class while the positions of an input, the highest of its map
    first, are replaced by `fill` (deletion: low is good), or put back into an input of nothing but
    `fill` (insertion: high is good). Petsiuk et al. (2018).

    Args:
        model: A built `keras.Model` with one input and an output of classes, logits or not.
        inputs: Array `(inputs, *space, channels)`.
        maps: Array `(inputs, *space)`; signed maps are ranked as they are, ties in C order.
        steps: Int. In how many steps the positions go.
        target: Int or one int per input; the class of the whole input by default.
        fill: A number; `"mean"`, each input's own by channel; or `"blur"`, the input under a
            Gaussian of an eighth of its extent.
        batch_size: Int.

    Returns:
        A data frame with a row per input and the columns `deletion` and `insertion`, in [0, 1].

    Raises:
        ValueError: If the maps have another extent than the inputs, or values that are not finite.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import attribution

    model = keras.Sequential(
        [keras.Input((8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    )
    x = np.random.default_rng(0).normal(size=(3, 8, 1))
    maps = attribution.saliency_map(model, x, "gradient")
    frame = attribution.deletion_insertion(model, x, maps)
    ```
    """
    import pandas as pd
    import scipy.integrate

    x = _single(model, inputs)
    maps = _maps_for(maps, x)
    steps = validation.integer("steps", steps)
    empty = _empty(x, fill)
    probabilities = probabilities_of(model, x, batch_size)
    classes = _classes(target, probabilities(x))
    order = np.argsort(-maps.reshape(len(x), -1), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable").reshape(maps.shape)
    n = order.shape[1]
    curves = {"deletion": [], "insertion": []}
    for k in range(steps + 1):
        gone = (rank < round(k * n / steps))[..., None]
        for name, mixed in {
            "deletion": np.where(gone, empty, x),
            "insertion": np.where(gone, x, empty),
        }.items():
            p = probabilities(mixed)
            curves[name].append(p[np.arange(len(x)), classes])
    areas = {
        name: scipy.integrate.trapezoid(curve, dx=1 / steps, axis=0)
        for name, curve in curves.items()
    }
    return pd.DataFrame(areas)


def _empty(x, fill):
    space = tuple(range(1, x.ndim - 1))
    if fill == "mean":
        return np.broadcast_to(x.mean(axis=space, keepdims=True), x.shape)
    if fill == "blur":
        import scipy.ndimage

        sd = [0, *(n / 8 for n in x.shape[1:-1]), 0]
        return scipy.ndimage.gaussian_filter(x, sd)
    if isinstance(fill, str):
        raise validation.wrong("fill", "a number, 'mean' or 'blur'", fill)
    return np.full_like(x, validation.number("fill", fill))


def average_drop(
    model: keras.Model,
    inputs: Data,
    maps: ArrayLike,
    target: ArrayLike | Callable[..., Any] | Region | None = None,
    batch_size: int = 32,
) -> DataFrame:
    """What of a class is lost when an input is seen through its map.

    Args:
        model, inputs, target, batch_size: As for `deletion_insertion`.
        maps: Array `(inputs, *space)` in [0, 1].

    Returns:
        A data frame with a row per input: `drop`, `max(0, p(x) - p(x * map)) / p(x)`, and
        `increase`, whether the probability rose (Chattopadhyay et al., 2018).

    Raises:
        ValueError: If the maps have another extent than the inputs, or values outside [0, 1].

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import attribution

    model = keras.Sequential(
        [keras.Input((8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    )
    x = np.random.default_rng(0).normal(size=(3, 8, 1))
    frame = attribution.average_drop(model, x, np.ones((3, 8)))
    assert (frame["drop"] == 0).all()
    ```
    """
    import pandas as pd

    x = _single(model, inputs)
    maps = _maps_for(maps, x)
    if (maps < 0).any() or (maps > 1).any():
        raise ValueError(
            "`maps` must lie in [0, 1], as saliency_map makes them by default. Received: values "
            f"from {maps.min():.3g} to {maps.max():.3g}"
        )
    probabilities = probabilities_of(model, x, batch_size)
    whole = probabilities(x)
    classes = _classes(target, whole)
    rows = np.arange(len(x))
    whole = whole[rows, classes]
    seen = probabilities((x * maps[..., None]).astype("float32"))
    seen = seen[rows, classes]
    drop = np.maximum(whole - seen, 0) / np.maximum(whole, np.finfo(float).tiny)
    return pd.DataFrame({"drop": drop, "increase": seen > whole})


def pointing_game(maps: ArrayLike, boxes: Iterable[Iterable[Sequence[float]]]) -> DataFrame:
    """Whether the highest value of a map lies on an object.

    Args:
        maps: Array `(images, height, width)`.
        boxes: For each image a list of `(top, left, bottom, right)`, the last two excluded.

    Returns:
        A data frame with a row per image: `hit`, and `share`, how much of the positive values lies
        inside. A map without a positive value hits nothing; ties go to the first in C order.

    Raises:
        ValueError: If there is another number of lists than of maps, or a box is none.

    Example:

    ```python
    import numpy as np
    from keras_saliency import attribution

    maps = np.zeros((1, 4, 4))
    maps[0, 1, 2] = 1
    assert attribution.pointing_game(maps, [[(0, 0, 2, 3)]])["hit"].all()
    ```
    """
    import pandas as pd

    maps = validation.array("maps", maps, ranks=(3,), finite=True).astype("float64")
    if not isinstance(boxes, (list, tuple, np.ndarray)) or np.shape(boxes) == ():
        raise validation.wrong("boxes", "a list of boxes per map", boxes, TypeError)
    if len(boxes) != len(maps):
        raise ValueError(
            f"`boxes` must hold one list per map, {len(maps)}. Received: {len(boxes)} lists"
        )
    rows = []
    for one, given in zip(maps, boxes, strict=True):
        inside = np.zeros(one.shape, bool)
        if not isinstance(given, (list, tuple, np.ndarray)) or np.shape(given) == ():
            raise validation.wrong("boxes", "a list of boxes per map", boxes, TypeError)
        for box in given:
            if np.shape(box) != (4,) or box[0] >= box[2] or box[1] >= box[3]:
                raise ValueError(
                    f"`boxes` must be (top, left, bottom, right). Received: {tuple(box)}"
                )
            inside[max(0, box[0]) : box[2], max(0, box[1]) : box[3]] = True
        positive = np.maximum(one, 0)
        total = positive.sum()
        hit = bool(total > 0 and inside.ravel()[one.argmax()])
        rows.append({"hit": hit, "share": positive[inside].sum() / total if total > 0 else 0.0})
    return pd.DataFrame(rows, columns=["hit", "share"])


def randomization_check(
    model: keras.Model, inputs: Data, method: str = "grad_cam", seed: int = 0, **options: Any
) -> DataFrame:
    """Whether maps change when the weights do (Adebayo et al., 2018).

    The layers are given random weights one after the other, from the top; a method whose maps stay
    as they were shows the input, not the model. The model itself is left as it was.

    Args:
        model: A built `keras.Model`.
        inputs: As for `saliency_map`.
        method: String. The attribution method.
        seed: Int. Of the random weights.
        **options: Of `saliency_map`.

    Returns:
        A data frame with a row per layer from the top: `layer`, and `similarity`, the mean rank
        correlation (Spearman) of the maps with those of the model as it is.

    Raises:
        ValueError: As `saliency_map`.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import attribution

    model = keras.Sequential(
        [keras.Input((8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    )
    x = np.random.default_rng(0).normal(size=(3, 8, 1))
    frame = attribution.randomization_check(model, x, "gradient")
    ```
    """
    import pandas as pd
    import scipy.stats

    from keras_saliency.attribution.maps import saliency_map

    validation.choice("method", method, tuple(METHODS))
    generator = np.random.default_rng(validation.seed(seed))
    options = {"normalize": None, **options}
    first = saliency_map(model, inputs, method, **options)
    if options.get("target") is None and method != "robust_cam":
        # The same classes, also where the weights would have others.
        x = read_inputs(model, inputs, argument="inputs")
        outputs = model.predict(x, verbose=0)
        if isinstance(outputs, np.ndarray) and outputs.ndim == 2 and outputs.shape[1] > 1:
            options["target"] = outputs.argmax(axis=1)
    rows = []
    before = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in model.weights]
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if any(v.ndim > 1 for v in layer._trainable_variables)
    ]
    try:
        for layer in reversed(layers):
            for v in layer._trainable_variables:
                value = np.array(keras.ops.convert_to_numpy(v))
                v.assign(generator.normal(0, max(float(value.std()), 1e-3), value.shape))
            maps = saliency_map(model, inputs, method, **options)
            found = [
                scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic
                if np.ptp(a) > 0 and np.ptp(b) > 0
                else 0.0
                for a, b in zip(first, maps, strict=True)
            ]
            rows.append({"layer": layer.name, "similarity": float(np.mean(found))})
    finally:
        for v, value in before:
            v.assign(value)
    return pd.DataFrame(rows, columns=["layer", "similarity"])
