"""XM2A: multi-scale attention heads that talk to each other, at a cost linear in time."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.convolution_heads import (
    ConvolutionHeads,
    check_series,
    check_series_mask,
    convolve,
)
from keras_saliency.typing import Constraint, Initializer, Regularizer, Tensor

Variant = Literal["xm2a", "msmsa", "exp", "pool", "exp-pool", "hybrid"]
VARIANTS = get_args(Variant)
Talk = Literal["scale", "self", "input"]
TALKS = get_args(Talk)
Descriptor = Literal["average", "maximum"]
DESCRIPTORS = get_args(Descriptor)
Normalization = Literal["layer", "batch", None]
NORMALIZATIONS = get_args(Normalization)


def head_windows(variant, num_heads):
    """Return the pooling window and the kernel window of each head (G table 7.1).

    Args:
        variant: `"xm2a"` (window h), `"msmsa"` (2h - 1), `"exp"` (2^(h-1)), `"pool"` (pooling of
            h, window 1), `"exp-pool"` (pooling of 2^(h-1), window 1) or `"hybrid"` (pooling of
            ceil(2^(h-1) / h), window h).
        num_heads: Integer, H; heads are counted h = 1..H.

    Returns:
        List of H pairs `(pooling window, kernel window)`, in time steps.
    """
    rules = {
        "xm2a": lambda h: (1, h),
        "msmsa": lambda h: (1, 2 * h - 1),
        "exp": lambda h: (1, 2 ** (h - 1)),
        "pool": lambda h: (h, 1),
        "exp-pool": lambda h: (2 ** (h - 1), 1),
        "hybrid": lambda h: (math.ceil(2 ** (h - 1) / h), h),
    }
    validation.choice("variant", variant, VARIANTS)
    return [rules[variant](h) for h in range(1, num_heads + 1)]


def window_sums(x, sizes):
    """Sum `x` over windows of each size around every time step.

    A window of size w covers the steps t - (w - 1) // 2 to t + w // 2, as `same` padding does;
    steps outside count as zero. Windows are put together from windows of powers of two, so a
    window of w costs at most 2 log2(w) additions, and no large partial sum is ever subtracted.

    Args:
        x: Tensor of shape `(batch, time, channels)`.
        sizes: Iterable of integers >= 1.

    Returns:
        Dict from each size to a tensor of the shape of `x`.
    """
    sizes = sorted(set(sizes))
    steps = ops.shape(x)[1]
    left, right = (sizes[-1] - 1) // 2, sizes[-1] // 2
    # powers[p][:, t] is the sum of the 2**p steps that begin at padded step t.
    powers = [ops.pad(x, [[0, 0], [left, right], [0, 0]])]
    while 2 ** len(powers) <= sizes[-1]:
        last, half = powers[-1], 2 ** (len(powers) - 1)
        powers.append(last[:, :-half] + last[:, half:])
    sums = {}
    for size in sizes:
        start, total = left - (size - 1) // 2, None
        for p, part in enumerate(powers):
            if size >> p & 1:
                part = part[:, start : start + steps]
                total = part if total is None else total + part
                start += 2**p
        sums[size] = total
    return sums


def shifted_means(x, offsets, valid=None, count=None):
    """Average over time of `x` shifted by each offset: mean over the steps t of `x[t + offset]`.

    The mean over time of a convolution is the convolution's kernel applied to these means, which
    spares the convolution itself.

    Args:
        x: Tensor of shape `(batch, time, channels)`, zero at the steps that do not count.
        offsets: Range of consecutive integers.
        valid: Optional tensor of shape `(batch, time, 1)`, 1 at the steps t that count.
        count: Number of steps that count, a number or a tensor of shape `(batch, 1, 1)`.

    Returns:
        Tensor of shape `(batch, len(offsets), channels)`.
    """
    steps = ops.shape(x)[1]
    shifts = ops.convert_to_tensor([[offset] for offset in offsets], "int32")
    index = ops.arange(steps, dtype="int32")[None, :] - shifts
    inside = ops.logical_and(index >= 0, index < steps)
    if valid is None:
        weights = ops.cast(inside, x.dtype)[None]
        weights = ops.broadcast_to(weights, (ops.shape(x)[0], len(offsets), steps))
    else:
        weights = ops.take(valid[..., 0], ops.clip(index, 0, steps - 1), axis=1)
        weights = weights * ops.cast(inside, x.dtype)
    return ops.matmul(weights, x) / count


def at_least_one(x):
    # Beside a Python number, TorchDynamo would trace Keras's promotion of types, and warn.
    return ops.maximum(x, ops.ones_like(x))


def _exponentials(query, key):
    """Return exp(query * key) scaled so that the largest over time is 1: nothing overflows."""
    highest, lowest = ops.amax(key, axis=1), ops.amin(key, axis=1)
    reference = ops.where(query >= 0, highest[:, None], lowest[:, None])
    # Differences of keys first: large products would cancel and lose their digits.
    return ops.exp(query[:, None] * (key[:, :, None] - reference[:, None]))


def _mask(query, key, count, valid):
    weights = _exponentials(query, key)
    if valid is not None:
        weights = weights * valid
    # The largest weight is 1, so only a series without a valid step has a total below 1.
    return weights * (count / at_least_one(ops.sum(weights, axis=1, keepdims=True)))


def _recomputed_mask(query, key, count, valid):
    """Do what `_mask` does, and keep nothing of the size of the mask for the backward pass."""

    def forward(query, key, count, *valid):
        def weights():
            w = _exponentials(query, key)
            return w * valid[0] if valid else w

        w = weights()
        total = at_least_one(ops.sum(w, axis=1, keepdims=True))

        def backward(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            # With m = w / total: d_logits = m (g - sum over time of m g), g = count * upstream.
            w = weights()
            gated = w * upstream
            row = key[:, None]
            mean = ops.sum(gated, axis=1, keepdims=True) / total
            d_query = (ops.matmul(row, gated) - ops.matmul(row, w) * mean) * (count / total)
            slope = ops.transpose(query[:, None] * (count / total), (0, 2, 1))
            d_key = ops.matmul(gated, slope) - ops.matmul(w, slope * ops.transpose(mean, (0, 2, 1)))
            return d_query[:, 0], d_key[..., 0], ops.zeros_like(count), *map(ops.zeros_like, valid)

        return w * (count / total), backward

    return ops.custom_gradient(forward)(query, key, count, *(() if valid is None else (valid,)))


def talking_masks(pairs, count, valid=None, remat=True):
    """Sum over pairs of the softmax over time of query times key (G equations 7.7 and 7.8).

    With `remat`, the exponentials of a pair are computed again in the backward pass: a sum of P
    pairs then needs the memory of one, in training as in inference.

    Args:
        pairs: List of `(query, key)`, `query` of shape `(batch, kernels)` and `key` of shape
            `(batch, time)`, float32.
        count: Number of valid steps, shape `(batch or 1, 1, 1)`.
        valid: Optional tensor of shape `(batch, time, 1)`: 1 for a step, 0 for padding.
        remat: Whether the backward pass recomputes the exponentials.

    Returns:
        Tensor of shape `(batch, time, kernels)`: `count` times the sum of the masks, so that its
        mean over time is the number of pairs, however long the series.
    """
    total = None
    for query, key in pairs:
        # The softmax does not see a constant; around their mean keys keep more digits, and the
        # zero at padded steps never exceeds the largest valid key.
        if valid is None:
            key = key - ops.mean(key, axis=1, keepdims=True)
        else:
            exists = valid[..., 0]
            steps = at_least_one(ops.sum(exists, axis=1, keepdims=True))
            key = (key - ops.sum(key * exists, axis=1, keepdims=True) / steps) * exists
        part = (_recomputed_mask if remat else _mask)(query, key, count, valid)
        total = part if total is None else total + part
    return total


@keras.saving.register_keras_serializable(package="keras_saliency")
class XM2AHeads(ConvolutionHeads):
    """Multi-scale multi-head attention with cross-talk between the heads (G chapter 7).

    A replacement for multi-head self-attention on time series whose time and memory grow
    linearly with the length of the series, where dot-product attention grows quadratically.
    Head h looks at the series through convolutions of its own window (table 7.1) and describes it
    twice: a query per kernel, averaged over time, and a key per time step, averaged over kernels.
    The query of each head meets the key of every head; each meeting is a softmax over time, and
    their sum weighs the values of the head:

        q_h[v] = mean over t of Q_h[t, v]        k_h[t] = mean over v of K_h[t, v]     (7.5, 7.6)
        M_{h1,h2} = softmax over t of q_{h1} k_{h2}^T                                 (7.8)
        Y_{h1} = norm(sum over h2 of M_{h1,h2} * V_{h1})                        (7.9, 7.10)
        output = concat(Y_1, ..., Y_H) W^O                                            (7.11)

    Where the text is silent: convolutions are linear and padded with zeros (`same`); the keys have
    no bias, because the softmax over time does not see one; with averages, Q_h and K_h are never
    formed, since the mean of a convolution is a convolution of means; the normalization sees Y_h
    times the number of time steps, so that its `epsilon` does not depend on the length.

    Args:
        num_heads: Integer, H.
        key_dim: Integer, kernels of each head, d.
        variant: Windows of the heads, table 7.1: `"xm2a"` h; `"msmsa"` 2h - 1; `"exp"` 2^(h-1);
            `"pool"` average pooling of h, then window 1; `"exp-pool"` pooling of 2^(h-1), then
            window 1; `"hybrid"` pooling of ceil(2^(h-1) / h), then window h. Pooling averages
            the steps that exist.
        talk: `"scale"`: every head with every head (7.8). `"self"`: each head with itself (7.7).
            `"input"`: each head's query with the key of the input, and the query of the
            input with each head's key, after a projection of the input to `key_dim` (7.6.4.3).
        descriptor: `"average"` or `"maximum"`, how queries and keys summarize.
        normalization: `"layer"` over the kernels of each head, `"batch"`, or `None`.
        output_dim: Integer, size of the output; default: the variates of the input.
        share_projections: Whether one convolution per head serves as query, key and value.
        dropout: Float in [0, 1), share of the summed masks' elements dropped in training.
        use_bias: Whether queries, values and the output projection have biases.
        epsilon: Float, added to the variance in the normalization.
        remat: Whether training computes the masks again in the backward pass, through a custom
            gradient, instead of keeping all H^2 of them. Memory is linear in H * time either
            way in inference; set it to `False` for forward-mode or second derivatives.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: For the convolutions and the output projection.
        activity_regularizer: Regularizer of the output.
        start: `"paper"`, or `"identity"`: a new layer returns its input, see `add_attention`.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Tensor of shape `(batch, time, variates)`. Any length works, shorter than a
            window too; a single step gets weight 1 from every partner.
        mask: Optional boolean tensor of shape `(batch, time)`, `True` for a step that exists.
            Padded steps count as zeros to the convolutions, are left out of pooling, descriptors,
            softmax and statistics, and change nothing elsewhere.
        training: Whether dropout and batch statistics are on.
        return_attention_scores: Whether to return `(output, scores)`.

    Input shape:
        `(batch, time, variates)`.

    Output shape:
        `(batch, time, output_dim)`; scores: the masks summed over the partners, `(batch,
        num_heads, time, key_dim)`. Over time each sums to H (`"scale"`), 1 (`"self"`) or
        2 (`"input"`); before dropout.

    Raises:
        ValueError: If an argument is out of range, or the input is not of rank 3, has no time
            step, or has an unknown or empty last axis.

    Example:

    ```python
    import keras
    from keras_saliency import XM2AHeads

    x = keras.random.normal((2, 100, 6))
    y, scores = XM2AHeads(num_heads=4, key_dim=8)(x, return_attention_scores=True)
    print(y.shape, scores.shape)  # (2, 100, 6) (2, 4, 100, 8)
    ```
    """

    kernel_methods = ("describe",)

    def __init__(
        self,
        num_heads: int = 8,
        key_dim: int = 64,
        variant: Variant = "xm2a",
        talk: Talk = "scale",
        descriptor: Descriptor = "average",
        normalization: Normalization = "layer",
        output_dim: int | None = None,
        share_projections: bool = False,
        dropout: float = 0.0,
        use_bias: bool = True,
        epsilon: float = 1e-6,
        remat: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        activity_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(
            num_heads,
            key_dim,
            output_dim,
            dropout,
            use_bias,
            kernel_initializer,
            bias_initializer,
            kernel_regularizer,
            bias_regularizer,
            activity_regularizer,
            kernel_constraint,
            bias_constraint,
            **kwargs,
        )
        for name, value, known in (
            ("variant", variant, VARIANTS),
            ("talk", talk, TALKS),
            ("descriptor", descriptor, DESCRIPTORS),
            ("normalization", normalization, NORMALIZATIONS),
        ):
            validation.choice(name, value, known)
        self.variant = variant
        self.talk = talk
        self.descriptor = descriptor
        self.normalization = normalization
        self.share_projections = validation.boolean("share_projections", share_projections)
        self.epsilon = validation.number("epsilon", epsilon, 0, above=True)
        self.remat = validation.boolean("remat", remat)
        self.windows = head_windows(variant, self.num_heads)

    def build(self, input_shape):
        super().build(input_shape)
        variates, width = input_shape[-1], self.num_heads * self.key_dim
        kernels = [window for _, window in self.windows]
        self._add_head_kernels("value", kernels, variates)
        self.value_bias = self._bias("value_bias", width)
        if not self.share_projections:
            self._add_head_kernels("query", kernels, variates)
            self.query_bias = self._bias("query_bias", width)
            self._add_head_kernels("key", kernels, variates)
        if self.talk == "input":
            self.input_kernel = self._kernel("input_kernel", (variates, self.key_dim))
            self.input_bias = self._bias("input_bias", self.key_dim)
        if self.normalization == "batch":
            self.norm = keras.layers.BatchNormalization(
                epsilon=self.epsilon, dtype=self.dtype_policy, name="norm"
            )
            self.norm.build((None, None, width))
        elif self.normalization == "layer":
            shape = (self.num_heads, self.key_dim)
            self.gamma = self.add_weight(
                name="gamma", shape=shape, initializer="ones", autocast=False
            )
            self.beta = self.add_weight(
                name="beta", shape=shape, initializer="zeros", autocast=False
            )

    @property
    def roles(self) -> tuple[str, ...]:
        return ("value",) if self.share_projections else ("value", "query", "key")

    def call(self, inputs, mask=None, training=None, return_attention_scores=False):
        wide, valid, count = self._prepare(inputs, mask)
        views = self._views(wide, valid)
        values = self._values(views)
        queries, keys = self._describe(views, values, valid, count)
        masks = self._talk(queries, keys, wide, valid, count)
        weighted = self.dropout_layer(masks, training=training) * values
        output = self._project(self._normalize(weighted, count, mask, training))
        output = self._through_gate(inputs, output)
        if not return_attention_scores:
            return output
        scores = ops.transpose(masks / count[..., None], (0, 2, 1, 3))
        return output, ops.cast(scores, self.compute_dtype)

    def describe(self, inputs: Tensor, mask: Tensor = None) -> tuple[Tensor, Tensor]:
        """Return what the heads tell each other: their queries and keys (G 7.5, 7.6).

        Args:
            inputs: Tensor of shape `(batch, time, variates)`.
            mask: Optional boolean tensor of shape `(batch, time)`.

        Returns:
            Tuple of tensors, float32 or wider: queries, `(batch, num_heads, key_dim)`, and keys,
            `(batch, time, num_heads)`.
        """
        inputs = ops.convert_to_tensor(inputs)
        if not self.built:
            self.build(inputs.shape)
        wide, valid, count = self._prepare(inputs, mask)
        views = self._views(wide, valid)
        return self._describe(views, self._values(views), valid, count)

    def _prepare(self, inputs, mask):
        """Return the wide input without its padding, the valid steps and their number."""
        check_series(self, inputs.shape)
        check_series_mask(self, mask, inputs.shape)
        if mask is None:
            count = ops.cast(ops.reshape(ops.shape(inputs)[1], (1, 1, 1)), self.wide_dtype)
            return ops.cast(inputs, self.wide_dtype), None, count
        mask = ops.cast(mask, "bool")[..., None]
        # `where`, because padding may hold anything, infinities too.
        inputs = ops.where(mask, inputs, ops.zeros_like(inputs))
        valid = ops.cast(mask, self.wide_dtype)
        count = at_least_one(ops.sum(valid, axis=1, keepdims=True))
        return ops.cast(inputs, self.wide_dtype), valid, count

    def _views(self, wide, valid):
        """Return what convolutions see: {pooling window: average-pooled input}."""
        sizes = {size for size, _ in self.windows}
        if sizes == {1}:
            return {1: wide}
        present = ops.ones_like(wide[:1, :, :1]) if valid is None else valid
        sums, present = window_sums(wide, sizes), window_sums(present, sizes)
        views = {size: sums[size] / at_least_one(present[size]) for size in sizes}
        return views if valid is None else {size: v * valid for size, v in views.items()}

    def _convolve(self, views, kernels):
        return ops.concatenate(
            [
                convolve(ops.cast(views[size], self.compute_dtype), kernel)
                for (size, _), kernel in zip(self.windows, kernels, strict=True)
            ],
            axis=-1,
        )

    def _values(self, views):
        values = self._add_bias(self._convolve(views, self.head_kernels("value")), self.value_bias)
        return ops.cast(self._split(values), self.wide_dtype)

    def _describe(self, views, values, valid, count):
        """Return queries (batch, heads, key_dim) and keys (batch, time, heads), wide."""
        if self.descriptor == "maximum":
            queried = keyed = values
            if not self.share_projections:
                queried = self._convolve(views, self.head_kernels("query"))
                queried = self._split(self._add_bias(queried, self.query_bias))
                queried = ops.cast(queried, self.wide_dtype)
                keyed = self._split(self._convolve(views, self.head_kernels("key")))
            keyed = ops.cast(ops.amax(keyed, axis=-1), self.wide_dtype)
            return _time_maximum(queried, valid), keyed
        if self.share_projections:
            weighed = values if valid is None else values * valid[..., None]
            return ops.sum(weighed, axis=1) / count, ops.mean(values, axis=-1)
        queries, keys = self._mean_queries(views, valid, count), []
        for (size, _), kernel in zip(self.windows, self.head_kernels("key"), strict=True):
            average = ops.mean(ops.cast(kernel, self.wide_dtype), axis=-1, keepdims=True)
            keys.append(convolve(views[size], average))
        return queries, ops.concatenate(keys, axis=-1)

    def _mean_queries(self, views, valid, count):
        """Mean over time of the query convolutions, as kernels applied to means of the input."""
        reach, means = {}, {}
        for size, window in self.windows:
            reach[size] = max(window, reach.get(size, 1))
        for size, widest in reach.items():
            offsets = range(-((widest - 1) // 2), widest // 2 + 1)
            means[size] = shifted_means(views[size], offsets, valid, count)
        queries = []
        for (size, window), kernel in zip(self.windows, self.head_kernels("query"), strict=True):
            first = (reach[size] - 1) // 2 - (window - 1) // 2
            taps = ops.reshape(
                means[size][:, first : first + window], (-1, math.prod(kernel.shape[:2]))
            )
            kernel = ops.reshape(ops.cast(kernel, self.wide_dtype), (-1, self.key_dim))
            queries.append(ops.matmul(taps, kernel))
        return self._split(self._add_bias(ops.concatenate(queries, axis=-1), self.query_bias))

    def _talk(self, queries, keys, wide, valid, count):
        """Return `count` times the summed masks, (batch, time, heads, key_dim)."""
        joined = self._join(queries)
        if self.talk == "scale":
            pairs = [(joined, keys[..., h]) for h in range(self.num_heads)]
            return self._split(talking_masks(pairs, count, valid, self.remat))
        if self.talk == "self":
            return self._talk_alone(queries, keys, valid, count)
        kernel = ops.cast(self.input_kernel, self.wide_dtype)
        projected = self._add_bias(ops.matmul(wide, kernel), self.input_bias)
        if self.descriptor == "maximum":
            query, key = _time_maximum(projected, valid), ops.amax(projected, axis=-1)
        else:
            weighed = projected if valid is None else projected * valid
            query, key = ops.sum(weighed, axis=1) / count[:, 0], ops.mean(projected, axis=-1)
        query = ops.broadcast_to(query[:, None], ops.shape(queries))
        heard = self._split(talking_masks([(joined, key)], count, valid, self.remat))
        return heard + self._talk_alone(query, keys, valid, count)

    def _talk_alone(self, queries, keys, valid, count):
        """Let each query meet the key of its own head: heads become part of the batch."""
        heads, steps = self.num_heads, ops.shape(keys)[1]
        query = ops.reshape(queries, (-1, self.key_dim))
        key = ops.reshape(ops.transpose(keys, (0, 2, 1)), (-1, steps))
        if valid is not None:
            valid, count = (ops.repeat(x, heads, axis=0) for x in (valid, count))
        masks = talking_masks([(query, key)], count, valid, self.remat)
        masks = ops.reshape(masks, (-1, heads, steps, self.key_dim))
        return ops.transpose(masks, (0, 2, 1, 3))

    def _normalize(self, weighted, count, mask, training):
        """Normalize and join the heads: (batch, time, heads, key_dim) to (batch, time, width)."""
        if self.normalization is None:
            return self._join(weighted / count[..., None])
        if self.normalization == "batch":
            return self.norm(self._join(weighted), training=training, mask=mask)
        mean = ops.mean(weighted, axis=-1, keepdims=True)
        weighted = weighted - mean
        variance = ops.mean(ops.square(weighted), axis=-1, keepdims=True)
        weighted = weighted * ops.rsqrt(variance + self.epsilon)
        gamma, beta = (ops.cast(v, self.wide_dtype) for v in (self.gamma, self.beta))
        return self._join(weighted * gamma + beta)

    def _scores_shape(self, input_shape):
        return (input_shape[0], self.num_heads, input_shape[1], self.key_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "variant": self.variant,
            "talk": self.talk,
            "descriptor": self.descriptor,
            "normalization": self.normalization,
            "share_projections": self.share_projections,
            "epsilon": self.epsilon,
            "remat": self.remat,
        }


def _time_maximum(x, valid):
    """Maximum over time of the valid steps; 0 for a series that has none."""
    if valid is None:
        return ops.amax(x, axis=1)
    valid = ops.reshape(valid, (*ops.shape(valid)[:2], *[1] * (len(x.shape) - 2)))
    highest = ops.amax(ops.where(valid > 0, x, -3e38), axis=1)
    return ops.where(ops.amax(valid, axis=1) > 0, highest, 0.0)
