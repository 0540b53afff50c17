"""Callbacks for ``model.fit``."""

from keras_saliency.racknet.kernel_sharing import KernelSharingCallback, update_kernel_sharing
from keras_saliency.sparsity.training import (
    KeepSparsity,
    ReDoCallback,
    RePrCallback,
    iSparseCallback,
)

__all__ = [
    "KeepSparsity",
    "KernelSharingCallback",
    "ReDoCallback",
    "RePrCallback",
    "iSparseCallback",
    "update_kernel_sharing",
]
