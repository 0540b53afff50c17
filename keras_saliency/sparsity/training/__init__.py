"""Sparsification while a model is trained: schedules, the sparsifier, the callbacks."""

from keras_saliency.sparsity.training.isparse_callback import iSparseCallback
from keras_saliency.sparsity.training.keep_sparsity import KeepSparsity
from keras_saliency.sparsity.training.redo_callback import ReDoCallback
from keras_saliency.sparsity.training.repr_callback import RePrCallback
from keras_saliency.sparsity.training.sparsifier import Sparsifier

__all__ = ["KeepSparsity", "ReDoCallback", "RePrCallback", "Sparsifier", "iSparseCallback"]
