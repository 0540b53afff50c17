"""Output-informed sparsification: significance, masks, schedules and reports."""

from keras_saliency.sparsity.accelerate import accelerate
from keras_saliency.sparsity.budget import shrink_to
from keras_saliency.sparsity.channels import register_shrink_rule
from keras_saliency.sparsity.compare import compare
from keras_saliency.sparsity.convert import sparsify, strip_masks
from keras_saliency.sparsity.cost import count_operations, count_parameters
from keras_saliency.sparsity.files import save_compressed
from keras_saliency.sparsity.inffs import inffs
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.registry import register_significance_rule
from keras_saliency.sparsity.report import sensitivity, sparsity_report
from keras_saliency.sparsity.shrink import shrink
from keras_saliency.sparsity.significance import SignificanceWalk, edge_significance
from keras_saliency.sparsity.sparsifier import Sparsifier

__all__ = [
    "SignificanceWalk",
    "Sparsifier",
    "accelerate",
    "compare",
    "count_operations",
    "count_parameters",
    "edge_significance",
    "inffs",
    "maskable_kernels",
    "register_shrink_rule",
    "register_significance_rule",
    "save_compressed",
    "sensitivity",
    "shrink",
    "shrink_to",
    "sparsify",
    "sparsity_report",
    "strip_masks",
]
