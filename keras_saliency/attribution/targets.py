"""What a score is: one output of a model for each input, taken before a softmax or sigmoid."""

from __future__ import annotations

import warnings

import keras
import numpy as np
from keras import layers, ops

from keras_saliency import validation
from keras_saliency.graph.functional import is_functional
from keras_saliency.graph.steps import Steps
from keras_saliency.typing import ArrayLike

_SQUASHING = ("softmax", "sigmoid")
_PASSING = (layers.Dropout, layers.Reshape, layers.Flatten, layers.ActivityRegularization)
_WARNED = set()


class Region:
    """A score over a part of an output with positions: the mean of a channel under a mask.

    The score of an input is `sum of mask * output[..., channel] / sum of mask`: an object of a
    segmentation, a box, a stretch of a series.

    Args:
        masks: Array `(inputs, *space)`, or `(*space)` for all inputs; not negative.
        channel: Int. The channel of the model's output, `(inputs, *space, channels)`.

    Raises:
        ValueError: If a mask is empty, negative or not finite.

    Example:

    ```python
    import numpy as np
    import keras_saliency

    region = keras_saliency.attribution.Region(np.ones((8, 8)), channel=2)
    ```
    """

    def __init__(self, masks: ArrayLike, channel: int):
        self.masks = validation.array("masks", masks, finite=True).astype("float32")
        self.channel = validation.integer("channel", channel, minimum=0)
        if (self.masks < 0).any():
            raise ValueError("`masks` must not be negative. Received: a smallest value below 0")

    def of(self, count: int, space: tuple[int, ...]) -> np.ndarray:
        """The masks of `count` inputs, whose outputs have the extent `space`."""
        masks = self.masks
        if masks.shape == space:
            masks = np.broadcast_to(masks, (count, *space))
        if masks.shape != (count, *space):
            raise ValueError(
                f"`target`: the masks of a Region must have the shape {space} or "
                f"{(count, *space)}, that of the model's output. Received: {self.masks.shape}"
            )
        if not masks.reshape(count, -1).any(axis=1).all():
            raise ValueError("`target`: every mask of a Region must have a value above 0.")
        return masks


class Target:
    """What is scored, for all inputs; it is cut into batches with them."""

    def __init__(self, target, count):
        self.value = target
        self.count = count
        self.callable = callable(target)
        if target is None or self.callable or isinstance(target, Region):
            return
        if isinstance(target, (bool, np.bool_, str)):
            raise validation.wrong("target", "None, an int, ints, a function or a Region", target)
        array = np.asarray(keras.ops.convert_to_numpy(target) if ops.is_tensor(target) else target)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise TypeError(
                "`target` must be None, an int, one int per input, a function of the outputs or "
                f"a Region. Received: {target!r}"
            )
        if array.ndim == 1 and len(array) != count:
            raise ValueError(
                f"`target` must have one entry per input, {count}. Received: {len(array)} entries"
            )
        self.value = np.broadcast_to(array, (count,)).astype("int32")

    def check(self, shapes):
        """Refuse what the outputs, of these shapes, have no score for."""
        if self.callable:
            return
        if len(shapes) != 1:
            raise ValueError(
                f"The model has {len(shapes)} outputs. `target` must be a function of them that "
                "returns one score per input, for example `target=lambda y: y[0][:, 3]`."
            )
        shape = shapes[0]
        if isinstance(self.value, Region):
            if len(shape) < 3 or self.value.channel >= shape[-1]:
                raise ValueError(
                    "`target`: a Region needs an output (inputs, *space, channels) with its "
                    f"channel, {self.value.channel}. Received: an output of shape {shape}"
                )
            self.value.of(self.count, shape[1:-1])
            return
        if len(shape) > 2:
            raise ValueError(
                f"The model's output has shape {shape}: `target` must say what is scored, a "
                "function of the output, or attribution.Region(masks, channel)."
            )
        units = shape[1] if len(shape) == 2 else 1
        if self.value is None:
            return
        if units == 1 and (self.value != 0).any():
            raise ValueError(
                "The model has one output unit, which `target=None` scores; for its contrary pass "
                f"`target=lambda y: -y[:, 0]`. Received: target={self.value.tolist()[:5]}"
            )
        if (self.value < 0).any() or (self.value >= units).any():
            raise ValueError(
                f"`target` must be from 0 to {units - 1}, the model's outputs. Received: values "
                f"from {self.value.min()} to {self.value.max()}"
            )

    def kind(self):
        """What tells two scores apart, apart from the classes and masks that are passed in."""
        if self.callable:
            return self.value
        return ("region", self.value.channel) if isinstance(self.value, Region) else "class"

    def rows(self, chosen, space=None):
        """The extras of the forward pass for these inputs; -1 stands for the highest output."""
        if self.callable:
            return np.zeros(len(chosen), "int32")
        if isinstance(self.value, Region):
            return self.value.of(self.count, space)[chosen]
        if self.value is None:
            return np.full(len(chosen), -1, "int32")
        return self.value[chosen]

    def score(self, outputs, extras, copies):
        """Scores `(rows,)` in float32, or wider, and the classes that were scored."""
        if self.callable:
            return self._called(outputs, copies), None
        y = keras.tree.flatten(outputs)[0]
        y = ops.cast(y, "float32") if str(y.dtype).endswith("16") else y
        if isinstance(self.value, Region):
            mask = ops.cast(extras, y.dtype)
            axes = tuple(range(1, len(mask.shape)))
            total = ops.sum(mask * y[..., self.value.channel], axis=axes)
            return total / ops.sum(mask, axis=axes), None
        if len(y.shape) == 1:
            return y, None
        classes = ops.cast(ops.argmax(y, axis=-1), "int32")
        classes = ops.where(extras < 0, classes, extras)
        return ops.take_along_axis(y, classes[:, None], axis=-1)[:, 0], classes

    def _called(self, outputs, copies):
        rows = keras.tree.flatten(outputs)[0].shape[0] // copies
        parts = []
        for i in range(copies):
            part = keras.tree.map_structure(lambda x: x[i * rows : (i + 1) * rows], outputs)  # noqa: B023
            score = self.value(part)
            if not ops.is_tensor(score) or tuple(score.shape) != (rows,):
                raise ValueError(
                    "`target` must return one score per row, a tensor of shape "
                    f"({rows},). Received: {getattr(score, 'shape', type(score).__name__)}"
                )
            parts.append(ops.cast(score, "float32") if str(score.dtype).endswith("16") else score)
        return ops.concatenate(parts) if copies > 1 else parts[0]


def activation_handlers(model):
    """Handlers that take the last softmax or sigmoid away, and whether the end can be seen."""
    if not is_functional(model):
        return {}, False
    steps = Steps(model)
    if len(steps.outputs) != 1:
        return {}, True
    number = steps.outputs[0]
    while True:
        step = next((s for s in steps.steps if number in s.outputs), None)
        if step is None or len(step.inputs) != 1 or len(step.outputs) != 1:
            return {}, True
        operation = step.operation
        activation = getattr(operation, "activation", None)
        name = getattr(activation, "__name__", type(activation).__name__.lower())
        if isinstance(operation, layers.Softmax) or type(operation).__name__ in (
            "Softmax",
            "Sigmoid",
        ):
            return {operation: lambda call, args, kwargs: args[0] if args else kwargs["x"]}, True
        if activation is not None and name in _SQUASHING:
            return {operation: _without_activation(operation)}, True
        linear = isinstance(operation, layers.Activation) and name == "linear"
        if not (isinstance(operation, _PASSING) or linear):
            return {}, isinstance(operation, keras.layers.Layer)
        number = step.inputs[0]


def _without_activation(layer):
    def handler(call, args, kwargs):
        own = layer.__dict__.get("activation")
        layer.__dict__["activation"] = keras.activations.linear
        try:
            return call(*args, **kwargs)
        finally:
            if own is None:
                del layer.__dict__["activation"]
            else:
                layer.__dict__["activation"] = own

    return handler


def warn_of_probabilities(model, outputs):
    """Say once that a model of one's own ends in a softmax that cannot be taken away."""
    if id(model) in _WARNED or outputs.ndim != 2 or outputs.shape[1] < 2:
        return
    if (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3):
        _WARNED.add(id(model))
        warnings.warn(
            f"The outputs of '{model.name}' are probabilities, and what comes before its softmax "
            "cannot be seen in a model with a `call` of its own. They are taken as they are, "
            "which flattens the maps of sure predictions; let the model return logits if it can.",
            stacklevel=3,
        )
