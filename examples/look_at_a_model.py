"""What does a network look at?
===============================

Saliency maps of one that tells whether a photograph shows a face.

    python examples/look_at_a_model.py [--small]

The network is trained on faces and other things of scikit-image's LFW subset, pasted into
photographs; since it is known where, the maps can be judged: how often is the highest value of a
map on the face? Then it looks at a photograph that nobody pasted anything into. The picture goes
to output/look_at_a_model.png. Takes about a minute.
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
from skimage import color, data, transform

matplotlib.use("Agg")

from keras_saliency import attribution, saliency_map, visualization

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--small", action="store_true", help="less training, a few seconds")
small = parser.parse_args().small

SIZE = 48
METHODS = ("grad_cam", "layer_cam", "smooth_grad", "occlusion", "random")
OPTIONS = {"smooth_grad": {"samples": 20}, "occlusion": {"window": 12, "stride": 6, "fill": 0.5}}

# %%
# 1. Scenes: a photograph, and in it a face or something else.
patches = data.lfw_subset()  # 100 faces, 100 that are none, 25 x 25
patches = np.split(patches, 2)
photographs = [
    transform.rescale(color.rgb2gray(p) if p.ndim == 3 else p / 255, 0.5, anti_aliasing=True)
    for p in (data.coffee(), data.rocket(), data.brick(), data.grass(), data.gravel(), data.coins())
]


def scenes(count, chosen, rng):
    """Images `(count, SIZE, SIZE, 1)`, whether there is a face, and the box of what was pasted."""
    x = np.zeros((count, SIZE, SIZE, 1), "float32")
    y = rng.integers(0, 2, count)
    boxes = []
    for image, label in zip(x, y, strict=True):
        photograph = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(n - SIZE + 1) for n in photograph.shape)
        image[..., 0] = photograph[top : top + SIZE, left : left + SIZE]
        patch = patches[0 if label else 1][rng.choice(chosen)]
        patch = patch[:, :: rng.choice([-1, 1])] * rng.uniform(0.7, 1.2)
        top, left = rng.integers(0, SIZE - 25 + 1, 2)
        image[top : top + 25, left : left + 25, 0] = patch
        boxes.append([(top, left, top + 25, left + 25)])
    return np.clip(x, 0, 1), y, boxes


rng = np.random.default_rng(0)
x, y, _ = scenes(300 if small else 1500, np.arange(80), rng)
test_x, test_y, boxes = scenes(60 if small else 200, np.arange(80, 100), rng)

# %%
# 2. A small network of any kind; this one sees photographs of any size.
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((None, None, 1))])
for filters in (8, 16, 32):
    model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
    model.add(layers.BatchNormalization(momentum=0.9))
    model.add(layers.ReLU())
    model.add(layers.MaxPooling2D())
model.add(layers.Conv2D(32, 3, padding="same", activation="relu"))
model.add(layers.GlobalMaxPooling2D())
model.add(layers.Dense(2, activation="softmax"))
model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=2 if small else 6, batch_size=32, verbose=0)
_, accuracy = model.evaluate(test_x, test_y, verbose=0)
print(f"accuracy on faces that it has not seen: {100 * accuracy:.0f} %")

# %%
# 3. Which maps point at the face? One line a map, and a judge.
faces = np.flatnonzero(test_y == 1)[: 5 if small else 40]
print(f"share of {len(faces)} faces that the highest value of a map lies on:")
for method in METHODS:
    maps = saliency_map(model, test_x[faces], method, target=1, **OPTIONS.get(method, {}))
    hits = attribution.pointing_game(maps, [boxes[i] for i in faces])["hit"]
    print(f"  {method:22s} {100 * hits.mean():4.0f} %")

# %%
# 4. A photograph that is one: an astronaut, her face as large as those that it learned from.
astronaut = transform.rescale(color.rgb2gray(data.astronaut()), 0.2, anti_aliasing=True)
photograph = astronaut[:SIZE, 20 : 20 + SIZE, None].astype("float32")
shown = np.concatenate([photograph[None], test_x[faces[:2]]])
figure = visualization.plot_saliency_maps(
    model,
    shown,
    METHODS[:-1],
    class_names=["no face", "face"],
    target=1,
    **OPTIONS["smooth_grad"],
    **OPTIONS["occlusion"],
)
Path("output").mkdir(exist_ok=True)
figure.savefig("output/look_at_a_model.png", dpi=110)
print("output/look_at_a_model.png")
