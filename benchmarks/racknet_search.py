"""One design of RACKNet's against a search by KerasTuner, both with at most the same parameters.

    KERAS_BACKEND=tensorflow python benchmarks/racknet_search.py --data fashion --tuner hyperband

The search chooses 2 to 4 racks of 1 to 4 layers and the relative width of each; widths grow until
one more kernel would exceed the parameters of RACKNet's network. Everything else (normalization,
head, optimizer) is the same. A fifth of the training images is held out and chooses the best of 30
trials; that design and RACKNet's are then trained on all training images with several seeds. Time
is the CPU's, since a clock on a busy machine counts others' work: a search and the training of its
best, and RACKNet's analysis, design and training. Each finished row is kept at once; rows that are
there are skipped.
"""

import json
import tempfile
import time
import warnings

import keras
import numpy as np
import runner
from racknet_accuracy import accuracies, compiled, load, spread

from keras_saliency import RACKNet
from keras_saliency.racknet.builder import MOST_POSITIONS, build_network
from keras_saliency.sparsity.shrinking import count_operations

warnings.filterwarnings("ignore", message="RACKNet")
BATCH = 64


def count(kernels, shape):
    """The parameters of the network of `kernels`, without building it."""
    height, width, before = shape
    total = 0
    for i, rack in enumerate(kernels):
        if i:
            height, width = -(-height // 2), -(-width // 2)
        for filters in rack:
            total += filters * (9 * before + 4)  # four values a channel for batch normalization
            before = filters
    positions = height * width if height * width <= MOST_POSITIONS else 1
    return total + 10 * (before * positions + 1)


def design(hp, shape, parameters):
    """The kernels of a trial: relative widths, scaled to what the parameters allow."""
    widths = [
        [hp.Choice(f"width{i}{j}", [1, 2, 4, 8]) for j in range(hp.Int(f"layers{i}", 1, 4))]
        for i in range(hp.Int("racks", 2, 4))
    ]
    budget = sum(map(len, widths))
    while count(spread(widths, budget + 1), shape) <= parameters:
        budget += 1
    return spread(widths, budget)


def search(kind, shape, parameters, train, held, epochs, trials):
    """Return the best kernels, the scores of all trials that were trained, and the CPU seconds."""
    import keras_tuner

    scores = []

    class Space(keras_tuner.HyperModel):
        def build(self, hp):
            return compiled(build_network(design(hp, shape, parameters), shape, 10))

        def fit(self, hp, model, *args, **kwargs):
            history = model.fit(*args, **kwargs)
            scores.append(100 * history.history["val_accuracy"][-1])
            print(f"trial {len(scores)}: {scores[-1]:.2f} %", flush=True)
            return history

    goal = keras_tuner.Objective("val_accuracy", "max")
    with tempfile.TemporaryDirectory() as folder:
        common = {"objective": goal, "seed": 0, "directory": folder}
        if kind == "hyperband":
            tuner = keras_tuner.Hyperband(Space(), max_epochs=epochs, **common)
        else:
            tuner = keras_tuner.RandomSearch(Space(), max_trials=trials, **common)
        start = time.process_time()
        tuner.search(*train, validation_data=held, batch_size=BATCH, epochs=epochs, verbose=0)
        seconds = time.process_time() - start
        best = design(tuner.get_best_hyperparameters()[0], shape, parameters)
    return best, scores, seconds


def main():
    options = runner.arguments(
        __doc__.splitlines()[0],
        data="digits",
        tuner="random",
        images=5000,
        budget=64,
        epochs=0,
        trials=30,
        seeds=5,
    )
    fashion, small = options.data == "fashion", options.small
    epochs = 1 if small else options.epochs or (8 if fashion else 12)
    seeds = range(1 if small else options.seeds)
    trials = 2 if small else options.trials
    side = 14 if fashion else 16
    train, test = load(options.data, 100 if small else options.images, side)
    data = f"{options.data}, {len(train[0])} images of {side} pixels a side"
    minutes = (trials + 2 * len(seeds)) * epochs * len(train[0]) / BATCH * 0.03 / 60
    print(f"{data}: about {minutes + trials * 0.1:.0f} minutes of one core")
    table = runner.Rows(
        "racknet_search",
        f"{options.budget} kernels for RACKNet, at most its parameters for the search. Test "
        "accuracy in per cent of the design trained on all training images, Student's 95 % "
        "interval over the seeds; gain: RACKNet minus the search, seed by seed; share: RACKNet's "
        "seconds in the search's. Seconds are of one core. The trials' own accuracies are on "
        "held-out images.",
        small,
    )

    def measured(kernels):
        start = time.process_time()
        scores = accuracies(lambda: build_network(kernels, shape, 10), train, test, epochs, seeds)
        return scores, (time.process_time() - start) / len(seeds)

    def keep(method, kernels, scores, seconds, **cells):
        model = build_network(kernels, shape, 10)
        mean, half = runner.interval(scores)
        table.add(
            {
                "data": data,
                "method": method,
                "kernels": str(kernels),
                "parameters": model.count_params(),
                "MACs": count_operations(model) // 2,
                "accuracy": f"{mean:.2f} ± {half:.2f}",
                "gain": "",
                "seconds": round(seconds, 1),
                "share": "",
                "best trial": "",
                "median trial": "",
                "by seed": json.dumps([round(s, 2) for s in scores]),
                **cells,
            }
        )

    own = "RACKNet.build"
    start = time.process_time()
    statistics = RACKNet.analyze(train, n_jobs=1, verbose=0)
    analysis = time.process_time() - start
    shape = statistics.input_shape
    kernels = RACKNet.allocate(statistics, options.budget)
    if not len(table.find(data=data, method=own)):
        scores, seconds = measured(kernels)
        keep(own, kernels, scores, analysis + seconds)
    row = table.find(data=data, method=own).iloc[0]
    method = f"KerasTuner, {options.tuner}"
    if len(table.find(data=data, method=method)):
        return
    rng = np.random.default_rng(0).permutation(len(train[0]))
    first, rest = np.split(rng, [len(rng) * 4 // 5])
    parts = [tuple(part[index] for part in train) for index in (first, rest)]
    keras.utils.set_random_seed(0)
    best, reached, spent = search(
        options.tuner, shape, int(row["parameters"]), *parts, epochs, trials
    )
    scores, seconds = measured(best)
    gain, half = runner.interval(np.subtract(json.loads(row["by seed"]), scores))
    keep(
        method,
        best,
        scores,
        spent + seconds,
        gain=f"{gain:+.2f} ± {half:.2f}",
        share=round(float(row["seconds"]) / (spent + seconds), 3),
        **{
            "best trial": f"{max(reached):.2f}",
            "median trial": f"{np.median(reached):.2f} of {len(reached)}",
        },
    )


if __name__ == "__main__":
    main()
