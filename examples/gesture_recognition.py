"""Recognize motions of a smart watch
=====================================

An LSTM, and the same with salient events as a second input.

    python examples/gesture_recognition.py [--small]

BasicMotions ships with aeon: 80 recordings, 100 steps of accelerometer and gyroscope, of people
who stand, walk, run and play badminton. Pictures go to output/.
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
from aeon.datasets import load_basic_motions

matplotlib.use("Agg")

from keras_saliency import SDMACrossAttention
from keras_saliency.scale_space import temporal_events
from keras_saliency.visualization import plot_saliency, plot_scale_space

NAMES = ["acc x", "acc y", "acc z", "gyro x", "gyro y", "gyro z"]


def data():
    parts = []
    for split in ("train", "test"):
        x, y = load_basic_motions(split=split)
        parts.append((np.moveaxis(x, 1, 2).astype("float32"), y))
    (x, y), (x_test, y_test) = parts
    mean, std = x.mean((0, 1)), x.std((0, 1))
    classes = np.unique(y)
    return (
        ((x - mean) / std, np.searchsorted(classes, y)),
        ((x_test - mean) / std, np.searchsorted(classes, y_test)),
        classes,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="one epoch, no claim")
    small = parser.parse_args().small
    (x, y), (x_test, y_test), classes = data()

    # 1. What happens in one recording, and when.
    walk = int(np.argmax(y == list(classes).index("walking")))
    events = temporal_events(x[walk])
    print(events.sort_values("sigma", ascending=False).head(8).to_string(index=False))
    output = Path("output")
    output.mkdir(exist_ok=True)
    plot_saliency(x[walk], events, variates=[0, 1, 2], names=NAMES).savefig(
        output / "gesture_saliency.png", dpi=150
    )
    plot_scale_space(x[walk], variate=1, octaves=4).savefig(
        output / "gesture_scale_space.png", dpi=150
    )

    # 2. The same network, one line apart.
    layers = {
        "LSTM": lambda: keras.layers.LSTM(12),
        "SDMA": lambda: SDMACrossAttention(12, return_sequences=False),
    }
    for name, layer in layers.items():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input(x.shape[1:]),
                layer(),
                keras.layers.Dense(len(classes), activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.RMSprop(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        model.fit(x, y, batch_size=8, epochs=1 if small else 40, verbose=0)
        score = model.evaluate(x_test, y_test, verbose=0)[1]
        print(f"{name}: {100 * score:.1f} % of the test recordings, {model.count_params()} weights")

    # 3. What it learned is an ordinary Keras model.
    model.save(output / "gestures.keras")
    loaded = keras.saving.load_model(output / "gestures.keras")
    guess = classes[np.argmax(loaded.predict(x_test[:1], verbose=0))]
    print(f"first test recording: {guess}, in truth {classes[y_test[0]]}")


if __name__ == "__main__":
    main()
