"""The layers of other sources, each against what it takes the place of.

    KERAS_BACKEND=tensorflow python benchmarks/other_layers.py
    KERAS_BACKEND=tensorflow python benchmarks/other_layers.py --only Highway,MaxDropout

Images are the first `--samples` of Fashion-MNIST (see `networks.py`), series its rows of pixels as
28 steps of 28 variates. Every pair is trained from the same seeds on the same batches; the
difference is taken seed by seed, with Student's 95 % interval. Words are generated: pairs of
sentences in which every word is exchanged for a synonym, and facts of which a query names some.
Rows that the table has are not measured again unless `--only` names them.
"""

import functools

import keras
import numpy as np
import pandas as pd
from networks import fashion_mnist
from runner import RESULTS, arguments, backend, interval, measure, merged, train_step, write

import keras_saliency as ks
from keras_saliency.models import ResidualLSTM, freeze_shifts
from keras_saliency.regularizers import NormLoss

L = keras.layers
EPOCHS, BATCH = 4, 64


# Keras's momentum of 0.99 would still remember the first statistics after so few steps.
BatchNormalization = functools.partial(L.BatchNormalization, momentum=0.9)


# ---- networks --------------------------------------------------------------------------------


def cnn(
    activation=L.ReLU,
    norm=BatchNormalization,
    first=L.Conv2D,
    second=L.Conv2D,
    between=None,
    dropout=None,
    hidden=None,
    wrap=lambda layer: layer,
    regularizer=None,
    block=None,
):
    """Two convolutions, each with a normalization, an activation and pooling, and a dense layer."""
    inputs = x = keras.Input((28, 28, 1))
    for make, filters in ((first, 16), (second, 32)):
        kwargs = {} if regularizer is None else {"kernel_regularizer": regularizer}
        x = wrap(make(filters, 3, padding="same", **kwargs))(x)
        if norm is not None:
            x = norm()(x)
        x = L.MaxPooling2D()(activation()(x))
        if between is not None:
            x, between = between()(x), None
    if block is not None:
        x = block(x)
    if dropout is not None:
        x = dropout(x)
    x = L.GlobalAveragePooling2D()(x)
    if hidden is not None:
        x = hidden(x)
    return keras.Model(inputs, L.Dense(10, "softmax")(x))


def shift_conv(filters, kernel_size, padding="same"):
    return ks.ShiftAttention2D(filters, kernel_size, decay_steps=STEPS // 4)


def quadratic(filters, kernel_size, padding="same"):
    return ks.QuadraticConv2D(filters, kernel_size)


def residual(join):
    """A residual block whose end is `join(residual, identity)`."""

    def block(x):
        y = L.ReLU()(BatchNormalization()(L.Conv2D(32, 3, padding="same")(x)))
        y = BatchNormalization()(L.Conv2D(32, 3, padding="same")(y))
        return L.ReLU()(join(y, x))

    return block


def attended(layer):
    return residual(lambda y, x: L.Add()([layer()(y), x]))


def with_se():
    return cnn(block=attended(functools.partial(ks.SqueezeExcite, ratio=4)))


def competitive():
    return cnn(block=residual(lambda y, x: ks.CompetitiveSqueezeExcite(4)([y, x])))


def aligned():
    return cnn(norm=None, wrap=ks.WeightAlign)


def cosines():
    return cnn(between=lambda: ks.SpectralTransform2D("dct"))


def plain_memory():
    return memory(None)


def long_plain_memory():
    return memory(None, hops=5)


def answering(highway):
    """Is what the image shows what the word says? The word opens gates, or is read besides."""
    image, word = keras.Input((28, 28, 1)), keras.Input((1,), dtype="int32")
    vector = L.Flatten()(L.Embedding(10, 16)(word))
    x = L.Dense(64, "relu")(L.Flatten()(L.AveragePooling2D(2)(image)))
    if not highway:
        x = L.Dense(64, "relu")(L.Concatenate()([x, vector]))
    for _ in range(3):
        x = ks.Highway(context=True)([x, vector]) if highway else L.Dense(64, "relu")(x)
    return keras.Model([image, word], L.Dense(2, "softmax")(x))


def read_besides():
    return answering(False)


def deep(make):
    """Six layers of one width behind the features."""

    def hidden(x):
        x = L.Dense(32, "relu")(x)
        for _ in range(6):
            x = make()(x)
        return x

    return hidden


def recurrent(gate="sigmoid", mix=None):
    inputs = x = keras.Input((28, 28))
    if mix is not None:
        x = mix()(x)
    x = L.LSTM(32, recurrent_activation=gate() if callable(gate) else gate)(x)
    return keras.Model(inputs, L.Dense(10, "softmax")(x))


def translator(every, depth=4):
    return ResidualLSTM(WORDS, depth=depth, residual_every=every, units=32, dropout=0.0)


def memory(condense="project", addressing="softmax", hops=3):
    query, keys, values = (
        keras.Input((FACTS,)),
        keras.Input((SLOTS, FACTS)),
        keras.Input((SLOTS, LABELS)),
    )
    layer = ks.CondensedMemory(32, hops, condense, addressing)
    state = layer([query, keys, values])
    return keras.Model([query, keys, values], L.Dense(LABELS, "sigmoid")(state))


# ---- data ------------------------------------------------------------------------------------

WORDS, FACTS, SLOTS, LABELS = 42, 30, 8, 12


@functools.cache
def images(samples):
    (x, y), (x_test, y_test) = fashion_mnist()
    return (x[:samples], y[:samples]), (x_test[: samples // 2], y_test[: samples // 2])


def series(samples):
    return tuple((x[..., 0], y) for x, y in images(samples))


def questions(samples):
    rng = np.random.default_rng(0)
    parts = []
    for x, y in images(samples):
        answer = rng.integers(2, size=len(y))
        other = (y + rng.integers(1, 10, size=len(y))) % 10
        word = np.where(answer, y, other).astype("int32")[:, None]
        parts.append(([x, word], answer))
    return tuple(parts)


def sentences(samples):
    """Word i of 20 has the synonym i + 20; the sentence is told with synonyms, in reverse."""
    rng = np.random.default_rng(0)
    source = rng.integers(2, 22, size=(samples + 500, 8))
    labels = source[:, ::-1] + 20
    target = np.concatenate([np.ones((len(labels), 1), int), labels[:, :-1]], 1)
    parts = ([source, target], labels)
    return tuple(
        ([a[s] for a in parts[0]], parts[1][s]) for s in (slice(samples), slice(samples, None))
    )


def facts(samples):
    """A query is the sum of two keys with noise; its labels are those of both, and of what the
    second one's value names in turn: two hops."""
    rng = np.random.default_rng(0)
    n = samples + 1000
    keys = rng.normal(size=(n, SLOTS, FACTS)).astype("float32")
    labels = rng.integers(LABELS, size=(n, SLOTS))
    values = np.eye(LABELS, dtype="float32")[labels]
    chosen = np.argsort(rng.random((n, SLOTS)))[:, :3]
    rows = np.arange(n)
    keys[rows, chosen[:, 2], :LABELS] += 3 * values[rows, chosen[:, 1]]
    query = keys[rows, chosen[:, 0]] + keys[rows, chosen[:, 1]]
    query = query + 0.3 * rng.normal(size=query.shape)
    y = values[rows[:, None], chosen].max(1)
    inputs = [query.astype("float32"), keys, values]
    return tuple(([a[s] for a in inputs], y[s]) for s in (slice(samples), slice(samples, None)))


# ---- rows ------------------------------------------------------------------------------------

SPARSE = "sparse_categorical_crossentropy"


def accuracy(model, x, y):
    return 100 * float((model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean())


def perplexity(model, x, y):
    return float(np.exp(model.evaluate(x, y, batch_size=500, verbose=0)))


def area(model, x, y):
    from sklearn.metrics import roc_auc_score

    return 100 * float(
        roc_auc_score(y, model.predict(x, batch_size=500, verbose=0), average="macro")
    )


IMAGES = (images, SPARSE, accuracy, "accuracy, %")
QUESTIONS = (questions, SPARSE, accuracy, "accuracy, %")
SERIES = (series, SPARSE, accuracy, "accuracy, %")
TEXT = (sentences, SPARSE, perplexity, "perplexity, less is better")
MEMORY = (facts, "binary_crossentropy", area, "macro AUC, %")


def rows():
    """Name -> (what it replaces, task, the network with it, the network without)."""
    relu = ("ReLU", IMAGES)
    residual_end = ("Add", IMAGES)
    se = ("SqueezeExcite in a residual block", IMAGES)
    table = {
        "AttentionalActivation": (
            *relu,
            lambda: cnn(activation=ks.AttentionalActivation),
            cnn,
        ),
        "FractionalActivation": (*relu, lambda: cnn(activation=ks.FractionalActivation), cnn),
        "FlexibleActivation": (*relu, lambda: cnn(activation=ks.FlexibleActivation), cnn),
        "FlexibleActivation (gates)": (
            "sigmoid in LSTM",
            SERIES,
            lambda: recurrent(lambda: ks.FlexibleActivation("p-sig-ramp", axis=None)),
            recurrent,
        ),
        "MaxDropout": (
            "Dropout",
            IMAGES,
            lambda: cnn(dropout=ks.MaxDropout(0.3)),
            lambda: cnn(dropout=L.Dropout(0.3)),
        ),
        "Highway": (
            "Dense, six deep",
            IMAGES,
            lambda: cnn(hidden=deep(ks.Highway)),
            lambda: cnn(hidden=deep(lambda: L.Dense(32, "relu"))),
        ),
        "Highway (context)": (
            "Dense, words read besides",
            QUESTIONS,
            lambda: answering(True),
            read_besides,
        ),
        "QuadraticConv2D": ("Conv2D, the first", IMAGES, lambda: cnn(first=quadratic), cnn),
        "WeightAlign": (
            "BatchNormalization",
            IMAGES,
            aligned,
            cnn,
        ),
        "WeightAlign (against none)": (
            "no normalization",
            IMAGES,
            aligned,
            lambda: cnn(norm=None),
        ),
        "FilteredBatchNormalization": (
            "BatchNormalization",
            IMAGES,
            lambda: cnn(norm=functools.partial(ks.FilteredBatchNormalization, momentum=0.9)),
            cnn,
        ),
        "NormLoss": (
            "L2(0.0001)",
            IMAGES,
            lambda: cnn(regularizer=NormLoss(0.01)),
            lambda: cnn(regularizer=keras.regularizers.L2(1e-4)),
        ),
        "SpectralTransform2D": (
            "the same, from random matrices",
            IMAGES,
            cosines,
            lambda: cnn(between=lambda: ks.SpectralTransform2D("random")),
        ),
        "SpectralTransform2D (against none)": (
            "nothing",
            IMAGES,
            cosines,
            cnn,
        ),
        "ShiftAttention2D (frozen)": (
            "Conv2D, the second",
            IMAGES,
            lambda: cnn(second=shift_conv),
            cnn,
        ),
        "ResidualAttention": (
            "nothing",
            IMAGES,
            lambda: cnn(block=ks.ResidualAttention(depth=1)),
            cnn,
        ),
        "CompetitiveSqueezeExcite": (
            *residual_end,
            competitive,
            lambda: cnn(block=residual(lambda y, x: L.Add()([y, x]))),
        ),
        "CompetitiveSqueezeExcite (against SE)": (
            *se,
            competitive,
            with_se,
        ),
        "GraphMix": ("nothing, before LSTM", SERIES, lambda: recurrent(mix=ks.GraphMix), recurrent),
        "ResidualLSTM (4 layers)": (
            "a plain stack",
            TEXT,
            lambda: translator(2),
            lambda: translator(None),
        ),
        "ResidualLSTM (2 layers)": (
            "a plain stack",
            TEXT,
            lambda: translator(2, 2),
            lambda: translator(None, 2),
        ),
        "CondensedMemory (project)": (
            "key-value memory",
            MEMORY,
            memory,
            plain_memory,
        ),
        "CondensedMemory (average)": (
            "key-value memory",
            MEMORY,
            lambda: memory("average"),
            plain_memory,
        ),
        "CondensedMemory (project at 5 hops)": (
            "key-value memory",
            MEMORY,
            lambda: memory(hops=5),
            long_plain_memory,
        ),
        "CondensedMemory (average at 5 hops)": (
            "key-value memory",
            MEMORY,
            lambda: memory("average", hops=5),
            long_plain_memory,
        ),
        "CondensedMemory (gated)": (
            "softmax addressing",
            MEMORY,
            lambda: memory(addressing="gated"),
            memory,
        ),
    }
    for name in ("EfficientChannelAttention", "SimAM", "CoordinateAttention"):
        if hasattr(ks, name):
            layer = getattr(ks, name)
            table[name] = (
                *se,
                lambda layer=layer: cnn(block=attended(layer)),
                with_se,
            )
    return table


def trained(make, seed, data, loss):
    keras.utils.set_random_seed(seed)
    model = make()
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(*data, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


@functools.cache  # rows share networks
def judged(make, seed, task, samples):
    load, loss, judge, _ = task
    train, test = load(samples)
    model = trained(make, seed, train, loss)
    if any(isinstance(layer, ks.ShiftAttention2D) for layer in model.layers):
        model = freeze_shifts(model)
    return judge(model, *test)


def row(name, replaced, task, ours, theirs, options):
    load, loss, _, metric = task
    train, _ = load(options.samples)
    found = np.array(
        [
            [judged(make, seed, task, options.samples) for make in (ours, theirs)]
            for seed in range(options.seeds)
        ]
    )
    x, y = (keras.tree.map_structure(lambda a: a[:BATCH], part) for part in train)
    models = [ours(), theirs()]
    steps = {str(i): train_step(model, x, y, loss=loss) for i, model in enumerate(models)}
    timings = measure(steps, repeats=2 if options.small else 9)["seconds"]
    mean, half = interval(found[:, 0] - found[:, 1])
    return {
        "layer": name,
        "in place of": replaced,
        "measure": metric,
        "with": found[:, 0].mean(),
        "without": found[:, 1].mean(),
        "difference": mean,
        "+-": half,
        "parameters": models[0].count_params() / models[1].count_params(),
        "time of a training step": timings["0"] / timings["1"],
    }


if __name__ == "__main__":
    options = arguments(__doc__, only="", seeds=3, samples=4000)
    if options.small:
        options.only = options.only or "MaxDropout,NormLoss,GraphMix,CondensedMemory (average)"
        options.samples, options.seeds, EPOCHS = 128, 2, 1
    STEPS = EPOCHS * -(-options.samples // BATCH)
    chosen = {n: r for n, r in rows().items() if not options.only or n in options.only.split(",")}
    path = RESULTS / f"other_layers.{backend()}.csv"
    if path.exists() and not options.only and not options.small:
        known = set(pd.read_csv(path, comment="#")["layer"])
        chosen = {name: r for name, r in chosen.items() if name not in known}
    print(f"{len(chosen)} rows of {2 * options.seeds} trainings, {STEPS} steps each", flush=True)
    for name, parts in chosen.items():
        keras.backend.clear_session()
        frame = pd.DataFrame([row(name, *parts, options)])
        if not options.small:
            frame = merged("other_layers", frame, ["layer"])
        notes = (
            f"{options.samples} samples, {EPOCHS} epochs of batches of {BATCH}, Adam at 0.002, "
            f"{options.seeds} seeds. `parameters` and the time of a training step are multiples "
            "of the network without the layer; that of `ShiftAttention2D` is before "
            "freezing; its temperature falls in the first quarter of the training."
        )
        write("other_layers", frame, notes, options.small)
