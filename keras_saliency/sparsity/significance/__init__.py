"""How much each edge of a network contributes to its outputs (Garg 2020, section 4.4.2)."""

from keras_saliency.sparsity.significance.inffs import inffs
from keras_saliency.sparsity.significance.walk import SignificanceWalk, edge_significance

__all__ = ["SignificanceWalk", "edge_significance", "inffs"]
