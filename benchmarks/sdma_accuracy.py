"""SDMA against its peers and saliency strategies (G tables 6.2 and 6.3) on series that aeon ships.

    KERAS_BACKEND=jax python benchmarks/sdma_accuracy.py [--seeds 3] [--epochs 25] [--small]

BasicMotions (80 recordings of a smart watch, 100 steps, 6 variates, 4 motions) and GunPoint (200
series, 150 steps, 1 variate, 2 gestures). Splits as in the paper: 70 % training, 10 % validation,
20 % test, drawn anew for each seed; the weights of the best validation loss are tested.
"""

import keras
import numpy as np
import pandas as pd
import runner

from keras_saliency import SaliencySeries, get_attention
from keras_saliency.models import SDMA

STRATEGIES = {
    "scale space": {"amplitude": "scale-space"},
    "unit, cut": {"amplitude": "unit", "cut": True},
    "unit": {"amplitude": "unit"},
    "center, cut": {"amplitude": "center", "cut": True},
    "center": {"amplitude": "center"},
    "mean, cut": {"amplitude": "mean", "cut": True},
    "mean": {},
}


def datasets():
    from aeon.datasets import load_basic_motions, load_gunpoint

    for name, load in (("BasicMotions", load_basic_motions), ("GunPoint", load_gunpoint)):
        x, y = load()
        yield name, np.moveaxis(x, 1, 2).astype("float32"), np.unique(y, return_inverse=True)[1]


def split(x, y, seed):
    """Indices of 70 % training, 10 % validation and 20 % test, stratified."""
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=seed)
    train, valid = train_test_split(rest, test_size=1 / 8, stratify=y[rest], random_state=seed)
    return train, valid, test


def peer(name, shape, classes, units):
    """One LSTM, followed by the attention of that name where there is one."""
    inputs = keras.Input(shape)
    hidden = keras.layers.LSTM(units, return_sequences=True)(inputs)
    if name == "fusatnet, data + saliency":
        saliency = keras.layers.LSTM(units, return_sequences=True)(SaliencySeries()(inputs))
        hidden = get_attention("fusatnet")([hidden, saliency])
    elif name == "san":
        hidden = get_attention("san")([hidden, inputs])
    elif name != "none":
        hidden = get_attention(name.removesuffix(", data only"))(hidden)
    # The last step is what the recurrent networks classify from.
    hidden = hidden[:, -1]
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(hidden))


def models(shape, classes):
    units = 2 * max(shape[1], 4)
    for name in (
        "none",
        "self",
        "dstp",
        "san",
        "fusatnet, data only",
        "fusatnet, data + saliency",
    ):
        yield "6.2", name, lambda name=name: peer(name, shape, classes, units)
    common = {"num_classes": classes, "units": units}
    yield "6.2", "SDCA", lambda: SDMA(shape, depth=1, mutual=False, **common)
    yield "6.2", "SDMA", lambda: SDMA(shape, depth=1, **common)
    yield "6.2", "SDMA, 3 blocks, type 1", lambda: SDMA(shape, depth=3, stack="type1", **common)
    yield "6.2", "SDMA, 3 blocks, type 2", lambda: SDMA(shape, depth=3, stack="type2", **common)
    for name, arguments in STRATEGIES.items():
        yield "6.3", name, lambda a=arguments: SDMA(shape, depth=1, **common, **a)


def accuracy(make, x, y, seed, epochs):
    keras.utils.set_random_seed(seed)
    keras.utils.clear_session()
    train, valid, test = split(x, y, seed)
    mean, std = x[train].mean((0, 1)), x[train].std((0, 1))
    x = (x - mean) / std
    model = make()
    model.compile(
        keras.optimizers.RMSprop(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    best = keras.callbacks.EarlyStopping(
        patience=epochs, restore_best_weights=True, start_from_epoch=0
    )
    model.fit(
        x[train],
        y[train],
        validation_data=(x[valid], y[valid]),
        batch_size=16,
        epochs=epochs,
        verbose=0,
        callbacks=[best],
    )
    return model.evaluate(x[test], y[test], verbose=0)[1]


def main():
    args = runner.arguments(__doc__.splitlines()[0], seeds=3, epochs=25, data="")
    rows = []
    for data, x, y in datasets():
        if args.data and data != args.data:
            continue
        if args.small:
            x = x[:, :20]
        for table, name, make in models(x.shape[1:], int(y.max()) + 1):
            if args.small and name not in ("none", "SDMA"):
                continue
            seeds = range(1 if args.small else args.seeds)
            epochs = 1 if args.small else args.epochs
            scores = [100 * accuracy(lambda m=make: m(), x, y, seed, epochs) for seed in seeds]
            mean, half = runner.interval(scores)
            rows.append((data, table, name, mean, half))
            print(rows[-1], flush=True)
    frame = pd.DataFrame(rows, columns=["data", "table of G", "model", "accuracy %", "± (95 %)"])
    runner.write(
        "sdma_accuracy",
        frame,
        notes=f"""Test accuracy, {args.seeds} splits of 70/10/20 %, {args.epochs} epochs, RMSprop
        0.005, weights of the best validation loss. Table 6.3 rows are the single-block SDMA with
        another saliency.""",
        small=args.small,
    )


if __name__ == "__main__":
    main()
