"""What a model costs: its parameters, and the multiplications and additions of one sample."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_saliency.graph.copying import check_built
from keras_saliency.sparsity.operations import total, work_of
from keras_saliency.sparsity.shrinking.channels import find_weight


def count_parameters(model: keras.Model) -> int:
    """Count all weights of a model, masks and the statistics of norms included.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import count_parameters

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert count_parameters(model) == 8
    ```
    """
    return int(sum(np.prod(v.shape, dtype="int64") for v in model.weights))


def count_operations(model: keras.Model, input_shapes: Any = None) -> int | None:
    """Floating-point operations of one sample: two for every multiplication of a product.

    Counted are products with kernels (dense, convolutional, recurrent) and of tensors with each
    other (attention, `keras.ops.matmul`), which is where the time goes; what is done number by
    number, and additions of biases, norms, activations and pooling are not. Layers of one's own
    are opened up, and what their `call` multiplies is counted.

    Args:
        model: A built `keras.Model`.
        input_shapes: Shapes of the inputs, batch axis included, for a model that leaves axes
            open.

    Returns:
        An int, or `None` where a size is not known.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If what the model does cannot be seen.

    Example:

    ```python
    import keras
    from keras_saliency.sparsity import count_operations

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert count_operations(model) == 12
    ```
    """
    check_built(model)
    count = total(work_of(model, input_shapes))
    return None if count is None else 2 * count


def operations(groups, live, calls):
    """Operations of the living channels in `calls` of `groups`; `None` where not known."""
    total = 0
    for call in calls:
        for weight, positions in call.work:
            if positions is None:
                return None
            if weight is None:
                total += 2 * positions
            elif isinstance(weight, str):
                total += 2 * positions * _size(groups, live, call, weight)
            else:
                total += 2 * positions * int(live[groups.labels[weight]].sum())
    return int(total)


def parameters(groups, live, calls):
    """Parameters of the living channels in `calls` of `groups`."""
    total = 0
    for call in calls:
        named = {id(find_weight(call.layer, name)[1]): name for name in call.slices}
        for variable in getattr(call.layer, "weights", ()):
            name = named.get(id(variable))
            size = int(np.prod(variable.shape, dtype="int64"))
            total += size if name is None else _size(groups, live, call, name)
    return total


def _size(groups, live, call, name):
    _, variable = find_weight(call.layer, name.removeprefix(call.prefix))
    shape = list(variable.shape)
    for axis, ids in call.slices.get(name, {}).items():
        shape[axis] = int(live[groups.labels[ids]].sum())
    return int(np.prod(shape, dtype="int64"))
