"""Whether the separation index tells what a linear probe would, layer by layer.

    KERAS_BACKEND=tensorflow python benchmarks/layer_probe.py [--seeds 0,1,2]
        [--networks VGG,ResNet] [--images 4000] [--epochs 2] [--samples 2000] [--small]

Each network is trained on the first images of Fashion-MNIST's training set. Then, for its input
and behind each of its activations, poolings and its head, two numbers are taken: the separation
index of `--samples` test images (`layer_separation`, maps wider than 1024 projected), and how many
of these a linear classifier gets right that was fitted on as many other test images (ridge
regression of the one-hot labels, its strength by leave-one-out; maps wider than 1024 projected,
too). Kalhor (2023, figures 10 to 12) has them rise together: the table has their correlation over
the layers. Each finished network is written at once, and is not measured again.
"""

import time

import keras
import networks
import numpy as np
import pandas as pd
import runner
from keras import layers
from scipy import stats
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import SparseRandomProjection

import keras_saliency
from keras_saliency.complexity import layer_separation

KEYS = ["network", "seed"]
KINDS = (layers.ReLU, layers.MaxPooling2D, layers.GlobalAveragePooling2D, layers.Dense)
WIDEST = 1024
BATCH = 32


def train(name, seed, data, epochs):
    keras.utils.set_random_seed(seed)
    model = networks.NETWORKS[name]()
    steps = epochs * -(-len(data[0]) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def probe(fitting, testing):
    """Which share of the labels a linear classifier of the features tells."""
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 6, 7)))
    return classifier.fit(*fitting).score(*testing)


def features(model, chosen, x, batch_size=500):
    """What each chosen layer gives, projected where it is wide, a part of the data at a time."""
    reader = keras.Model(model.inputs, [layer.output for layer in chosen])
    kept = [[] for _ in chosen]
    for start in range(0, len(x), batch_size):
        for place, found in enumerate(reader.predict_on_batch(x[start : start + batch_size])):
            rows = found.reshape(len(found), -1)
            if rows.shape[1] > WIDEST:
                rows = SparseRandomProjection(WIDEST, random_state=0).fit_transform(rows)
            kept[place].append(rows)
    return [np.concatenate(part) for part in kept]


def measured(model, fitting, testing):
    """A row for the input and for each layer of interest."""
    chosen = [layer for layer in model.layers if isinstance(layer, KINDS)]
    frame = layer_separation(model, *testing, layers=chosen, max_features=WIDEST)
    held = {layer.name: place for place, layer in enumerate(chosen)}
    known, new = (features(model, chosen, x) for x, _ in (fitting, testing))
    frame["probe"] = [
        probe((known[held[name]], fitting[1]), (new[held[name]], testing[1]))
        for name in frame["layer"]
    ]
    flat = [(x.reshape(len(x), -1), y) for x, y in (fitting, testing)]
    first = {"layer": "input", "index": keras_saliency.separation_index(*flat[1])}
    first |= {"width": flat[1][0].shape[1], "probe": probe(*flat)}
    # Automatic names differ from one training to the next.
    kinds = [type(model.get_layer(name)).__name__ for name in frame["layer"]]
    frame["layer"] = [f"{place} {kind}" for place, kind in enumerate(kinds, 1)]
    return pd.concat([pd.DataFrame([first]), frame.drop(columns="share")], ignore_index=True)


def table(frame):
    """Correlation over the layers by network: means over the seeds with intervals."""
    rows = []
    for name, part in frame.groupby("network", sort=False):
        part = part.astype({"index": float, "probe": float, "accuracy": float})
        runs = [run for _, run in part.groupby("seed")]
        row = {"network": name, "seeds": len(runs), "layers": len(runs[0])}
        for label, found in {
            "correlation": [stats.pearsonr(r["index"], r["probe"])[0] for r in runs],
            "rank correlation": [stats.spearmanr(r["index"], r["probe"])[0] for r in runs],
            "index, input": [r["index"].iloc[0] for r in runs],
            "index, best": [r["index"].max() for r in runs],
            "probe, input": [r["probe"].iloc[0] for r in runs],
            "probe, best": [r["probe"].max() for r in runs],
            "accuracy": [r["accuracy"].iloc[0] for r in runs],
        }.items():
            mean, half = runner.interval(found)
            row[label] = f"{mean:.3f}" + (f" ± {half:.3f}" if len(runs) > 1 else "")
        rows.append(row)
    return pd.DataFrame(rows)


def main():
    options = runner.arguments(
        __doc__, seeds="0,1,2", networks="VGG,ResNet", images=4000, epochs=2, samples=2000
    )
    if options.small:
        options.images, options.epochs, options.samples, options.seeds = 256, 1, 100, "0"
    data, (x, y) = networks.fashion_mnist()
    data = [part[: options.images] for part in data]
    count = options.samples
    fitting, testing = (x[:count], y[:count]), (x[count : 2 * count], y[count : 2 * count])
    name = "layer_probe_rows"
    frame = pd.DataFrame(columns=[*KEYS, "layer", "index", "width", "probe", "accuracy"])
    if not options.small:
        frame = runner.merged(name, frame, KEYS)
    known = set(frame[KEYS].itertuples(index=False, name=None))
    for seed in map(int, options.seeds.split(",")):
        for network in options.networks.split(","):
            if (network, seed) in known:
                continue
            keras.backend.clear_session()
            start = time.perf_counter()
            model = train(network, seed, data, options.epochs)
            rows = measured(model, fitting, testing)
            rows = rows.assign(network=network, seed=seed)
            rows["accuracy"] = networks.accuracy(model, *testing)
            frame = pd.concat([frame, rows], ignore_index=True) if len(frame) else rows
            print(f"{time.perf_counter() - start:.0f} s\n{rows.to_string(index=False)}", flush=True)
            if not options.small:
                path = runner.RESULTS / f"{name}.{runner.backend()}.csv"
                frame[[*KEYS, "layer", "index", "width", "probe", "accuracy"]].to_csv(
                    path, index=False
                )
    notes = f"""Fashion-MNIST, trained on the first {options.images} training images for
    {options.epochs} epochs in batches of {BATCH}; {count} test images for the index and to test the
    probe, {count} others to fit it. Correlation (Pearson's, Spearman's) of the two over input and
    layers, means over the seeds with 95 % confidence intervals (Student). The layers stand in
    {name}.*.csv."""
    runner.write("layer_probe", table(frame), notes, options.small)


if __name__ == "__main__":
    main()
