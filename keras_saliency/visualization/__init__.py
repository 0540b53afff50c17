"""One picture per question. Everything here needs matplotlib."""

from keras_saliency.visualization.attention import plot_attention

__all__ = ["plot_attention"]
