"""Does the data's design pay? RACKNet's shares of kernels against plain ones, with what they cost.

    KERAS_BACKEND=tensorflow python benchmarks/racknet_accuracy.py --seeds 10
    KERAS_BACKEND=tensorflow python benchmarks/racknet_accuracy.py --data fashion --seeds 3

Three parts (`--part`), all with the networks that `RACKNet.build` makes by default: `strategies`
(G table 3.6: the same kernels shared in many ways, and what else the data could say), `networks`
(recurrent, maxout) and `head` (without batch normalization and with a pooled head, as the
dissertation has it). `--data` is `digits` (scikit-learn's, 16 pixels a side) or `fashion`
(Fashion-MNIST, 14 or 28 pixels a side). Each finished row is kept at once; rows that are there are
skipped. `racknet_search.py` has the search over designs.
"""

import json
import warnings

import keras
import numpy as np
import runner

import keras_saliency
from keras_saliency import RACKNet
from keras_saliency.racknet.allocation import STRATEGIES, largest_remainder
from keras_saliency.racknet.builder import build_network
from keras_saliency.sparsity.shrinking import count_operations

warnings.filterwarnings("ignore", message="RACKNet")
UNIFORM = "uniform-layer"
PATCHES = "square root of the patch dimension"


def load(name, count, side=16):
    """Return (x, y), (x_test, y_test), pixels in [0, 1]; `count` of the images train."""
    if name == "fashion":
        from networks import fashion_mnist

        parts = fashion_mnist()
        if side == 14:
            parts = [(x.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)), y) for x, y in parts]
        (x, y), test = parts
        return (x[:count], y[:count]), test
    from skimage.transform import resize
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.stack([resize(v / 16, (side, side)) for v in data.images]).astype("float32")
    x, x_test, y, y_test = train_test_split(
        images[..., None], data.target, test_size=0.4, random_state=0, stratify=data.target
    )
    return (x[:count], y[:count]), (x_test, y_test)


def fit(model, train, epochs):
    model.fit(
        *train,
        batch_size=64,
        epochs=epochs,
        verbose=0,
        callbacks=[keras_saliency.callbacks.KernelSharingCallback()],
    )


def compiled(model):
    optimizer = keras.optimizers.RMSprop(2e-3)
    loss = "sparse_categorical_crossentropy"
    # Such small networks train in less time than XLA takes to compile them.
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def accuracies(make, train, test, epochs, seeds):
    """Test accuracy in per cent for every seed; the network is compiled once."""
    model = compiled(make())
    model.optimizer.build(model.trainable_variables)
    fresh = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    found = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        model.set_weights(make().get_weights())
        for variable, value in zip(model.optimizer.variables, fresh, strict=True):
            variable.assign(value)
        fit(model, train, epochs)
        found.append(100 * model.evaluate(*test, batch_size=256, verbose=0)[1])
    return found


def patch_dimensions(images, design, share=0.95, count=4000):
    """Per layer, how many principal components hold `share` of the variance of the patches that
    one of its units sees."""
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    field, step, dimensions = 1, 1, []
    for i, rack in enumerate(design):
        if i:
            field, step = field + step, 2 * step
        dimensions.append([])
        for _ in rack:
            field += 2 * step
            size = min(field, *images.shape[1:3])
            top, left = (rng.integers(0, n - size + 1, count) for n in images.shape[1:3])
            chosen = rng.integers(0, len(images), count)
            patches = np.stack(
                [
                    images[k, a : a + size, b : b + size].ravel()
                    for k, a, b in zip(chosen, top, left, strict=True)
                ]
            )
            held = PCA().fit(patches).explained_variance_ratio_.cumsum()
            dimensions[-1].append(int(np.searchsorted(held, share)) + 1)
    return dimensions


def spread(shares, budget):
    """`budget` kernels in proportion to nested shares."""
    counts = iter(largest_remainder([s for rack in shares for s in rack], budget))
    return [[next(counts) for _ in rack] for rack in shares]


def designs(statistics, train, budget, seeds):
    """Name -> the kernels of every seed; uniform first, with which the others are compared."""
    racks = statistics.clusters
    patches = [[d**0.5 for d in rack] for rack in patch_dimensions(train[0], racks)]
    free = RACKNet.analyze(train, min_components=1, verbose=0)
    found = {
        UNIFORM: RACKNet.allocate(statistics, budget, UNIFORM),
        "racknet": RACKNet.allocate(statistics, budget),
        "doubling with each rack": spread(
            [[2**i] * len(rack) for i, rack in enumerate(racks)], budget
        ),
        PATCHES: spread(patches, budget),
        "racknet, components from 1": RACKNet.allocate(free, budget),
    }
    rest = [s for s in STRATEGIES if s not in found and s != "random"]
    found |= {s: RACKNet.allocate(statistics, budget, s) for s in rest}
    drawn = [RACKNet.allocate(statistics, budget, "random", seed=seed) for seed in seeds]
    return {**{name: [kernels] * len(seeds) for name, kernels in found.items()}, "random": drawn}


def network(kernels, shape):
    return lambda: build_network(kernels, shape, 10)


def strategies(statistics, train, test, options, table):
    seeds = range(options.seeds)
    shape = statistics.input_shape
    for name, kernels in designs(statistics, train, options.budget, seeds).items():
        each = {str(k): k for k in kernels}
        if table.has(strategy=name):
            continue
        scores = table.twin(kernels=" or ".join(each)) if len(each) == 1 else None
        if scores is None and len(each) == 1:
            scores = accuracies(network(kernels[0], shape), train, test, options.epochs, seeds)
        elif scores is None:
            scores = [
                accuracies(network(k, shape), train, test, options.epochs, [seed])[0]
                for seed, k in zip(seeds, kernels, strict=True)
            ]
        models = [network(k, shape)() for k in each.values()]
        table.keep(
            strategy=name,
            kernels=next(iter(each)) if len(each) == 1 else "another for every seed",
            parameters=int(np.mean([m.count_params() for m in models])),
            MACs=int(np.mean([count_operations(m) // 2 for m in models])),
            scores=scores,
        )


def networks(statistics, train, test, options, table):
    for design in (
        {},
        {"activation": "maxout"},
        {"network": "rcnn"},
        {"network": "rcnn", "share_weights": False},
        {"network": "rcnn", "activation": "maxout"},
    ):
        words = [str(v) if k != "share_weights" else "not shared" for k, v in design.items()]
        variants(statistics, train, test, options, table, " ".join(words) or "cnn", design)


def head(statistics, train, test, options, table):
    for normalization, top, strategy in (
        ("batch", "flatten", UNIFORM),
        ("batch", "flatten", "racknet"),
        (None, "flatten", "racknet"),
        ("batch", "pool", "racknet"),
        (None, "pool", "racknet"),
    ):
        design = {"normalization": normalization, "head": top, "strategy": strategy}
        name = f"{strategy}, {normalization or 'no'} norm, head {top}"
        variants(statistics, train, test, options, table, name, design)


def variants(statistics, train, test, options, table, name, design):
    if table.has(network=name):
        return

    def make():
        return RACKNet.from_statistics(statistics, options.budget, 10, **design)

    scores = accuracies(make, train, test, options.epochs, range(options.seeds))
    model = make()
    macs = count_operations(model) // 2
    table.keep(network=name, parameters=model.count_params(), MACs=macs, scores=scores)


class Table(runner.Rows):
    """The rows of one part; the first row of each data set is the base of its gains."""

    def __init__(self, part, data, notes, small):
        super().__init__(f"racknet_{part}", notes, small)
        self.data = data

    def has(self, **subject):
        return len(self.find(data=self.data, **subject)) > 0

    def twin(self, **subject):
        """The scores of the same network under another name, or None."""
        found = self.find(data=self.data, **subject)
        return json.loads(found["by seed"].iloc[0]) if len(found) else None

    def keep(self, scores, **cells):
        base = self.twin()
        mean, half = runner.interval(scores)
        row = {
            "data": self.data,
            **cells,
            "accuracy": f"{mean:.2f} ± {half:.2f}",
            "worst": f"{min(scores):.2f}",
            "gain": "base",
            "by seed": json.dumps([round(s, 2) for s in scores]),
        }
        if base:
            count = min(len(base), len(scores))
            gain, half = runner.interval(np.subtract(scores[:count], base[:count]))
            row["gain"] = f"{gain:+.2f} ± {half:.2f}"
        self.add(row)


def main():
    options = runner.arguments(
        __doc__.splitlines()[0],
        part="strategies",
        data="digits",
        side=0,
        images=5000,
        budget=64,
        epochs=0,
        seeds=5,
    )
    parts = {"strategies": strategies, "networks": networks, "head": head}
    if options.part not in parts:
        raise SystemExit(f"--part must be one of {', '.join(parts)}")
    fashion = options.data == "fashion"
    options.epochs = 1 if options.small else options.epochs or (8 if fashion else 12)
    options.seeds = 2 if options.small else options.seeds
    side = options.side or (14 if fashion else 16)
    train, test = load(options.data, 100 if options.small else options.images, side)
    data = f"{options.data}, {len(train[0])} images of {side} pixels a side"
    steps = options.epochs * len(train[0]) // 64
    minutes = 12 * options.seeds * steps * 0.03 * (side / 16) ** 2 / 60
    print(f"{data}: at most about {minutes:.0f} minutes of one core for {options.part}")
    statistics = RACKNet.analyze(train, verbose=0)
    print(statistics)
    notes = (
        f"{options.budget} kernels, the networks' defaults, batches of 64, RMSprop, "
        "12 epochs for digits, 8 for Fashion-MNIST. Test accuracy in per cent with Student's 95 % "
        "interval over the seeds; gain: the difference to the first row of the data set, seed by "
        "seed. MACs are multiply-accumulates of one image."
    )
    table = Table(options.part, data, notes, options.small)
    parts[options.part](statistics, train, test, options, table)


if __name__ == "__main__":
    main()
