"""Callbacks for ``model.fit``."""

from keras_saliency.callbacks.isparse import iSparseCallback
from keras_saliency.callbacks.kernel_sharing import KernelSharingCallback, update_kernel_sharing

__all__ = ["KernelSharingCallback", "iSparseCallback", "update_kernel_sharing"]
