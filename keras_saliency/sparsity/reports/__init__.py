"""What sparsity did to a model: reports, sensitivity, comparison."""

from keras_saliency.sparsity.reports.compare import compare
from keras_saliency.sparsity.reports.overlap import filter_overlap
from keras_saliency.sparsity.reports.report import sensitivity, sparsity_report

__all__ = ["compare", "filter_overlap", "sensitivity", "sparsity_report"]
