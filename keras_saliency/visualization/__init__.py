"""One picture per question. Everything here needs matplotlib."""

from keras_saliency.visualization.attention import plot_attention
from keras_saliency.visualization.complexity import plot_layer_separation
from keras_saliency.visualization.filters import plot_filter_overlap
from keras_saliency.visualization.heads import pair_focus, plot_heads, plot_parameters
from keras_saliency.visualization.maps import overlay, plot_saliency_maps
from keras_saliency.visualization.racknet import (
    plot_design,
    plot_entropies,
    plot_keypoints,
    plot_statistics,
)
from keras_saliency.visualization.saliency import plot_saliency, plot_scale_space
from keras_saliency.visualization.sparsity import (
    plot_accuracy,
    plot_masks,
    plot_sensitivity,
    plot_weights,
)

__all__ = [
    "overlay",
    "pair_focus",
    "plot_accuracy",
    "plot_attention",
    "plot_design",
    "plot_entropies",
    "plot_filter_overlap",
    "plot_heads",
    "plot_keypoints",
    "plot_layer_separation",
    "plot_masks",
    "plot_parameters",
    "plot_saliency",
    "plot_saliency_maps",
    "plot_scale_space",
    "plot_sensitivity",
    "plot_statistics",
    "plot_weights",
]
