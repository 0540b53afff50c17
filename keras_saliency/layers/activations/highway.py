"""Highway layers: a gate decides what is transformed and what is carried on."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.typing import Activation, Constraint, Initializer, Regularizer


@keras.saving.register_keras_serializable(package="keras_saliency")
class Highway(keras.layers.Layer):
    """A dense layer whose input may pass it by.

        y = H * T + x * C,  H = f(x W_H + b_H),  T = sigmoid(x W_T + b_T)

    `T` is the transform gate, `C` the carry gate. Alone, the carry gate is what the transform
    gate leaves, `C = 1 - T`. With `context=True` a second input opens it, such as the vector of a
    word: `C = sigmoid(c W_C + b_C)`, brought to the width of `x` and multiplied with it place by
    place.

    Source: Prakash (2019), section 6.1, for images and questions; R. K. Srivastava, K. Greff,
    J. Schmidhuber, "Highway Networks", 2015 (arXiv:1505.00387), for `C = 1 - T`. Where the text
    is silent: `C` of a context is a sigmoid, as `T` is; the bias of `T` begins at -1 (Srivastava
    et al. advise a negative one), so that the layer begins by carrying; an input of another width
    than `units` is first brought to it by a linear map.

    Significance looks into the layer; shrinking keeps the features that it reads.

    Args:
        units: Width of the output; None for the width of the input.
        context: Whether the layer takes a second input, which opens the carry gate.
        activation: The function f.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer,
            kernel_constraint, bias_constraint: As in `keras.layers.Dense`, for every kernel
            and bias; the bias of `T` begins at -1 whatever `bias_initializer` is.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor (..., features); with `context=True` a list of it and a tensor
            (batch, context) or (..., context).

    Output shape:
        (..., units).

    Raises:
        ValueError: If an argument is not of the kind above, the number of features is not known,
            or the inputs do not fit `context`.

    Example:

    ```python
    import keras
    from keras_saliency import Highway

    image, word = keras.Input((64,)), keras.Input((50,))
    x = Highway(context=True)([image, word])
    model = keras.Model([image, word], keras.layers.Dense(2)(Highway()(x)))
    ```
    """

    def __init__(
        self,
        units: int | None = None,
        context: bool = False,
        activation: Activation = "relu",
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = validation.integer("units", units, optional=True)
        self.context = validation.boolean("context", context)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.supports_masking = True

    def build(self, input_shape):
        shape, context_shape = self._shapes(input_shape)
        units = self.units or shape[-1]
        self.project = None
        if units != shape[-1]:
            self.project = self._dense("project", shape[-1], units, use_bias=False)
        self.transform = self._dense("transform", units, units, self.activation)
        self.gate = self._dense("gate", units, units, "sigmoid", bias=-1.0)
        self.carry = None
        if self.context:
            self.carry = self._dense("carry", context_shape[-1], units, "sigmoid")

    def _dense(self, name, inputs, units, activation=None, use_bias=True, bias=None):
        layer = keras.layers.Dense(
            units,
            activation,
            use_bias=use_bias,
            kernel_initializer=_clone(self.kernel_initializer),
            bias_initializer=_clone(self.bias_initializer)
            if bias is None
            else keras.initializers.Constant(bias),
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
            name=name,
            dtype=self.dtype_policy,
        )
        layer.build((None, inputs))
        return layer

    def _shapes(self, input_shape):
        pair = len(input_shape) and isinstance(input_shape[0], (list, tuple))
        shapes = [tuple(s) for s in input_shape] if pair else [tuple(input_shape)]
        if len(shapes) != 1 + self.context or not all(shapes):
            expected = "[inputs, context]" if self.context else "one tensor"
            raise ValueError(
                f"Highway with context={self.context} takes {expected}. "
                f"Received: input_shape={input_shape}"
            )
        if any(len(shape) < 2 or shape[-1] is None for shape in shapes):
            raise ValueError(
                "Highway takes tensors (batch, ..., features) with a known number of features. "
                f"Received: input_shape={input_shape}"
            )
        if self.context and len(shapes[1]) not in (2, len(shapes[0])):
            raise ValueError(
                "The context of Highway must be (batch, context) or have as many axes as the "
                f"inputs. Received: input_shape={input_shape}"
            )
        return shapes[0], shapes[-1]

    def call(self, inputs):
        x, context = inputs if self.context else (inputs, None)
        if self.project is not None:
            x = self.project(x)
        gate = self.gate(x)
        if self.context:
            carry = self.carry(context)
            while len(carry.shape) < len(x.shape):
                carry = ops.expand_dims(carry, 1)
        else:
            carry = 1.0 - gate
        return self.transform(x) * gate + x * carry

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_shape(self, input_shape):
        shape = self._shapes(input_shape)[0]
        return (*shape[:-1], self.units or shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "context": self.context,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


def _clone(initializer):
    return initializer.clone() if hasattr(initializer, "clone") else initializer
