"""What would a network most like to see?
=========================================

Pictures that climb its scores, by `input_gradients`.

    python examples/dream.py [--small]

A small network learns scikit-learn's handwritten digits under noise. Then pictures are changed,
not weights: from an empty one towards each digit, and from a handwritten one until the network
reads it as another. The picture goes to output/dream.png. Takes well under a minute.
"""

import argparse
import importlib.util
import os
from pathlib import Path

# Keras needs to know its backend before it is imported: take one that is installed.
BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
from keras import layers
from scipy import ndimage
from sklearn.datasets import load_digits

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from keras_saliency.attribution import input_gradients

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--small", action="store_true", help="a few seconds")
small = parser.parse_args().small
SIZE, NOISE = 24, 0.3
DIGITS = np.arange(10)
keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)

# %%
# 1. A network. The noise matters: without it the dreams are noise, too, that happens to score.
images, y = load_digits(return_X_y=True)
x = ndimage.zoom(images.reshape(-1, 8, 8) / 16, (1, SIZE / 8, SIZE / 8), order=1, grid_mode=True,
                 mode="nearest")[..., None].astype("float32")  # fmt: skip
model = keras.Sequential(
    [
        keras.Input((SIZE, SIZE, 1)),
        layers.GaussianNoise(NOISE),
        layers.Conv2D(16, 5, strides=2, padding="same", activation="gelu"),
        layers.Conv2D(32, 3, strides=2, padding="same", activation="gelu"),
        layers.Flatten(),
        layers.Dense(64, activation="gelu"),
        layers.Dense(10, activation="softmax"),
    ]
)
model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
model.fit(x[:1500], y[:1500], batch_size=64, epochs=2 if small else 8, verbose=0)
x, y = x[1500:], y[1500:]  # digits that it has not seen
read = model.predict(x, verbose=0).argmax(axis=1)
print(f"The network reads {100 * (read == y).mean():.0f} % of digits that it has not seen.")


def dream(pictures, targets, steps, until=None, rate=0.006):
    """Change pictures, step by step, so that the network sees `targets` in them.

    Args:
        pictures: Array `(n, height, width, 1)` in [0, 1].
        targets: The class that each is to show.
        steps: How often each is changed.
        until: A probability at which a picture stays as it is; by default none does.
        rate: How far a step goes, of white.
    """
    start, velocity = pictures, np.zeros_like(pictures)
    for _ in range(steps):
        if until is not None:
            said = model.predict(pictures, verbose=0)[np.arange(len(targets)), targets]
            if (said >= until).all():
                break
        noisy = pictures + generator.normal(0, NOISE, pictures.shape).astype("float32")
        slope = input_gradients(model, noisy, target=targets)  # before the softmax
        slope = ndimage.gaussian_filter(slope, (0, 0.7, 0.7, 0))  # strokes, no single pixels
        slope /= np.sqrt((slope**2).mean(axis=(1, 2, 3), keepdims=True)) + 1e-9
        velocity = 0.9 * velocity + slope
        change = rate * velocity - 0.1 * (pictures - start)  # what does not help fades again
        if until is not None:
            change[said >= until] = 0
        pictures = np.clip(pictures + change, 0, 1)
    return pictures


# %%
# 2. From nothing, and from one digit that someone wrote.
steps = 15 if small else 80
written = np.stack([x[(y == digit) & (read == digit)][0] for digit in DIGITS])
dreamt = dream(np.zeros_like(written), DIGITS, steps)
turned = dream(np.repeat(written[3:4], 10, axis=0), DIGITS, steps, until=0.9)

# %%
# 3. Side by side.
rows = {
    "Written by people; below, what the network reads": written,
    "Dreamt from an empty picture, to be as much a 0, a 1, ... as can be": dreamt,
    "The same 3, changed until the network reads a 0, a 1, ...": turned,
}
figure = plt.figure(figsize=(10, 4.6), layout="constrained")
for part, (title, pictures) in zip(figure.subfigures(3, 1), rows.items(), strict=True):
    part.suptitle(title, fontsize=11)
    said = model.predict(pictures, verbose=0)
    for axis, picture, row in zip(part.subplots(1, 10), pictures, said, strict=True):
        axis.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(f"{row.argmax()}, {100 * row.max():.0f} %", fontsize=9)
Path("output").mkdir(exist_ok=True)
figure.savefig("output/dream.png", dpi=120)
