"""What pruning without labels and without training keeps of the accuracy of trained networks.

    KERAS_BACKEND=jax python benchmarks/pruning_without_training.py
        [--networks LeNet-5,VGG,ResNet,MobileNet] [--seeds 0,1,2] [--inputs 512] [--small]

Networks of `benchmarks/networks.py`, the full test set of Fashion-MNIST. `sparsify` to shares of
zeros and `shrink_to` to shares of the operations, on unlabelled training images: the default
(ADMM, refitted), iSparse's masks refitted, and masks alone by iSparse and its peers: magnitude
(also with batch norm's statistics estimated again), Wanda, OBS (SparseGPT's score), all with the
same shares of the layers (LAMP's), and for channels the scores of Torch-Pruning's importances
(Taylor with labels, FPGM, batch norm's scales), as they are and with statistics estimated again.
With `polish`, 300 more steps towards the dense
model on 8 000 unlabelled images. Each finished row is printed at once, each network is written when
it is done, and those that are there are not measured again. About six minutes a network and seed,
its training apart.
"""

import time

import keras
import networks
import numpy as np
import pandas as pd
import runner

import keras_saliency

ZEROS = (0.5, 0.7, 0.8, 0.9, 0.95)
OPERATIONS = (0.75, 0.5, 0.25)
WAYS = {
    "refit": {},
    "isparse, refit": {"method": "isparse"},
    "isparse": {"method": "isparse", "reconstruct": False},
    "magnitude": {"method": "magnitude", "reconstruct": False},
    "Wanda": {"method": "wanda", "reconstruct": False},
    "OBS": {"method": "obs", "reconstruct": False},
}
CHANNELS = ("refit", "isparse", "magnitude", "taylor", "fpgm", "bn_scale")
KEYS = ["network", "seed", "budget", "way"]


def timed(function, *args, **kwargs):
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - start


def rows(name, seed, count, train, test, small):
    """Yield `(budget, way, dense, accuracy, seconds)`."""
    model = networks.trained(name, seed, 1 if small else None)
    dense = networks.accuracy(model, *test)
    chosen = np.random.default_rng(seed).permutation(len(train[0]))[:count]
    data, labels = train[0][chosen], train[1][chosen]
    has_norm = any(isinstance(x, keras.layers.BatchNormalization) for x in model.layers)

    def recalibrated(pruned):
        return keras_saliency.recalibrate(pruned, data)

    for share in ZEROS[2:4] if small else ZEROS:
        budget = f"{share:.0%} zeros"
        for way, options in WAYS.items():
            sparse, seconds = timed(
                keras_saliency.sparsify, model, share, data=data, verbose=False, **options
            )
            yield budget, way, dense, networks.accuracy(sparse, *test), seconds
            if way == "refit" and not small:
                x = train[0][:8000]
                sparse, seconds = timed(keras_saliency.polish, sparse, model, x, verbose=False)
                yield budget, "refit, polish", dense, networks.accuracy(sparse, *test), seconds
            if way in ("isparse", "magnitude") and has_norm:
                sparse, seconds = timed(recalibrated, sparse)
                found = networks.accuracy(sparse, *test)
                yield budget, f"{way}, recalibrated", dense, found, seconds
    for share in OPERATIONS[1:2] if small else OPERATIONS:
        budget = f"{share:.2f} operations"
        for way in CHANNELS:
            if way == "bn_scale" and not has_norm:
                continue
            options = {"reconstruct": False, "method": way}
            if way == "refit":
                options = {}
            tiny, seconds = timed(
                keras_saliency.shrink_to,
                model,
                flops=share,
                data=(data, labels) if way == "taylor" else data,
                round_to=2,
                verbose=False,
                **options,
            )
            yield budget, way, dense, networks.accuracy(tiny, *test), seconds
            if way != "refit" and has_norm:
                tiny, seconds = timed(recalibrated, tiny)
                found = networks.accuracy(tiny, *test)
                yield budget, f"{way}, recalibrated", dense, found, seconds


def draw(frame):
    """Accuracy against zeros, a panel per network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    frame = frame[frame["budget"].str.endswith("zeros")].copy()
    frame["zeros"] = frame["budget"].str.split("%").str[0].astype(float)
    names = list(dict.fromkeys(frame["network"]))
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(1 + 3.4 * len(names), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes[0], names, strict=True):
        part = frame[frame["network"] == name]
        axis.axhline(part["dense %"].mean(), color="0.6", linestyle=":", label="dense")
        for way in ("refit, polish", "refit", "isparse, refit", "isparse", "magnitude"):
            line = part[part["way"] == way].groupby("zeros")["accuracy %"].mean()
            axis.plot(line.index, line.values, marker="o", markersize=3, label=way)
        axis.set(title=name, xlabel="zeros (%)")
    axes[0][0].set_ylabel("accuracy on Fashion-MNIST (%)")
    axes[0][-1].legend(fontsize="small")
    figure.suptitle("Pruned without labels and without training")
    figure.savefig(runner.RESULTS / "pruning_without_training.png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def main():
    names = ",".join(networks.NETWORKS)
    options = runner.arguments(__doc__, networks=names, seeds="0", inputs=512)
    train, test = networks.fashion_mnist()
    if options.small:
        test = tuple(part[:1000] for part in test)
    name = "pruning_without_training"
    frame = pd.DataFrame(columns=[*KEYS, "dense %", "accuracy %", "seconds"])
    print("about six minutes a network and seed, its training apart", flush=True)
    for network in options.networks.split(","):
        for seed in map(int, options.seeds.split(",")):
            known = runner.merged(name, frame, KEYS) if not options.small else frame
            if ((known["network"] == network) & (known["seed"] == seed)).any():
                frame = known
                continue
            found = rows(network, seed, options.inputs, train, test, options.small)
            for budget, way, dense, accuracy, seconds in found:
                row = [network, seed, budget, way, 100 * dense, 100 * accuracy, seconds]
                frame = pd.concat(
                    [frame, pd.DataFrame([row], columns=frame.columns)], ignore_index=True
                )
                print(*row, flush=True)
            kept = frame if options.small else runner.merged(name, frame, KEYS)
            runner.write(
                name,
                kept.sort_values(KEYS, kind="stable"),
                f"Fashion-MNIST, 10 000 test images; {options.inputs} unlabelled inputs.",
                options.small,
            )
            if not options.small:
                draw(kept)


if __name__ == "__main__":
    main()
