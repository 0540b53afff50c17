"""SAN: attention to the extrema of what a layer changed in its input."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.graph.discovery import find_features
from keras_saliency.layers.attention.alignment import align, alignment
from keras_saliency.layers.attention.start import Start, StartingLayer
from keras_saliency.layers.convolution.depthwise import convolve_depthwise
from keras_saliency.scale_space.extrema import (
    expand_mask,
    extrema_share,
    spatial_axes,
    standardize_neighborhood,
)
from keras_saliency.typing import (
    Activation,
    Constraint,
    DataFormat,
    Initializer,
    Regularizer,
    Size,
    Tensor,
)

_HOW_TO_PASS = (
    "Pass both feature maps, `SANAttention()([y, y_prev])`: the features of a layer and those it "
    "was computed from."
)


@keras.saving.register_keras_serializable(package="keras_saliency")
class SANAttention(StartingLayer):
    """Scale-space attention: weighs features by how saliently they differ from the layer before.

    The layer compares the features `y` of a layer with those it was computed from, `y_prev`, as
    a scale space compares an image with its blurred self. Where this difference of convolutions
    is an extremum of its neighborhood, attention is due:

    1. `p`: `y_prev` averaged over its channels, so that any two layers compare (5.6, 5.7);
    2. `d = |y - p|`, the difference of convolutions (5.8);
    3. `e = alpha * d`, where `alpha` is the share of the neighborhood that `d` is not below
       (5.9, 5.10); no gradient flows through the count `alpha`;
    4. `a`: `e` smoothed by a trainable convolution (5.11);
    5. `mask = sigmoid(a)`, one per channel (5.12), and the output `y * mask` (5.4).

    Two things differ from the text. The smoothing is linear unless `activation` says otherwise:
    after a ReLU no mask could fall below 0.5. And `smoothing="depthwise"`, which smooths every
    channel by itself at a fraction of the cost, is ours.

    If the layer is called on one symbolic tensor, as in a `Sequential` model, it finds `y_prev`
    itself: back from `y` through normalization, activation, dropout, pooling and the like to the
    nearest feature layer, whose input it takes. If `y_prev` is larger than `y` by a whole factor
    (strides, pooling), it is averaged down; if it is wider by a few values on both sides (a
    `"valid"` convolution), it is cropped.

    A Keras mask on sequences is honoured and passed on: masked steps are nobody's neighbors and
    change no other step's output.

    Args:
        kernel_size: Integer or tuple, the window of the smoothing convolution; that of the
            feature layer is a good choice.
        dilation_rate: Integer or tuple. 1 is the paper's SAN-c; larger is SAN-d (4 in BAM).
        neighborhood: Odd integer, the extent along every axis in which extrema are sought.
        absolute: Whether `d` is the absolute difference. If `False` it is signed.
        align_channels: Whether `y_prev` is averaged over its channels. If `False`, it must have
            as many channels as `y`.
        extrema: Whether `d` is weighted by `alpha`.
        smoothing: `"conv"` (all channels to all), `"depthwise"`, or `None` for none.
        activation: Activation between the smoothing and the sigmoid. `None` is linear.
        use_bias: Whether the smoothing has a bias.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
        kernel_constraint, bias_constraint: As in `keras.layers.Conv2D`, for the smoothing.
        data_format: `"channels_last"`, `"channels_first"`, or `None` for Keras's setting.
        start: `"paper"`, or `"identity"`: a new layer returns `y`, for the smoothing starts at
            zero and the output is `y * (2 mask)`. Where there is no smoothing, or an
            `activation`, it is `y + gate * (y * mask - y)` with a trained scalar that starts at 0.

    Call arguments:
        inputs: List `[y, y_prev]` of tensors of the same rank, or (symbolic only) `y` alone.
        mask: Keras mask of `y`, `(batch, steps)`, or a list with that of `y_prev` too.
        return_attention_scores: Whether to return `(output, mask)` instead of the output.

    Input shape:
        `(batch, steps, channels)`, `(batch, height, width, channels)` or
        `(batch, depth, height, width, channels)`; channels second with `"channels_first"`.

    Output shape:
        That of `y`; so has the mask, whose values lie in [0, 1].

    Raises:
        ValueError: If the arguments are not as above, `y_prev` is neither given nor found, or
            the two maps cannot be aligned.

    Example:

    ```python
    import keras
    import keras_saliency

    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras_saliency.SANAttention(smoothing="depthwise"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    ```

    Reference: Y. Garg, dissertation, 2020, section 5.4; Y. Garg, K. S. Candan, M. L. Sapino,
    "SAN: Scale-Space Attention Networks", ICDE 2020, section III.
    """

    # `add_attention` calls such a layer on `[y, y_prev]`.
    takes_previous = True

    def __init__(
        self,
        kernel_size: Size = 3,
        dilation_rate: Size = 1,
        neighborhood: int = 3,
        absolute: bool = True,
        align_channels: bool = True,
        extrema: bool = True,
        smoothing: str | None = "conv",
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        data_format: DataFormat | None = None,
        start: Start = "paper",
        **kwargs: Any,
    ):
        super().__init__(start, **kwargs)
        self.kernel_size = _window("kernel_size", kernel_size)
        self.dilation_rate = _window("dilation_rate", dilation_rate)
        self.neighborhood = standardize_neighborhood(neighborhood)
        self.absolute = validation.boolean("absolute", absolute)
        self.align_channels = validation.boolean("align_channels", align_channels)
        self.extrema = validation.boolean("extrema", extrema)
        self.smoothing = validation.choice("smoothing", smoothing, ("conv", "depthwise", None))
        self.activation = keras.activations.get(activation)
        self.use_bias = validation.boolean("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.data_format = validation.data_format(data_format)
        self.supports_masking = True

    def __call__(self, inputs, *args, **kwargs):
        """Complete a lone symbolic `y` to `[y, y_prev]`, so that the graph records both."""
        if isinstance(inputs, keras.KerasTensor):
            self._check_rank(inputs.shape)
            try:
                inputs = [inputs, find_features(inputs)[1]]
            except ValueError as error:
                raise ValueError(f"{error} {_HOW_TO_PASS}") from None
        elif not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            received = (
                f"{type(inputs).__name__} of {len(inputs)} tensors"
                if isinstance(inputs, (list, tuple))
                else f"one tensor of shape {tuple(getattr(inputs, 'shape', ()))}"
            )
            raise ValueError(
                f"{type(self).__name__} {self.name!r} compares two feature maps, and finds the "
                "second one itself only in a Sequential or functional model (not in eager or "
                f"traced code such as the `call` of a subclassed model). {_HOW_TO_PASS} "
                f"Received: {received}"
            )
        return super().__call__(inputs, *args, **kwargs)

    def build(self, input_shape):
        shape, _ = self._checked_shapes(input_shape)
        if self.smoothing is not None:
            self.smoothing_layer = self._make_smoothing(len(shape) - 2, shape[self._channel_axis])
            self.smoothing_layer.build(shape)
        if self._gated:
            self._add_gate()

    @property
    def _gated(self):
        """Whether nothing linear stands before the sigmoid that could start at zero."""
        return self.smoothing is None or self.activation is not keras.activations.linear

    def _make_smoothing(self, rank, channels):
        """Return the unbuilt convolution of `rank` axes that maps `channels` to `channels`."""
        common = {
            "kernel_size": self.kernel_size,
            "dilation_rate": self.dilation_rate,
            "padding": "same",
            "use_bias": self.use_bias,
            "bias_initializer": self._first(self.bias_initializer),
            "bias_regularizer": self.bias_regularizer,
            "bias_constraint": self.bias_constraint,
            "data_format": self.data_format,
            "dtype": self.dtype_policy,
            "name": "smoothing",
        }
        kernel = {
            "initializer": self._first(self.kernel_initializer),
            "regularizer": self.kernel_regularizer,
            "constraint": self.kernel_constraint,
        }
        if self.smoothing == "depthwise" and rank < 3:
            cls = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)[rank - 1]
            return cls(**{f"depthwise_{k}": v for k, v in kernel.items()}, **common)
        cls = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)[rank - 1]
        # Keras has no depthwise convolution of three axes; one group per channel is the same.
        groups = channels if self.smoothing == "depthwise" else 1
        return cls(
            channels, groups=groups, **{f"kernel_{k}": v for k, v in kernel.items()}, **common
        )

    def _first(self, initializer):
        initializer = _fresh(initializer)
        return initializer if self._gated else self._last(initializer)

    @property
    def _channel_axis(self):
        return -1 if self.data_format == "channels_last" else 1

    def _check_rank(self, shape):
        if not 3 <= len(shape) <= 5:
            raise ValueError(
                f"{type(self).__name__} needs features with 1 to 3 axes of space or time: 3 to 5 "
                f"axes with batch and channels. Received: shape {tuple(shape)}"
            )

    def _checked_shapes(self, input_shape):
        """Return the shapes of `y` and `y_prev` if attention is possible between them."""
        if (
            not isinstance(input_shape, (list, tuple))
            or len(input_shape) != 2
            or any(s is None or isinstance(s, int) for s in input_shape)
        ):
            raise ValueError(
                f"{type(self).__name__} has two inputs, `[y, y_prev]`. "
                f"Received: input_shape={input_shape}"
            )
        shape, previous = (tuple(s) for s in input_shape)
        self._check_rank(shape)
        if len(previous) != len(shape):
            raise ValueError(
                "`y` and `y_prev` must have the same number of axes. "
                f"Received: shapes {shape} and {previous}"
            )
        axis = self._channel_axis
        if shape[axis] is None:
            raise ValueError(f"The channels of `y` must be known. Received: shape {shape}")
        if not self.align_channels and previous[axis] != shape[axis]:
            raise ValueError(
                "`align_channels=False` needs as many channels in `y_prev` as in `y`. "
                f"Received: shapes {shape} and {previous}"
            )
        for i in spatial_axes(len(shape), self.data_format):
            if alignment(shape[i], previous[i]) is None:
                raise ValueError(
                    "`y_prev` cannot be aligned with `y`: along every axis it must be as long, "
                    "longer by a whole factor, or longer by an even number smaller than `y`'s "
                    f"extent. Received: `y` of shape {shape}, `y_prev` of shape {previous}"
                )
        return shape, previous

    def call(self, inputs, mask=None, return_attention_scores=False):
        valid, valid_previous = self._expanded(mask, len(inputs[0].shape))
        difference = self._difference(inputs, valid_previous)
        smoothed = self._smooth(self._weigh(difference, valid), valid)
        scores = ops.sigmoid(self.activation(smoothed))
        if self.starts_as_identity and not self._gated:
            output = inputs[0] * (2.0 * scores)
        else:
            output = self._through_gate(inputs[0], inputs[0] * scores)
        return (output, scores) if return_attention_scores else output

    def stages(self, inputs: Tensor, mask: Tensor = None) -> dict[str, Tensor]:
        """Return what the layer computes on the way, for inspection.

        Args:
            inputs: List `[y, y_prev]` of tensors.
            mask: As in a call of the layer.

        Returns:
            Dict of tensors of the shape of `y`: `"difference"` (5.8), `"extrema"` (5.9),
            `"smoothed"` (5.11) and `"mask"` (5.12).
        """
        y, previous = (ops.cast(x, self.compute_dtype) for x in inputs)
        valid, valid_previous = self._expanded(mask, len(y.shape))
        difference = self._difference([y, previous], valid_previous)
        extrema = self._weigh(difference, valid)
        smoothed = self._smooth(extrema, valid)
        return {
            "difference": difference,
            "extrema": extrema,
            "smoothed": smoothed,
            "mask": ops.sigmoid(self.activation(smoothed)),
        }

    def _expanded(self, mask, ndim):
        masks = mask if isinstance(mask, (list, tuple)) else [mask, None]
        return [
            None if m is None else expand_mask(ops.cast(m, "bool"), ndim, self.data_format)
            for m in masks
        ]

    def _difference(self, inputs, valid_previous):
        """Equations 5.6 to 5.8."""
        y, previous = inputs
        # Checked again since a layer may meet other extents than it was built with.
        self._checked_shapes([y.shape, previous.shape])
        axes = spatial_axes(len(y.shape), self.data_format)
        if self.align_channels:
            previous = ops.mean(previous, axis=self._channel_axis, keepdims=True)
        difference = y - align(previous, y, axes, valid_previous)
        return ops.abs(difference) if self.absolute else difference

    def _weigh(self, difference, valid):
        """Equations 5.9 and 5.10."""
        if not self.extrema:
            return difference
        axes = spatial_axes(len(difference.shape), self.data_format)
        return difference * extrema_share(difference, self.neighborhood, axes, valid)

    def _smooth(self, extrema, valid):
        """Equation 5.11, without its activation."""
        if self.smoothing is None:
            return extrema
        if valid is not None:
            extrema = ops.where(valid, extrema, ops.zeros_like(extrema))
        if self.smoothing == "depthwise":
            return convolve_depthwise(self.smoothing_layer, extrema)
        return self.smoothing_layer(extrema)

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_shape(self, input_shape):
        return self._checked_shapes(input_shape)[0]

    def compute_output_spec(self, inputs, mask=None, return_attention_scores=False):
        shape = self.compute_output_shape([x.shape for x in inputs])
        output = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if return_attention_scores:
            return output, keras.KerasTensor(shape, dtype=self.compute_dtype)
        return output

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "dilation_rate": self.dilation_rate,
            "neighborhood": self.neighborhood,
            "absolute": self.absolute,
            "align_channels": self.align_channels,
            "extrema": self.extrema,
            "smoothing": self.smoothing,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "data_format": self.data_format,
        }


def _window(name, value):
    """Return a positive integer, or a tuple of 1 to 3 of them, or say what is wrong."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    if not 1 <= len(values) <= 3 or not all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values
    ):
        raise ValueError(
            f"`{name}` must be a positive integer, or one per axis of space or time. "
            f"Received: {name}={value!r}"
        )
    return tuple(values) if isinstance(value, (list, tuple)) else value


def _fresh(initializer):
    """Return a copy of an initializer, so that no two weights share its seed."""
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer
