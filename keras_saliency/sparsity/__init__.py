"""Output-informed sparsification: significance, masks, schedules and reports."""

from keras_saliency.sparsity.deploy import accelerate, merge_lora, save_compressed
from keras_saliency.sparsity.kernels import maskable_kernels
from keras_saliency.sparsity.masking import sparsify, strip_masks
from keras_saliency.sparsity.reconstruction import polish, recalibrate
from keras_saliency.sparsity.registry import register_shrink_rule, register_significance_rule
from keras_saliency.sparsity.reports import compare, filter_overlap, sensitivity, sparsity_report
from keras_saliency.sparsity.shrinking import (
    count_operations,
    count_parameters,
    shrink,
    shrink_to,
)
from keras_saliency.sparsity.significance import SignificanceWalk, edge_significance, inffs
from keras_saliency.sparsity.training import KeepSparsity, Sparsifier

__all__ = [
    "KeepSparsity",
    "SignificanceWalk",
    "Sparsifier",
    "accelerate",
    "compare",
    "count_operations",
    "count_parameters",
    "edge_significance",
    "filter_overlap",
    "inffs",
    "maskable_kernels",
    "merge_lora",
    "polish",
    "recalibrate",
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
