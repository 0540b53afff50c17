"""Where is every object?
=========================

Digits on photographs, all found in one pass by a network with MS-ROI.

    python examples/find_every_object.py [--small]

Three of scikit-learn's handwritten digits lie on each scene; the network learns from which they
are, never from where. The picture goes to output/find_every_object.png. Takes one
minute on TensorFlow, a few on PyTorch.
"""

import argparse
import importlib.util
import os
from pathlib import Path

# Keras needs to know its backend before it is imported: take one that is installed.
BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))

import keras
import matplotlib
import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter
from skimage import data
from skimage.transform import resize
from sklearn.datasets import load_digits

matplotlib.use("Agg")
from matplotlib import pyplot as plt

import keras_saliency
from keras_saliency.attribution import pointing_game
from keras_saliency.visualization import overlay

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--small", action="store_true", help="a few seconds, too few to learn much")
small = parser.parse_args().small
SIDE, DIGIT, OBJECTS = 40, 12, 3
SCENES, EPOCHS, TESTS = (64, 1, 8) if small else (3000, 6, 200)

# %%
# 1. Scenes: dark crops of photographs, with bright digits of three classes that do not overlap.
images, classes = load_digits(return_X_y=True)
digits = np.stack([resize(x.reshape(8, 8) / 16, (DIGIT, DIGIT)) for x in images])
photographs = [x[::2, ::2] / 255 for x in (data.astronaut(), data.chelsea(), data.coffee())]
for_training = np.random.default_rng(0).uniform(size=len(digits)) < 0.7


def scenes(count, of, seed):
    """Scenes, which classes they hold as zeros and ones, and the class and box of each digit."""
    random = np.random.default_rng(seed)
    x, y = np.zeros((count, SIDE, SIDE, 3), "float32"), np.zeros((count, 10), "float32")
    chosen, boxes = np.zeros((count, OBJECTS), int), []
    for i in range(count):
        photograph = photographs[random.integers(len(photographs))]
        row, column = (random.integers(n - SIDE) for n in photograph.shape[:2])
        x[i] = 0.5 * photograph[row : row + SIDE, column : column + SIDE]
        apart = False
        while not apart:
            corners = random.integers(0, SIDE - DIGIT + 1, (OBJECTS, 2))
            distance = np.abs(corners[:, None] - corners[None]).max(axis=-1)
            apart = (distance + SIDE * np.eye(OBJECTS) >= DIGIT).all()
        boxes.append([(r, c, r + DIGIT, c + DIGIT) for r, c in corners.tolist()])
        chosen[i] = random.choice(10, OBJECTS, replace=False)
        y[i, chosen[i]] = 1
        for c, (top, left, bottom, right) in zip(chosen[i], boxes[-1], strict=True):
            ink = digits[random.choice(np.flatnonzero(of & (classes == c)))][..., None]
            there = x[i, top:bottom, left:right]
            there += ink * (random.uniform(0.7, 1, 3) - there)
    return x, y, chosen, boxes


x, y, _, _ = scenes(SCENES, for_training, 0)
test_x, test_y, chosen, boxes = scenes(TESTS, ~for_training, 1)

# %%
# 2. A network that is told which classes a scene holds.
keras.utils.set_random_seed(0)
model = keras_saliency.models.MSROI((SIDE, SIDE, 3), 10, stages=3, filters=8)
rate = keras.optimizers.schedules.CosineDecay(5e-3, EPOCHS * -(-SCENES // 64))
model.compile(keras.optimizers.Adam(rate), keras.losses.BinaryCrossentropy(from_logits=True))
model.fit(x, y, batch_size=64, epochs=EPOCHS, verbose=0)
seen = np.argsort(-model.predict(test_x, verbose=0))[:, :OBJECTS]
right = np.take_along_axis(test_y, seen, axis=1).mean()
print(f"{100 * right:.1f} % of the digits are among the {OBJECTS} likeliest classes")

# %%
# 3. Maps: one of all classes with a logit above -1, one of each of the three likeliest.
at_once = keras_saliency.saliency_map(model, test_x, "ms_roi", threshold=-1, join="max")
each = [keras_saliency.saliency_map(model, test_x, "ms_roi", target=c.tolist()) for c in seen.T]
likeliest = keras_saliency.saliency_map(model, test_x, "grad_cam")
noise = keras_saliency.saliency_map(model, test_x, "random")


def peaks(maps):
    """The three highest peaks of each map, half a digit apart, in maps of their own."""
    highest = maximum_filter(maps, (1, DIGIT + 1, DIGIT + 1))
    left = np.where((maps == highest) & (maps > 0.05), maps, 0)
    for _ in range(OBJECTS):
        highest = left == left.max(axis=(1, 2), keepdims=True)
        yield left * highest
        left = left * ~highest


def pointed_at(pointers):
    """For each scene and digit, whether the highest value of one of the maps lies on it."""
    found = np.zeros((TESTS, OBJECTS), bool)
    for maps in pointers:
        for i in range(OBJECTS):
            found[:, i] |= pointing_game(maps, [[of_scene[i]] for of_scene in boxes])["hit"]
    return found


pointers = {
    "MS-ROI: all in one map": list(peaks(at_once)),
    "MS-ROI: a map for each": each,
    "Grad-CAM: the likeliest": list(peaks(likeliest)),
    "random": list(peaks(noise)),
}
found = {name: pointed_at(maps) for name, maps in pointers.items()}
rows = [
    {"map": name, "digits pointed at, %": 100 * f.mean(), "all three, %": 100 * f.all(1).mean()}
    for name, f in found.items()
]
print(pd.DataFrame(rows).round(1).to_string(index=False))


# %%
# 4. Side by side.
def in_colours(scene, maps):
    """A map per color, on a gray scene."""
    grey = 0.8 * scene.mean(axis=-1, keepdims=True)
    return np.clip(grey + 0.7 * np.stack(maps, axis=-1), 0, 1)


figure, axes = plt.subplots(4, 4, figsize=(9.5, 10.6), layout="constrained")
for i, row in enumerate(axes):
    row[0].imshow(test_x[i])
    row[0].set_xlabel("labels: " + ", ".join(map(str, sorted(chosen[i]))))
    row[1].imshow(overlay(test_x[i], at_once[i], alpha=0.7))
    row[2].imshow(in_colours(test_x[i], [maps[i] for maps in each]))
    row[3].imshow(overlay(test_x[i], likeliest[i], alpha=0.7))
    for axis, (name, maps) in zip(row[1:], pointers.items(), strict=False):
        for rank, one in enumerate(maps):
            y, x = np.unravel_index(one[i].argmax(), one[i].shape)
            if maps is each:
                box = {"facecolor": "black", "pad": 1.5}
                axis.text(x, y, seen[i, rank], color="white", ha="center", va="center", bbox=box)
            elif one[i].max() > 0:
                axis.scatter(x, y, marker="x", c="cyan", s=60)
        axis.set_xlabel(f"points at {found[name][i].sum()} of {OBJECTS}")
for axis, title in zip(axes[0], ("A scene", *pointers), strict=False):
    axis.set_title(title.replace(": ", ":\n"))
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
Path("output").mkdir(exist_ok=True)
figure.savefig("output/find_every_object.png", dpi=110)
