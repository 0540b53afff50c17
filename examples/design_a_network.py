"""Let a data set design its network
====================================

Look at the images, keep what they say, build, train.

Run it with ``python examples/design_a_network.py`` (scikit-learn's digits, offline, about a
minute), with ``--folder photos/`` for a folder of images with one subfolder per class, or with
``--fashion`` for Fashion-MNIST, which Keras downloads. ``--small`` takes seconds.
"""

import argparse
import importlib.util
import os
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")

import keras_saliency
from keras_saliency import RACKNet

OUTPUT = Path("output")


def load(options):
    """Return (images, labels) for training and for the test."""
    if options.fashion:
        (x, y), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
        return (x, y), (x_test, y_test)
    from skimage.transform import resize
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.stack([resize(image / 16, (28, 28)) for image in data.images]).astype("float32")
    x, x_test, y, y_test = train_test_split(images, data.target, test_size=0.3, random_state=0)
    return (x, y), (x_test, y_test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="seconds instead of a minute")
    parser.add_argument("--fashion", action="store_true", help="Fashion-MNIST (a download)")
    parser.add_argument("--folder", help="a folder of images: statistics and design only")
    parser.add_argument("--budget", type=int, default=120, help="kernels, default 120")
    options = parser.parse_args()
    OUTPUT.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)

    dataset, test = (options.folder, None) if options.folder else load(options)

    # 1. What do the images say? This is the only step that reads them, and it runs in parallel.
    #    To let a cluster do it:  with joblib.parallel_config(backend="dask"): ...
    statistics = RACKNet.analyze(dataset, max_images=200 if options.small else 6000, verbose=0)
    print(statistics)

    # 2. Keep it: the next design needs no images.
    statistics.to_json(OUTPUT / "statistics.json")
    statistics = keras_saliency.DatasetStatistics.from_json(OUTPUT / "statistics.json")
    statistics.plot(options.budget).savefig(OUTPUT / "design.png", dpi=120)
    print(f"Pictures: {OUTPUT / 'design.png'}")

    # 3. Who gets the kernels?
    for strategy in ("racknet", "uniform-layer", "inverse-order"):
        print(f"{strategy:>14}: {RACKNet.allocate(statistics, options.budget, strategy)}")

    # 4. Networks of this design: plain convolutions, and recurrent ones that share weights.
    if test is None:
        RACKNet.from_statistics(statistics, options.budget).summary()
        return
    for network in ("cnn", "rcnn"):
        model = RACKNet.from_statistics(statistics, options.budget, network=network)
        model.compile(
            keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        count = 128 if options.small else None
        model.fit(
            dataset[0][:count],
            dataset[1][:count],
            batch_size=64,
            epochs=1 if options.small else 8,
            verbose=0,
            callbacks=[keras_saliency.callbacks.KernelSharingCallback()],
        )
        accuracy = model.evaluate(*test, batch_size=256, verbose=0)[1]
        print(f"{network}: {model.count_params():,} parameters, test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
