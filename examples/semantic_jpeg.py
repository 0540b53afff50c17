"""A JPEG file that is sharper where it matters
===============================================

Here, where scikit-image finds a face.

    python examples/semantic_jpeg.py [--small]

The map is an ellipse in each face that `skimage.feature.Cascade` detects; any map in [0, 1] will
do, that of a network by `keras_saliency.saliency_map` too. The picture, with sizes and numbers,
goes to output/semantic_jpeg.png. Takes a few seconds.
"""

import argparse
import importlib.util
import io
import os
from pathlib import Path

# Keras needs to know its backend before it is imported: take one that is installed.
BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import numpy as np
from PIL import Image
from skimage import data
from skimage.feature import Cascade

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from keras_saliency import imaging
from keras_saliency.visualization import overlay

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--small", action="store_true", help="the face alone, a quarter of the pixels")
small = parser.parse_args().small
QUALITY = 20  # of the plain JPEG whose size is not exceeded

photograph = data.astronaut()
if small:
    photograph = np.ascontiguousarray(photograph[:256, 96:352])

# %%
# 1. The map: 1 in the middle of a face, falling to 0 beyond it.
detector = Cascade(data.lbp_frontal_face_cascade_filename())
faces = detector.detect_multi_scale(
    photograph, scale_factor=1.2, step_ratio=1, min_size=(60, 60), max_size=(200, 200)
)
rows, columns = np.mgrid[: photograph.shape[0], : photograph.shape[1]]
saliency = np.zeros(photograph.shape[:2])
for face in faces:
    height, width = face["height"] / 2, face["width"] / 2
    radius = np.hypot(
        (rows - face["r"] - height) / (1.1 * height), (columns - face["c"] - width) / (0.9 * width)
    )
    saliency = np.maximum(saliency, np.clip(2 * (1.5 - radius), 0, 1))
print(f"faces: {len(faces)}, {100 * (saliency > 0.5).mean():.1f} % of the photograph")

# %%
# 2. Two files of a size.
plain = io.BytesIO()
Image.fromarray(photograph).save(plain, "JPEG", quality=QUALITY, optimize=True)
files = {
    "plain": plain.getvalue(),
    "semantic": imaging.semantic_jpeg(photograph, saliency, match=QUALITY),
}
frame = imaging.image_quality(photograph, files, saliency)
print(frame.round(3).to_string())

# %%
# 3. Side by side.
extent = np.nonzero(saliency > 0.5) if len(faces) else (rows, columns)
top, bottom = extent[0].min(), extent[0].max()
left, right = extent[1].min(), extent[1].max()
figure, axes = plt.subplots(2, 3, figsize=(11, 7.8), layout="constrained")
titles = ("The photograph", "The map: where it matters")
for axis, picture, title in zip(
    axes[:, 0], (photograph, overlay(photograph, saliency)), titles, strict=True
):
    axis.imshow(picture)
    axis.set_title(title)
for (name, row), (upper, lower) in zip(frame.iterrows(), axes[:, 1:].T, strict=True):
    decoded = np.asarray(Image.open(io.BytesIO(files[name])))
    upper.imshow(decoded)
    upper.set_title(f"{name.capitalize()} JPEG, {row['bytes'] / 1000:.1f} kB")
    lower.imshow(decoded[top:bottom, left:right])
    lower.set_xlabel(
        f"PSNR of the face {row['PSNR-S']:.2f} dB, of all {row['PSNR']:.2f} dB\n"
        f"SSIM of all {row['SSIM']:.3f}, MS-SSIM {row['MS-SSIM']:.3f}"
    )
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
Path("output").mkdir(exist_ok=True)
figure.savefig("output/semantic_jpeg.png", dpi=110)
