"""Saliency maps: what a model looks at, on every backend, and judges of such maps."""

from keras_saliency.attribution.judges import (
    average_drop,
    deletion_insertion,
    pointing_game,
    randomization_check,
)
from keras_saliency.attribution.maps import input_gradients, saliency_map
from keras_saliency.attribution.registry import register_method
from keras_saliency.attribution.targets import Region

__all__ = [
    "Region",
    "average_drop",
    "deletion_insertion",
    "input_gradients",
    "pointing_game",
    "randomization_check",
    "register_method",
    "saliency_map",
]
