"""Activations that mix simple ones by trained shares."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.activations.trained import TrainedActivation

Family = Literal["p-e2-relu", "p-sig-ramp"]
FAMILIES = get_args(Family)


@keras.saving.register_keras_serializable(package="keras_saliency")
class FlexibleActivation(TrainedActivation):
    """A mixture of simple activations whose shares are trained.

    | family | value |
    | --- | --- |
    | `"p-e2-relu"` | `a relu(x) + b elu(x) - (1 - a - b) elu(-x)`, in place of a ReLU |
    | `"p-sig-ramp"` | `a sigmoid(x) + (1 - a) clip(b x + 1/2, 0, 1)`, in place of a sigmoid |

    The shares stay in [0, 1], the slope b of the ramp above 0.

    With `axis=None` the layer can be the `recurrent_activation` of `keras.layers.LSTM` or `GRU`:
    the gates of a layer then share one pair of numbers.

    Source: R. Jie, J. Gao, A. Vasnev, M.-N. Tran, "Regularized Flexible Activation Function
    Combinations for Deep Neural Networks", ICPR 2020 (arXiv:2007.13101). The formulas are those of
    public implementations; where training begins (a 0.4 and b 0.3, a 0.5 and b 0.25) is a choice.
    The paper's two terms of regularization are left out: only its abstract could be had.

    Significance passes through the layer; shrinking keeps the channels that it reads.

    Args:
        family: `"p-e2-relu"` or `"p-sig-ramp"`.
        axis: The axis with numbers per entry, such as the channels; None for one pair for all.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of any rank >= 2; the size of `axis` must be known.

    Output shape:
        That of `inputs`.

    Raises:
        ValueError: If an argument is not of the kind above, or `axis` is no axis of the input.

    Example:

    ```python
    import keras
    from keras_saliency import FlexibleActivation

    gate = FlexibleActivation("p-sig-ramp", axis=None)
    model = keras.Sequential([
        keras.Input((20, 3)),
        keras.layers.LSTM(8, recurrent_activation=gate),
        keras.layers.Dense(16),
        FlexibleActivation("p-e2-relu"),
        keras.layers.Dense(1),
    ])
    ```
    """

    def __init__(self, family: Family = "p-e2-relu", axis: int | None = -1, **kwargs: Any):
        self.family = validation.choice("family", family, FAMILIES)
        super().__init__(axis, **kwargs)

    def _add_numbers(self, shape):
        if self.family == "p-e2-relu":
            self.a = self._number("a", 0.4, shape, 0.0, 1.0)
            self.b = self._number("b", 0.3, shape, 0.0, 1.0)
        else:
            self.a = self._number("a", 0.5, shape, 0.0, 1.0)
            self.b = self._number("b", 0.25, shape, 1e-3)

    def call(self, inputs):
        x = ops.cast(inputs, self.compute_dtype)
        a, b = self._over(self.a, x), self._over(self.b, x)
        if self.family == "p-e2-relu":
            return a * ops.relu(x) + b * ops.elu(x) - (1 - a - b) * ops.elu(-x)
        return a * ops.sigmoid(x) + (1 - a) * ops.clip(b * x + 0.5, 0.0, 1.0)

    def get_config(self):
        return {**super().get_config(), "family": self.family}
