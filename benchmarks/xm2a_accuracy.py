"""XM2A against its competitors and its own parts on real series (G tables 7.3, 7.4, figure 7.4).

``python benchmarks/xm2a_accuracy.py`` trains small networks (2 blocks of 8 heads of 16, not the
paper's 6 of 64) on series that ship with aeon: JapaneseVowels (640 utterances of 7 to 29 steps, 12
cepstral variates, 9 speakers) and BasicMotions (80 recordings of 100 steps, 6 variates, 4
activities). As in 7.6.1 and 7.6.3 each variate of each series has mean 0 and deviation 1, 70 % of
the series train, 10 % choose the epoch, 20 % test, and RMSprop minimizes the cross-entropy.
"""

import os
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
import runner

from keras_saliency import models, visualization

PAD = 1000.0  # marks padded steps, far outside standardized values


def load(name):
    """Return (series, labels): (n, time, variates) padded with `PAD`, integers."""
    from aeon import datasets

    loader = {
        "JapaneseVowels": "load_japanese_vowels",
        "BasicMotions": "load_basic_motions",
        "GunPoint": "load_gunpoint",
        "ItalyPowerDemand": "load_italy_power_demand",
        "ArrowHead": "load_arrow_head",
        "OSULeaf": "load_osuleaf",
    }[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # aeon means to download OSULeaf one day
        collection, labels = getattr(datasets, loader)()
    longest = max(x.shape[1] for x in collection)
    padded = np.full((len(collection), longest, collection[0].shape[0]), PAD, "float32")
    for i, x in enumerate(collection):
        x = (x - x.mean(1, keepdims=True)) / np.maximum(x.std(1, keepdims=True), 1e-8)
        padded[i, : x.shape[1]] = x.T
    return padded, np.unique(labels, return_inverse=True)[1]


def competitors():
    """Name -> (table, group, builder(shape, classes, depth, size))."""

    def attended(attention, residual=True, **kwargs):
        if attention == "xm2a":
            kwargs = {"descriptor": "average", **kwargs}  # the paper's

        def build(shape, classes, depth, size):
            return models.XM2A(
                shape,
                classes,
                depth=depth,
                key_dim=size,
                attention=attention,
                attention_kwargs=kwargs,
                mask_value=PAD,
                residual=residual,
            )

        return build

    def convolutional(network, **kwargs):
        return lambda shape, classes, depth, size: network(shape, classes, **kwargs)

    found = {
        "Deep Net": ("7.3", "convolutions", convolutional(models.DeepNet, filters=(32, 64, 128))),
        "Wide Net": ("7.3", "convolutions", convolutional(models.WideNet, filters=24)),
        "Parameter-free": ("7.3", "single head", attended("parameter-free")),
        "SENet": ("7.3", "single head", attended("se", ratio=4)),
        "BAM": ("7.3", "single head", attended("bam", ratio=4)),
        "Transformer": ("7.3", "dot product", attended("multi-head")),
        "MSMSA": ("7.3", "dot product", attended("msmsa")),
        "XM2A": ("7.3", "XM2A", attended("xm2a")),
        "XM2A, plain stack": ("7.3", "XM2A", attended("xm2a", residual=False)),
    }
    variants = {"M": "msmsa", "E": "exp", "EP": "exp-pool", "P": "pool", "H": "hybrid"}
    for letter, variant in variants.items():
        found[f"XM2A-{letter}"] = ("figure 7.4", "XM2A", attended("xm2a", variant=variant))
    found["XM2A, shared"] = ("figure 7.4", "XM2A", attended("xm2a", share_projections=True))
    for descriptor in ("maximum", "average"):
        for norm, talk in (
            (None, "self"),
            ("batch", "input"),
            ("batch", "scale"),
            ("layer", "input"),
            ("layer", "self"),
            ("layer", "scale"),
        ):
            if (descriptor, norm, talk) == ("average", "layer", "scale"):
                continue  # that is XM2A
            options = {"descriptor": descriptor, "normalization": norm, "talk": talk}
            name = f"{descriptor}, {norm or 'no'} norm, {talk}"
            found[name] = ("7.4", "XM2A", attended("xm2a", **options))
    return found


def run(build, x, y, seed, epochs, depth, size):
    """Train on one split with one seed; return test accuracy and parameters."""
    from sklearn.model_selection import train_test_split

    keras.utils.set_random_seed(seed)
    keras.backend.clear_session()
    rest, test = train_test_split(np.arange(len(x)), test_size=0.2, stratify=y, random_state=seed)
    train, held = train_test_split(rest, test_size=0.125, stratify=y[rest], random_state=seed)
    model = build(x.shape[1:], int(y.max()) + 1, depth, size)
    if not any(isinstance(layer, keras.layers.Masking) for layer in model.layers):
        x = np.where(x == PAD, 0, x)
    model.compile(
        keras.optimizers.RMSprop(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    # Batches of one size: every other size would be compiled again.
    batch = 16 if len(train) < 100 else 64
    train = train[: len(train) // batch * batch]
    best = keras.callbacks.EarlyStopping(
        "val_loss", patience=epochs, restore_best_weights=True, start_from_epoch=0
    )
    model.fit(
        x[train],
        y[train],
        batch_size=batch,
        epochs=epochs,
        validation_data=(x[held], y[held]),
        validation_batch_size=len(held),
        callbacks=[best],
        verbose=0,
    )
    predicted = model.predict(x[test], batch_size=len(test), verbose=0).argmax(-1)
    return float(np.mean(predicted == y[test])), model.count_params()


def main():
    options = runner.arguments(
        __doc__.splitlines()[0], seeds=3, epochs=25, depth=2, size=16, only="", minutes=60.0
    )
    small = options.small
    seeds, epochs = (1, 1) if small else (options.seeds, options.epochs)
    rows, left_out, start = [], [], time.perf_counter()
    for data in ("BasicMotions",) if small else ("JapaneseVowels", "BasicMotions"):
        x, y = load(data)
        for name, (table, group, build) in competitors().items():
            if options.only and options.only not in name:
                continue
            if small and name not in ("XM2A", "MSMSA", "Deep Net", "BAM"):
                continue
            if time.perf_counter() - start > 60 * options.minutes:
                left_out.append(f"{name} on {data}")
                continue
            results = [
                run(build, x, y, seed, epochs, options.depth, options.size) for seed in range(seeds)
            ]
            mean, half = runner.interval([accuracy for accuracy, _ in results])
            rows.append(
                {
                    "data": data,
                    "table": table,
                    "group": group,
                    "model": name,
                    "parameters": results[0][1],
                    "accuracy": mean,
                    "error": half,
                }
            )
            print(rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    frame = pd.DataFrame(rows)
    notes = (
        f"{options.depth} blocks of 8 heads of {options.size}, {epochs} epochs, {seeds} seeds, "
        "each with its own split; `error` is half of the 95 % confidence interval of the mean."
    )
    if left_out:
        notes += f" Not run within {options.minutes:g} minutes: {', '.join(left_out)}."
    runner.write("xm2a_accuracy", frame, notes, small)
    if not small:
        for data, part in frame[frame["table"] != "7.4"].groupby("data"):
            figure = visualization.plot_parameters(part, title=f"{data}: what parameters buy")
            figure.savefig(runner.RESULTS / f"xm2a_parameters_{data}.png", dpi=110)


if __name__ == "__main__":
    main()
