"""What `shrink_to` costs in accuracy, against operations and against measured speed.

    KERAS_BACKEND=torch python benchmarks/shrink_accuracy.py [--part accuracy|speed]
        [--networks VGG-like,ResNet-like] [--data digits|fashion_mnist] [--seeds 3] [--epochs 15]
        [--small]

`--part accuracy`: trained networks of VGG's and ResNet's kind lose channels until a share of their
operations is left, by iSparse's scores, by magnitude or at random; accuracies on held-out images
before and after training on for a third of the epochs. Beside them the same narrow networks
trained from scratch, for as many epochs as the pruned ones had in all. `--part speed`: the seconds
of one inference on a batch for the widths that result, which are the same for every score. Each
part draws the picture from what has been measured. Networks that are not measured this time stay in
the table.
"""

import logging

import keras
import numpy as np
import pandas as pd
import runner
from isparse_accuracy import accuracy, load, trained
from keras import layers

import keras_saliency
from keras_saliency.sparsity import count_operations

SHARES = (0.75, 0.5, 0.25, 0.1, 0.05)
METHODS = ("isparse", "magnitude", "random")
WIDTHS = (32, 64, 128)
COLUMNS = ["network", "operations", "channels kept by", "seed", "before", "after"]


def vgg(shape, classes):
    stack = [keras.Input(shape)]
    for filters in WIDTHS:
        for _ in range(2):
            stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        stack.append(layers.MaxPooling2D(padding="same"))
    stack += [layers.Flatten(), layers.Dense(256, activation="relu")]
    return keras.Sequential([*stack, layers.Dense(classes, activation="softmax")])


def resnet(shape, classes):
    def conv(x, filters, size=3, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)  # epochs of a few batches

    inputs = keras.Input(shape)
    x = layers.ReLU()(conv(inputs, WIDTHS[0]))
    for filters, strides in zip(WIDTHS, (1, 2, 2), strict=True):
        y = conv(layers.ReLU()(conv(x, filters, 3, strides)), filters)
        x = conv(x, filters, 1, strides) if strides > 1 else x
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


NETWORKS = {"VGG-like": vgg, "ResNet-like": resnet}


def shrunk(model, share, method, data=None, seed=0):
    return keras_saliency.shrink_to(
        model, flops=share, method=method, data=data, round_to=4, seed=seed, verbose=False
    )


def accuracies(options, shares, seeds, epochs):
    further = max(1, epochs // 3)
    rows = []
    for name in options.networks.split(","):
        make = NETWORKS[name]
        for seed in range(seeds):
            keras.backend.clear_session()
            data = load(options.data, seed)
            model = trained(make, data, seed, epochs)
            rows.append((name, 1.0, "dense", seed, accuracy(model, data), np.nan))
            model.fit(*data[:2], epochs=further, batch_size=64, verbose=0)
            rows[-1] = (*rows[-1][:-1], accuracy(model, data))
            model = trained(make, data, seed, epochs)
            for share in shares:
                for method in METHODS:
                    small = shrunk(model, share, method, data[0][:256], seed)
                    before = accuracy(small, data)
                    keras.utils.set_random_seed(seed)
                    small.fit(*data[:2], epochs=further, batch_size=64, verbose=0)
                    rows.append((name, share, method, seed, before, accuracy(small, data)))
                fresh = trained(
                    lambda *_, small=small: keras.models.clone_model(small),
                    data,
                    seed,
                    epochs + further,
                )
                rows.append((name, share, "from scratch", seed, np.nan, accuracy(fresh, data)))
            print(name, seed, rows[-1], flush=True)
    return pd.DataFrame(rows, columns=COLUMNS)


def accuracy_table(frame):
    """Means with intervals, and what lies between a method and magnitude, seed by seed."""
    rows = []
    wide = frame.pivot_table(
        index=["network", "operations", "channels kept by"],
        columns="seed",
        values=["before", "after"],
        dropna=False,
    ).dropna(how="all")
    order = {name: i for i, name in enumerate(("dense", *METHODS, "from scratch"))}
    for network, share, method in sorted(
        wide.index, key=lambda key: (key[0], -key[1], order[key[2]])
    ):
        row = {"network": network, "operations": share, "channels kept by": method}
        for when in ("before", "after"):
            values = wide.loc[(network, share, method), when].to_numpy()
            mean, half = runner.interval(values)
            row[when], row[f"± {when}"] = mean, half
            if method in METHODS and method != "magnitude":
                base = wide.loc[(network, share, "magnitude"), when].to_numpy()
                mean, half = runner.interval(values - base)
                row[f"{when}, minus magnitude"] = f"{mean:+.1f} ± {half:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


def speeds(options, shares, repeats, batch):
    rows = []
    shape = (28, 28, 1) if options.data == "fashion_mnist" else (8, 8, 1)
    x = np.random.default_rng(0).random((batch, *shape)).astype("float32")
    for name in options.networks.split(","):
        dense = NETWORKS[name](shape, 10)
        models = {1.0: dense} | {share: shrunk(dense, share, "magnitude") for share in shares}
        tasks = {share: runner.inference_step(model, x) for share, model in models.items()}
        seconds = runner.measure(tasks, repeats=repeats)["seconds"]
        for share, model in models.items():
            rows.append(
                {
                    "network": name,
                    "operations": share,
                    "operations left": count_operations(model) / count_operations(dense),
                    "parameters left": model.count_params() / dense.count_params(),
                    "seconds": seconds[share] / seconds[1.0],
                    "speed": seconds[1.0] / seconds[share],
                }
            )
    return pd.DataFrame(rows)


def picture(name):
    """Accuracy against operations, and against measured speed."""
    import matplotlib.pyplot as plt

    tables = [runner.RESULTS / f"{n}.{runner.backend()}.csv" for n in (name, f"{name}_speed")]
    if not all(table.exists() for table in tables):
        return
    scores, speed = (pd.read_csv(table, comment="#") for table in tables)
    frame = scores.merge(speed, on=["network", "operations"])
    networks = frame["network"].unique()
    figure, axes = plt.subplots(
        len(networks), 2, figsize=(11, 4.2 * len(networks)), sharey="row", squeeze=False
    )
    for network, (left, right) in zip(networks, axes, strict=True):
        part = frame[frame["network"] == network]
        dense = part[part["channels kept by"] == "dense"]
        for axis, column in ((left, "operations left"), (right, "speed")):
            for index, method in enumerate((*METHODS, "from scratch")):
                chosen = part[part["channels kept by"] == method]
                chosen = pd.concat([dense, chosen]).sort_values("operations")
                axis.plot(chosen[column], chosen["after"], "o-", color=f"C{index}", label=method)
                if method in METHODS:
                    axis.plot(chosen[column], chosen["before"], "x:", color=f"C{index}")
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
            axis.set_title(network)
        left.set_ylabel("accuracy in %")
        left.set_xlabel("operations, share of the dense network's")
        right.set_xlabel("speed of inference, multiple of the dense network's")
    axes[0, 0].legend(title="solid: trained on, dotted: not")
    figure.tight_layout()
    figure.savefig(runner.RESULTS / f"{name}.png", dpi=110)
    plt.close(figure)


def main():
    options = runner.arguments(
        __doc__.splitlines()[0],
        part="accuracy",
        networks=",".join(NETWORKS),
        data="digits",
        seeds=3,
        epochs=15,
        repeats=15,
        batch=256,
    )
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    name = "shrink_accuracy" + ("" if options.data == "digits" else f"_{options.data}")
    shares = (0.25,) if options.small else SHARES
    if options.part == "accuracy":
        seeds, epochs = (2, 3) if options.small else (options.seeds, options.epochs)
        frame = accuracy_table(accuracies(options, shares, seeds, epochs))
        notes = (
            f"{options.data}, {seeds} seeds, accuracies in % with 95 % intervals (Student). "
            f"'operations': the budget of `shrink_to(flops=...)`. 'after': trained on for "
            f"{max(1, epochs // 3)} epochs after {epochs}."
        )
    else:
        frame = speeds(options, shares, 2 if options.small else options.repeats, options.batch)
        name += "_speed"
        notes = (
            f"One inference on a batch of {options.batch}, a multiple of the dense network's. "
            "The widths are those of every score: all layers keep the same share."
        )
    if not options.small:
        frame = runner.merged(name, frame, ["network"])
    runner.write(name, frame, notes, small=options.small)
    if not options.small:
        picture(name.removesuffix("_speed"))


if __name__ == "__main__":
    main()
