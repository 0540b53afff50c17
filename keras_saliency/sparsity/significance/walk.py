"""How much each edge of a network contributes to its output (G 4.4.2)."""

import logging

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.data import read_inputs
from keras_saliency.graph.trace import compatible, flatten_model, understood
from keras_saliency.sparsity.kernels import Skipped, maskable_kernels
from keras_saliency.sparsity.registry import ADVICE, find_rule, has_rule
from keras_saliency.sparsity.significance.inffs import inffs
from keras_saliency.sparsity.significance.rules.operations import elementwise
from keras_saliency.sparsity.significance.scores import (
    EdgeScores,
    Score,
    add,
    add_factors,
    axis_scores,
    contract,
    spread,
)

_logger = logging.getLogger("keras_saliency")


class ConstantOutputs(ValueError):
    """The outputs do not vary over the data, so their neurons cannot be told apart."""


SCORES = ("inffs", "identity", "pca")
ORDERS = ("forward", "backward", "random")


def edge_significance(
    model,
    data=None,
    scores="inffs",
    *,
    layers=None,
    exclude=None,
    alpha=0.5,
    normalization="pass",
    batch_size=32,
    max_samples=None,
):
    """Significance of every edge of a model with respect to its output (G 4.4.2).

    Output neurons are scored from what they answer to `data`. The scores walk backwards through
    the network, `N_l = |W_{l+1}| N_{l+1}` (equation 4.8), and an edge scores by its weight and the
    neuron it leads to, `E_l = |W_l| * N_l` (equations 4.6 and 4.11). A neuron of a convolution is
    a channel. Where paths meet (residuals, layers used twice, several outputs) scores add.

    Each layer's scores are right up to one positive factor, chosen so that the neurons a kernel
    leads to have a mean significance of 1: `E = |W| * N / mean(N)`.

    Args:
        model: A built `keras.Model`: Sequential, functional, nested or subclassed. A layer that
            holds weights and is not known needs a rule: `register_significance_rule`.
        data: Inputs of the model, a sample of at least two: whatever `fit` takes (`y` is not
            used; several inputs go in a list or a dict). Without data every output neuron counts
            the same, as with `scores="identity"`, and a log message says so.
        scores: Significance of the output neurons (table 4.3): `"inffs"`, infinite feature
            selection; `"identity"`, all 1; `"pca"`, their share in the principal components,
            weighted by the variance that each explains; or an array with a value for each output
            neuron (a list of arrays for several outputs).
        layers, exclude: Which layers to return; see `maskable_kernels`. Significance walks through
            the others all the same.
        alpha: The `alpha` of `inffs`.
        normalization: `"pass"`: normalisation layers pass significance on; `"scale"`: they scale
            it by `|gamma| / sqrt(variance)`, what they do to their input at inference.
        batch_size: How many samples the model sees at once.
        max_samples: How many samples of `data` to take at most. Streams that are endless or can
            be read only once need it.

    Returns:
        A dict: a float64 array of the kernel's shape for each `Kernel.key`, which is the
        layer's name where it has one kernel, in the order of the model's layers.

    Raises:
        ValueError: If the model is not built, cannot be walked through, has no maskable layer, or
            if `data` leads to outputs that are constant or not finite.
        TypeError: If an argument is of a wrong type.

    Example:

    ```python
    import keras
    import numpy as np
    from keras_saliency import edge_significance

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    significance = edge_significance(model, np.random.rand(16, 8, 8, 1))
    assert significance["conv"].shape == (3, 3, 1, 4)
    ```
    """
    walk = SignificanceWalk(
        model,
        data,
        scores,
        order="forward",
        layers=layers,
        exclude=exclude,
        alpha=alpha,
        normalization=normalization,
        batch_size=batch_size,
        max_samples=max_samples,
    )
    found = {kernel.key: edges.array() for kernel, edges in walk}
    return {kernel.key: found[kernel.key] for kernel in walk.kernels if kernel.key in found}


class SignificanceWalk:
    """Edge scores, one kernel at a time, so that only one kernel's scores need memory.

    ```python
    import keras
    import numpy as np
    from keras_saliency.sparsity import SignificanceWalk

    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(7, name="hidden"), keras.layers.Dense(3, name="out")]
    )
    masks = {}
    walk = SignificanceWalk(model, np.random.rand(16, 5), order="backward")
    for kernel, edges in walk:  # first 'out', then 'hidden'
        scores = edges.array()  # or edges.blocks(), which needs no memory
        masks[kernel.key] = scores > np.median(scores)
        walk.decide(masks[kernel.key])  # scores of what lies upstream take it into account
    ```

    `kernel` is a `Kernel` (`key`, `layer`, `variable`, axes), `edges` an `EdgeScores`: `array()`
    gives all of it as float64, `blocks()` gives it piece by piece in C order without holding it,
    as often as wanted. All arguments are validated, and the data run through the model, before
    the constructor returns; nothing in the model is ever changed, so masks may be set while
    walking or afterwards.

    The order (G 4.6.6) decides in which order kernels come and what their scores know:
    `"forward"`, from the input to the output, all scores from the network as it is;
    `"backward"`, from the output to the input, each score aware of the masks decided before;
    `"random"`, in an order drawn from `seed`, each score aware of the masks decided before.

    A layer with a mask takes part with `kernel * mask`: it says which masks it has by a method
    `kernel_masks()` that returns a list of `(kernel variable, mask)` pairs. What is masked already
    scores 0, unless `stored=True`, which scores the stored weights, so that a masked edge may come
    back (in both cases only what is not masked carries significance further back, until `decide`
    replaces the mask).

    Args:
        model, data, scores, layers, exclude, alpha, normalization, batch_size, max_samples: As
            in `edge_significance`.
        order: `"forward"`, `"backward"` or `"random"`.
        seed: Seed of the random order.
        stored: Whether masked edges are scored by their stored weights.

    Attributes:
        kernels: The `Kernel` objects that will come, in the order of the model's layers.
        skipped: `Skipped(path, layer, reason)` for the layers with weights that will not.
    """

    def __init__(
        self,
        model,
        data=None,
        scores="inffs",
        *,
        order="backward",
        seed=None,
        layers=None,
        exclude=None,
        alpha=0.5,
        normalization="pass",
        batch_size=32,
        max_samples=None,
        stored=False,
    ):
        if order not in ORDERS:
            raise ValueError(f"`order` must be one of {ORDERS}. Received: order={order!r}")
        if normalization not in ("pass", "scale"):
            raise ValueError(
                "`normalization` must be 'pass' or 'scale'. "
                f"Received: normalization={normalization!r}"
            )
        found = maskable_kernels(model, layers, exclude)
        self.model = model
        self.order = order
        self.stored = stored
        self.normalization = normalization
        self._rng = np.random.default_rng(seed)
        self._masks = {}
        for layer in model._flatten_layers():
            for variable, mask in getattr(layer, "kernel_masks", tuple)():
                self._masks[id(variable)] = mask
        data = read_inputs(model, data, max_samples)
        self._graph = flatten_model(model, _first(data), has_rule, ADVICE)
        for call in self._graph.calls:
            _check_rule(call)
        self._uses = {}
        known = {id(kernel.variable): kernel for kernel in found}
        for index, call in enumerate(self._graph.calls):
            if isinstance(call.layer, keras.layers.Layer):
                for variable in call.layer.weights:
                    if id(variable) in known:
                        self._uses.setdefault(id(variable), []).append(index)
        self.kernels = [kernel for kernel in found if id(kernel.variable) in self._uses]
        self.skipped = list(found.skipped) + [
            Skipped(kernel.key, kernel.layer, "it is on no path to an output")
            for kernel in found
            if id(kernel.variable) not in self._uses
        ]
        self._by_id = {id(kernel.variable): kernel for kernel in self.kernels}
        self._output_scores = output_scores(
            model, self._graph.outputs, data, scores, alpha, batch_size
        )
        self._decided = {}
        self._current = None

    def decide(self, mask):
        """Set the mask of the kernel that came last: an array of its shape, 0 where masked."""
        if self._current is None:
            raise ValueError("`decide` sets the mask of a kernel while the walk stands at it.")
        mask = np.asarray(mask)
        if mask.shape != self._current.shape:
            raise ValueError(
                f"The mask of '{self._current.key}' must have the shape {self._current.shape}. "
                f"Received: mask.shape={mask.shape}"
            )
        self._decided[id(self._current.variable)] = mask

    def __iter__(self):
        self._decided = {}
        walk = {"forward": self._forward, "backward": self._backward, "random": self._random}
        for kernel, edges in walk[self.order]():
            self._current = kernel
            yield kernel, edges
            self._current = None

    def _forward(self):
        factors = {}
        for _ in self._steps(factors):
            pass
        first_use = {key: min(calls) for key, calls in self._uses.items()}
        for kernel in sorted(self.kernels, key=lambda kernel: first_use[id(kernel.variable)]):
            yield kernel, self._edges(kernel, factors.get(id(kernel.variable)))

    def _random(self):
        for index in self._rng.permutation(len(self.kernels)):
            kernel = self.kernels[index]
            factors = {}
            for step in self._steps(factors):
                if step == min(self._uses[id(kernel.variable)]):
                    break
            yield kernel, self._edges(kernel, factors.get(id(kernel.variable)))

    def _backward(self):
        factors = {}
        due = {}
        for key, calls in self._uses.items():
            due.setdefault(min(calls), set()).add(key)
        steps = self._steps(factors, repeat=due)
        for step in steps:
            for key in [key for key in factors if key in due.get(step, ())]:
                due[step].discard(key)
                kernel = self._by_id[key]
                yield kernel, self._edges(kernel, factors[key])
                break
            else:
                for key in list(due.get(step, ())):  # No significance reaches it.
                    due[step].discard(key)
                    yield self._by_id[key], self._edges(self._by_id[key], None)

    def _steps(self, factors, repeat=None):
        """Walk the calls backwards. Yields the index of each call before its input scores count.

        `factors` collects `{id(variable): Score}`. A call whose index has keys left in `repeat`
        is evaluated again after the yield, so that masks decided there take effect.
        """
        scores = {}
        for tensor, score in zip(self._graph.outputs, self._output_scores, strict=True):
            scores[tensor] = add(scores.get(tensor), score, tensor.shape)
        before = {}
        for index in range(len(self._graph.calls) - 1, -1, -1):
            call = self._graph.calls[index]
            given = [scores.pop(tensor, None) for tensor in call.outputs]
            while True:
                reported, results = self._evaluate(call, given)
                for key, score in reported.items():
                    factors[key] = add_factors(before.get(key), score)
                pending = bool(repeat and repeat.get(index))
                yield index
                if not pending:
                    break
            before.update({key: factors[key] for key in reported})
            for tensor, score in results:
                scores[tensor] = add(scores.get(tensor), score, tensor.shape)

    def _evaluate(self, call, given):
        """Run a call's rule: returns the reported factors and the scores of its inputs."""
        if all(score is None or score.is_zero for score in given):
            return {}, []
        exponent = max(score.exponent for score in given if score is not None)
        aligned = [
            np.zeros((1,) * len(tensor.shape)) if score is None else score.scaled_to(exponent)
            for tensor, score in zip(call.outputs, given, strict=True)
        ]
        rule_call = RuleCall(
            self, call.layer, call.args, call.kwargs, call.inputs, call.outputs, aligned
        )
        results = rule_call.run()
        reported = {key: Score(factor, exponent) for key, factor in rule_call.reported.items()}
        inputs = [
            (tensor, Score(array, exponent))
            for tensor, array in zip(call.inputs, results, strict=True)
            if array is not None
        ]
        return reported, inputs

    def _edges(self, kernel, score):
        variable = kernel.variable
        values = ops.convert_to_numpy(_effective(kernel.owner, kernel.name))
        mask = None
        if not self.stored and id(variable) in self._masks:
            mask = _to_numpy(self._masks[id(variable)])
        if score is None or score.is_zero:
            return EdgeScores(values, np.zeros((1,) * values.ndim), mask=mask)
        mean = score.array.mean()
        return EdgeScores(values, score.array / mean, score.exponent + np.log2(mean), mask)

    def _mask_of(self, variable):
        mask = self._decided.get(id(variable))
        if mask is None:
            mask = self._masks.get(id(variable))
        return None if mask is None else _to_numpy(mask)


class RuleCall:
    """What a significance rule is given; see `register_significance_rule`."""

    inside = ""

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
        """`"pass"` or `"scale"`: what normalisation layers do with significance."""
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
        call = RuleCall(
            self._walk, layer, args, kwargs or {}, list(inputs), list(outputs), list(output_scores)
        )
        _check_rule(call)
        call.reported = self.reported
        return call.run()

    def run(self):
        """The scores of the inputs: a list of arrays of their ranks, or `None`s."""
        rule = find_rule(self.layer)
        if rule is not None:
            results = rule(self)
        elif isinstance(self.layer, keras.layers.Layer):
            results = _pass_through(self)
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
        return ops.convert_to_numpy(_effective(layer, name)), self._walk._mask_of(variable)


def _effective(layer, name):
    """The weight as used: merged with its low-rank update where LoRA is on."""
    if getattr(layer, "lora_enabled", False):
        return getattr(layer, name.lstrip("_"))
    return getattr(layer, name)


def _to_numpy(x):
    return x if isinstance(x, np.ndarray) else ops.convert_to_numpy(x)


def _check_rule(call):
    """Raise where nothing is known about a layer, before anything is computed."""
    layer = call.layer
    if find_rule(layer) is not None or understood(call, has_rule):
        return
    name = type(layer).__name__
    where = f" (in '{call.inside}')" if call.inside else ""
    if getattr(layer, "weights", None):
        raise ValueError(
            f"No significance rule is known for the layer '{layer.name}'{where} of the class "
            f"{name}, which has weights. Register one: "
            f"`@keras_saliency.sparsity.register_significance_rule({name}, kernels=(...))`; its "
            "docstring shows how."
        )
    raise ValueError(
        f"No significance rule is known for '{layer.name}'{where} of the class {name}, which turns "
        f"{[x.shape for x in call.inputs]} into {[x.shape for x in call.outputs]}. Register one: "
        f"`@keras_saliency.sparsity.register_significance_rule({name})`."
    )


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


def first_sample(model, data):
    """The inputs of one sample, for their shapes."""
    return _first(read_inputs(model, data))


def _first(data):
    return None if data is None else tree.map_structure(lambda x: x[:1], data)


def output_scores(model, outputs, data, scores, alpha, batch_size):
    """Significance of the output neurons, a `Score` for each output tensor (equation 4.10)."""
    if not isinstance(scores, str):
        return _given_scores(outputs, scores)
    if scores not in SCORES:
        raise ValueError(
            f"`scores` must be one of {SCORES}, or an array. Received: scores={scores!r}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1]. Received: alpha={alpha!r}")
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
        vector = np.asarray(vector, dtype=np.float64)
        extent = tensor.shape[_axis(tensor)]
        if vector.shape != (extent,) or not np.isfinite(vector).all() or (vector < 0).any():
            raise ValueError(
                f"`scores` must be {SCORES}, or hold {extent} finite values >= 0 for an output of "
                f"shape {tensor.shape}. Received: shape {vector.shape}"
            )
        result.append(_on_output(vector, tensor))
    return result
