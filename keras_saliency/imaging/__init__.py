"""What a saliency map is good for: sharper JPEG files, and noise taken out of images.

The defence is for accidental and transferred noise, and for study: an attacker who knows of it
gets through (Athalye and Carlini, 2018).
"""

from keras_saliency.imaging.defence import defend, destruction_rate
from keras_saliency.imaging.deflection import pixel_deflection
from keras_saliency.imaging.denoising import wavelet_denoise
from keras_saliency.imaging.jpeg import semantic_jpeg
from keras_saliency.imaging.quality import image_quality

__all__ = [
    "defend",
    "destruction_rate",
    "image_quality",
    "pixel_deflection",
    "semantic_jpeg",
    "wavelet_denoise",
]
