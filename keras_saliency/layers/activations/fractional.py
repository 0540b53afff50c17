"""Activations of fractional order: from softplus over a sigmoid to a bell."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.activations.trained import TrainedActivation


@keras.saving.register_keras_serializable(package="keras_saliency")
class FractionalActivation(TrainedActivation):
    """A derivative of softplus of trained, fractional order.

    Order 0 is softplus, order 1 a sigmoid, order 2 its bell-shaped slope, and between them lies
    what training chooses, for every channel. The derivative of order a is the sum

        D^a f(x) = h^-a * sum over n < terms of w_n(a) f(x + (a / 2 - n) h),
        w_0 = 1,  w_n = w_(n-1) (n - 1 - a) / n

    with f the softplus and h the `step`.

    Source: J. Zamora Esquivel et al., "Fractional Adaptation of Activation Functions in Neural
    Networks", ICPR 2020, whose sum (Grünwald and Letnikov's, written with gamma functions) takes
    h to 0 and has infinitely many terms. Here they are a few, and shifted by a h / 2, which makes
    the error of second order in h: with a step of 1, order 1 is the sigmoid to within 0.005, and
    order 2 the bell to within 0.02. What lies more than `terms * step` below x is left out, which
    matters to orders that are no integer. The paper's second parameter, which chooses between
    families of functions, is left out: only its abstract could be had.

    Significance passes through the layer; shrinking keeps the channels that it reads.

    Args:
        order: Number in [0, 2], the order with which training begins; it stays in [0, 2].
        step: Positive number, the step h.
        terms: Integer >= 1, how many terms are summed. The cost is so many softpluses.
        axis: The axis with one order per entry; None for one order for all.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of any rank >= 2; the size of `axis` must be known.

    Output shape:
        That of `inputs`.

    Raises:
        ValueError: If an argument is not of the kind above, or `axis` is no axis of the input.

    Example:

    >>> import numpy as np
    >>> sigmoid = FractionalActivation(order=1.0)
    >>> round(float(keras.ops.convert_to_numpy(sigmoid(np.zeros((1, 1))))[0, 0]), 3)
    0.5
    """

    def __init__(
        self,
        order: float = 0.5,
        step: float = 1.0,
        terms: int = 8,
        axis: int | None = -1,
        **kwargs: Any,
    ):
        self._initial_order = validation.number("order", order, 0, 2)
        super().__init__(axis, **kwargs)
        self.step = validation.number("step", step, 0, above=True)
        self.terms = validation.integer("terms", terms)

    def _add_numbers(self, shape):
        self.order = self._number("order", self._initial_order, shape, 0.0, 2.0)

    def call(self, inputs):
        x = ops.cast(inputs, self.compute_dtype)
        order = self._over(self.order, x)
        x = x + order * (self.step / 2)
        result, weight = ops.softplus(x), ops.ones_like(order)
        for n in range(1, self.terms):
            weight = weight * (n - 1 - order) / n
            result = result + weight * ops.softplus(x - n * self.step)
        return result * self.step**-order

    def get_config(self):
        return {
            **super().get_config(),
            "order": self._initial_order,
            "step": self.step,
            "terms": self.terms,
        }
