"""How much each edge of a network contributes to its output (G 4.4.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, get_args

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.graph.data import first_sample, read_inputs
from keras_saliency.graph.trace import flatten_model
from keras_saliency.sparsity.kernels import Skipped, maskable_kernels, selected_layers
from keras_saliency.sparsity.registry import ADVICE, has_rule
from keras_saliency.sparsity.significance import rules as _rules  # noqa: F401  (registers them)
from keras_saliency.sparsity.significance.call import (
    SignificanceCall,
    check_rule,
    effective,
    to_numpy,
)
from keras_saliency.sparsity.significance.outputs import output_scores
from keras_saliency.sparsity.significance.scores import (
    EdgeScores,
    Score,
    add,
    add_factors,
)
from keras_saliency.typing import ArrayLike, Data, Layers

_logger = logging.getLogger("keras_saliency")


Order = Literal["forward", "backward", "random"]
ORDERS = get_args(Order)


def edge_significance(
    model: keras.Model,
    data: Data | None = None,
    scores: str | ArrayLike | Sequence[ArrayLike] = "inffs",
    *,
    layers: Layers | None = None,
    exclude: Layers | None = None,
    alpha: float = 0.5,
    normalization: str = "pass",
    batch_size: int = 32,
    max_samples: int | None = None,
) -> dict[str, np.ndarray]:
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
            the others all the same; one that is excluded needs no rule for that.
        alpha: The `alpha` of `inffs`.
        normalization: `"pass"`: normalization layers pass significance on; `"scale"`: they scale
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
        model: keras.Model,
        data: Data | None = None,
        scores: str | ArrayLike | Sequence[ArrayLike] = "inffs",
        *,
        order: Order = "backward",
        seed: int | None = None,
        layers: Layers | None = None,
        exclude: Layers | None = None,
        alpha: float = 0.5,
        normalization: str = "pass",
        batch_size: int = 32,
        max_samples: int | None = None,
        stored: bool = False,
    ):
        validation.choice("order", order, ORDERS)
        validation.choice("normalization", normalization, ("pass", "scale"))
        batch_size = validation.integer("batch_size", batch_size)
        found = maskable_kernels(model, layers, exclude)
        self.model = model
        self.order = order
        self.stored = stored
        self.read = ops.convert_to_numpy  # a copy: the scores outlive a change of the weights
        self.normalization = normalization
        self._rng = np.random.default_rng(seed)
        self._masks = {}
        for layer in model._flatten_layers():
            for variable, mask in getattr(layer, "kernel_masks", tuple)():
                self._masks[id(variable)] = mask
        data = read_inputs(model, data, max_samples)
        self.spared = selected_layers(model, exclude, "exclude")
        self._graph = flatten_model(
            model,
            first_sample(data),
            has_rule,
            ADVICE,
            self.spared.__contains__,
            fill=True,
        )
        for call in self._graph.calls:
            check_rule(call, self.spared)
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

    def decide(self, mask: ArrayLike) -> None:
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
        rule_call = SignificanceCall(
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
        values = self.read(effective(kernel.owner, kernel.name))
        mask = None
        if not self.stored and id(variable) in self._masks:
            mask = to_numpy(self._masks[id(variable)])
        if score is None or score.is_zero:
            return EdgeScores(values, np.zeros((1,) * values.ndim), mask=mask)
        mean = score.array.mean()
        return EdgeScores(values, score.array / mean, score.exponent + np.log2(mean), mask)

    def _mask_of(self, variable):
        mask = self._decided.get(id(variable))
        if mask is None:
            mask = self._masks.get(id(variable))
        return None if mask is None else to_numpy(mask)
