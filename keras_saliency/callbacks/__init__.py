"""Callbacks for ``model.fit``."""

from keras_saliency.racknet.kernel_sharing import KernelSharingCallback, update_kernel_sharing
from keras_saliency.sparsity.training import KeepSparsity, iSparseCallback

__all__ = ["KeepSparsity", "KernelSharingCallback", "iSparseCallback", "update_kernel_sharing"]
