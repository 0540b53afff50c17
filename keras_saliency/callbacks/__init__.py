"""Callbacks for ``model.fit``."""

from keras_saliency.callbacks.kernel_sharing import KernelSharingCallback, update_kernel_sharing

__all__ = ["KernelSharingCallback", "update_kernel_sharing"]
