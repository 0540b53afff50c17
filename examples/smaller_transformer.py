"""A smaller transformer
========================

One that learned to read, made smaller without labels and without training.

    python examples/smaller_transformer.py [--small]

A small encoder tells which package of Python's standard library some words of source come from.
Then blocks leave, heads and units leave, weights become zeros, with what stays fitted and without.
Takes about a minute.
"""

import argparse
import importlib.util
import os
import re
import time
from collections import Counter
from pathlib import Path

# Keras needs to know its backend before it is imported: take one that is installed.
BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

import keras_saliency
from keras_saliency.sparsity import count_operations

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--small", action="store_true", help="a few seconds")
small = parser.parse_args().small
keras.utils.set_random_seed(0)

# Words of the sources that come with Python, LENGTH at a time; the end of each file is for testing.
LENGTH, WORDS = 24, 1000
PACKAGES = ("asyncio", "email", "importlib", "multiprocessing", "unittest", "xml")
parts = {"train": ([], []), "test": ([], [])}
for label, package in enumerate(PACKAGES):
    for path in sorted((Path(os.__file__).parent / package).rglob("*.py")):
        if "test" in path.parts:
            continue
        words = re.findall("[A-Za-z]+", path.read_text("utf-8", "ignore").lower())
        rows = [words[i : i + LENGTH] for i in range(0, len(words) - LENGTH + 1, LENGTH)]
        for part, chosen in (
            ("train", rows[: len(rows) * 3 // 4]),
            ("test", rows[-(len(rows) // 4) :]),
        ):
            parts[part][0].extend(chosen)
            parts[part][1].extend([label] * len(chosen))
counts = Counter(word for row in parts["train"][0] for word in row)
known = {word: i + 1 for i, (word, _) in enumerate(counts.most_common(WORDS - 1))}


def numbers(part, limit):
    """Numbers of words, 0 where one is rare, and labels, in an order drawn once."""
    rows, labels = parts[part]
    order = np.random.default_rng(0).permutation(len(rows))[:limit]
    found = [[known.get(word, 0) for word in rows[i]] for i in order]
    return np.array(found, "int32"), np.array(labels)[order]


x, y = numbers("train", 1500 if small else 12000)
x_test, y_test = numbers("test", 500 if small else 2000)
print(f"{len(x)} pieces of {LENGTH} words to train on, {len(x_test)} to test on")

# A plain encoder: attention and feed-forward layers around which the stream passes.
inputs = keras.Input((LENGTH,), dtype="int32")
h = layers.Embedding(WORDS, 64)(inputs)
for _ in range(2 if small else 4):
    a = layers.LayerNormalization()(h)
    h = layers.Add()([h, layers.MultiHeadAttention(4, 16)(a, a)])
    f = layers.Dense(128, activation="gelu")(layers.LayerNormalization()(h))
    h = layers.Add()([h, layers.Dense(64)(f)])
h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(h))
model = keras.Model(inputs, layers.Dense(len(PACKAGES), activation="softmax")(h))
model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
model.fit(x, y, batch_size=64, epochs=1 if small else 4, verbose=0)


def report(name, result, seconds=None):
    found = keras.ops.convert_to_numpy(result(x_test, training=False))
    accuracy = (found.argmax(1) == y_test).mean()
    operations = count_operations(result) / count_operations(model)
    took = "" if seconds is None else f", took {seconds:.1f} s"
    print(f"{name:36} accuracy {accuracy:.3f}, operations {operations:.2f}{took}")


report("trained", model)
tokens = x[: 256 if small else 512]  # no labels


def compared(name, make):
    """What a call makes of the model, with weights as they are, and with those that stay fitted."""
    for way, fits in (("as it is", False), ("refitted", True)):
        start = time.perf_counter()
        result = make(reconstruct=fits)
        report(f"{name}, {way}", result, time.perf_counter() - start)
    return result


compared(
    "half of the blocks",
    lambda **fit: keras_saliency.shrink_to(model, blocks=0.5, data=tokens, verbose=False, **fit),
)
narrow = compared(
    "0.6 of the operations",
    lambda **fit: keras_saliency.shrink_to(model, flops=0.6, data=tokens, verbose=False, **fit),
)
compared(
    "two of four weights 0",
    lambda **fit: keras_saliency.sparsify(
        model, 0.5, granularity=(2, 4), method="isparse", data=tokens, **fit
    ),
)

# Each is plain Keras: it saves, loads and trains without this library.
Path("output").mkdir(exist_ok=True)
narrow.save("output/smaller_transformer.keras")
size = os.path.getsize("output/smaller_transformer.keras")
print(f"output/smaller_transformer.keras: {size:,} bytes")
