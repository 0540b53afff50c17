"""Saliency for Keras 3: attention, sparsification and design that listen to the data.

``import keras_saliency`` registers every layer and regularizer, so that
``keras.saving.load_model`` finds them; everything else is imported on first use.
"""

# ruff: noqa: F401, F403
import importlib
from typing import TYPE_CHECKING

from keras_saliency import layers, regularizers
from keras_saliency.version import __version__

if TYPE_CHECKING:  # what `__getattr__` finds, for editors and type checkers
    from keras_saliency import (
        attribution,
        callbacks,
        complexity,
        imaging,
        models,
        racknet,
        scale_space,
        sparsity,
        visualization,
    )
    from keras_saliency.attribution import saliency_map
    from keras_saliency.callbacks import (
        KeepSparsity,
        ReDoCallback,
        RePrCallback,
        iSparseCallback,
    )
    from keras_saliency.complexity import separation_index, smoothness_index
    from keras_saliency.layers import *
    from keras_saliency.models import add_attention
    from keras_saliency.racknet import DatasetStatistics, RACKNet
    from keras_saliency.sparsity import (
        Sparsifier,
        accelerate,
        compare,
        edge_significance,
        inffs,
        merge_lora,
        polish,
        recalibrate,
        save_compressed,
        sensitivity,
        shrink,
        shrink_to,
        sparsify,
        sparsity_report,
        strip_masks,
    )

# Public name -> module that defines it. A subpackage maps to itself.
_LAZY = {
    "DatasetStatistics": "keras_saliency.racknet",
    "KeepSparsity": "keras_saliency.callbacks",
    "ReDoCallback": "keras_saliency.callbacks",
    "RePrCallback": "keras_saliency.callbacks",
    "RACKNet": "keras_saliency.racknet",
    "Sparsifier": "keras_saliency.sparsity",
    "accelerate": "keras_saliency.sparsity",
    "add_attention": "keras_saliency.models",
    "compare": "keras_saliency.sparsity",
    "edge_significance": "keras_saliency.sparsity",
    "iSparseCallback": "keras_saliency.callbacks",
    "inffs": "keras_saliency.sparsity",
    "merge_lora": "keras_saliency.sparsity",
    "polish": "keras_saliency.sparsity",
    "recalibrate": "keras_saliency.sparsity",
    "saliency_map": "keras_saliency.attribution",
    "save_compressed": "keras_saliency.sparsity",
    "sensitivity": "keras_saliency.sparsity",
    "separation_index": "keras_saliency.complexity",
    "shrink": "keras_saliency.sparsity",
    "shrink_to": "keras_saliency.sparsity",
    "smoothness_index": "keras_saliency.complexity",
    "sparsify": "keras_saliency.sparsity",
    "sparsity_report": "keras_saliency.sparsity",
    "strip_masks": "keras_saliency.sparsity",
}
_SUBPACKAGES = (
    "attribution",
    "callbacks",
    "complexity",
    "imaging",
    "models",
    "racknet",
    "scale_space",
    "sparsity",
    "visualization",
)

for _name in layers.__all__:
    globals()[_name] = getattr(layers, _name)

__all__ = ["__version__", "layers", "regularizers", *layers.__all__, *_LAZY, *_SUBPACKAGES]


def __getattr__(name):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"keras_saliency.{name}")
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'keras_saliency' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
