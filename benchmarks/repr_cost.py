"""What RePr costs: a training step with the callback, in both phases, beside a plain one.

    KERAS_BACKEND=jax python benchmarks/repr_cost.py [--repeats 25] [--batch 64] [--small]

One training step (`train_on_batch`, compiled where the backend compiles) of a convolutional network
with batch norms: plain, with `RePrCallback` while all filters train, and while 30 % of them are
dropped. Ratios are of medians, to the plain step of the same run. Besides, what it takes to drop
filters and to bring them back, which happens once a cycle each, in plain steps.
"""

import time

import keras
import numpy as np
import pandas as pd
import runner
from keras import layers

import keras_saliency


def network(shape, width=32):
    stack = [keras.Input(shape)]
    for filters in (width, 2 * width, 4 * width):
        stack.append(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        stack += [layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
    stack += [layers.Flatten(), layers.Dense(8 * width, activation="relu"), layers.Dense(10)]
    model = keras.Sequential(stack)
    model.compile("adam", "mse")
    return model


def stepper(model, x, y, unit=None):
    """A training step as it is inside `fit`, in the epoch `unit` of a training with RePr."""
    if unit is None:
        return lambda: model.train_on_batch(x, y)
    callback = keras_saliency.RePrCallback(0.3, full=1, reduced=1, cycles=1)
    callback.set_params({"epochs": 2, "steps": 10_000})
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    if unit:
        callback.on_epoch_begin(unit)

    def step():
        callback.on_train_batch_begin(0)
        result = model.train_on_batch(x, y)
        callback.on_train_batch_end(0)
        return result

    step.callback = callback
    return step


def seconds(function, repeats):
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return np.median(found)


def main():
    options = runner.arguments(__doc__, repeats=25, batch=64)
    size, batch, repeats = 32, options.batch, options.repeats
    if options.small:
        size, batch, repeats = 8, 4, 2
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, size, size, 3)).astype("float32")
    y = rng.normal(size=(batch, 10)).astype("float32")
    units = {"plain": None, "all filters train": 0, "30 % are dropped": 1}
    tasks = {name: stepper(network(x.shape[1:]), x, y, unit) for name, unit in units.items()}
    timings = runner.measure(tasks, repeats=repeats, warmup=3)
    plain = timings["seconds"]["plain"]
    cycles = tasks["30 % are dropped"].callback.sparsifier

    def cycle():
        cycles.bring_back()
        cycles.drop(0)

    cycle()
    timings.loc["drop and bring back, once a cycle", "seconds"] = seconds(cycle, min(repeats, 5))
    frame = pd.DataFrame({"step": timings.index, "seconds": timings["seconds"].to_numpy()})
    frame["ratio"] = frame["seconds"] / plain
    frame["others"] = timings.attrs["others"]
    notes = f"""Adam, {size} x {size} x 3 inputs in batches of {batch}, 0.6 million weights; medians
    of {repeats} interleaved steps. Goals: 1.05 in both phases, 1.10 in eager PyTorch. `others` is
    the share of the CPU that other processes took meanwhile."""
    runner.write("repr_cost", frame, notes, small=options.small)


if __name__ == "__main__":
    main()
