"""Where a network does its work, and which network suits: separation of features."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import tree

from keras_saliency import validation
from keras_saliency.complexity import reading
from keras_saliency.complexity.indices import SeparationKind, separation_index
from keras_saliency.complexity.selection import select_features as select
from keras_saliency.graph.gradients import without_gradients
from keras_saliency.graph.listening import listening
from keras_saliency.graph.selection import selected
from keras_saliency.typing import ArrayLike, Data, DataFrame, Layers


def layer_separation(
    model: keras.Model,
    x: Data,
    y: ArrayLike | None = None,
    layers: Layers | None = None,
    *,
    order: int = 1,
    kind: SeparationKind = "hard",
    max_features: int | None = 1024,
    max_samples: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> DataFrame:
    """The separation index of the features behind each layer of a model.

    A row for every layer that runs, in the order of their first calls; nested models are opened
    up. A layer with several outputs is judged by its first. Features wider than `max_features`
    are projected: each goes to one of `max_features` places at random, with a random sign, which
    keeps distances to about `sqrt(2 / max_features)` of them. Which layers were projected stands in
    `frame.attrs["projected"]`, as their width before.

    Args:
        model: A built model of any kind.
        x: Inputs as the model takes them, or a data set of batches `(x, y)`.
        y: Labels as for `separation_index`. Default: those in `x`.
        layers: Layers, names, patterns or functions that choose. Default: all.
        order, kind: See `separation_index`.
        max_features: Width above which features are projected. Default 1024. None: never.
        max_samples: How many samples to take. Default: all.
        batch_size: Samples that go through the model at a time. Default 64.
        seed: int, of the projection.

    Returns:
        A pandas frame with the columns `layer` (path in the model), `index`, `width` (features
        per sample that were compared) and `share` (index over the best one).

    Raises:
        ValueError: As `separation_index`; if no layer is chosen; if features are not finite, which
            names the layer.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency.complexity import layer_separation

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    x, y = np.random.normal(size=(30, 4)), np.arange(30) % 2
    print(layer_separation(model, x, y))
    ```

    Source: Kalhor (2023), chapter 3.2, figures 10 to 12.
    """
    import pandas as pd

    max_features = validation.integer("max_features", max_features, optional=True)
    batch_size = validation.integer("batch_size", batch_size)
    seed = validation.seed(seed)
    x, y = _read(model, x, y, max_samples)
    found = _leaves(model)
    if layers is not None:
        chosen = selected(model, layers, "layers")
        found = [(name, layer) for name, layer in found if layer in chosen]
    features, wide = {}, {}
    for calls in _runs(model, x, batch_size, found):
        for name, _, output in calls:
            output, width = _projected(_rows(output), max_features, seed)
            if width != output.shape[1]:
                wide[name] = width
            features.setdefault(name, []).append(output)
    if not features:
        raise ValueError(
            f"`layers` must choose layers that the model '{model.name}' runs. Received: {layers!r}"
        )
    rows = []
    for name in list(features):
        kept = np.concatenate(features.pop(name))
        _check_finite(kept, f"the layer '{name}'")
        rows.append((name, separation_index(kept, y, order, kind), kept.shape[1]))
    frame = pd.DataFrame(rows, columns=["layer", "index", "width"])
    frame["share"] = frame["index"] / (frame["index"].max() or 1.0)
    frame.attrs["projected"] = wide
    return frame


def rank_models(
    models: Mapping[str, keras.Model],
    x: Data,
    y: ArrayLike | None = None,
    select_features: bool = False,
    *,
    max_samples: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> DataFrame:
    """Which of several trained networks to fine-tune on these data, without training any.

    The better a network's features separate the classes, the less is left to train. The features
    are the input of the first dense layer behind the last layer with space (or time), else the
    output of the model.

    Args:
        models: Dict from names to built models that take the same inputs.
        x: Inputs, or a data set of batches `(x, y)`.
        y: Labels as for `separation_index`. Default: those in `x`.
        select_features: Whether each network's best features are chosen first, see
            `complexity.select_features`: slower, and kinder to wide features. Default False.
        max_samples: How many samples to take. Default: all.
        batch_size: Samples that go through a model at a time. Default 64.
        seed: int, of the samples by which features are chosen.

    Returns:
        A pandas frame, the best network first: `model`, `index`, `features` (how many), and with
        `select_features=True` `selected`, the list of them.

    Raises:
        ValueError: If `models` is empty, and as `separation_index`.
        TypeError: If `models` is no dict of models.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency.complexity import rank_models

    def network(units):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(units)])

    x, y = np.random.normal(size=(30, 4)), np.arange(30) % 2
    print(rank_models({"narrow": network(1), "wide": network(8)}, x, y))
    ```

    Source: Kalhor (2023), chapter 3.2, algorithm 2.
    """
    import pandas as pd

    batch_size = validation.integer("batch_size", batch_size)
    select_features = validation.boolean("select_features", select_features)
    if not isinstance(models, dict):
        raise validation.wrong(
            "models", "a dict from names to models", models, validation.ArgumentTypeError
        )
    if not models:
        raise ValueError("`models` is empty: pass a dict from names to models.")
    data, rows = (x, y), []
    for name, model in models.items():
        if not isinstance(model, keras.Model):
            raise TypeError(f"`models` must hold models. Received: {name!r}: {type(model)}")
        # A one-shot stream is read for the first model, and kept.
        x, y = _read(model, *data, max_samples)
        data = (x, y)
        features = _features(model, x, batch_size)
        _check_finite(features, f"the model {name!r}")
        chosen = None
        if select_features:
            chosen = select(features, y, seed=seed)
            features = features[:, chosen]
        rows.append((name, separation_index(features, y), features.shape[1], chosen))
    frame = pd.DataFrame(rows, columns=["model", "index", "features", "selected"])
    if not select_features:
        frame = frame.drop(columns="selected")
    return frame.sort_values("index", ascending=False, kind="stable", ignore_index=True)


def _read(model, x, y, max_samples):
    if not isinstance(model, keras.Model):
        raise validation.wrong("model", "a keras.Model", model, validation.ArgumentTypeError)
    x, y = reading.read(x, y, max_samples, model)
    if isinstance(y, (list, dict)):
        raise ValueError("`y` must be one array of labels. Received several targets.")
    y = reading.labels("y", y)
    reading.check_pair(tree.flatten(x)[0], y)
    return x, y


def _leaves(model, prefix=""):
    """`(path, layer)` of the layers of a model, those of nested models instead of these."""
    found, known = [], set()
    for layer in model.layers:
        if id(layer) in known or isinstance(layer, keras.layers.InputLayer):
            continue
        known.add(id(layer))
        if isinstance(layer, keras.Model):
            found += _leaves(layer, f"{prefix}{layer.name}/")
        else:
            found.append((prefix + layer.name, layer))
    return found


def _runs(model, x, batch_size, layers):
    """For each batch the list of first calls `(path, input, output)` of some layers."""
    calls = {}

    def hear(name):
        def handler(call, args, kwargs):
            outputs = call(*args, **kwargs)
            calls.setdefault(name, (name, _first((args, kwargs)), _first(outputs)))
            return outputs

        return handler

    heard = {layer: hear(name) for name, layer in layers}
    for batch in _batches(x, batch_size):
        calls.clear()
        with listening(heard):
            _call(model, batch)
        yield list(calls.values())


def _call(model, batch):
    """The model's outputs; state that it would assign stays as it is."""
    training = {"training": False} if model._call_has_training_arg else {}
    with keras.StatelessScope(), without_gradients():
        return model(tree.map_structure(keras.ops.convert_to_tensor, batch), **training)


def _first(nest):
    return next((x for x in tree.flatten(nest) if keras.ops.is_tensor(x)), None)


def _batches(x, batch_size):
    count = len(tree.flatten(x)[0])
    for start in range(0, count, batch_size):
        yield tree.map_structure(lambda a, s=start: a[s : s + batch_size], x)


def _rows(tensor):
    """What a layer gives, as rows of float32."""
    array = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
    return array.reshape(len(array), -1)


def _projected(rows, width, seed):
    """Rows of at most `width` features, and how many there were (a count sketch)."""
    count = rows.shape[1]
    if width is None or count <= width:
        return rows, count
    rng = np.random.default_rng(seed)
    # Every place gets its share of the features, so that none stays empty.
    order = rng.permutation(count)
    signs = rng.choice(np.array([-1.0, 1.0], "float32"), count)
    starts = np.arange(width) * count // width
    return np.add.reduceat((rows * signs)[:, order], starts, axis=1), count


def _features(model, x, batch_size):
    """The input of the first dense layer behind the last one with space, else the output."""
    found = _leaves(model)
    first = tree.map_structure(lambda a: a[:1], x)
    calls = next(_runs(model, first, 1, found))
    spatial = [i for i, (_, given, out) in enumerate(calls) if max(_rank(given), _rank(out)) > 2]
    layers = dict(found)
    behind = calls[spatial[-1] + 1 :] if spatial else []
    heads = [name for name, _, _ in behind if isinstance(layers[name], keras.layers.Dense)]
    if heads:
        head = [(heads[0], layers[heads[0]])]
        return np.concatenate([_rows(batch[0][1]) for batch in _runs(model, x, batch_size, head)])
    return np.concatenate([_rows(_first(_call(model, batch))) for batch in _batches(x, batch_size)])


def _rank(tensor):
    return 0 if tensor is None else len(tensor.shape)


def _check_finite(features, where):
    if not np.isfinite(features).all():
        raise ValueError(f"The features of {where} are not finite: there are NaN or infinity.")
