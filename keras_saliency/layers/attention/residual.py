"""Residual attention: a trunk of residual units times one plus a mask seen from afar."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.normalization.batch import BatchNormalization
from keras_saliency.typing import DataFormat


class ResidualUnit(keras.layers.Layer):
    """A pre-activated bottleneck of three convolutions, added to its input.

    Features are (batch, height, width, channels), and keep their shape.
    """

    def __init__(self, ratio, **kwargs):
        super().__init__(**kwargs)
        self.ratio = ratio

    def build(self, input_shape):
        channels = input_shape[-1]
        hidden = max(channels // self.ratio, 1)
        widths = [(channels, hidden, 1), (hidden, hidden, 3), (hidden, channels, 1)]
        self.norms, self.convs = [], []
        for i, (inputs, filters, window) in enumerate(widths):
            norm = BatchNormalization(momentum=0.9, name=f"norm_{i}", dtype=self.dtype_policy)
            norm.build((*input_shape[:-1], inputs))
            conv = keras.layers.Conv2D(
                filters,
                window,
                padding="same",
                use_bias=False,
                data_format="channels_last",
                kernel_initializer="he_normal",
                name=f"conv_{i}",
                dtype=self.dtype_policy,
            )
            conv.build((*input_shape[:-1], inputs))
            self.norms.append(norm)
            self.convs.append(conv)

    def call(self, inputs, training=None):
        x = inputs
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(ops.relu(norm(x, training=training)))
        return inputs + x

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package="keras_saliency")
class ResidualAttention(keras.layers.Layer):
    """The attention module of residual attention networks.

        y = q(T(p(x)) * (1 + M(p(x))))

    `p` and `q` are residual units, the trunk `T` more of them. The mask `M` pools `depth` times,
    with residual units at each scale, and comes up again by bilinear interpolation, with what it
    saw on the way down added; two convolutions of window 1 and a sigmoid end it. So the mask sees
    far, and where it is 0 the trunk stays as it is.

    Source: F. Wang et al., "Residual Attention Network for Image Classification", CVPR 2017
    (arXiv:1704.06904), mixed attention, with the paper's p = 1, t = 2 and
    r = 1; Kalhor (2023), section 3.1 (7). Choices: units follow the product too, which brings the
    network near the paper's number of parameters; they are He et al.'s pre-activated bottlenecks
    of a quarter of the channels; an odd extent is pooled to the half that is rounded up, and what
    the interpolation has too much is cut off.

    Significance looks into the layer; shrinking keeps the channels that it reads.

    Args:
        depth: Integer >= 1, how often the mask branch pools.
        outer_units, trunk_units, mask_units: Integers >= 1, residual units before the branches and
            as many after them, in the trunk, and per scale of the mask branch.
        ratio: Integer >= 1. Units are `channels // ratio` wide inside.
        data_format: `"channels_last"`, `"channels_first"`, or None for Keras's setting.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor (batch, height, width, channels), or with the channels first.
        training: Whether the normalizations use the statistics of the batch.
        return_attention_scores: If True, also return the mask, of the shape of `inputs`.

    Output shape:
        That of `inputs`.

    Raises:
        ValueError: If an argument is not of the kind above, or the channels are not known.

    Example:

    ```python
    import keras
    from keras_saliency import ResidualAttention

    model = keras.Sequential([
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(16, 3, padding="same"),
        ResidualAttention(depth=2),
        keras.layers.GlobalAveragePooling2D(),
    ])
    ```
    """

    def __init__(
        self,
        depth: int = 2,
        outer_units: int = 1,
        trunk_units: int = 2,
        mask_units: int = 1,
        ratio: int = 4,
        data_format: DataFormat | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.depth = validation.integer("depth", depth)
        self.outer_units = validation.integer("outer_units", outer_units)
        self.trunk_units = validation.integer("trunk_units", trunk_units)
        self.mask_units = validation.integer("mask_units", mask_units)
        self.ratio = validation.integer("ratio", ratio)
        self.data_format = validation.data_format(data_format)

    def build(self, input_shape):
        shape = tuple(input_shape)
        if len(shape) == 4 and self.data_format == "channels_first":
            shape = (shape[0], *shape[2:], shape[1])
        if len(shape) != 4 or shape[-1] is None:
            raise ValueError(
                "ResidualAttention takes images of rank 4 with a known number of channels. "
                f"Received: input_shape={tuple(input_shape)}, data_format={self.data_format!r}"
            )
        shape = (None, None, None, shape[-1])
        self.pre = self._units("pre", self.outer_units, shape)
        self.post = self._units("post", self.outer_units, shape)
        self.trunk = self._units("trunk", self.trunk_units, shape)
        self.down = [self._units(f"down_{i}", self.mask_units, shape) for i in range(self.depth)]
        self.skip = [self._units(f"skip_{i}", 1, shape) for i in range(self.depth - 1)]
        self.up = [self._units(f"up_{i}", self.mask_units, shape) for i in range(self.depth)]
        self.norms, self.convs = [], []
        for i in range(2):
            norm = BatchNormalization(momentum=0.9, name=f"norm_{i}", dtype=self.dtype_policy)
            conv = keras.layers.Dense(
                shape[-1], use_bias=i == 1, name=f"conv_{i}", dtype=self.dtype_policy
            )
            norm.build(shape)
            conv.build(shape)
            self.norms.append(norm)
            self.convs.append(conv)

    def _units(self, name, number, shape):
        units = [
            ResidualUnit(self.ratio, name=f"{name}_{i}", dtype=self.dtype_policy)
            for i in range(number)
        ]
        for unit in units:
            unit.build(shape)
        return units

    def call(self, inputs, training=None, return_attention_scores=False):
        first = self.data_format == "channels_first"
        x = ops.moveaxis(inputs, 1, -1) if first else inputs
        x = _through(self.pre, x, training)
        mask = self._mask(x, training)
        outputs = _through(self.trunk, x, training) * (1.0 + mask)
        outputs = _through(self.post, outputs, training)
        if first:
            outputs, mask = ops.moveaxis(outputs, -1, 1), ops.moveaxis(mask, -1, 1)
        return (outputs, mask) if return_attention_scores else outputs

    def _mask(self, x, training):
        extents, skipped = [], []
        for i in range(self.depth):
            extents.append(ops.shape(x)[1:3])
            x = ops.max_pool(x, 3, 2, padding="same", data_format="channels_last")
            x = _through(self.down[i], x, training)
            if i < self.depth - 1:
                skipped.append(_through(self.skip[i], x, training))
        for i in reversed(range(self.depth)):
            if i < self.depth - 1:
                x = x + skipped[i]
            x = _through(self.up[i], x, training)
            height, width = extents[i]
            x = double(double(x, 1), 2)[:, :height, :width]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(ops.relu(norm(x, training=training)))
        return ops.sigmoid(x)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs, training=None, return_attention_scores=False):
        output = keras.KerasTensor(inputs.shape, self.compute_dtype)
        if return_attention_scores:
            return output, keras.KerasTensor(inputs.shape, self.compute_dtype)
        return output

    def get_config(self):
        return {
            **super().get_config(),
            "depth": self.depth,
            "outer_units": self.outer_units,
            "trunk_units": self.trunk_units,
            "mask_units": self.mask_units,
            "ratio": self.ratio,
            "data_format": self.data_format,
        }


def _through(units, x, training):
    for unit in units:
        x = unit(x, training=training)
    return x


def double(x, axis):
    """Twice the extent of one axis, by linear interpolation between the centers of the places."""
    before = [slice(None)] * axis
    first, last = x[(*before, slice(0, 1))], x[(*before, slice(-1, None))]
    earlier = ops.concatenate([first, x[(*before, slice(None, -1))]], axis=axis)
    later = ops.concatenate([x[(*before, slice(1, None))], last], axis=axis)
    pair = ops.stack([0.75 * x + 0.25 * earlier, 0.75 * x + 0.25 * later], axis=axis + 1)
    shape = list(ops.shape(x))
    shape[axis] = shape[axis] * 2
    return ops.reshape(pair, shape)
