"""One call of a layer, as a significance rule sees it."""

import keras
import numpy as np
from keras import ops

from keras_saliency.graph.reading import read
from keras_saliency.graph.trace import compatible, understood
from keras_saliency.sparsity.registry import find_significance_rule, has_rule
from keras_saliency.sparsity.significance.rules.common import elementwise
from keras_saliency.sparsity.significance.scores import axis_scores, contract, spread


class SignificanceCall:
    """What a significance rule is given; see `register_significance_rule`."""

    def __init__(self, walk, layer, args, kwargs, inputs, outputs, output_scores):
        self._walk = walk
        self.layer = layer
        self.args = args
        self.kwargs = kwargs
        self.inputs = inputs
        self.outputs = outputs
        self.output_scores = output_scores
        self.reported = {}

    @property
    def normalization(self):
        """`"pass"` or `"scale"`: what normalization layers do with significance."""
        return self._walk.normalization

    def scores(self, axis=-1, output=0):
        """Significance of the entries of one axis of an output, a float64 vector."""
        return axis_scores(self.output_scores[output], axis, self.outputs[output].shape[axis])

    def magnitude(self, name, layer=None):
        """`|weight|` as the layer uses it, times its mask, in float64."""
        values, mask = self._values(name, layer)
        magnitude = np.abs(np.array(values, dtype=np.float64))
        return magnitude if mask is None else magnitude * mask

    def contract(self, name, factor, keep, layer=None):
        """Sum of `|weight| * factor` over all axes but `keep`, without holding `|weight|`."""
        values, mask = self._values(name, layer)
        return contract(values, mask, factor, keep)

    def edges(self, name, factor, layer=None):
        """Report the edge scores `|weight| * factor` of a kernel (equation 4.6)."""
        variable = getattr(self.layer if layer is None else layer, name)
        rank = len(variable.shape)
        factor = np.asarray(factor, dtype=np.float64)
        factor = factor.reshape((1,) * (rank - factor.ndim) + factor.shape)
        key = id(variable)
        if key in self._walk._by_id:
            if key in self.reported:
                factor = factor + self.reported[key]
            self.reported[key] = factor

    def delegate(self, layer, inputs, outputs, output_scores, args=None, kwargs=None):
        """Run the rule of another layer, one that this layer is made of."""
        args = (inputs[0] if len(inputs) == 1 else list(inputs),) if args is None else args
        call = SignificanceCall(
            self._walk, layer, args, kwargs or {}, list(inputs), list(outputs), list(output_scores)
        )
        check_rule(call, self._walk.spared)
        call.reported = self.reported
        return call.run()

    def run(self):
        """The scores of the inputs: a list of arrays of their ranks, or `None`s."""
        rule = find_significance_rule(self.layer)
        if rule is not None:
            results = rule(self)
        elif isinstance(self.layer, keras.layers.Layer):
            results = _pass_through(self) if understood(self, has_rule) else _evenly(self)
        else:
            results = elementwise(self)
        if not isinstance(results, (list, tuple)):
            results = [results]
        results = list(results) + [None] * (len(self.inputs) - len(results))
        if len(results) != len(self.inputs):
            raise ValueError(
                f"The significance rule of '{self.layer.name}' returned {len(results)} scores for "
                f"{len(self.inputs)} inputs."
            )
        return [self._checked(x, tensor) for x, tensor in zip(results, self.inputs, strict=True)]

    def _checked(self, array, tensor):
        if array is None:
            return None
        array = np.asarray(array, dtype=np.float64)
        rank = len(tensor.shape)
        if array.ndim < rank:
            array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        fits = array.ndim == rank and all(
            got == 1 or want is None or got == want
            for got, want in zip(array.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"The significance rule of '{self.layer.name}' ({type(self.layer).__name__}) "
                f"returned scores of shape {array.shape} for an input of shape {tensor.shape}."
            )
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise ValueError(
                f"The significance of the inputs of '{self.layer.name}' "
                f"({type(self.layer).__name__}) is negative or not finite: its weights may hold "
                "NaN or infinity."
            )
        return array

    def _values(self, name, layer):
        layer = self.layer if layer is None else layer
        variable = getattr(layer, name)
        return read(effective(layer, name)), self._walk._mask_of(variable)


def effective(layer, name):
    """The weight as used: merged with its low-rank update where LoRA is on."""
    if getattr(layer, "lora_enabled", False):
        return getattr(layer, name.lstrip("_"))
    return getattr(layer, name)


def to_numpy(x):
    return x if isinstance(x, np.ndarray) else ops.convert_to_numpy(x)


def check_rule(call, spared):
    """Raise where nothing is known about a layer, before anything is computed."""
    layer = call.layer
    if layer in spared or find_significance_rule(layer) is not None or understood(call, has_rule):
        return
    name = type(layer).__name__
    if getattr(layer, "weights", None):
        raise ValueError(
            f"No significance rule is known for the layer '{layer.name}' of the class "
            f"{name}, which has weights. Register one: "
            f"`@keras_saliency.sparsity.register_significance_rule({name}, kernels=(...))`; its "
            f"docstring shows how. Or leave the layer out with `exclude=['{layer.name}']`."
        )
    raise ValueError(
        f"No significance rule is known for '{layer.name}' of the class {name}, which turns "
        f"{[x.shape for x in call.inputs]} into {[x.shape for x in call.outputs]}. Register one: "
        f"`@keras_saliency.sparsity.register_significance_rule({name})`."
    )


def _evenly(call):
    """A layer that was left out, of which nothing is known: all of its inputs count alike."""
    score = sum(array.sum() for array in call.output_scores)
    for tensor, output in ((x, y) for x in call.inputs for y in call.outputs):
        if compatible(tensor, output):
            return _pass_through(call)
    return [np.full((1,) * len(tensor.shape), score) for tensor in call.inputs]


def _pass_through(call):
    """An unknown layer without weights that keeps the shape hands significance on."""
    results = []
    for tensor in call.inputs:
        score = None
        for output, array in zip(call.outputs, call.output_scores, strict=True):
            if compatible(tensor, output):
                score = array if score is None else score + spread(array, score.shape)
        results.append(score)
    return results
