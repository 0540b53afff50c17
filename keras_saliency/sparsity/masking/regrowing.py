"""Edges that move while a model is trained: the lowest go, and as many masked ones come."""

import zlib
from typing import Literal, get_args

import numpy as np

from keras_saliency.sparsity.masking.dropping import drop_edges

Regrow = Literal[True, False, "gradient", "random"]
REGROW = get_args(Regrow)


class Regrowth:
    """Moves edges in one update of the masks; the number that each kernel loses stays exact.

    Of the edges that the criterion keeps a share goes, lowest scores first, and as many of those
    that it masks come, the most worthy first: by the gradient of the loss in RigL (Evci et al.,
    2020), at random in SET (Mocanu et al., 2018). An edge that goes does not come back in the same
    update. Where the sparsity rises meanwhile, this is what Liu et al. (2021) call GraNet; where it
    falls, more come than go.

    Args:
        share: Share of the kept edges that goes.
        worth: Function of a `Kernel` that returns an array of its shape.

    Attributes:
        came: Dict from kernel key to a boolean array of its shape: the edges that have come.
    """

    def __init__(self, share, worth):
        self.share = share
        self.worth = worth
        self.came = {}

    def move(self, kernel, scores, drop, count, options):
        """Flat boolean array of the edges that are masked, `count` of them.

        Args:
            kernel: The `Kernel`.
            scores: Its edges' scores, with `size`, `blocks()` and `array()`.
            drop: Flat boolean array of what the criterion masks.
            count: How many are to be masked.
            options: `MaskingOptions`.
        """
        masked = int(np.count_nonzero(drop))
        going = min(round(self.share * (kernel.size - masked)), count)
        after = drop_edges(kernel, scores, masked + going, drop, options)
        coming = int(np.count_nonzero(after)) - count
        came = np.zeros(kernel.size, bool)
        if coming > 0:
            worth = np.asarray(self.worth(kernel), "float64").reshape(-1)
            candidates = np.flatnonzero(drop)
            # On a tie, and where the loss has no gradient, the earlier position comes.
            order = np.argsort(-np.abs(worth[candidates]), kind="stable")
            came[candidates[order[:coming]]] = True
        self.came[kernel.key] = came.reshape(kernel.shape)
        return after & ~came


def random_worth(seed, step):
    """The worth that SET gives to masked edges: drawn by seed, step and kernel."""

    def worth(kernel):
        key = zlib.crc32(kernel.key.encode())
        return np.random.default_rng([seed or 0, step, key]).random(kernel.shape)

    return worth
