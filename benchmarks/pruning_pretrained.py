"""What pruning without labels and without training keeps of networks that others trained.

    KERAS_BACKEND=torch python benchmarks/pruning_pretrained.py
        [--networks Magika,EfficientNet-Lite0] [--seeds 0,1,2] [--small]

Magika's classifier of files (`benchmarks/file_types.py`): 512 files of this machine to fit on,
up to 60 of a kind drawn by the seed, the others to test on. ImageNet's EfficientNet-Lite0
(`benchmarks/pretrained.py`): 30 unlabelled pictures, 20 photographs and 10 of the 20 labelled ones;
tested on the other 10, and the halves change places (the seeds say which half). Its depthwise
kernels, stem, head and classes stay dense. `KL` and `agreement` are between the outputs of the
pruned and of the dense network. About an hour on two busy cores.
"""

import time

import networks
import numpy as np
import pandas as pd
import runner

import keras_saliency

ALONE = {"reconstruct": False}
WAYS = {
    "refit (default)": {},
    "iSparse masks, refit": {"method": "isparse"},
    "iSparse": {"method": "isparse", **ALONE},
    "magnitude, layer": {"method": "magnitude", "scope": "layer", **ALONE},
    "LAMP": {"method": "magnitude", "scope": "lamp", **ALONE},
    "Wanda": {"method": "wanda", **ALONE},
    "OBS": {"method": "obs", **ALONE},
}
MAGIKA = {f"{way}, bytes kept": {**options, "exclude": "bytes"} for way, options in WAYS.items()}
MAGIKA["refit (default)"] = {}
GLOBAL = {"method": "magnitude", "scope": "global"}
EFFICIENTNET = {
    **WAYS,
    "refit, no gate": {"gate": False},
    "global magnitude": {**GLOBAL, **ALONE},
    "global magnitude, refit": GLOBAL,
}
KEPT = ("stem", "head", "classes")
COLUMNS = [
    *("network", "seed", "budget", "way"),
    *("dense %", "accuracy %", "KL", "agreement %", "seconds", "gate"),
]


def outcome(model, sparse, x, y):
    """Return accuracies of both in %, the divergence, and the share of equal answers in %."""
    wanted, given = (m.predict(x, batch_size=256, verbose=0) for m in (model, sparse))
    wanted, given = np.clip(wanted, 1e-7, 1), np.clip(given, 1e-7, 1)
    divergence = (wanted * np.log(wanted / given)).sum(-1).mean()
    answers = given.argmax(-1)
    shares = [(wanted.argmax(-1) == y), (answers == y), (answers == wanted.argmax(-1))]
    dense, accuracy, agreement = (100 * float(share.mean()) for share in shares)
    return dense, accuracy, float(divergence), agreement


def rows(network, seed, small):
    if network == "Magika":
        model = networks.magika()
        x, y = networks.files(most=20 if small else 60, seed=seed)
        data, test = x[:512], (x[512:], y[512:])
        shares, ways, kept = (0.8, 0.9), MAGIKA, ()
    else:
        model = networks.efficientnet_lite0()
        x, y = networks.labelled_pictures()
        half = seed % 2
        data = np.concatenate([networks.photographs(), x[half::2]])
        test = x[1 - half :: 2], y[1 - half :: 2]
        shares, ways, kept = (0.5,), EFFICIENTNET, KEPT
    for share in shares[:1] if small else shares:
        for way, options in list(ways.items())[:1] if small else ways.items():
            options = {"exclude": kept or "auto", **options}
            start = time.perf_counter()
            sparse, report = keras_saliency.sparsify(
                model, share, data=data, verbose=False, return_report=True, **options
            )
            seconds = time.perf_counter() - start
            gate = (report.attrs.get("gate") or {}).get("winner", "")
            head = [network, seed, f"{share:.0%} zeros"]
            yield [*head, way, *outcome(model, sparse, *test), seconds, gate]
            if not kept or options.get("reconstruct", True):
                continue
            if way in ("LAMP", "iSparse", "global magnitude"):
                keras_saliency.recalibrate(sparse, data, reference=model)
                yield [*head, f"{way}, recalibrated", *outcome(model, sparse, *test), seconds, ""]


def main():
    options = runner.arguments(__doc__, networks="Magika,EfficientNet-Lite0", seeds="0,1,2")
    found = []
    for network in options.networks.split(","):
        for seed in map(int, options.seeds.split(",")):
            if network != "Magika" and seed > 1:
                continue  # there are two halves
            for row in rows(network, seed, options.small):
                print(*row, flush=True)
                found.append(row)
    frame = pd.DataFrame(found, columns=COLUMNS)
    keys = COLUMNS[:4]
    name = "pruning_pretrained"
    if not options.small:
        frame = runner.merged(name, frame, keys)
    numbers = [c for c in COLUMNS[4:] if c != "gate"]
    mean = frame.groupby(["network", "budget", "way"], sort=False)[numbers].mean()
    print(runner.markdown(mean.reset_index()))
    notes = "No labels, no training. `gate`: which of refit and masks alone it chose, if it was on."
    runner.write(name, frame, notes, options.small)


if __name__ == "__main__":
    main()
