"""The gradient of the loss by dense kernels, as `regrow="gradient"` asks for it in training."""

import numpy as np
from keras import ops, tree

from keras_saliency.graph.gradients import gradient_function, loss_of

# More samples than these say little more about which edges the loss asks for.
MOST = 1024


def check_labels(x, y=None):
    """Refuse to look for a gradient without labels."""
    if x is None or y is None:
        raise ValueError(
            "`regrow='gradient'` differentiates the loss, so it needs `data=(x, y)` with labels. "
            f"Received: {'no data' if x is None else 'data without labels'}; regrow='random' "
            "needs none."
        )


class DenseGradients:
    """Differentiates a model's loss by its kernels, masked edges included.

    A masked edge counts as 0, and its gradient is that of an edge which stands there. The function
    is compiled once and serves all updates, so every variable of the model is handed to it anew.

    Args:
        model: A built model; compiled, unless `loss` is given.
        kernels: List of `Kernel` objects.
        masks: List of the mask variables of those kernels that are in masked layers.
        data: `(x, y, sample_weight)`, nests of arrays.
        loss: In place of the loss that the model was compiled with.
        batch_size: How many samples pass through the model at once.
        seed: Of the samples that are drawn where `data` holds many.

    Raises:
        ValueError: If `data` has no labels, or there is no loss.
    """

    def __init__(self, model, kernels, masks, data, loss=None, batch_size=32, seed=0):
        check_labels(*data[:2])
        self.kernels = kernels
        self.data = data
        self.batch_size = batch_size
        self.seed = seed or 0
        self._masks = {id(mask) for mask in masks}
        self._variables = [kernel.variable for kernel in kernels]
        known = {id(v) for v in self._variables}
        self._state = [v for v in model.variables if id(v) not in known]
        self._differentiate = gradient_function(
            loss_of(model, loss), self._variables, state=self._state
        )

    def at(self, step, masks):
        """Function of a `Kernel`: the gradient by it, all computed when the first is asked for.

        Args:
            step: Draws the samples, where there are many.
            masks: Dict from kernel key to the mask in force.
        """
        found = {}

        def worth(kernel):
            if not found:
                gradients = self._compute(step, masks)
                found.update(zip([k.key for k in self.kernels], gradients, strict=True))
            return found[kernel.key]

        return worth

    def _compute(self, step, masks):
        values = [ops.convert_to_numpy(variable) for variable in self._variables]
        values = [
            np.where(masks[kernel.key], value, 0) if kernel.key in masks else value
            for kernel, value in zip(self.kernels, values, strict=True)
        ]
        state = [np.ones(v.shape, bool) if id(v) in self._masks else v for v in self._state]
        count = len(tree.flatten(self.data[0])[0])
        rows = np.arange(count)
        if count > MOST:
            rows = np.sort(np.random.default_rng([self.seed, step]).permutation(count)[:MOST])
        sums = [np.zeros(v.shape) for v in self._variables]
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            batch = [
                tree.map_structure(lambda a, p=part: None if a is None else a[p], nest)
                for nest in self.data
            ]
            _, gradients = self._differentiate(*batch, values=values, state_values=state)
            for total, gradient in zip(sums, gradients, strict=True):
                total += len(part) / len(rows) * gradient.astype("float64")
        return sums
