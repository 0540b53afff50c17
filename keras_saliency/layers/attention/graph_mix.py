"""Graph convolution between the variates of a series."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_saliency import validation
from keras_saliency.layers.attention.masks import check_mask
from keras_saliency.typing import ArrayLike


@keras.saving.register_keras_serializable(package="keras_saliency")
class GraphMix(keras.layers.Layer):
    """Adds to every variate of a series what its neighbors in a graph have at the same step.

        y = x theta_0 + (x A) theta_1 + (x A A) theta_2 + ...

    with a weight per variate and hop. The layer begins as the identity (`theta_0` is 1, the
    others 0), so that it can be put before a network, such as one of `SDMA` or `XM2A`, without
    disturbing what that has learned.

    The graph is given or learned. A given one is normalized as in graph convolutional networks,
    `D^-1/2 (adjacency + I) D^-1/2`. A learned one is `softmax(relu(E1 E2^T))` over the neighbors
    of each variate, with `E1` and `E2` of `rank` columns.

    Source: Garg (2020), section 8.6, which names graph convolution before SDMA and XM2A as future
    work and gives no formula. T. N. Kipf, M. Welling, ICLR 2017 (arXiv:1609.02907), for the given
    graph; Z. Wu et al., "Graph WaveNet", IJCAI 2019 (arXiv:1906.00121), for the learned one and the
    sum over hops. A step has one number per variate, so that `theta` is a weight, no matrix.

    Significance and shrinking treat the layer as unknown as long as nobody registers a rule.

    Args:
        adjacency: Square array of numbers >= 0, entry (i, j) how much variate i matters to variate
            j; None to learn the graph.
        hops: Integer >= 1, how far neighbors may be.
        rank: Integer >= 1, the columns of a learned graph's matrices.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor (batch, time, variates); the number of variates must be known.
        mask: Optional boolean (batch, time); it is passed on, since steps do not mix.

    Output shape:
        That of `inputs`.

    Raises:
        ValueError: If an argument is not of the kind above, or the variates are not those of
            `adjacency`.

    Example:

    ```python
    import keras
    from keras_saliency import GraphMix
    from keras_saliency.models import XM2A

    model = keras.Sequential([
        keras.Input((24, 5)), GraphMix(), XM2A((24, 5), 3, depth=1, num_heads=2, key_dim=4)
    ])
    ```
    """

    def __init__(
        self, adjacency: ArrayLike | None = None, hops: int = 1, rank: int = 10, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if adjacency is not None:
            adjacency = validation.array("adjacency", adjacency, ranks=(2,), finite=True)
            if adjacency.shape[0] != adjacency.shape[1] or (adjacency < 0).any():
                raise validation.wrong("adjacency", "a square array of numbers >= 0", adjacency)
            adjacency = adjacency.astype("float64")
        self.adjacency = adjacency
        self.hops = validation.integer("hops", hops)
        self.rank = validation.integer("rank", rank)
        self.supports_masking = True

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(
                "GraphMix takes series (batch, time, variates) with a known number of variates. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        variates = input_shape[-1]
        if self.adjacency is None:
            self.sources, self.targets = (
                self.add_weight(
                    name=name,
                    shape=(variates, self.rank),
                    initializer=keras.initializers.RandomNormal(1.0),
                )
                for name in ("sources", "targets")
            )
        elif len(self.adjacency) != variates:
            raise ValueError(
                "`adjacency` must have as many rows as the series has variates. Received: shape "
                f"{self.adjacency.shape} for input_shape={tuple(input_shape)}"
            )
        self.theta = self.add_weight(
            name="theta", shape=(self.hops + 1, variates), initializer=_first_one
        )

    def _graph(self):
        if self.adjacency is None:
            scores = ops.relu(ops.matmul(self.targets, ops.transpose(self.sources)))
            return ops.transpose(ops.softmax(scores, axis=-1))
        graph = self.adjacency + np.eye(len(self.adjacency))
        scale = 1 / np.sqrt(graph.sum(0))
        return ops.convert_to_tensor(graph * scale[:, None] * scale, self.compute_dtype)

    def call(self, inputs, mask=None):
        check_mask(mask, inputs.shape, "GraphMix takes one series.")
        x = ops.cast(inputs, self.compute_dtype)
        graph = ops.cast(self._graph(), x.dtype)
        theta = ops.cast(self.theta, x.dtype)
        outputs = x * theta[0]
        for hop in range(1, self.hops + 1):
            x = ops.matmul(x, graph)
            outputs = outputs + x * theta[hop]
        return ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        adjacency = None if self.adjacency is None else self.adjacency.tolist()
        return {
            **super().get_config(),
            "adjacency": adjacency,
            "hops": self.hops,
            "rank": self.rank,
        }


def _first_one(shape, dtype=None):
    rows = np.zeros(shape)
    rows[0] = 1.0
    return ops.convert_to_tensor(rows, dtype)
