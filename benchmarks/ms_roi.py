"""How many of a scene's objects maps point at: MS-ROI against CAM and Grad-CAM.

    KERAS_BACKEND=tensorflow python benchmarks/ms_roi.py [--seeds 3] [--scenes 6000] [--epochs 5]

A scene is a crop of one of scikit-image's photographs, darkened, with three Fashion-MNIST items of
different classes that do not touch; the labels are the three classes. Two networks of the same
body are trained on the same scenes: with an MS-ROI head, and with global average pooling and a
dense layer, the head that CAM needs.
"""

import keras
import networks
import numpy as np
import pandas as pd
import runner
from skimage import data
from skimage.color import rgb2gray
from skimage.feature import peak_local_max

import keras_saliency

SIDE, ITEM, OBJECTS = 64, 22, 3
DRAWS, TEST_SCENES = 3, 100  # sets of scenes per network, scenes in each
JOINT = {  # maps of several classes in one
    "one, the 5 highest classes, their sum": {},
    "the same, join='max'": {"join": "max"},
    "one, classes with a logit above -1, their sum": {"threshold": -1.0},
    "the same, with join='max'": {"threshold": -1.0, "join": "max"},
    "one, the 5 highest classes, mean of 8 with noise": {"augmented": 8},
}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def scenes(images, labels, count, seed):
    """Scenes `(count, 64, 64, 1)`, their labels as zeros and ones, their boxes and classes."""
    from skimage.transform import resize

    random = np.random.default_rng(seed)
    backgrounds = [rgb2gray(getattr(data, name)()) for name in PHOTOGRAPHS]
    backgrounds = [x[::2, ::2].astype("float32") for x in backgrounds]
    by_class = [np.flatnonzero(labels == c) for c in range(10)]
    x = np.empty((count, SIDE, SIDE, 1), "float32")
    y = np.zeros((count, 10), "float32")
    boxes, classes = [], []
    for i in range(count):
        photo = backgrounds[random.integers(len(backgrounds))]
        row, column = (random.integers(n - SIDE + 1) for n in photo.shape)
        x[i, ..., 0] = 0.4 * photo[row : row + SIDE, column : column + SIDE]
        chosen = random.choice(10, OBJECTS, replace=False)
        y[i, chosen] = 1
        classes.append(chosen)
        boxes.append(_apart(random))
        for c, (top, left, bottom, right) in zip(chosen, boxes[-1], strict=True):
            item = resize(images[random.choice(by_class[c]), ..., 0], (ITEM, ITEM))
            there = x[i, top:bottom, left:right, 0]
            np.maximum(there, item, out=there)
    return x, y, boxes, classes


def _apart(random):
    """Boxes `(top, left, bottom, right)` that do not overlap."""
    while True:
        corners = random.integers(0, SIDE - ITEM + 1, (OBJECTS, 2))
        distance = np.abs(corners[:, None] - corners[None]).max(axis=-1)
        if (distance[np.triu_indices(OBJECTS, 1)] >= ITEM).all():
            return [(r, c, r + ITEM, c + ITEM) for r, c in corners.tolist()]


def trained(head, items, seed, options):
    """A network with an MS-ROI head, or with the head that CAM needs; later calls read it."""
    filters = 4 if options.small else 8
    keras.utils.set_random_seed(seed)
    model = keras_saliency.models.MSROI((SIDE, SIDE, 1), 10, stages=4, filters=filters)
    if head == "pooling":
        features = model.get_layer("ms_roi").input
        pooled = keras.layers.GlobalAveragePooling2D()(features)
        model = keras.Model(model.inputs[0], keras.layers.Dense(10)(pooled))
    name = f"scenes-{head}.{seed}.{options.scenes}.{options.epochs}.{filters}.weights.h5"
    path = networks.CACHE / name
    if path.exists():
        model.load_weights(path)
        return model
    x, y, _, _ = scenes(*items, options.scenes, seed)
    epochs = options.epochs
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-len(x) // 64))
    model.compile(keras.optimizers.Adam(rate), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save_weights(path)
    return model


def highest(maps, count=OBJECTS):
    """The highest peaks of each map, at least a quarter of an item apart."""
    options = {"min_distance": ITEM // 4, "exclude_border": False, "num_peaks": count}
    return [peak_local_max(m, threshold_rel=0.05, **options) for m in maps]


def pointed_at(peaks, boxes):
    """Share of the boxes that hold a peak, over all scenes."""
    found = [
        [any(t <= r < b and left <= c < right for r, c in points) for t, left, b, right in of_scene]
        for points, of_scene in zip(peaks, boxes, strict=True)
    ]
    return float(np.mean(found))


def one_map(model, x, method, **options):
    return highest(keras_saliency.saliency_map(model, x, method, **options))


def map_per_class(model, x, method):
    """The peak of a map of its own for each of the three highest classes."""
    order = np.argsort(-model.predict(x, verbose=0, batch_size=250), axis=1)[:, :OBJECTS]
    maps = [keras_saliency.saliency_map(model, x, method, target=c.tolist()) for c in order.T]
    peaks = [highest(m, 1) for m in maps]
    return [np.concatenate(points) for points in zip(*peaks, strict=True)]


def measured(seed, options, items):
    nets = {head: trained(head, items[0], seed, options) for head in ("ms_roi", "pooling")}
    many = 20 if options.small else TEST_SCENES
    draws = range(1 if options.small else DRAWS)
    return [row for draw in draws for row in judged(nets, items[1], many, seed, draw)]


def judged(nets, items, many, seed, draw):
    test, truth, boxes, _ = scenes(*items, many, 1000 + 10 * seed + draw)
    right = {}
    for head, model in nets.items():
        order = np.argsort(-model.predict(test, verbose=0, batch_size=250), axis=1)[:, :OBJECTS]
        right[head] = float(np.take_along_axis(truth, order, axis=1).mean())
    own, other = nets["ms_roi"], nets["pooling"]
    rows = [
        ("MS-ROI", what, "ms_roi", one_map(own, test, "ms_roi", **how))
        for what, how in JOINT.items()
    ]
    rows += [
        ("MS-ROI", "one per class", "ms_roi", map_per_class(own, test, "ms_roi")),
        ("Grad-CAM", "one, the top class", "ms_roi", one_map(own, test, "grad_cam")),
        ("Grad-CAM", "one, the top class", "pooling", one_map(other, test, "grad_cam")),
        ("CAM", "one, the top class", "pooling", one_map(other, test, "cam")),
        ("CAM", "one per class", "pooling", map_per_class(other, test, "cam")),
        ("robust CAM", "one, the 5 highest classes", "pooling", one_map(other, test, "robust_cam")),
        ("random", "one", "pooling", one_map(other, test, "random", seed=seed)),
    ]
    return [
        {
            "method": method,
            "map": what,
            "head": head,
            "seed": seed,
            "draw": draw,
            "pointed at": 100 * pointed_at(peaks, boxes),
            "classes right": 100 * right[head],
        }
        for method, what, head, peaks in rows
    ]


def main():
    options = runner.arguments(__doc__.splitlines()[0], seeds=3, scenes=6000, epochs=5)
    if options.small:
        options.seeds, options.scenes, options.epochs = 1, 500, 1
    items = networks.fashion_mnist()
    rows = []
    for seed in range(options.seeds):
        rows += measured(seed, options, items)
        print(pd.DataFrame(rows[-12:]).round(1).to_string(index=False), flush=True)
    kinds = ["method", "map", "head"]
    trainings = pd.DataFrame(rows)
    if options.seeds > 1:  # draws of one training are no independent runs
        trainings = trainings.groupby([*kinds, "seed"], sort=False).mean().reset_index()
    table = trainings.groupby(kinds, sort=False).agg(
        pointed_at=("pointed at", "mean"),
        spread=("pointed at", "std"),
        classes_right=("classes right", "mean"),
    )
    names = {"pointed_at": "pointed at, %", "classes_right": "labels, %"}
    table = table.reset_index().rename(columns=names)
    over = "the means of the trainings" if options.seeds > 1 else "all draws"
    runner.write(
        "ms_roi",
        table.round(2),
        notes=f"""Networks trained: {options.seeds} of each head, on {options.scenes} scenes for
        {options.epochs} epochs; each judged on {DRAWS} draws of {TEST_SCENES} scenes, mean and
        standard deviation over {over}. A scene holds three items of {ITEM} pixels on a canvas
        of {SIDE}. An object counts as pointed at if one of the three highest peaks of the map lies
        in its box; with one map per class, if the peak of a map of the three highest classes does.
        `labels`: the share of the three classes among the three highest logits.""",
        small=options.small,
    )


if __name__ == "__main__":
    main()
