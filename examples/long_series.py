"""A series of 10 000 steps
===========================

XM2A trains on it, dot-product attention does not get far.

The event that decides the class, a wiggle of eight steps up-down or down-up, hides anywhere among
10 000 noisy steps. The heads describe a series by its maxima (``descriptor="maximum"``, the default
of ``models.XM2A`` for classification): averages drown eight steps in 10 000.
``python examples/long_series.py`` takes about two minutes; ``--small`` seconds.
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path

# Keras needs to know its backend before it is imported: take the one that is installed.
BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")

import keras_saliency

OUTPUT = Path("output")


def make_series(count, steps, seed):
    """Return noise with one wiggle each, up-down (class 1) or down-up (class 0)."""
    rng = np.random.default_rng(seed)
    x = 0.2 * rng.normal(size=(count, steps, 1)).astype("float32")
    y = np.arange(count) % 2
    for i, start in enumerate(rng.integers(0, steps - 8, size=count)):
        x[i, start : start + 8, 0] += np.repeat([2, -2] if y[i] else [-2, 2], 4)
    return x, y


def build(steps, attention="xm2a", **options):
    model = keras_saliency.models.XM2A(
        (steps, 1), 2, depth=1, num_heads=4, key_dim=16, units=16, attention=attention, **options
    )
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def seconds_per_step(model, x, y):
    for _ in range(2):  # the first one compiles
        start = time.perf_counter()
        model.train_on_batch(x, y)
    return time.perf_counter() - start


def mass_at_event(model, x):
    """Return the share of the first block's masks within 12 steps of the event, a mean."""
    projected = model.get_layer("projection")(x)
    _, masks = model.get_layer("attention_1")(projected, return_attention_scores=True)
    masks = keras.ops.convert_to_numpy(masks).mean((1, 3))
    at = np.abs(x[:, :, 0]).argmax(1)  # a step of the wiggle
    near = [m[max(0, a - 12) : a + 12].sum() / m.sum() for m, a in zip(masks, at, strict=True)]
    return float(np.mean(near))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    small = parser.parse_args().small
    OUTPUT.mkdir(exist_ok=True)
    steps, count, batch = (500, 32, 8) if small else (10_000, 192, 8)

    print(f"A training step on {batch} series, seconds:")
    lengths = (250, 500) if small else (1250, 2500)
    for attention in ("xm2a", "multi-head"):
        costs = {}
        for length in (*lengths, steps) if attention == "xm2a" else lengths:
            costs[length] = seconds_per_step(
                build(length, attention), *make_series(batch, length, 0)
            )
        text = ", ".join(f"{length} steps {cost:.2f}" for length, cost in costs.items())
        if attention == "multi-head":
            gib = 4 * batch * 4 * steps**2 / 2**30
            text += f"; {steps} steps would need {gib:.1f} GiB for each copy of the scores alone"
        print(f"  {attention}: {text}")

    model = build(steps, "xm2a")
    x, y = make_series(count, steps, 1)
    start = time.perf_counter()
    model.fit(x, y, batch_size=batch, epochs=1 if small else 4, verbose=0)
    x_test, y_test = make_series(16 if small else 48, steps, 2)
    accuracy = model.evaluate(x_test, y_test, batch_size=batch, verbose=0)[1]
    print(f"XM2A trained for {time.perf_counter() - start:.0f} s; accuracy {accuracy:.2f}")

    mass = mass_at_event(model, x_test[:16])
    print(f"Share of the masks within 12 steps of the event: {mass:.2f}", end="")
    print(f" (of flat masks {24 / steps:.3f})")

    figure = keras_saliency.visualization.plot_heads(model, x_test[1])
    figure.savefig(OUTPUT / "long_series_heads.png", dpi=120)
    print(f"Where its heads look: {OUTPUT / 'long_series_heads.png'}")


if __name__ == "__main__":
    main()
