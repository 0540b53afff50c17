"""Where the walk starts: what the output neurons of a model are worth (table 4.3)."""

import logging

import numpy as np
from keras import ops, tree

from keras_saliency import validation
from keras_saliency.graph.gradients import without_gradients
from keras_saliency.sparsity.significance.inffs import inffs
from keras_saliency.sparsity.significance.scores import Score

_logger = logging.getLogger("keras_saliency")

SCORES = ("inffs", "identity", "pca")


class ConstantOutputs(ValueError):
    """The outputs do not vary over the data, so their neurons cannot be told apart."""


def output_scores(model, outputs, data, scores, alpha, batch_size):
    """Significance of the output neurons, a `Score` for each output tensor (equation 4.10)."""
    if not isinstance(scores, str):
        return _given_scores(outputs, scores)
    if scores not in SCORES:
        raise ValueError(
            f"`scores` must be one of {SCORES}, or an array. Received: scores={scores!r}"
        )
    alpha = validation.number("alpha", alpha, 0, 1)
    if data is None and scores != "identity":
        _logger.warning(
            "No data was given to score the outputs of '%s' by %s: all of them count the same "
            "(scores='identity').",
            model.name,
            scores,
        )
    if data is None or scores == "identity":
        return [_on_output(np.ones(x.shape[_axis(x)] or 1), x) for x in outputs]
    values = model_outputs(model, data, batch_size)
    result = []
    for index, (x, tensor) in enumerate(zip(values, outputs, strict=True)):
        axis = _axis(tensor)
        matrix = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) if x.ndim > 1 else x[:, None]
        if not np.isfinite(matrix).all():
            raise ValueError(
                f"Output {index} of '{model.name}' is not finite on `data`, so its neurons cannot "
                "be scored."
            )
        matrix = _without_rounding(matrix, tensor.dtype)
        vector = inffs(matrix, alpha) if scores == "inffs" else _pca(matrix)
        if not vector.any():
            raise ConstantOutputs(
                f"Output {index} of '{model.name}' does not vary over the {len(x)} sample(s) of "
                f"`data`, so `scores={scores!r}` cannot tell its neurons apart. Pass more, and "
                "different, samples, or scores='identity'."
            )
        result.append(_on_output(vector, tensor))
    return result


def model_outputs(model, data, batch_size=32):
    """The model's outputs on `data` at inference: a list of float64 arrays."""
    count = len(tree.flatten(data)[0])
    batches = []
    for begin in range(0, count, batch_size):
        batch = tree.map_structure(lambda x, b=begin: x[b : b + batch_size], data)
        with without_gradients():
            outputs = tree.flatten(model(batch, training=False))
        batches.append([ops.convert_to_numpy(ops.stop_gradient(x)) for x in outputs])
    return [np.concatenate(parts).astype(np.float64) for parts in zip(*batches, strict=True)]


def _pca(X):
    """Share of each column in the principal components, weighted by what they explain."""
    centred = X - X.mean(axis=0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    variance = np.square(singular)
    if variance.sum() == 0:
        return np.zeros(X.shape[1])
    return (variance / variance.sum()) @ np.abs(components)


def _axis(tensor):
    """The axis of an output's neurons: its channels."""
    return 1 if tensor.data_format == "channels_first" else len(tensor.shape) - 1


def _on_output(vector, tensor):
    shape = [1] * len(tensor.shape)
    if len(shape) > 1:
        shape[_axis(tensor)] = -1
    else:
        vector = vector.sum(keepdims=True)
    return Score(np.reshape(vector, shape))


def _given_scores(outputs, scores):
    many = isinstance(scores, (list, tuple)) and len(outputs) > 1
    scores = list(scores) if many else [scores]
    if len(scores) != len(outputs):
        raise ValueError(
            f"`scores` must hold an array for each of the model's {len(outputs)} outputs. "
            f"Received: {len(scores)}"
        )
    result = []
    for vector, tensor in zip(scores, outputs, strict=True):
        vector = validation.array("scores", vector).astype("float64")
        extent = tensor.shape[_axis(tensor)]
        if vector.shape != (extent,) or not np.isfinite(vector).all() or (vector < 0).any():
            raise ValueError(
                f"`scores` must be {SCORES}, or hold {extent} finite values >= 0 for an output of "
                f"shape {tensor.shape}. Received: shape {vector.shape}"
            )
        result.append(_on_output(vector, tensor))
    return result


def _without_rounding(matrix, dtype):
    """Columns that vary by rounding alone, as processors do from row to row, made constant."""
    step = np.finfo("float64" if dtype == "float64" else "float32").eps
    rounding = 4 * step * np.abs(matrix).max(axis=0)
    return np.where(np.ptp(matrix, axis=0) <= rounding, matrix[:1], matrix)
