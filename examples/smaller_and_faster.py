"""Smaller and faster
=====================

From a trained network to one with fewer channels, fitted, then trained on.

    python examples/smaller_and_faster.py

Runs on scikit-learn's digits in well under a minute.
"""

import importlib.util
import os
from pathlib import Path

# Keras needs to know its backend before it is imported: take one that is installed.
BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_saliency

keras.utils.set_random_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16.0).reshape(-1, 8, 8, 1).astype("float32")
x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)

inputs = keras.Input((8, 8, 1))
h = layers.Conv2D(32, 3, padding="same", activation="relu")(inputs)
r = layers.Conv2D(32, 3, padding="same", activation="relu")(h)
h = layers.Add()([h, layers.Conv2D(32, 3, padding="same")(r)])
h = layers.GlobalAveragePooling2D()(layers.ReLU()(h))
model = keras.Model(inputs, layers.Dense(10)(h))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
model.fit(x, y, epochs=5, verbose=0)


def accuracy(model):
    return model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]


print(f"dense: accuracy {accuracy(model):.3f}")

# %%
# 1. To a budget, without labels: whole groups of channels leave, residual additions included, and
#    what reads them is fitted to do with the rest.
alone = keras_saliency.shrink_to(model, flops=0.5, data=x[:512], reconstruct=False)
print(f"half the operations: accuracy {accuracy(alone):.3f} as it is")
small = keras_saliency.shrink_to(model, flops=0.5, data=x[:512])
print(f"half the operations: accuracy {accuracy(small):.3f} fitted")
small.fit(x, y, epochs=2, verbose=0)
print(f"half the operations: accuracy {accuracy(small):.3f} after training on")

# %%
# 2. Or zeros in whole channels, then a model without them. The outputs stay the same.
sparse = keras_saliency.sparsify(model, 0.25, data=x[:512], granularity="channel")
narrow = keras_saliency.shrink(sparse)
difference = np.abs(sparse.predict(x_test, verbose=0) - narrow.predict(x_test, verbose=0)).max()
print(f"shrunk: largest difference of an output {difference:.1e}")

# %%
# 3. What it brought, and a small file that plain Keras loads.
print(keras_saliency.compare(model, small, x_test[:64]).to_string())
Path("output").mkdir(exist_ok=True)
size = keras_saliency.save_compressed(small, "output/small.keras")
print(f"output/small.keras: {size:,} bytes")
