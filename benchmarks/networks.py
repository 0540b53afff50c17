"""The networks that benchmarks prune: trained once, kept on disk outside the tree.

    KERAS_BACKEND=jax python benchmarks/networks.py [--networks LeNet-5,VGG,...] [--seeds 1]

Fashion-MNIST comes from Debian's package `dataset-fashion-mnist`, or `keras.datasets`' cache.
"""

import gzip
import os
from pathlib import Path

import keras
import numpy as np
import runner
from file_types import files as files  # every network from one place
from file_types import magika as magika
from keras import layers
from pretrained import efficientnet_lite0 as efficientnet_lite0
from pretrained import labelled_pictures as labelled_pictures
from pretrained import photographs as photographs
from sentences import minilm as minilm
from sentences import sentences as sentences

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "keras_saliency-networks"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
EPOCHS = {"LeNet-5": 12, "VGG": 8, "ResNet": 10, "MobileNet": 12}


def fashion_mnist():
    """Return `((x_train, y_train), (x_test, y_test))`, images (n, 28, 28, 1) in [0, 1]."""
    if DEBIAN.exists():
        parts = [
            (
                _read(DEBIAN / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28),
                _read(DEBIAN / f"{part}-labels-idx1-ubyte.gz", 8),
            )
            for part in ("train", "t10k")
        ]
    else:
        parts = keras.datasets.fashion_mnist.load_data()
    return [((x[..., None] / 255).astype("float32"), y.astype("int32")) for x, y in parts]


def _read(path, header):
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def lenet():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def _conv(x, filters, size=3, strides=1, relu=True):
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if relu else x


def vgg(width=32, shape=(28, 28, 1)):
    inputs = x = keras.Input(shape)
    for filters in (width, 2 * width, 4 * width):
        for _ in range(2):
            x = _conv(x, filters)
        x = layers.MaxPooling2D(padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def resnet(width=16):
    inputs = keras.Input((28, 28, 1))
    x = _conv(inputs, width)
    for filters, strides in ((width, 1), (2 * width, 2), (4 * width, 2)):
        for block in range(2):
            step = strides if block == 0 else 1
            y = _conv(_conv(x, filters, 3, step), filters, relu=False)
            if step > 1 or x.shape[-1] != filters:
                x = _conv(x, filters, 1, step, relu=False)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def mobilenet():
    def bottleneck(x, filters, strides):
        wide = _conv(x, 6 * x.shape[-1], 1)
        wide = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(wide)
        wide = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(wide))
        y = _conv(wide, filters, 1, relu=False)
        return layers.Add()([x, y]) if strides == 1 and x.shape[-1] == filters else y

    inputs = keras.Input((28, 28, 1))
    x = _conv(inputs, 16)
    for filters, strides in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)):
        x = bottleneck(x, filters, strides)
    x = layers.GlobalAveragePooling2D()(_conv(x, 160, 1))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


NETWORKS = {"LeNet-5": lenet, "VGG": vgg, "ResNet": resnet, "MobileNet": mobilenet}


def trained(name, seed=0, epochs=None):
    """Return a network trained on Fashion-MNIST; the first call trains it, later ones read it."""
    epochs = epochs or EPOCHS[name]
    path = CACHE / f"{name}.{seed}.{epochs}.weights.h5"
    keras.utils.set_random_seed(seed)
    model = NETWORKS[name]()
    if path.exists():
        model.load_weights(path)
    else:
        (x, y), _ = fashion_mnist()
        steps = epochs * -(-len(x) // 128)
        rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
        CACHE.mkdir(parents=True, exist_ok=True)
        model.save_weights(path)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def accuracy(model, x, y):
    """Share of the labels that a model predicts."""
    return float((model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean())


if __name__ == "__main__":
    options = runner.arguments(__doc__, networks=",".join(NETWORKS), seeds=1)
    test = fashion_mnist()[1]
    for name in options.networks.split(","):
        for seed in range(options.seeds):
            model = trained(name, seed, 1 if options.small else None)
            print(
                name, seed, f"{model.count_params():,}", f"{accuracy(model, *test):.4f}", flush=True
            )
