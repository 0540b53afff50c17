"""Whether RePr makes a better network than as many epochs without it (Prakash 2019, chapter 5).

    KERAS_BACKEND=jax python benchmarks/repr_accuracy.py [--seeds 0,1,2] [--ways "standard;RePr"]
        [--images 10000] [--full 6] [--reduced 3] [--epochs 30] [--small]

Three convolutions of 32 filters, a pooling behind each of the first two, and a dense head, on the
first images of Fashion-MNIST's training set pooled to 14 x 14; accuracy after the last epoch on the
10 000 test images. Everything trains for the same epochs, but distillation has a teacher besides:
the standard network of its seed, whose probabilities are half of its targets. The paper's sizes
are `--full 20 --reduced 10 --epochs 100`. Each finished row is written at once, and those that are
there are not measured again; --epochs and the like must stay as they were for that.
"""

import time

import keras
import networks
import numpy as np
import pandas as pd
import runner
from keras import layers, ops

import keras_saliency

BATCH = 64
CYCLES = 3
KEYS = ["seed", "way"]
CRITERIA = {
    "RePr": "orthogonality",
    "RePr, by magnitude": "magnitude",
    "RePr, at random": "random",
}
WAYS = ["standard", *CRITERIA, "dense-sparse-dense", "orthogonal regularisation", "distillation"]


@keras.saving.register_keras_serializable("benchmarks")
class Orthogonal(keras.regularizers.Regularizer):
    """`strength` times the mean squared cosine between two filters of a layer."""

    def __init__(self, strength=0.1):
        self.strength = strength

    def __call__(self, kernel):
        columns = ops.reshape(kernel, (-1, kernel.shape[-1]))
        columns = columns / (ops.norm(columns, axis=0, keepdims=True) + 1e-7)
        cosines = ops.matmul(ops.transpose(columns), columns) - ops.eye(kernel.shape[-1])
        return self.strength * ops.mean(cosines**2)


def pooled(images):
    return images.reshape(len(images), 14, 2, 14, 2, 1).mean((2, 4))


def network(regularizer=None):
    parts = [keras.Input((14, 14, 1))]
    for place in range(3):
        parts.append(
            layers.Conv2D(32, 3, padding="same", activation="relu", kernel_regularizer=regularizer)
        )
        parts += [layers.MaxPooling2D()] if place < 2 else []
    return keras.Sequential([*parts, layers.Flatten(), layers.Dense(10, activation="softmax")])


def fit(way, seed, train, options, targets=None):
    keras.utils.set_random_seed(seed)
    model = network(Orthogonal() if way == "orthogonal regularisation" else None)
    x, y = train
    callbacks = []
    if way in CRITERIA:
        callbacks = [
            keras_saliency.RePrCallback(
                0.3, options.full, options.reduced, CYCLES, CRITERIA[way], seed=seed
            )
        ]
    elif way == "dense-sparse-dense":
        callbacks = [
            keras_saliency.iSparseCallback(
                0.3, method="magnitude", schedule="dense-sparse-dense", end=options.epochs - 1
            )
        ]
    if way == "distillation":
        teacher = fit("standard", seed, train, options)
        soft = teacher.predict(x, batch_size=500, verbose=0)
        targets = (soft + np.eye(10, dtype="float32")[y]) / 2
    else:
        targets = np.eye(10, dtype="float32")[y]
    model.compile("adam", "categorical_crossentropy")
    model.fit(x, targets, batch_size=BATCH, epochs=options.epochs, verbose=0, callbacks=callbacks)
    return model


def table(frame):
    """Means over the seeds with intervals, and the differences to standard of the same seeds."""
    standard = frame[frame["way"] == "standard"].set_index("seed")["accuracy %"]
    rows = []
    for way in WAYS:
        part = frame[frame["way"] == way].set_index("seed")
        if not len(part):
            continue
        row = {"way": way, "seeds": len(part)}
        for column in ("accuracy %", "overlap"):
            mean, half = runner.interval(part[column])
            row[column] = f"{mean:.2f} ± {half:.2f}"
        if way != "standard":
            mean, half = runner.interval((part["accuracy %"] - standard).dropna())
            row["minus standard"] = f"{mean:+.2f} ± {half:.2f}"
        row["seconds"] = round(part["seconds"].median())
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def main():
    options = runner.arguments(
        __doc__, seeds="0,1,2", ways=";".join(WAYS), images=10000, epochs=30, full=6, reduced=3
    )
    train, test = networks.fashion_mnist()
    if options.small:
        options.images, options.epochs, options.full, options.reduced = 500, 6, 1, 1
        options.seeds = "0"
    train = pooled(train[0][: options.images]), train[1][: options.images]
    test = pooled(test[0]), test[1]
    name = "repr_accuracy_rows"
    frame = pd.DataFrame(columns=[*KEYS, "accuracy %", "overlap", "seconds"])
    if not options.small:
        frame = runner.merged(name, frame, KEYS)
    known = set(frame[KEYS].itertuples(index=False, name=None))
    wanted = options.ways.split(";")
    jobs = [(seed, way) for seed in map(int, options.seeds.split(",")) for way in wanted]
    jobs = [job for job in jobs if job not in known]
    print(f"{len(jobs)} trainings of {options.epochs} epochs", flush=True)
    for seed, way in jobs:
        keras.backend.clear_session()
        start = time.perf_counter()
        model = fit(way, seed, train, options)
        seconds = time.perf_counter() - start
        accuracy = 100 * networks.accuracy(model, *test)
        overlap = keras_saliency.sparsity.filter_overlap(model)["overlap"].mean()
        frame.loc[len(frame)] = [seed, way, accuracy, overlap, seconds]
        print(seed, way, f"{accuracy:.2f} {overlap:.3f} {seconds:.0f} s", flush=True)
        if not options.small:
            frame.to_csv(runner.RESULTS / f"{name}.{runner.backend()}.csv", index=False)
    notes = f"""Fashion-MNIST pooled to 14 x 14, the first {options.images} training images,
    {options.epochs} epochs, Adam, batches of {BATCH}; RePr with share 0.3, full={options.full},
    reduced={options.reduced}, {CYCLES} cycles. Accuracy in % on 10 000 test images and mean overlap
    of the filters, with 95 % confidence intervals (Student); differences to standard training are
    of the same seeds. Distillation also trains a teacher, in its seconds."""
    runner.write("repr_accuracy", table(frame), notes, options.small)


if __name__ == "__main__":
    main()
