"""What training sparsely from scratch keeps: iSparse, magnitude, RigL, SET, lottery and refit.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python benchmarks/sparse_training.py
        [--networks LeNet-5,VGG] [--seeds 0,1,2] [--zeros 0.9,0.95,0.8] [--ways all]
        [--part train|masks] [--small]

The first images of Fashion-MNIST's training set, accuracy on its 10 000 test images, all ways at
equal epochs. LeNet-5 sees 4 000 images, 8 epochs; a VGG with batch norm of width 16 sees 2 000,
averaged to 14 x 14, 6 epochs. `lottery` trains densely for half of them, prunes by magnitude and
begins again; `refit` prunes the densely trained network by `sparsify` on 512 images, with no
training behind it. Also told: outputs without an edge, which nothing can reach, and how many
edges more or less are masked than asked for. The second table changes one setting of iSparse at
a time (90 % zeros of LeNet-5). `--part masks` compares masks of trained networks, in a minute.
Each finished row is written at once, and those that are there are not measured again. About 15
seconds of a core a row, 40 minutes in all.
"""

import time

import keras
import networks
import numpy as np
import pandas as pd
import runner

import keras_saliency
from keras_saliency import iSparseCallback
from keras_saliency.sparsity import maskable_kernels

BATCH = 64
LEARNING_RATE = 3e-3
# How many inputs the callback, and the refit, are given.
SCORED, REFITTED = 256, 512
KEYS = ["network", "seed", "zeros", "way"]
PAPER = {"schedule": "constant", "scope": "layer", "power": 1, "min_edges": 0}
TFMOT = {"method": "magnitude", "scope": "layer", "min_edges": 0}
MAGNITUDE = {"method": "magnitude"}
# So many times in a training masks are computed, the last time at three quarters of it.
UPDATES = 24
# Way -> arguments of the callback.
WAYS = {
    "iSparse": {},
    "magnitude": MAGNITUDE,
    "magnitude, as tfmot": TFMOT,
    "iSparse, as printed": PAPER,
    "RigL": {**MAGNITUDE, "schedule": "constant", "regrow": "gradient"},
    "SET": {**MAGNITUDE, "schedule": "constant", "regrow": "random"},
    "lottery": {"method": "lottery", "schedule": "constant"},
}
# iSparse with one setting changed, and as printed with one setting mended.
SETTINGS = {
    "power=1": {"power": 1},
    "scope='layer'": {"scope": "layer"},
    "schedule='constant'": {"schedule": "constant"},
    "scores='identity'": {"scores": "identity"},
    "power=1, min_edges=0": {"power": 1, "min_edges": 0},
    "as printed, but scope='erk'": {**PAPER, "scope": "erk"},
    "as printed, but rising": {**PAPER, "schedule": "polynomial"},
}


def small_vgg():
    return networks.vgg(16, shape=(14, 14, 1))


def halved(images):
    """Images averaged over squares of 2 x 2."""
    count, height, width, channels = images.shape
    return images.reshape(count, height // 2, 2, width // 2, 2, channels).mean((2, 4))


# Name -> how it is made, what its images go through, how many there are, epochs.
NETWORKS = {
    "LeNet-5": (networks.lenet, None, 4000, 8),
    "VGG": (small_vgg, halved, 2000, 6),
}

SEEN = {
    "LeNet-5": "LeNet-5: 4 000 images, 8 epochs",
    "VGG": "VGG with batch norm, width 16: 2 000 images of 14 × 14, 6 epochs",
}


def fit(make, seed, train, epochs, callbacks=()):
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "sparse_categorical_crossentropy")
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


def sparse_training(make, seed, share, way, train, epochs):
    """Return a network that was trained sparsely, and by how many masked edges it is off."""
    frequency = max(epochs * -(-len(train[0]) // BATCH) // UPDATES, 1)
    options = {"frequency": frequency, "end": UPDATES * 3 // 4, **{**WAYS, **SETTINGS}[way]}
    if way == "lottery":
        options["begin"] = options["end"] = UPDATES // 2
    elif options.get("schedule") == "constant" and "regrow" not in options:
        options["end"] = None  # masks are computed to the end
    # Labels are for those that ask for a gradient alone.
    data = tuple(part[:SCORED] for part in train)
    data = data if options.get("regrow") == "gradient" else data[0]
    callback = iSparseCallback(share, data, seed=seed, **options)
    model = fit(make, seed, train, epochs, [callback])
    sparsifier = callback.sparsifier
    sizes = [kernel.size for kernel in sparsifier.kernels]
    each = options.get("scope") == "layer"
    asked = sum(round(share * size) for size in sizes) if each else round(share * sum(sizes))
    return model, sparsifier.masked - asked


def rows_of(job, train, epochs, zeros):
    """Yield `(zeros, way, model, off, seconds)` of a job `(network, seed, zeros, way)`.

    Of `"dense"`, the dense network and its refits at all `zeros`.
    """
    name, seed, share, way = job
    make = NETWORKS[name][0]
    start = time.perf_counter()
    if way != "dense":
        model, off = sparse_training(make, seed, share, way, train, epochs)
        yield share, way, model, off, time.perf_counter() - start
        return
    model = fit(make, seed, train, epochs)
    yield 0.0, "dense", model, 0, time.perf_counter() - start
    for share in zeros:
        start = time.perf_counter()
        sparse = keras_saliency.sparsify(model, share, data=train[0][:REFITTED], verbose=False)
        kernels = maskable_kernels(sparse)
        values = [keras.ops.convert_to_numpy(kernel.variable) for kernel in kernels]
        off = sum(int((v == 0).sum()) for v in values) - round(share * sum(v.size for v in values))
        yield share, "refit", sparse, off, time.perf_counter() - start


def table(frame, ways, shares, base):
    """Means over seeds with intervals, and the mean difference to `base` of the same seeds."""
    rows = []
    for network in dict.fromkeys(frame["network"]):
        of_network = (
            frame[frame["network"] == network].set_index(["way", "zeros", "seed"]).sort_index()
        )
        accuracy = of_network["accuracy %"]
        for way in ways:
            if way not in accuracy.index:
                continue
            row = {"network": network, "way": way}
            for share in shares:
                if (way, share) not in accuracy.index:
                    continue
                values = accuracy.loc[(way, share)]
                mean, half = runner.interval(values)
                spread = f" ± {half:.2f}" if len(values) > 1 else ""
                row[f"{share:.0%}"] = f"{mean:.2f}{spread}"
                if share and way != base and (base, share) in accuracy.index:
                    gap = (values - accuracy.loc[(base, share)]).dropna()
                    if len(gap):
                        row[f"{share:.0%} minus {base}"] = f"{gap.mean():+.2f}"
            mine = of_network.loc[way]
            row["seeds"] = mine.index.get_level_values("seed").nunique()
            row["dead outputs, most"] = int(mine["dead"].max())
            row["edges off, most"] = int(mine["off"].abs().max())
            rows.append(row)
    columns = [c for s in shares for c in (f"{s:.0%}", f"{s:.0%} minus {base}")]
    found = pd.DataFrame(rows)
    columns = ["network", "way", "seeds", *columns, "dead outputs, most", "edges off, most"]
    return found[[c for c in columns if c in found]].fillna("")


def masks(seeds):
    """How much of what magnitude keeps at 90 % zeros iSparse keeps too, in trained LeNet-5s."""
    x = networks.fashion_mnist()[0][0][:SCORED]
    rows = []
    for power in (0.25, 0.5, 1):
        for scope, least in (("erk", 2), ("erk", 0), ("layer", 0)):
            shared, starved = [], []
            for seed in seeds:
                kept = []
                for method, scores in (
                    ("magnitude", "inffs"),
                    ("isparse", "inffs"),
                    ("isparse", "identity"),
                ):
                    options = {"scope": scope, "min_edges": least, "power": power}
                    model = networks.trained("LeNet-5", seed)
                    sparsifier = keras_saliency.Sparsifier(
                        model, 0.9, x, method, scores=scores, **options
                    )
                    sparsifier.step()
                    kept.append(list(sparsifier.masks.values()))
                shared.append([_shared(kept[1], kept[0]), _shared(kept[1], kept[2])])
                starved.append([dead_of(part) for part in kept])
            by_magnitude, by_isparse, _ = np.mean(starved, axis=0)
            with_magnitude, with_identity = np.mean(shared, axis=0)
            rows.append(
                {
                    "power": power,
                    "scope": scope,
                    "min_edges": least,
                    "kept by magnitude too, %": f"{with_magnitude:.1f}",
                    "kept with scores='identity' too, %": f"{with_identity:.1f}",
                    "outputs without an edge": f"{by_isparse:.0f}",
                    "by magnitude": f"{by_magnitude:.0f}",
                }
            )
    return pd.DataFrame(rows)


def _shared(masks, others):
    both = sum(int((a & b).sum()) for a, b in zip(masks, others, strict=True))
    return 100 * both / sum(int(mask.sum()) for mask in masks)


def dead_of(masks):
    return sum(int((~mask.any(axis=tuple(range(mask.ndim - 1)))).sum()) for mask in masks)


def main():
    options = runner.arguments(
        __doc__,
        networks="LeNet-5,VGG",
        seeds="0,1,2",
        zeros="0.9,0.95,0.8",
        ways="all",
        part="train",
    )
    if options.part == "masks":
        notes = (
            "90 % zeros of LeNet-5 trained densely on all of Fashion-MNIST, before any training "
            "with zeros: the edges that iSparse keeps, beside magnitude under the same scope and "
            "least edges; means over seeds."
        )
        seeds = map(int, options.seeds.split(","))
        frame = masks([0] if options.small else list(seeds))
        runner.write("sparse_training_masks", frame, notes, options.small)
        return
    train, test = networks.fashion_mnist()
    chosen = options.networks.split(",")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    zeros = [float(share) for share in options.zeros.split(",")]
    if options.small:
        chosen, seeds, zeros = chosen[:1], seeds[:1], zeros[:1]
        test = tuple(part[:1000] for part in test)
    name = "sparse_training_rows"
    frame = pd.DataFrame(columns=[*KEYS, "accuracy %", "dead", "off", "seconds"])
    if not options.small:
        frame = runner.merged(name, frame, KEYS)
    jobs = []
    for share in zeros:
        for network in chosen:
            jobs += [(network, seed, 0.0, "dense") for seed in seeds if share == zeros[0]]
            jobs += [(network, seed, share, way) for seed in seeds for way in WAYS]
        if share == 0.9 and "LeNet-5" in chosen:
            jobs += [("LeNet-5", seed, share, way) for seed in seeds for way in SETTINGS]
    ways = ["dense", *WAYS, *SETTINGS] if options.ways == "all" else options.ways.split(";")
    known = set(frame[KEYS].itertuples(index=False, name=None))
    jobs = [job for job in jobs if job not in known and job[-1] in ways]
    print(f"{len(jobs)} trainings, about {len(jobs) / 3:.0f} minutes of a core", flush=True)
    path = runner.RESULTS / f"{name}.{runner.backend()}.csv"
    for job in jobs:
        keras.backend.clear_session()
        network, seed = job[:2]
        _, prepare, images, epochs = NETWORKS[network]
        if options.small:
            images, epochs = 1000, 2
        x, y = (part[:images] for part in train)
        x_test, y_test = test
        if prepare is not None:
            x, x_test = prepare(x), prepare(x_test)
        for share, way, model, off, seconds in rows_of(job, (x, y), epochs, zeros):
            accuracy = 100 * networks.accuracy(model, x_test, y_test)
            frame.loc[len(frame)] = [network, seed, share, way, accuracy, dead(model), off, seconds]
            print(network, seed, share, way, f"{accuracy:.2f}", f"{seconds:.0f} s", flush=True)
            if not options.small:
                frame.to_csv(path, index=False)
    seen = "; ".join(SEEN[network] for network in dict.fromkeys(frame["network"]))
    notes = (
        f"Fashion-MNIST, Adam at 3e-3, batches of 64, 10 000 test images; {seen}. Accuracy in % "
        "with 95 % confidence intervals (Student), and mean differences over the same seeds."
    )
    found = table(frame, ["dense", "refit", *WAYS], [0.0, 0.8, 0.9, 0.95], "magnitude")
    runner.write("sparse_training", found, notes, options.small)
    changed = frame[(frame["network"] == "LeNet-5") & (frame["zeros"] == 0.9)]
    base = ["iSparse", "magnitude", *SETTINGS, "iSparse, as printed"]
    if set(changed["way"]) & set(SETTINGS):
        found = table(changed, base, [0.9], "iSparse")
        runner.write("sparse_training_settings", found, notes, options.small)


if __name__ == "__main__":
    main()
