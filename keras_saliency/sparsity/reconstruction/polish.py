"""Training of what stays towards the dense model's outputs, without labels."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops, tree

from keras_saliency.graph.copying import check_built
from keras_saliency.graph.data import read_inputs
from keras_saliency.sparsity.reconstruction.gate import output_kinds
from keras_saliency.sparsity.significance.outputs import model_outputs
from keras_saliency.typing import Data


def polish(
    model: keras.Model,
    reference: keras.Model,
    data: Data,
    steps: int = 300,
    learning_rate: float = 2e-3,
    batch_size: int = 64,
    *,
    seed: int = 0,
    verbose: bool = False,
) -> keras.Model:
    """Train a pruned or shrunk model towards the dense model's outputs, in place, without labels.

    What follows the refit when more unlabelled inputs are at hand. Zeros stay zeros, statistics of
    batch norms are used as they are and stay, dropout is off. The loss is the Kullback-Leibler
    divergence where the graph ends in softmax, binary cross-entropy for sigmoid, else the squared
    error; Adam's learning rate falls as a cosine.

    Args:
        model: A built model with zeros in its kernels, or a shrunk one.
        reference: The dense model, with the same inputs and outputs.
        data: Inputs; what `model.predict` takes, or `(x, y)` pairs of them.
        steps: Integer, how many batches are trained on.
        learning_rate: Float, of the first step.
        batch_size: Integer.
        seed: Integer, of the order of the samples.
        verbose: Whether progress is shown.

    Returns:
        `model`. Its compile settings and optimizer are as they were.

    Raises:
        ValueError: If there are no data, or the models' outputs have other shapes.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_saliency

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    sparse = keras_saliency.sparsify(model, 0.8, data=x)
    keras_saliency.polish(sparse, model, x, steps=20)
    ```
    """
    check_built(model)
    check_built(reference)
    data = read_inputs(model, data)
    if data is None:
        raise ValueError("`data` must hold inputs of the model. Received: data=None")
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"`steps` must be a positive integer. Received: steps={steps!r}")
    wanted = [y.astype("float32") for y in model_outputs(reference, data, batch_size)]
    sample = tree.map_structure(lambda x: x[:2], data)
    given = model_outputs(model, sample, batch_size)
    if [y.shape[1:] for y in given] != [y.shape[1:] for y in wanted]:
        raise ValueError(
            "`model` and `reference` must have the same outputs. Received shapes "
            f"{[y.shape[1:] for y in given]} and {[y.shape[1:] for y in wanted]}"
        )
    student = Student(model, output_kinds(model, len(wanted)))
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    student.compile(keras.optimizers.Adam(schedule))
    rng = np.random.default_rng(seed)
    count = len(wanted[0])
    batch_size = min(batch_size, count)
    order = np.concatenate(
        [rng.permutation(count) for _ in range(-(-steps * batch_size // count))]
    )[: steps * batch_size]
    batches = _Batches(data, wanted, order, batch_size)
    zeros = _Zeros(_zeros(model))
    before = [(v, np.array(ops.convert_to_numpy(v))) for v in model.variables]
    try:
        student.fit(batches, epochs=1, verbose=int(verbose), callbacks=[zeros])
    except BaseException:  # training that is cut short may leave variables without a value
        for variable, value in before:
            variable.assign(value)
        raise
    finally:
        zeros.release()
    return model


def _zeros(model):
    """The weights with exact zeros, and where these are; weights of zeros alone are free."""
    found = []
    for variable in model.trainable_variables:
        values = ops.convert_to_numpy(variable)
        zero = values == 0
        if values.ndim > 1 and zero.any() and not zero.all():
            found.append((variable, zero))
    return found


class _Zeros(keras.callbacks.Callback):
    """Holds zeros by constraints, which every backend applies inside its compiled step."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

        self._before = [(variable, variable.constraint) for variable, _ in masks]

    def on_train_begin(self, logs=None):
        for variable, zero in self.masks:
            variable.constraint = _Hold(~zero, variable.constraint)

    def release(self):
        for variable, constraint in self._before:
            variable.constraint = constraint


class _Hold(keras.constraints.Constraint):
    def __init__(self, mask, inner):
        self.mask = mask
        self.inner = inner

    def __call__(self, w):
        w = ops.convert_to_tensor(w if self.inner is None else self.inner(w))
        return ops.where(self.mask, w, ops.zeros((), dtype=w.dtype))


class _Batches(keras.utils.PyDataset):
    def __init__(self, data, wanted, order, batch_size):
        super().__init__()
        self.data, self.wanted, self.order, self.size = data, wanted, order, batch_size

    def __len__(self):
        return len(self.order) // self.size

    def __getitem__(self, index):
        rows = self.order[index * self.size : (index + 1) * self.size]
        x = tree.map_structure(lambda x: x[rows], self.data)
        return x, tuple(y[rows] for y in self.wanted)


class Student(keras.Model):
    """The model under the loss that compares it with the dense one."""

    def __init__(self, model, kinds):
        super().__init__()
        self.model = model
        self.kinds = kinds

    def call(self, inputs):
        return self.model(inputs, training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = 0.0
        for p, q, kind in zip(tree.flatten(y), tree.flatten(y_pred), self.kinds, strict=True):
            p, q = ops.cast(p, "float32"), ops.cast(q, "float32")
            if kind == "softmax":
                loss += ops.mean(keras.losses.kl_divergence(p, q))
            elif kind == "sigmoid":
                loss += ops.mean(keras.losses.binary_crossentropy(p, q))
            else:
                loss += ops.mean(ops.square(p - q))
        return loss
