"""Should XM2A describe a series by its maxima or by its averages?

    KERAS_BACKEND=tensorflow python benchmarks/xm2a_descriptors.py
    KERAS_BACKEND=tensorflow python benchmarks/xm2a_descriptors.py --part long

`sets`: `models.XM2A` (2 blocks of 4 heads of 16, 32 wide) on five sets that ship with aeon, both
descriptors from the same weights and on the same splits, 70 % of the series to train. `long`: the
event of eight steps of `examples/long_series.py` in series of 1 000 and 10 000 steps, four epochs,
beside its peers; `mass` is the share of the masks within 12 steps of the event. Each finished row
is kept at once; rows that are there are skipped.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import runner
from xm2a_accuracy import load

from keras_saliency import models

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import long_series

SETS = ("ItalyPowerDemand", "GunPoint", "ArrowHead", "BasicMotions", "OSULeaf")
BATCH = 16


def start(model):
    """Return a function that gives the compiled `model` other weights and a fresh optimizer."""
    model.optimizer.build(model.trainable_variables)
    fresh = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]

    def restart(weights):
        model.set_weights(weights)
        for variable, value in zip(model.optimizer.variables, fresh, strict=True):
            variable.assign(value)

    return restart


def described(x, y, descriptor, seeds, updates):
    """Return the test accuracy in per cent of every seed, and the epochs trained."""
    from sklearn.model_selection import train_test_split

    def make():
        return models.XM2A(
            x.shape[1:],
            int(y.max()) + 1,
            depth=2,
            num_heads=4,
            key_dim=16,
            units=32,
            descriptor=descriptor,
        )

    model = make()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    restart, scores = start(model), []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        train, test = train_test_split(
            np.arange(len(x)), test_size=0.3, stratify=y, random_state=seed
        )
        # Batches of one size: every other size would be compiled again.
        train = train[: len(train) // BATCH * BATCH]
        epochs = -(-updates // (len(train) // BATCH))
        restart(make().get_weights())
        model.fit(x[train], y[train], batch_size=BATCH, epochs=epochs, verbose=0)
        predicted = model.predict(x[test], batch_size=len(test), verbose=0).argmax(-1)
        scores.append(100 * float(np.mean(predicted == y[test])))
    return scores, epochs


def sets(seeds, updates, small):
    table = runner.Rows(
        "xm2a_descriptors",
        f"{seeds} seeds, each with its own split and weights; {updates} updates of {BATCH} series "
        "by Adam. Test accuracy in per cent with Student's 95 % interval; gain: maximum minus "
        "average, seed by seed.",
        small,
    )
    for name in SETS[:1] if small else SETS:
        x, y = load(name)
        base = None
        for descriptor in ("average", "maximum"):
            kept = table.find(data=name, descriptor=descriptor)
            if len(kept):
                base = json.loads(kept["by seed"].iloc[0])
                continue
            scores, epochs = described(x, y, descriptor, seeds, updates)
            mean, half = runner.interval(scores)
            row = {
                "data": name,
                "series": len(x),
                "steps": x.shape[1],
                "classes": int(y.max()) + 1,
                "epochs": epochs,
                "descriptor": descriptor,
                "accuracy": f"{mean:.1f} ± {half:.1f}",
                "gain": "base",
                "by seed": json.dumps([round(s, 1) for s in scores]),
            }
            if base:
                mean, half = runner.interval(np.subtract(scores, base))
                row["gain"] = f"{mean:+.1f} ± {half:.1f}"
            base = base or scores
            table.add(row)


def convolution(steps):
    """The smallest network that can find the event."""
    model = keras.Sequential(
        [
            keras.Input((steps, 1)),
            keras.layers.Conv1D(16, 8, activation="relu"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


LONG = {
    "XM2A, maximum (default)": lambda steps: long_series.build(steps),
    "XM2A, average": lambda steps: long_series.build(steps, descriptor="average"),
    "Conv1D(16, 8), maximum over time": convolution,
    "XM2A, average, maximum at the head": lambda steps: long_series.build(
        steps, descriptor="average", pooling="maximum"
    ),
    "MSMSA": lambda steps: long_series.build(steps, "msmsa"),
    "MultiHeadAttention": lambda steps: long_series.build(steps, "multi-head"),
}
QUADRATIC = ("MSMSA", "MultiHeadAttention")


def long(seeds, small):
    table = runner.Rows(
        "xm2a_long",
        f"{seeds} seeds, each with series and weights of its own: 192 series train for 4 epochs of "
        "batches of 8, 192 others test. Two classes, so 0.50 is chance. Dot products over 10 000 "
        "steps were not run.",
        small,
    )
    count, lengths = (16, (100,)) if small else (192, (10_000, 1000))
    for name, build in LONG.items():
        for steps in lengths:
            if len(table.find(model=name, steps=steps)) or (steps > 1000 and name in QUADRATIC):
                continue
            model = build(steps)
            restart, scores, masses = start(model), [], []
            for seed in range(seeds):
                keras.utils.set_random_seed(seed)
                x, y = long_series.make_series(count, steps, 2 * seed + 1)
                x_test, y_test = long_series.make_series(count, steps, 2 * seed + 2)
                restart(build(steps).get_weights())
                model.fit(x, y, batch_size=8, epochs=1 if small else 4, verbose=0)
                scores.append(model.evaluate(x_test, y_test, batch_size=8, verbose=0)[1])
                if name.startswith("XM2A"):
                    masses.append(long_series.mass_at_event(model, x_test[:16]))
            table.add(
                {
                    "model": name,
                    "steps": steps,
                    "parameters": model.count_params(),
                    "accuracy": f"{np.mean(scores):.3f}",
                    "worst": f"{min(scores):.3f}",
                    "mass": f"{np.mean(masses):.2f}" if masses else "no such masks",
                    "least mass": f"{min(masses):.2f}" if masses else "no such masks",
                    "by seed": json.dumps([round(s, 3) for s in scores]),
                }
            )


def main():
    options = runner.arguments(__doc__.splitlines()[0], part="sets", seeds=5, updates=400)
    small = options.small
    if options.part == "sets":
        print("about 15 minutes of one core")
        sets(2 if small else options.seeds, 8 if small else options.updates, small)
    elif options.part == "long":
        print("about 20 minutes of one core")
        long(1 if small else min(options.seeds, 3), small)
    else:
        raise SystemExit("--part must be sets or long")


if __name__ == "__main__":
    main()
