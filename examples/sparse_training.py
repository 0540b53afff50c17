"""Train a sparse model from scratch
====================================

With `fit`, and with a loop of one's own: digits, seconds.

Run it with ``python examples/sparse_training.py``.
"""

import importlib.util
import os

BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_saliency

digits = load_digits()
data = (digits.data / 16).astype("float32")
x, x_test, y, y_test = train_test_split(data, digits.target, test_size=0.3, random_state=0)


def make():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


dense = make()
dense.fit(x, y, epochs=15, batch_size=64, verbose=0)

# Any compiled model and any optimizer; the sparsity rises to 90 % by three quarters of the epochs.
sparse = make()
callback = keras_saliency.iSparseCallback(0.9, data=x[:256])
history = sparse.fit(x, y, epochs=15, batch_size=64, verbose=0, callbacks=[callback])
print("sparsity by epoch:", [round(s, 2) for s in history.history["sparsity"]])
print(f"dense     {dense.evaluate(x_test, y_test, verbose=0)[1]:.3f}")
print(f"90 % less {sparse.evaluate(x_test, y_test, verbose=0)[1]:.3f}")
print(keras_saliency.sparsity_report(sparse)[["layer", "size", "zeros", "sparsity"]])

# The same in a loop of one's own.
own = make()
sparsifier = keras_saliency.Sparsifier(
    own, 0.9, data=x[:256], scope="erk", schedule="polynomial", frequency=20, end=10
)
for _ in range(15):
    for start in range(0, len(x), 64):
        sparsifier.step()
        own.train_on_batch(x[start : start + 64], y[start : start + 64])
        sparsifier.apply()
print(f"own loop  {own.evaluate(x_test, y_test, verbose=0)[1]:.3f}")
