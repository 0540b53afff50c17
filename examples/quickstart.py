"""What each framework does
===========================

On real data, offline, in about two minutes.

Run it with ``python examples/quickstart.py``; ``--only san`` runs one section, ``--small`` takes
seconds and is for checking that everything works. Pictures go to ``output/``.
"""

import argparse
import importlib.util
import os
import time
from pathlib import Path

# Keras needs to know its backend before it is imported: take the one that is installed.
BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# JAX compiles the draws of initial weights several times faster.
os.environ.setdefault("JAX_THREEFRY_PARTITIONABLE", "0")

import keras
import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")

import keras_saliency

OUTPUT = Path("output")


def digits(size=16):
    """Return scikit-learn's handwritten digits as images in [0, 1], split for training and test."""
    from skimage.transform import resize
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.stack([resize(image / 16, (size, size)) for image in data.images])
    images = images[..., None].astype("float32")
    # As many as fill batches of 64: a last, smaller one would be compiled on its own.
    return train_test_split(images, data.target, train_size=1216, random_state=0)


def train(model, x, y, epochs, callbacks=(), batch_size=64, learning_rate=1e-3):
    """Fit `model`; return the median seconds per epoch, without the first, which compiles."""
    marks = [time.perf_counter()]
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: marks.append(time.perf_counter())
    )
    adam = keras.optimizers.Adam(learning_rate)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[clock, *callbacks])
    seconds = np.diff(marks)
    return float(np.median(seconds[1:] if epochs > 1 else seconds))


def accuracy(model, x, y):
    return model.evaluate(x, y, batch_size=len(x), verbose=0)[1]


def san(small):
    """SAN, behind training: attention for a model that you have, which changes nothing at first."""
    x_train, x_test, y_train, y_test = digits()
    seeds, epochs = (1, 1) if small else (2, 8)
    rows, scores = {}, {"trained on as it is": [], "trained on with SAN": []}
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = keras_saliency.models.LeNet5((16, 16, 1), 10)
        train(model, x_train, y_train, epochs)
        attended = keras_saliency.add_attention(model)
        outputs = [m.predict_on_batch(x_test) for m in (model, attended)]
        for (name, found), m in zip(scores.items(), (model, attended), strict=True):
            seconds = train(m, x_train, y_train, epochs)
            found.append(accuracy(m, x_test, y_test))
            rows[name] = {
                "LeNet-5": name,
                "accuracy": f"{np.mean(found):.3f} ± {np.std(found):.3f}",
                "parameters": f"{m.count_params():,}",
                "s/epoch": f"{seconds:.2f}",
            }
    difference = np.abs(outputs[0] - outputs[1]).max()
    print(f"Largest difference of an output when it is added: {difference:.0e}")
    print(pd.DataFrame(rows.values()).to_string(index=False))
    figure = keras_saliency.visualization.plot_attention(attended, x_test[0])
    figure.savefig(OUTPUT / "attention.png", dpi=120, bbox_inches="tight")
    print(f"What the attention looks at: {OUTPUT / 'attention.png'}")


def isparse(small):
    """Pruning, without labels and without training; then trained on, zeros kept."""
    x_train, x_test, y_train, y_test = digits()
    epochs, sample = (1, x_train[:64]) if small else (8, x_train[:512])
    keras.utils.set_random_seed(0)
    dense = keras_saliency.models.LeNet5((16, 16, 1), 10)
    train(dense, x_train, y_train, epochs)
    rows = [{"model": "dense", "edges kept": "100%", "accuracy": accuracy(dense, x_test, y_test)}]
    ways = {
        "pruned, refitted": {},
        "masks alone, isparse": {"method": "isparse", "reconstruct": False},
        "masks alone, magnitude": {"method": "magnitude", "reconstruct": False},
    }
    for way, options in ways.items():
        sparse = keras_saliency.sparsify(dense, 0.9, data=sample, **options)
        found = accuracy(sparse, x_test, y_test)
        rows.append({"model": f"{way}, not retrained", "edges kept": "10%", "accuracy": found})
    for way, fits in {"half the operations, fitted": True, "as they are": False}.items():
        tiny = keras_saliency.shrink_to(
            dense, flops=0.5, data=sample, reconstruct=fits, round_to=2, verbose=False
        )
        found = accuracy(tiny, x_test, y_test)
        rows.append({"model": way, "edges kept": "", "accuracy": found})
    model = keras_saliency.sparsify(dense, 0.9, data=sample)
    model.compile(
        keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    keep = [keras_saliency.KeepSparsity()]
    model.fit(x_train, y_train, batch_size=64, epochs=epochs // 2, verbose=0, callbacks=keep)
    rows.append(
        {
            "model": "refitted, trained on, zeros kept",
            "edges kept": "10%",
            "accuracy": accuracy(model, x_test, y_test),
        }
    )
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    print(keras_saliency.sparsity_report(model)[["layer", "size", "zeros", "sparsity"]])


def racknet(small):
    """RACKNet, before training: the data set decides racks, layers and kernels of a network."""
    x_train, x_test, y_train, y_test = digits(size=28)
    statistics = keras_saliency.RACKNet.analyze(
        (x_train, y_train), max_images=200 if small else 600, verbose=0
    )
    print(statistics)
    budget, epochs = (30, 1) if small else (48, 5)
    print(f"kernels per layer: {keras_saliency.RACKNet.allocate(statistics, budget)}")
    keras.utils.set_random_seed(0)
    model = keras_saliency.RACKNet.from_statistics(statistics, budget)
    seconds = train(model, x_train, y_train, epochs, batch_size=32, learning_rate=3e-3)
    found = accuracy(model, x_test, y_test)
    print(f"the network after {epochs} epochs of {seconds:.1f} s: accuracy {found:.3f}")
    print("What its depth and its shares of kernels are worth: benchmarks/racknet_accuracy.py.")
    statistics.plot(budget).savefig(OUTPUT / "racknet.png", dpi=120)
    print(f"What the images say, and the network they lead to: {OUTPUT / 'racknet.png'}")


def xm2a(small):
    """XM2A, during training: heads of several scales that talk to each other, linear in time."""
    x_train, x_test, y_train, y_test = digits()
    x_train, x_test = x_train[..., 0], x_test[..., 0]  # a series of 16 rows, 16 variates
    rows = []
    for name, attention in {"dot-product attention": "multi-head", "XM2A": "xm2a"}.items():
        keras.utils.set_random_seed(0)
        model = keras_saliency.models.XM2A((16, 16), 10, depth=1, key_dim=16, attention=attention)
        train(model, x_train, y_train, 1 if small else 6)
        long = keras_saliency.models.XM2A((2048, 16), 10, depth=1, key_dim=16, attention=attention)
        series = np.resize(x_train, (4, 2048, 16))
        for _ in range(2):  # the first call compiles
            start = time.perf_counter()
            long.predict_on_batch(series)
            seconds = time.perf_counter() - start
        rows.append(
            {
                "model": name,
                "accuracy": f"{accuracy(model, x_test, y_test):.3f}",
                "parameters": f"{model.count_params():,}",
                "s for 4 series of 2048 steps": f"{seconds:.2f}",
            }
        )
    print(pd.DataFrame(rows).to_string(index=False))
    figure = keras_saliency.visualization.plot_heads(model, x_test[0])
    figure.savefig(OUTPUT / "heads.png", dpi=120)
    print(f"Where the heads look: {OUTPUT / 'heads.png'}")


def sdma(small):
    """SDMA, before training: what happens in a time series becomes a second input."""
    from aeon.datasets import load_basic_motions

    parts = [load_basic_motions(split=split) for split in ("train", "test")]
    (x_train, y_train), (x_test, y_test) = (
        (np.moveaxis(x, 1, 2).astype("float32"), np.unique(y, return_inverse=True)[1])
        for x, y in parts
    )
    mean, std = x_train.mean((0, 1)), x_train.std((0, 1))
    x_train, x_test = (x_train - mean) / std, (x_test - mean) / std
    events = keras_saliency.scale_space.temporal_events(x_train[:1])
    print(f"{len(events)} salient events in the first recording, the strongest of them:")
    strongest = events.loc[events["amplitude"].abs().nlargest(3).index]
    print(strongest.round(2).to_string(index=False))
    seeds, epochs = (1, 1) if small else (2, 40)
    rows = []
    for name, layer in {
        "LSTM": lambda: keras.layers.LSTM(12),
        "SDMA": lambda: keras_saliency.SDMACrossAttention(12, return_sequences=False),
    }.items():
        scores = []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            model = keras.Sequential(
                [
                    keras.Input(x_train.shape[1:]),
                    layer(),
                    keras.layers.Dense(4, activation="softmax"),
                ]
            )
            train(model, x_train, y_train, epochs, batch_size=8, learning_rate=5e-3)
            scores.append(accuracy(model, x_test, y_test))
        rows.append(
            {
                "model": name,
                "accuracy": f"{np.mean(scores):.3f} ± {np.std(scores):.3f}",
                "parameters": f"{model.count_params():,}",
            }
        )
    print(pd.DataFrame(rows).to_string(index=False))
    figure = keras_saliency.visualization.plot_saliency(x_train[0], variates=[0, 1, 2])
    figure.savefig(OUTPUT / "saliency.png", dpi=120)
    print(f"A recording, its events and its saliency: {OUTPUT / 'saliency.png'}")


SECTIONS = {
    "isparse": isparse,
    "racknet": racknet,
    "san": san,
    "sdma": sdma,
    "xm2a": xm2a,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    print(f"keras_saliency {keras_saliency.__version__} on {keras.backend.backend()}")
    for name in options.only:
        start = time.perf_counter()
        print(f"\n{SECTIONS[name].__doc__}")
        SECTIONS[name](options.small)
        print(f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
