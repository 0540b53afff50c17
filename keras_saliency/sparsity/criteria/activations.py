"""What a channel's features are like on data."""

from __future__ import annotations

import numpy as np

from keras_saliency.sparsity.criteria.criterion import ChannelCriterion, register
from keras_saliency.sparsity.criteria.measurements import MeasuredKernel


@register
class Activation(ChannelCriterion):
    """The mean of `|feature|` over data and positions."""

    name = "activation"
    needs = "x"

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        return kernel.by_units(np.abs(kernel.activations).mean((0, 1), dtype="float64"))


@register
class APoZ(ChannelCriterion):
    """The share of a channel's features that are not zero: 1 - APoZ (Hu et al., 2016)."""

    name = "apoz"
    needs = "x"

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        return kernel.by_units((kernel.activations != 0).mean((0, 1), dtype="float64"))


@register
class ActivationDensity(APoZ):
    """The density of a channel's features (after Foldy-Porto et al., 2020).

    The paper sizes whole layers by the share of features that are not zero; with `scope="global"`
    channels compete by it, so that layers of low density lose more. Within a layer it ranks as
    `APoZ` does.
    """

    name = "activation_density"


@register
class MajorityVote(ChannelCriterion):
    """How often a channel is among the stronger half of its layer (after Alqahtani et al., 2020).

    Each input votes for the channels whose mean `|feature|` is above the layer's median; the
    share of votes is the score. The paper's own text was not at hand: the half is our choice.
    """

    name = "majority_vote"
    needs = "x"

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        strength = np.abs(kernel.activations).mean(1, dtype="float64")
        votes = strength > np.median(strength, axis=1, keepdims=True)
        return kernel.by_units(votes.mean(0))


@register
class HRank(ChannelCriterion):
    """The mean rank of a channel's feature maps (Lin et al., 2020).

    Maps of more than two space axes are flattened after the first; features without space have
    rank 1 where they are not zero.
    """

    name = "hrank"
    needs = "x"
    images = 256

    def channels(self, kernel: MeasuredKernel) -> np.ndarray:
        maps = kernel.activations[: self.images]
        samples, positions, channels = maps.shape
        rows = _rows(kernel, positions)
        maps = maps.transpose(0, 2, 1).reshape(samples, channels, rows, positions // rows)
        return kernel.by_units(np.linalg.matrix_rank(maps).mean(0, dtype="float64"))


def _rows(kernel, positions):
    """The first extent of the feature maps, of a layer whose output shape is known."""
    shape = getattr(getattr(kernel.layer, "output", None), "shape", None)
    if shape is not None and len(shape) > 3:
        first = getattr(kernel.layer, "data_format", None) == "channels_first"
        extent = shape[2] if first else shape[1]
        if extent and positions % extent == 0:
            return extent
    square = round(positions**0.5)
    return square if square * square == positions else positions
