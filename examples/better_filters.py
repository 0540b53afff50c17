"""Filters that overlap less
============================

With `RePrCallback`, beside as many epochs of training without it.

    python examples/better_filters.py [--small]

Small convolutional networks on scikit-learn's digits, from the same weights each. Printed is what
comes out: how much the filters overlap and how many digits are told, for each seed. Filters that
overlap less need not tell more digits: here they tell fewer. Compare it on your own data. The
picture goes to output/better_filters.png. Takes about a minute.
"""

import argparse
import importlib.util
import os
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))

import keras
import matplotlib
import numpy as np
import pandas as pd
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import keras_saliency
from keras_saliency.sparsity import filter_overlap
from keras_saliency.visualization import plot_filter_overlap

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--small", action="store_true", help="a few seconds")
small = parser.parse_args().small
full, reduced, cycles, epochs = (1, 1, 1, 3) if small else (5, 3, 3, 28)
seeds = range(1 if small else 3)

images, digits = load_digits(return_X_y=True)
images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
x, x_test, y, y_test = train_test_split(images, digits, test_size=0.5, random_state=0)


class Overlap(keras.callbacks.Callback):
    """The mean overlap behind each epoch, of the filters that stand.

    Those at 0 overlap with none, and count in the divisor: overlap is least while some are dropped.
    """

    def on_train_begin(self, logs=None):
        self.means = []

    def on_epoch_end(self, epoch, logs=None):
        values = filter_overlap(self.model)["overlap"]
        self.means.append(values[values > 0].mean())


def train(seed, *callbacks):
    """A network, and its overlap epoch by epoch."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv3"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    overlap = Overlap()
    model.fit(x, y, epochs=epochs, batch_size=64, verbose=0, callbacks=[*callbacks, overlap])
    return model, overlap.means


rows, courses, last = [], {"without": [], "with RePr": []}, {}
for seed in seeds:
    # 30 % of the filters, those that overlap most with others of their layer, stand at 0 for
    # `reduced` epochs and come back orthogonal to the rest. The model stays a plain one.
    repr_callback = keras_saliency.RePrCallback(0.3, full, reduced, cycles, seed=seed)
    for way, callbacks in (("without", []), ("with RePr", [repr_callback])):
        model, course = train(seed, *callbacks)
        courses[way].append(course)
        accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
        rows.append((seed, way, course[-1], 100 * accuracy))
        last[way] = filter_overlap(model)

frame = pd.DataFrame(rows, columns=["seed", "training", "overlap", "accuracy %"])
print(frame.round(3).to_string(index=False))
means = frame.groupby("training")[["overlap", "accuracy %"]].mean()
print(means.round(3).to_string())
overlap, gain = means.loc["with RePr"] - means.loc["without"]
change = f"the overlap by {overlap:+.3f} and the accuracy by {gain:+.2f} points"
print(f"RePr changed {change}, mean of {len(seeds)} seed(s) of {epochs} epochs each.")

figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
for way, found in courses.items():
    axes[0].plot(range(1, epochs + 1), np.mean(found, axis=0), label=way)
for cycle in range(cycles):
    start = cycle * (full + reduced) + full
    label = "filters dropped" if cycle == 0 else None
    axes[0].axvspan(start + 0.5, start + reduced + 0.5, color="0.9", label=label)
axes[0].set(xlabel="epoch", ylabel="mean overlap of the filters that stand")
axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
top = max(found["overlap"].max() for found in last.values())
for axis, (way, found) in zip(axes[1:], last.items(), strict=True):
    plot_filter_overlap(found, axis)
    axis.set(title=f"{way}, after {epochs} epochs", ylim=(0, 1.05 * top))
Path("output").mkdir(exist_ok=True)
figure.savefig("output/better_filters.png", dpi=150)
print("picture: output/better_filters.png")
