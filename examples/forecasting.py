"""Forecast real series
=======================

Monthly airline passengers and solar power, one step ahead, with SDMA.

    python examples/forecasting.py [--small]

Both series ship with aeon. The last fifth is held out. SDMA starts at the last value and adds a
linear map of the window. Saliency itself brings nothing here: compare with ridge regression, and
use SDMA to classify (gesture_recognition.py).
"""

import argparse
import importlib.util
import os

BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))

import keras
import numpy as np
from aeon.datasets import load_airline, load_solar
from sklearn.linear_model import RidgeCV

from keras_saliency.models import SDMA


def windows(series, length):
    """Windows of a series, and the value that follows each."""
    view = np.lib.stride_tricks.sliding_window_view(series, length + 1)
    return view[:, :-1, None].astype("float32"), view[:, -1:].astype("float32")


def lstm(length):
    layers = [keras.Input((length, 1)), keras.layers.LSTM(8, return_sequences=True)]
    return keras.Sequential([*layers, keras.layers.LSTM(8), keras.layers.Dense(1)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="one epoch, no claim")
    small = parser.parse_args().small
    seeds = 1 if small else 3
    for name, load, length, season in (
        ("airline", load_airline, 24, 12),
        ("solar", load_solar, 48, 48),
    ):
        series = np.asarray(load(), "float64").ravel()
        cut = int(0.8 * len(series))
        mean, std = series[:cut].mean(), series[:cut].std()
        x, y = windows((series - mean) / std, length)
        train = cut - length
        print(f"{name}: {len(series)} steps; mean absolute error of the last {len(x) - train}")
        ridge = RidgeCV(np.logspace(-4, 4, 17)).fit(x[:train, :, 0], y[:train, 0])
        simple = {
            "the last value": x[train:, -1, 0],
            "a season before": x[train:, -season, 0],
            "ridge regression": ridge.predict(x[train:, :, 0]),
        }
        for kind, forecast in simple.items():
            print(f"  {kind:<16} {std * np.abs(forecast - y[train:, 0]).mean():.4f}")
        models = {
            "LSTM": lambda n=length: lstm(n),
            "SDMA": lambda n=length: SDMA((n, 1), forecast=1, depth=1, units=8, highway=False),
            "SDMA, highway": lambda n=length: SDMA((n, 1), forecast=1, depth=1, units=8),
        }
        for kind, make in models.items():
            errors = []
            for seed in range(seeds):
                keras.utils.set_random_seed(seed)
                model = make()
                model.compile(keras.optimizers.Adam(0.005), "mae")
                model.fit(x[:train], y[:train], batch_size=32, epochs=1 if small else 60, verbose=0)
                errors.append(std * model.evaluate(x[train:], y[train:], verbose=0))
            print(f"  {kind:<16} {np.mean(errors):.4f} ± {np.std(errors):.4f} ({seeds} seeds)")


if __name__ == "__main__":
    main()
