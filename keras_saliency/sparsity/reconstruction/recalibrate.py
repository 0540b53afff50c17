"""Statistics of batch norms, after surgery."""

from __future__ import annotations

import logging

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.copying import check_built
from keras_saliency.graph.data import read_inputs
from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.gradients import without_gradients
from keras_saliency.graph.steps import Steps
from keras_saliency.typing import Data

_logger = logging.getLogger("keras_saliency")


def recalibrate(
    model: keras.Model, data: Data, reference: keras.Model | None = None, *, batch_size: int = 32
) -> keras.Model:
    """Set the moving statistics of batch norms to what they see now, in place, without training.

    After weights or channels were removed, the means and variances that batch norms learnt no
    longer fit their inputs. One norm after another, from the input on, gets those that it has on
    `data`. With `reference`, the model before surgery, statistics are corrected rather than
    replaced: `mean_ref + (m - m_ref)` and `var_ref * v / v_ref`, with `m` and `v` measured on
    `data` in both models, so that a small sample does less harm.

    Args:
        model: A built model. Its moving means and variances change.
        data: Inputs; what `model.predict` takes, or `(x, y)` pairs of them.
        reference: The model before surgery, or `None`.
        batch_size: Integer, how many samples the model sees at once.

    Returns:
        `model`.

    Raises:
        ValueError: If the model is not built, or `data` is empty or gives statistics that are not
            finite; nothing is changed then.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16), keras.layers.BatchNormalization()]
    )
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    keras_saliency.recalibrate(model, x)
    y = keras.ops.convert_to_numpy(model(x))
    assert abs(y.mean()) < 0.01 and abs(y.std() - 1) < 0.01
    ```
    """
    check_built(model)
    data = read_inputs(model, data)
    if data is None:
        raise ValueError("`data` must hold inputs of the model. Received: data=None")
    norms = norms_of(model)
    if not norms:
        return model
    known = {}
    if reference is not None:
        check_built(reference)
        with without_gradients():
            known = _measure_all(reference, norms_of(reference), data, batch_size)
        lost = [norm.name for norm in norms if norm.name not in known]
        if lost:
            _logger.warning(
                "`reference` has no batch norm of the names %s, or never calls them: they get the "
                "statistics of `data` alone.",
                lost,
            )
    before = [(v, np.array(ops.convert_to_numpy(v))) for norm in norms for v in _statistics(norm)]
    try:
        with without_gradients():
            silent = _replace(model, norms, known, data, batch_size)
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise
    if silent:
        _logger.warning("No data reach the batch norms %s: they stay as they are.", silent)
    return model


def norms_of(model):
    """The batch norms of a model."""
    return [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]


def _statistics(norm):
    return norm.moving_mean, norm.moving_variance


def _replace(model, norms, known, data, batch_size):
    """Give each norm its statistics in the order of the calls: each sees what those before it do.

    Returns the names of the norms that were never called.
    """
    batches = list(_batches(data, batch_size))
    left = {id(norm): norm for norm in norms}
    if not is_functional(model):
        _calibrate(lambda batch: model(batch, training=False), batches, left, known)
        return [norm.name for norm in left.values()]
    steps = Steps(model)
    streams = [steps.feed(model, batch) for batch in batches]
    for i, step in enumerate(steps.steps):
        inside = {id(part): left[id(part)] for part in _parts(step.operation) if id(part) in left}
        if inside:
            _calibrate(step.run, streams, inside, known)
            done = {key for key in left if _is_part(left[key], step.operation)} - set(inside)
            left = {key: norm for key, norm in left.items() if key not in done}
        steps.advance(i, streams)
    return [norm.name for norm in left.values()]


def _parts(operation):
    return operation._flatten_layers() if isinstance(operation, keras.layers.Layer) else []


def _is_part(norm, operation):
    return any(norm is part for part in _parts(operation))


def _batches(data, batch_size):
    for start in range(0, len(tree.flatten(data)[0]), batch_size):
        yield tree.map_structure(lambda x, a=start: x[a : a + batch_size], data)


def _calibrate(run, batches, left, known):
    """Set the statistics of the norms in `left`, first called first; those set leave it."""
    while left:
        found = _measure(run, batches, left)
        if not found:
            return
        key, sums = next(iter(found.items()))  # the first that was called
        norm = left.pop(key)
        mean, variance = sums.mean, sums.variance
        if norm.name in known:
            old = known[norm.name]
            mean = old.moving_mean + mean - old.mean
            ratio = np.divide(
                variance, old.variance, out=np.ones_like(variance), where=old.variance > 0
            )
            variance = old.moving_variance * np.clip(ratio, 0, 100)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(
                f"The inputs of '{norm.name}' are not finite on `data`. Remove NaN and infinity "
                "from `data`, or look for them in the weights."
            )
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)


def _measure_all(model, norms, data, batch_size):
    """Statistics, as they are and as measured, of the norms of a model, by name."""
    found = _measure(
        lambda batch: model(batch, training=False),
        _batches(data, batch_size),
        {id(norm): norm for norm in norms},
    )
    result = {}
    for norm in norms:
        if id(norm) in found:
            sums = found[id(norm)]
            sums.moving_mean, sums.moving_variance = (
                np.array(ops.convert_to_numpy(v), "float64") for v in _statistics(norm)
            )
            result[norm.name] = sums
    return result


class _Sums:
    def __init__(self):
        self.count = 0
        self.total = 0.0
        self.squares = 0.0

    def add(self, x, axis):
        x = np.asarray(ops.convert_to_numpy(ops.stop_gradient(x)), "float64")
        x = np.moveaxis(x, axis, -1)
        x = x.reshape(-1, x.shape[-1])
        self.count += len(x)
        self.total = self.total + x.sum(0)
        self.squares = self.squares + np.square(x).sum(0)

    @property
    def mean(self):
        return self.total / self.count

    @property
    def variance(self):
        return np.maximum(self.squares / self.count - np.square(self.mean), 0)


def _measure(run, batches, norms):
    """Sums over the inputs of norms, by id, in the order of their first calls."""
    found = {}

    def watch(norm):
        call = norm.call

        def watched(inputs, *args, **kwargs):
            found.setdefault(id(norm), _Sums()).add(inputs, norm.axis)
            return call(inputs, *args, **kwargs)

        norm.__dict__["call"] = watched

    for norm in norms.values():
        watch(norm)
    try:
        for batch in batches:
            run(batch)
    finally:
        for norm in norms.values():
            norm.__dict__.pop("call", None)
    return found
