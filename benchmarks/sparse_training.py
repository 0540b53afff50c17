"""What training sparsely from scratch keeps: iSparse, magnitude, RigL, SET, lottery and refit.

    KERAS_BACKEND=jax python benchmarks/sparse_training.py [--networks LeNet-5] [--seeds 0,1,2]
        [--zeros 0.9] [--images 5000] [--epochs 6] [--small]

Networks of `benchmarks/networks.py` on the first images of Fashion-MNIST's training set, accuracy
on its 10 000 test images, all ways at equal epochs. `lottery` trains densely for half of them,
prunes by magnitude and begins again; `refit` prunes the densely trained network by `sparsify` on
512 images, with no training behind it. Also told: outputs without an edge, which nothing can
reach. Each finished row is written at once, and those that are there are not measured again.
About 12 seconds of a core for a row of LeNet-5.
"""

import time

import keras
import networks
import pandas as pd
import runner

import keras_saliency
from keras_saliency import iSparseCallback
from keras_saliency.sparsity import maskable_kernels

BATCH = 64
KEYS = ["network", "seed", "zeros", "way"]
PAPER = {"schedule": "constant", "scope": "layer", "power": 1, "min_edges": 0}
TFMOT = {"method": "magnitude", "scope": "layer", "min_edges": 0}
MAGNITUDE = {"method": "magnitude"}
# So many times in a training masks are computed, the last time at three quarters of it.
UPDATES = 24
# Way -> arguments of the callback.
WAYS = {
    "iSparse": {},
    "iSparse, as printed": {**PAPER, "end": None},
    "magnitude": MAGNITUDE,
    "magnitude, as tfmot": TFMOT,
    "RigL": {**MAGNITUDE, "schedule": "constant", "regrow": "gradient"},
    "RigL, rising": {**MAGNITUDE, "regrow": "gradient"},
    "iSparse, RigL, rising": {"regrow": "gradient"},
    "SET": {**MAGNITUDE, "schedule": "constant", "regrow": "random"},
    "lottery": {"method": "lottery", "schedule": "constant"},
}


def fit(make, seed, train, epochs, callbacks=()):
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*train, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def dead(model):
    """How many outputs of kernels have no edge."""
    count = 0
    for kernel in maskable_kernels(model):
        values = keras.ops.convert_to_numpy(kernel.variable)
        rest = tuple(axis for axis in range(values.ndim) if axis not in kernel.output_axes)
        count += int((~values.any(axis=rest)).sum())
    return count


def trained(name, seed, share, way, train, epochs):
    make = networks.NETWORKS[name]
    if way in ("dense", "refit"):
        model = fit(make, seed, train, epochs)
        if way == "dense":
            return model
        return keras_saliency.sparsify(model, share, data=train[0][:512], verbose=False)
    frequency = max(epochs * -(-len(train[0]) // BATCH) // UPDATES, 1)
    options = {"frequency": frequency, "end": UPDATES * 3 // 4, **WAYS[way]}
    if way == "lottery":
        options["begin"] = options["end"] = UPDATES // 2
    # Labels are for those that ask for a gradient alone.
    data = tuple(part[:512] for part in train)
    data = data if options.get("regrow") == "gradient" else data[0]
    callback = iSparseCallback(share, data, seed=seed, **options)
    return fit(make, seed, train, epochs, [callback])


def table(frame):
    """Means over seeds with intervals, and the mean difference to magnitude of the same seeds."""
    wide = frame.pivot_table(
        index=["network", "way", "seed"], columns="zeros", values="accuracy %", sort=False
    )
    wide = wide[sorted(wide.columns)]
    rows = []
    for (network, way), part in wide.groupby(level=[0, 1], sort=False):
        row = {"network": network, "way": way, "seeds": len(part)}
        for share in part.columns:
            values = part[share].dropna()
            if len(values):
                mean, half = runner.interval(values)
                row[f"{share:.0%}"] = f"{mean:.2f} ± {half:.2f}"
            peer = wide.loc[(network, "magnitude")] if way != "magnitude" else None
            if peer is not None and share in peer and share:
                gap = (part.loc[(network, way)][share] - peer[share]).dropna()
                if len(gap):
                    row[f"{share:.0%} minus magnitude"] = f"{gap.mean():+.2f}"
        chosen = frame[(frame["network"] == network) & (frame["way"] == way)]
        row["dead outputs, most"] = int(chosen["dead"].max())
        rows.append(row)
    columns = ["network", "way", "seeds", "0%"]
    columns += [c for s in ("80%", "90%", "95%") for c in (s, f"{s} minus magnitude")]
    found = pd.DataFrame(rows)
    columns = [c for c in columns if c in found] + ["dead outputs, most"]
    return found[columns].fillna("")


def main():
    options = runner.arguments(
        __doc__, networks="LeNet-5", seeds="0,1,2", zeros="0.9", images=5000, epochs=6
    )
    train, test = networks.fashion_mnist()
    images, epochs = (1000, 2) if options.small else (options.images, options.epochs)
    train = tuple(part[:images] for part in train)
    if options.small:
        test = tuple(part[:1000] for part in test)
    name = "sparse_training_rows"
    frame = pd.DataFrame(columns=[*KEYS, "accuracy %", "dead", "seconds"])
    if not options.small:
        frame = runner.merged(name, frame, KEYS)
    jobs = [
        (network, seed, share, way)
        for network in options.networks.split(",")
        for share in map(float, options.zeros.split(","))
        for seed in map(int, options.seeds.split(","))
        for way in ("refit", *WAYS)
    ]
    jobs += [
        (network, seed, 0.0, "dense")
        for network in options.networks.split(",")
        for seed in map(int, options.seeds.split(","))
    ]
    known = set(frame[KEYS].itertuples(index=False, name=None))
    jobs = [job for job in jobs if job not in known]
    print(f"{len(jobs)} rows, about {len(jobs) / 5:.0f} minutes of a core for LeNet-5", flush=True)
    for job in jobs:
        keras.backend.clear_session()
        start = time.perf_counter()
        model = trained(*job, train, epochs)
        seconds = time.perf_counter() - start
        accuracy = 100 * networks.accuracy(model, *test)
        frame.loc[len(frame)] = [*job, accuracy, dead(model), seconds]
        print(*job, f"{accuracy:.2f}", f"{seconds:.0f} s", flush=True)
        if not options.small:
            path = runner.RESULTS / f"{name}.{runner.backend()}.csv"
            frame.to_csv(path, index=False)
    order = ["dense", "refit", *WAYS]
    frame["way"] = pd.Categorical(frame["way"], order, ordered=True)
    frame = frame.sort_values(KEYS, kind="stable").astype({"way": str})
    notes = (
        f"Fashion-MNIST, the first {images} training images, {epochs} epochs, Adam, 10 000 test "
        "images. Accuracy in % with 95 % confidence intervals (Student)."
    )
    runner.write("sparse_training", table(frame), notes, options.small)


if __name__ == "__main__":
    main()
