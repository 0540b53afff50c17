"""Is it the data or the network?
=================================

And which backbone fits the data? Answered without fine-tuning.

    python examples/which_backbone.py [--small]

Networks that learned some of scikit-learn's digits stand for pretrained backbones; the picture
goes to output/layer_separation.png. Takes well under a minute.
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
from sklearn.datasets import load_digits

matplotlib.use("Agg")

import keras_saliency
from keras_saliency.complexity import NeighborConfidence, layer_separation, rank_models
from keras_saliency.visualization import plot_layer_separation

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--small", action="store_true", help="a few seconds")
small = parser.parse_args().small

# Digits that lie anywhere in a larger picture: by pixels, neighbors are often of other classes.
images, y = load_digits(return_X_y=True)
x = np.zeros((len(images), 14, 14, 1), "float32")
places = np.random.default_rng(0).integers(0, 7, (len(images), 2))
for image, picture, (row, column) in zip(images, x, places, strict=True):
    picture[row : row + 8, column : column + 8, 0] = image.reshape(8, 8) / 16
known = y < 5  # the backbones learn from these digits, the task are the others
task_x, task_y = x[~known], y[~known]


def backbone(seed, epochs, classes=range(5)):
    """A network that has seen `epochs` of the digits in `classes`."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((14, 14, 1)),
            layers.Conv2D(16, 3, activation="relu", name="conv1"),
            layers.Conv2D(32, 3, activation="relu", name="conv2"),
            layers.Conv2D(64, 3, activation="relu", name="conv3"),
            layers.GlobalMaxPooling2D(name="pool"),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    chosen = np.isin(y, list(classes))
    if epochs:
        model.fit(x[chosen], y[chosen], epochs=epochs, verbose=0)
    return model


# %%
# 1. The data: a nearest neighbor among the pixels is this often of the same class.
print(f"separation index of the pixels: {keras_saliency.separation_index(task_x, task_y):.3f}")

# %%
# 2. The backbones: whose features separate classes that none of them has seen?
epochs = 1 if small else 15
models = {
    "untrained": backbone(0, 0),
    "five digits": backbone(0, epochs),
    "two digits": backbone(0, epochs, (0, 1)),
}
frame = rank_models(models, task_x, task_y)
print(frame.to_string(index=False))
best = models[frame["model"][0]]

# %%
# 3. Where in the network are they separated?
separation = {
    name: layer_separation(model, task_x, task_y, max_samples=400) for name, model in models.items()
}
print(separation[frame["model"][0]].to_string(index=False))
Path("output").mkdir(exist_ok=True)
plot_layer_separation(separation).savefig("output/layer_separation.png", dpi=150)

# %%
# 4. How sure may one be of a new sample?
features = keras.Model(best.inputs, best.get_layer("pool").output).predict(task_x, verbose=0)
half = len(features) // 2
nearest = NeighborConfidence(features[:half], task_y[:half])
accuracy = (nearest.predict(features[half:]) == task_y[half:]).mean()
print(f"nearest neighbor: {nearest.confidence():.3f} expected, {accuracy:.3f} reached")
