"""How much accuracy sparsification costs: iSparse, its peers and its ablations (G 4.6).

    KERAS_BACKEND=jax python benchmarks/isparse_accuracy.py [--small]
        [--part with|train] [--data digits|fashion_mnist] [--seeds 5] [--sparsities 0.5,0.9]

`--part with` (tables `isparse_accuracy_with`): trained networks are sparsified without
retraining, figure 4.6, table 4.3 and figure 4.7, plus what the choice of data, of normalization
and of scope does. `--part train` (tables `isparse_accuracy_train`): networks are trained sparsely
from scratch, tables 4.1 and 4.2. Accuracies are those on held-out images, averaged over seeds of
the split, the initial weights and the order of batches; differences are taken seed by seed.
"""

import logging

import keras
import numpy as np
import pandas as pd
import runner
from keras import layers

from keras_saliency import iSparseCallback, sparsify
from keras_saliency.sparsity import SignificanceWalk
from keras_saliency.sparsity.ranking import drop_lowest
from keras_saliency.sparsity.significance.scores import EdgeScores

SPARSITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 0.95)
TRAINED = (0.1, 0.3, 0.5, 0.8, 0.95)


def load(data, seed):
    """Images in [0, 1] and labels: a training part and a held-out part."""
    if data == "fashion_mnist":
        (x, y), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
        x, x_test = x[..., None] / 255.0, x_test[..., None] / 255.0
        return x.astype("float32"), y, x_test.astype("float32"), y_test
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
    return x, y, x_test, y_test


def lenet5(shape, classes, activation="tanh", dropout=0.0, l1=0.0):
    """LeNet-5, its second convolution padded so that 8 pixels are enough."""
    kwargs = {"activation": activation, "kernel_regularizer": regularizer(l1)}
    stack = [keras.Input(shape)]
    for filters in (6, 16):
        stack += [
            layers.Conv2D(filters, 5, padding="same", **kwargs),
            layers.AveragePooling2D(2),
        ]
    stack.append(layers.Flatten())
    for units in (120, 84):
        stack += [layers.Dense(units, **kwargs), layers.Dropout(dropout)]
    return keras.Sequential([*stack, layers.Dense(classes, activation="softmax")])


def small_vgg(shape, classes, activation="relu", dropout=0.0, l1=0.0):
    """Three blocks of VGG's kind with maximum pooling, and two dense layers."""
    kwargs = {"activation": activation, "kernel_regularizer": regularizer(l1)}
    stack = [keras.Input(shape)]
    for filters, count in ((8, 2), (16, 2), (32, 2)):
        for _ in range(count):
            stack.append(layers.Conv2D(filters, 3, padding="same", **kwargs))
        stack.append(layers.MaxPooling2D())
    stack += [layers.Flatten(), layers.Dense(64, **kwargs), layers.Dropout(dropout)]
    return keras.Sequential([*stack, layers.Dense(classes, activation="softmax")])


def small_resnet(shape, classes, activation="relu", dropout=0.0, l1=0.0):
    """ResNet's stages of basic blocks with batch normalization, 8, 16 and 32 channels wide."""

    def convolution(x, filters, size, strides=1):
        kwargs = {"use_bias": False, "kernel_regularizer": regularizer(l1)}
        x = layers.Conv2D(filters, size, strides, padding="same", **kwargs)(x)
        return layers.BatchNormalization()(x)

    def active(x):
        return layers.Activation(activation)(x)

    inputs = keras.Input(shape)
    x = active(convolution(inputs, 8, 3))
    for filters, strides in ((8, 1), (16, 2), (32, 2)):
        y = convolution(active(convolution(x, filters, 3, strides)), filters, 3)
        if strides > 1:
            x = convolution(x, filters, 1, strides)
        x = active(layers.Add()([x, y]))
    x = layers.Dropout(dropout)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def regularizer(l1):
    return keras.regularizers.L1(l1) if l1 else None


NETWORKS = {"LeNet-5": lenet5, "small VGG": small_vgg, "small ResNet": small_resnet}


def trained(make, data, seed, epochs, callbacks=(), optimizer="adam", masked=False, **kwargs):
    x, y = data[:2]
    keras.utils.set_random_seed(seed)
    model = make(x.shape[1:], int(y.max()) + 1, **kwargs)
    if masked:
        model = sparsify(model, 0.0, method="magnitude", masked=True)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, batch_size=64, verbose=0, callbacks=list(callbacks))
    return model


def accuracy(model, data):
    correct = 0
    for begin in range(0, len(data[2]), 1024):
        predicted = model.predict_on_batch(data[2][begin : begin + 1024]).argmax(axis=-1)
        correct += (predicted == data[3][begin : begin + 1024]).sum()
    return 100 * float(correct / len(data[2]))


# Scores to compare. All are exact: the lowest scores go, ties by position.


def magnitude(model, x, seed):
    return [(k, EdgeScores(v, np.ones((1,) * v.ndim))) for k, v in _kernels(model)]


def random(model, x, seed):
    rng = np.random.default_rng(seed)
    return [
        (k, EdgeScores(rng.random(v.shape), np.ones((1,) * v.ndim))) for k, v in _kernels(model)
    ]


def _kernels(model):
    from keras_saliency.sparsity import maskable_kernels

    return [(k, keras.ops.convert_to_numpy(k.variable)) for k in maskable_kernels(model)]


def isparse(data="train", **options):
    def score(model, x, seed):
        if data == "noise":
            x = np.random.default_rng(seed).random(x.shape).astype("float32")
        elif isinstance(data, int):
            x = x[:data]
        walk = SignificanceWalk(model, x[:512], **{"order": "forward", **options})
        return [(kernel, edges) for kernel, edges in walk]

    return score


WITH = {
    "magnitude": magnitude,
    "random": random,
    "isparse": isparse(),
    "isparse, identity": isparse(scores="identity"),
    "isparse, pca": isparse(scores="pca"),
    "isparse, norm scaled": isparse(normalization="scale"),
    "isparse, 10 images": isparse(10),
    "isparse, noise": isparse("noise"),
}
ORDERS = ("backward", "random")


def dropped(scored, sparsity, scope="layer"):
    """Masks for a list of (kernel, edge scores)."""
    if scope == "layer":
        return [
            (k, ~drop_lowest([e], round(sparsity * e.size))[0].reshape(e.shape)) for k, e in scored
        ]
    edges = [e for _, e in scored]
    drops = drop_lowest(edges, round(sparsity * sum(e.size for e in edges)))
    return [(k, ~d.reshape(e.shape)) for (k, e), d in zip(scored, drops, strict=True)]


def sparse_accuracy(model, data, masks):
    """Accuracy with masks applied; the model's weights come back afterwards."""
    before = [(k.variable, keras.ops.convert_to_numpy(k.variable).copy()) for k, _ in masks]
    for kernel, mask in masks:
        kernel.variable.assign(keras.ops.convert_to_numpy(kernel.variable) * mask)
    try:
        return accuracy(model, data)
    finally:
        for variable, value in before:
            variable.assign(value)


def walked(model, x, sparsity, order, seed):
    walk = SignificanceWalk(model, x[:512], order=order, seed=seed)
    masks = []
    for kernel, edges in walk:
        (drop,) = drop_lowest([edges], round(sparsity * edges.size))
        masks.append((kernel, ~drop.reshape(edges.shape)))
        walk.decide(masks[-1][1])
    return masks


def part_with(options, seeds, sparsities, keep):
    rows = []
    networks = {"LeNet-5": lenet5} if options.small else NETWORKS
    for name, make in networks.items():
        for seed in range(seeds):
            keras.backend.clear_session()
            data = load(options.data, seed)
            model = trained(make, data, seed, 2 if options.small else options.epochs)
            base = accuracy(model, data)
            rows.append((name, seed, "dense", 0.0, base))
            for method, scorer in WITH.items():
                scored = scorer(model, data[0], seed)
                for sparsity in sparsities:
                    masks = dropped(scored, sparsity)
                    rows.append((name, seed, method, sparsity, sparse_accuracy(model, data, masks)))
                    if method in ("magnitude", "isparse"):
                        masks = dropped(scored, sparsity, "global")
                        score = sparse_accuracy(model, data, masks)
                        rows.append((name, seed, f"{method}, global", sparsity, score))
            for order in ORDERS:
                for sparsity in sparsities:
                    masks = walked(model, data[0], sparsity, order, seed)
                    score = sparse_accuracy(model, data, masks)
                    rows.append((name, seed, f"isparse, {order}", sparsity, score))
            print(name, seed, base, flush=True)
        keep(rows)


# Each trains sparsely from scratch: name -> arguments of the callback, and whether the model is
# masked (its masked weights keep their values) or plain. DropConnect draws a mask for every batch
# and is tested as sparse as the others, under its last one.
TRAIN = {
    "DropConnect": ({"method": "random", "frequency": "batch"}, True),
    "random, fixed": ({"method": "random", "regrow": False}, False),
    "magnitude": ({"method": "magnitude"}, False),
    "lottery": ({"method": "lottery"}, False),
    "isparse": ({"method": "isparse"}, False),
    "isparse, no regrowth": ({"method": "isparse", "regrow": False}, False),
    "isparse, cubic": ({"method": "isparse", "schedule": "polynomial"}, False),
    "magnitude, cubic": ({"method": "magnitude", "schedule": "polynomial"}, False),
}
# Table 4.2: the activation and the optimizer of the VGG network.
VARIANTS = {
    "small VGG, tanh, Adam": {"activation": "tanh", "optimizer": "adam"},
    "small VGG, tanh, RMSprop": {"activation": "tanh", "optimizer": "rmsprop"},
    "small VGG, ReLU, RMSprop": {"activation": "relu", "optimizer": "rmsprop"},
}
IN_TABLE_4_2 = ("DropConnect", "magnitude", "isparse")


def part_train(options, seeds, sparsities, keep):
    rows = []
    epochs = 2 if options.small else options.epochs

    def record(name, seed, method, sparsity, data, **kwargs):
        keras.backend.clear_session()
        make = NETWORKS.get(name, small_vgg)
        model = trained(make, data, seed, epochs, **kwargs, **VARIANTS.get(name, {}))
        rows.append((name, seed, method, sparsity, accuracy(model, data)))

    def sparse(name, seed, method, sparsity, data):
        kwargs, masked = TRAIN[method]
        if kwargs.get("schedule"):
            kwargs = {**kwargs, "end": max(epochs // 2, 1)}
        paper = {"schedule": "constant", "scope": "layer", "power": 1, "min_edges": 0}
        kwargs = paper | kwargs
        callback = iSparseCallback(sparsity, data=data[0][:512], seed=seed, **kwargs)
        record(name, seed, method, sparsity, data, callbacks=[callback], masked=masked)

    networks = ["LeNet-5"] if options.small else ["LeNet-5", "small VGG", *VARIANTS, "small ResNet"]
    for name in networks:
        for seed in range(seeds):
            data = load(options.data, seed)
            record(name, seed, "dense", 0.0, data)
            if name in NETWORKS:
                record(name, seed, "l1 (1e-4)", 0.0, data, l1=1e-4)
            for sparsity in sparsities:
                if name in NETWORKS:
                    record(name, seed, "dropout", sparsity, data, dropout=sparsity)
                for method in TRAIN if name in NETWORKS else IN_TABLE_4_2:
                    sparse(name, seed, method, sparsity, data)
            print("train", name, seed, flush=True)
        keep(rows)


def table(frame, base):
    """Mean accuracies with intervals, and differences to a method of the same seeds."""
    rows = []
    wide = frame.pivot_table(
        index=["network", "method", "seed"], columns="sparsity", values="accuracy"
    )
    for (network, method), part in wide.groupby(level=[0, 1], sort=False):
        row = {"network": network, "method": method}
        for sparsity in part.columns:
            values = part[sparsity].dropna()
            if len(values):
                mean, half = runner.interval(values)
                row[f"{sparsity:.0%}"] = f"{mean:.1f} ± {half:.1f}"
        if method != base and (network, base) in wide.index.droplevel(2):
            other = wide.loc[(network, base)]
            for label, chosen in (
                ("5-50 %", [s for s in part.columns if 0 < s <= 0.5]),
                ("60-95 %", [s for s in part.columns if s > 0.5]),
            ):
                gap = (part.loc[(network, method)][chosen] - other[chosen]).mean(axis=1).dropna()
                if len(gap):
                    mean, half = runner.interval(gap)
                    row[f"minus {base}, {label}"] = f"{mean:+.2f} ± {half:.2f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def main():
    options = runner.arguments(
        __doc__, part="with", data="digits", seeds=5, epochs=25, sparsities=""
    )
    logging.getLogger("keras_saliency").setLevel(logging.ERROR)
    seeds = 2 if options.small else options.seeds
    sparsities = SPARSITIES if options.part == "with" else TRAINED
    if options.sparsities:
        sparsities = tuple(float(s) for s in options.sparsities.split(","))
    if options.small:
        sparsities = (0.5,)
    suffix = "" if options.data == "digits" else f"_{options.data}"

    def keep(rows):  # after each network, so that a long run can be cut short
        columns = ["network", "seed", "method", "sparsity", "accuracy"]
        runner.write(
            f"isparse_accuracy_{options.part}{suffix}",
            table(pd.DataFrame(rows, columns=columns), "magnitude"),
            f"{options.data}, {seeds} seeds, accuracy in % with 95 % confidence intervals "
            "(Student). 'minus magnitude' is the mean difference to magnitude at the same "
            "sparsities.",
            small=options.small,
        )

    if options.part == "with":
        part_with(options, seeds, sparsities, keep)
    else:
        part_train(options, seeds, sparsities, keep)


if __name__ == "__main__":
    main()
