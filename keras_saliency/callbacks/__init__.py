"""Callbacks for ``model.fit``."""

from keras_saliency.racknet.kernel_sharing import KernelSharingCallback, update_kernel_sharing
from keras_saliency.sparsity.training.isparse_callback import iSparseCallback

__all__ = ["KernelSharingCallback", "iSparseCallback", "update_kernel_sharing"]
