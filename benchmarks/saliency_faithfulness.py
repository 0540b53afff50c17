"""Which saliency map finds what counts? Every method before the judges, random maps as the floor.

    KERAS_BACKEND=torch python benchmarks/saliency_faithfulness.py [--seeds 3] [--images 24]
        [--photographs 8] [--small]

Scenes, and with `--photographs N` instead N of ImageNet's pictures under EfficientNet-Lite0 (see
`pretrained.py`), which have no boxes, and whose many layers are too many to randomise.

A scene is a canvas of 56 x 56 with one whole Fashion-MNIST item, whose class is the label and whose
box is known, among four scraps of other items. Per seed a small convolutional network is trained on
other scenes (about a minute on two cores, kept on disk), then every method explains its predictions
on the same held-out scenes, and the library's judges compare the maps: `deletion_insertion`,
`average_drop`, `pointing_game`, `randomization_check` (on four scenes, all layers randomised). Each
finished row is kept at once; rows that are there are skipped. `attribution_cost.py` has seconds.
"""

import functools

import keras
import numpy as np
import pandas as pd
import runner
from keras import layers
from networks import CACHE, efficientnet_lite0, fashion_mnist, labelled_pictures

from keras_saliency import attribution, saliency_map

CANVAS = 56
METHODS = {
    "random": {},
    "gradient": {},
    "gradient_x_input": {},
    "smooth_grad": {},
    "smooth_taylor": {},
    "integrated_gradients": {},
    "expected_gradients": {},  # its background comes with the scenes
    "cam": {},
    "grad_cam": {},
    "grad_cam_plus_plus": {},
    "hires_cam": {},
    "layer_cam": {},
    "score_cam": {},
    "eigen_cam": {},
    "robust_cam": {},
    "occlusion": {},
    "rise": {"samples": 500},
}
# A photograph is 16 times as large, and its network's last layer has 1280 channels.
PHOTOGRAPHS = {
    "smooth_grad": {"samples": 16},
    "smooth_taylor": {"samples": 16},
    "integrated_gradients": {"steps": 16},
    "expected_gradients": {"samples": 16},
    "score_cam": {"channels": 48},
    "occlusion": {"window": 32, "stride": 16},
    "rise": {"samples": 200},
}
JUDGES = ["deletion", "insertion", "drop", "increase", "hit", "share", "similarity"]


def scenes(x, y, count, seed):
    """Return `count` scenes `(n, 56, 56, 1)`, their labels, and the box of each labelled item."""
    generator = np.random.default_rng(seed)
    images = np.zeros((count, CANVAS, CANVAS, 1), "float32")
    labels, boxes = np.empty(count, "int32"), []
    for image, i in zip(images, range(count), strict=True):
        for _ in range(4):
            top, left = generator.integers(CANVAS - 12, size=2)
            a, b = generator.integers(4, 12, size=2)  # out of the middle, where there is something
            scrap = x[generator.integers(len(x)), a : a + 12, b : b + 12]
            image[top : top + 12, left : left + 12] = scrap
        chosen = generator.integers(len(x))
        top, left = generator.integers(CANVAS - 28, size=2)
        image[top : top + 28, left : left + 28] = x[chosen]
        labels[i] = y[chosen]
        rows, columns = np.nonzero(x[chosen, ..., 0] > 0.05)
        boxes.append(
            [
                (
                    top + rows.min(),
                    left + columns.min(),
                    top + rows.max() + 1,
                    left + columns.max() + 1,
                )
            ]
        )
    return images, labels, boxes


def network():
    def block(filters, strides):
        return [
            layers.Conv2D(filters, 3, strides, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]

    body = [*block(16, 2), *block(32, 1), *block(64, 2), *block(64, 1)]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((CANVAS, CANVAS, 1)), *body, *head])


def trained(seed, data, count, epochs):
    """The network of a seed; the first call trains it, later ones read it."""
    path = CACHE / f"scenes.{seed}.{count}.{epochs}.weights.h5"
    keras.utils.set_random_seed(seed)
    model = network()
    if path.exists():
        model.load_weights(path)
        return model
    x, y, _ = scenes(*data, count, 1000 + seed)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * -(-count // 64))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    CACHE.mkdir(parents=True, exist_ok=True)
    model.save_weights(path)
    return model


def judged(model, x, boxes, method, options):
    """One row: the means over the inputs; without `boxes` those of two judges, in fewer steps."""
    maps = saliency_map(model, x, method, **options)
    frames = [
        attribution.deletion_insertion(model, x, maps, steps=10 if boxes is None else 20),
        attribution.average_drop(model, x, maps),
    ]
    if boxes is None:
        return pd.concat(frames, axis=1).mean().to_dict()
    frames.append(attribution.pointing_game(maps, boxes))
    row = pd.concat(frames, axis=1).mean().to_dict()
    check = attribution.randomization_check(model, x[:4], method, **options)
    return {**row, "similarity": check["similarity"].iloc[-1]}


def summary(frame):
    """Means over the seeds with their standard deviations, the floor first."""
    rows = []
    for method in (m for m in METHODS if m in set(frame["method"])):
        part = frame[frame["method"] == method]
        row = {"method": method, "seeds": len(part)}
        for name in JUDGES:
            row[name] = f"{part[name].mean():.3f}"
            if len(part) > 1:
                row[name] += f" ± {part[name].std(ddof=1):.3f}"
        rows.append(row)
    return pd.DataFrame(rows)


class Rows:
    """The finished rows, each on disk at once; what is there is not measured again."""

    def __init__(self, name, keep):
        self.path = runner.RESULTS / f"{name}.{runner.backend()}.csv" if keep else None
        self.rows = []
        if keep and self.path.exists():
            self.rows = pd.read_csv(self.path).to_dict("records")

    def add(self, method, seed, measure):
        if any(row["method"] == method and row["seed"] == seed for row in self.rows):
            return
        self.rows.append({"method": method, "seed": seed, **measure()})
        print(self.rows[-1], flush=True)
        if self.path is not None:
            pd.DataFrame(self.rows).to_csv(self.path, index=False)


def on_photographs(options):
    model = efficientnet_lite0()
    x, y = labelled_pictures()
    right = np.flatnonzero(model.predict(x, verbose=0).argmax(axis=1) == y)
    right, rest = right[: options.photographs], right[options.photographs :]
    rows = Rows("saliency_faithfulness_photographs_rows", not options.small)
    for method in sorted(METHODS, key=lambda name: name in PHOTOGRAPHS):  # the quick ones first
        given = METHODS[method]
        if method == "expected_gradients":
            given = {"background": x[rest]}
        given = {**given, **PHOTOGRAPHS.get(method, {})}
        rows.add(method, 0, functools.partial(judged, model, x[right], None, method, given))
    notes = (
        f"EfficientNet-Lite0, {len(right)} pictures of ImageNet (foolbox's) that it gets right, "
        "224 x 224. Means over the pictures. deletion, drop: low is good; insertion, increase: "
        "high is good."
    )
    frame = pd.DataFrame(rows.rows)
    frame["method"] = pd.Categorical(frame["method"], METHODS)
    frame = frame.sort_values("method")
    columns = ["method", *JUDGES[:4]]
    runner.write("saliency_faithfulness_photographs", frame[columns], notes, options.small)


def main():
    options = runner.arguments(__doc__, seeds=3, images=24, scenes=8000, epochs=5, photographs=0)
    if options.small:
        options.seeds, options.images, options.scenes, options.epochs = 1, 4, 256, 1
    if options.photographs:
        return on_photographs(options)
    (train, test) = fashion_mnist()
    print(
        f"{options.seeds} networks of about a minute each, then {len(METHODS)} methods on "
        f"{options.images} scenes: some ten minutes on two cores in all",
        flush=True,
    )
    rows, accuracies = Rows("saliency_faithfulness_rows", not options.small), []
    for seed in range(options.seeds):
        model = trained(seed, train, options.scenes, options.epochs)
        x, y, boxes = scenes(*test, 1000, 2000 + seed)
        hits = model.predict(x, verbose=0).argmax(axis=1) == y
        accuracies.append(hits.mean())
        # Where the network is wrong, the labelled item need not be what it looks at.
        right = np.flatnonzero(hits)[: options.images]
        background, _, _ = scenes(*train, 100, 3000 + seed)
        x, boxes = x[right], [boxes[i] for i in right]
        for method, given in METHODS.items():
            if method == "expected_gradients":
                given = {"background": background}
            if method == "rise" and options.small:
                given = {"samples": 20}
            measure = functools.partial(judged, model, x, boxes, method, given)
            rows.add(method, seed, measure)
    notes = (
        f"{options.images} scenes per seed that the network gets right; accuracy on 1000 scenes "
        f"{100 * np.mean(accuracies):.1f} ± {100 * np.std(accuracies):.1f} %. Means over scenes, "
        "then mean and standard deviation over seeds. deletion, drop, similarity: low is good; "
        "insertion, increase, hit, share: high is good."
    )
    frame = summary(pd.DataFrame(rows.rows))
    runner.write("saliency_faithfulness", frame, notes, options.small)


if __name__ == "__main__":
    main()
