"""Attention layers by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from keras_saliency.layers.attention.peers import (
    BAM,
    CBAM,
    DSTP,
    MSMSA,
    ConcurrentSpatialChannelSE,
    CoordinateAttention,
    EfficientChannelAttention,
    FusAtNet,
    ParameterFreeAttention,
    RecurrentAttention,
    SelfAttention,
    SimAM,
    SqueezeExcite,
    TransformerBlock,
)
from keras_saliency.layers.attention.san import SANAttention
from keras_saliency.layers.attention.sdma import SDMACrossAttention
from keras_saliency.layers.attention.xm2a import XM2AHeads

# Name -> callable that returns a layer; a `partial` of a class holds the arguments of a variant.
# Names are lower case with hyphens.
ATTENTIONS = {
    "bam": BAM,
    "cbam": CBAM,
    "coordinate": CoordinateAttention,
    "eca": EfficientChannelAttention,
    "simam": SimAM,
    "msmsa": MSMSA,
    "dstp": DSTP,
    "fusatnet": FusAtNet,
    "ran": RecurrentAttention,
    "san": SANAttention,
    "san-c": SANAttention,
    "san-d": partial(SANAttention, dilation_rate=4),
    "san-depthwise": partial(SANAttention, smoothing="depthwise"),
    "scse": ConcurrentSpatialChannelSE,
    "sdca": partial(SDMACrossAttention, mutual=False),
    "sdma": SDMACrossAttention,
    "se": SqueezeExcite,
    "parameter-free": ParameterFreeAttention,
    "transformer": TransformerBlock,
    "xm2a": XM2AHeads,
    "self": SelfAttention,
}


def attention_factory(name):
    """Return the class, or the partial class, that `get_attention` calls for `name`."""
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string. Received: {name!r} of type {type(name)}")
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    by_class = {f.__name__.lower(): f for f in ATTENTIONS.values() if not isinstance(f, partial)}
    found = ATTENTIONS.get(key, by_class.get(key))
    if found is None:
        raise ValueError(
            f"Unknown attention {name!r}. Valid names: {', '.join(sorted(ATTENTIONS))}; "
            f"or the name of a class: {', '.join(sorted(f.__name__ for f in by_class.values()))}"
        )
    return found


def get_attention(name: str, /, **kwargs: Any) -> keras.layers.Layer:
    """Make an attention layer by name.

    Args:
        name: One of the table, or the name of a class such as `"SqueezeExcite"`. Upper case and
            underscores do not matter.

            | name | layer |
            | --- | --- |
            | `"se"` | `SqueezeExcite` |
            | `"scse"` | `ConcurrentSpatialChannelSE` |
            | `"cbam"` | `CBAM` |
            | `"bam"` | `BAM` |
            | `"eca"` | `EfficientChannelAttention` |
            | `"simam"` | `SimAM`, without weights |
            | `"coordinate"` | `CoordinateAttention` |
            | `"ran"` | `RecurrentAttention`, for sequences |
            | `"san"`, `"san-c"` | `SANAttention` |
            | `"san-d"` | `SANAttention` with `dilation_rate=4` |
            | `"san-depthwise"` | `SANAttention` with `smoothing="depthwise"` |
            | `"xm2a"` | `XM2AHeads`, for sequences |
            | `"msmsa"` | `MSMSA`, for sequences |
            | `"parameter-free"` | `ParameterFreeAttention`, for sequences |
            | `"transformer"` | `TransformerBlock`, for sequences |
            | `"self"` | `SelfAttention`, for sequences |
            | `"dstp"` | `DSTP`, for sequences of a known length |
            | `"fusatnet"` | `FusAtNet`, for sequences, or a pair of them |
            | `"sdma"`, `"sdca"` | `SDMACrossAttention`, with and without `mutual`; needs `units` |
        **kwargs: Constructor arguments of the layer; `name=` among them is the layer's own name.

    Returns:
        A new, unbuilt layer. All but `"sdma"` and `"sdca"` keep the shape of their features.

    Raises:
        ValueError: If the name is unknown; the message lists the valid ones.

    Example:

    ```python
    from keras_saliency import get_attention

    layer = get_attention("cbam", ratio=8)
    ```
    """
    return attention_factory(name)(**kwargs)
