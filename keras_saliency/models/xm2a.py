"""Networks of XM2A blocks, and the same networks with other attention."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.factory import attention_factory
from keras_saliency.layers.attention.xm2a import (
    DESCRIPTORS,
    TALKS,
    VARIANTS,
    Descriptor,
    Talk,
    Variant,
)
from keras_saliency.models.series import POOLINGS, series_input, series_output
from keras_saliency.typing import Activation, Attention, Shape


@validation.checked(
    depth=validation.whole(),
    num_heads=validation.whole(),
    key_dim=validation.whole(),
    units=validation.whole(optional=True),
    ff_dim=validation.whole(optional=True),
    variant=validation.one_of(*VARIANTS),
    talk=validation.one_of(*TALKS),
    descriptor=validation.one_of(None, *DESCRIPTORS),
    pooling=validation.one_of(*POOLINGS),
    residual=validation.boolean,
    dropout=validation.share,
    attention_kwargs=validation.arguments_of,
    mask_value=validation.real(optional=True),
    activation=validation.activation,
    name=validation.text,
)
def XM2A(
    input_shape: Shape,
    num_classes: int | None = None,
    depth: int = 6,
    num_heads: int = 8,
    key_dim: int = 64,
    variant: Variant = "xm2a",
    talk: Talk = "scale",
    task: str = "classification",
    horizon: int | None = None,
    units: int | None = None,
    residual: bool = True,
    ff_dim: int | None = None,
    dropout: float = 0.0,
    attention: Attention = "xm2a",
    attention_kwargs: Mapping[str, Any] | None = None,
    mask_value: float | None = None,
    activation: Activation = "relu",
    descriptor: Descriptor | None = None,
    pooling: str = "average",
    name: str | None = None,
) -> keras.Model:
    """Stack blocks of `XM2AHeads` into a network for time series (G 7.6).

    A block is that of a Transformer encoder: attention, residual sum, layer normalization, feed-
    forward part, residual sum, layer normalization. With `residual=False` it is the attention
    alone, the paper's plain stack. Time and memory are linear in the length of the series.

    Args:
        input_shape: `(time, variates)`; time may be `None`.
        num_classes: Integer: classes, or with `task="regression"` the values to predict. Not
            used in forecasting.
        depth: Integer, number of blocks.
        num_heads: Integer, heads of each block.
        key_dim: Integer, kernels of each head.
        variant, talk: As in `XM2AHeads`.
        task: `"classification"` (softmax), `"regression"` (linear), both on the mean or maximum
            over time (`pooling`), or `"forecasting"`: the next `horizon` steps of every variate,
            from that and the last step. Pad a series to be forecast in front.
        horizon: Integer, steps to forecast.
        units: Integer, width of the blocks; the input is projected to it. Default: 64 with
            residuals; the number of variates, without projection, in the plain stack.
        residual: Whether blocks have residual sums and a feed-forward part.
        ff_dim: Integer, hidden width of the feed-forward part. Default: 4 times `units`.
        dropout: Float in [0, 1), after the attention, after the feed-forward part, and before the
            output.
        attention: What attends: `"xm2a"`; `"multi-head"`, Keras's `MultiHeadAttention`; a name of
            `get_attention`, such as `"msmsa"`, `"parameter-free"`, `"se"` or `"bam"`; or a layer
            class or other callable that returns a layer. It gets `num_heads`, `key_dim`,
            `variant`, `talk` and `descriptor` if it takes them.
        attention_kwargs: Dict of further arguments of the attention layers.
        mask_value: Number that marks padded steps, those whose variates all equal it. Default:
            no masking.
        activation: Activation of the feed-forward part.
        descriptor: How the heads summarize a series, as in `XM2AHeads`: `"maximum"`, the default
            for classification, finds an event that is short against the series; `"average"`, the
            default for the other tasks, does not.
        pooling: `"average"` or `"maximum"` over time, of what the last block returns.
        name: Name of the model.

    Returns:
        A functional `keras.Model`, not compiled: `(batch, num_classes)` probabilities or values,
        or `(batch, horizon, variates)`.

    Raises:
        ValueError: If a size is not a positive integer, or the task and its sizes do not fit.

    Example:

    ```python
    from keras_saliency.models import XM2A

    model = XM2A((100, 6), num_classes=4, depth=2)
    forecast = XM2A((None, 6), task="forecasting", horizon=12, depth=2)
    ```
    """
    masked = mask_value is not None
    if descriptor is None:
        descriptor = "maximum" if task == "classification" else "average"
    sizes = {"num_heads": num_heads, "key_dim": key_dim}
    heads = {**sizes, "variant": variant, "talk": talk, "descriptor": descriptor}
    make = _attention(attention, heads, attention_kwargs, masked)
    inputs = x = series_input(input_shape)
    if masked:
        x = keras.layers.Masking(mask_value, name="masking")(x)
    if units is None and residual:
        units = 64
    if units is not None:
        x = keras.layers.Dense(units, name="projection")(x)
    width = x.shape[-1]

    def drop(x, name):
        return keras.layers.Dropout(dropout, name=name)(x) if dropout else x

    for i in range(1, depth + 1):
        attended = drop(make(x, f"attention_{i}"), f"attention_dropout_{i}")
        if not residual:
            x = attended
            continue
        x = keras.layers.Add(name=f"attention_sum_{i}")([x, attended])
        x = keras.layers.LayerNormalization(epsilon=1e-6, name=f"attention_norm_{i}")(x)
        hidden = keras.layers.Dense(ff_dim or 4 * width, activation, name=f"expand_{i}")(x)
        hidden = keras.layers.Dense(width, name=f"contract_{i}")(hidden)
        x = keras.layers.Add(name=f"ff_sum_{i}")([x, drop(hidden, f"ff_dropout_{i}")])
        x = keras.layers.LayerNormalization(epsilon=1e-6, name=f"ff_norm_{i}")(x)
    valid = ops.any(ops.not_equal(inputs, mask_value), axis=-1, keepdims=True) if masked else None
    outputs = series_output(
        x, inputs.shape[-1], task, num_classes, horizon, dropout, pooling, valid
    )
    return keras.Model(inputs, outputs, name=name or "xm2a")


def _attention(attention, heads, kwargs, masked):
    """Return a function (tensor, layer name) -> attended tensor."""
    kwargs = dict(kwargs or {})
    if isinstance(attention, str) and attention == "multi-head":

        def make(x, name):
            if masked:
                # Keras's layer takes the mask off its inputs: give it a copy, keep the original.
                x = keras.layers.Average(name=f"{name}_copy")([x, x])
            sizes = (heads["num_heads"], heads["key_dim"])
            return keras.layers.MultiHeadAttention(*sizes, name=name, **kwargs)(x, x)

        return make
    if isinstance(attention, str):
        attention = attention_factory(attention)
    elif not callable(attention):
        raise TypeError(
            "`attention` must be a name or a callable that returns a layer. "
            f"Received: attention={attention!r} of type {type(attention)}"
        )
    taken = inspect.signature(attention).parameters
    kwargs = {**{key: value for key, value in heads.items() if key in taken}, **kwargs}
    if inspect.isclass(getattr(attention, "func", attention)):
        return lambda x, name: attention(name=name, **kwargs)(x)
    return lambda x, name: attention(**kwargs)(x)
