"""Sparse training in a loop of one's own
=========================================

As each backend writes it: digits, seconds.

    python examples/custom_loop.py [--small]

Two calls make any loop sparse: `step()` before a batch, which computes the masks when they are due,
and `apply()` behind the loop's own update, which sets what is masked to 0 again.
"""

import argparse
import importlib.util
import os

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

BATCH = 64


def make():
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def batches(x, y, epochs):
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            part = order[start : start + BATCH]
            yield x[part], y[part]


def tensorflow_loop(model, optimizer, loss, sparsifier, data):
    import tensorflow as tf

    @tf.function
    def train(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    for x, y in data:
        sparsifier.step()
        train(x, y)
        sparsifier.apply()


def torch_loop(model, optimizer, loss, sparsifier, data):
    # Any optimizer of PyTorch's does as well; its parameters are `model.parameters()`.
    for x, y in data:
        sparsifier.step()
        model.zero_grad()
        loss(y, model(x, training=True)).backward()
        gradients = [variable.value.grad for variable in model.trainable_variables]
        optimizer.apply(gradients, model.trainable_variables)
        sparsifier.apply()


def jax_loop(model, optimizer, loss, sparsifier, data):
    """The weights that train are values of the loop; the model's own are left behind."""
    import jax

    def value(trainable, fixed, x, y):
        out, fixed = model.stateless_call(trainable, fixed, x, training=True)
        return loss(y, out), fixed

    @jax.jit
    def train(trainable, fixed, state, x, y):
        gradients, fixed = jax.grad(value, has_aux=True)(trainable, fixed, x, y)
        trainable, state = optimizer.stateless_apply(state, gradients, trainable)
        return trainable, fixed, state

    def assign(variables, values):
        for variable, new in zip(variables, values, strict=True):
            variable.assign(new)

    def read(variables):
        return [variable.value for variable in variables]

    optimizer.build(model.trainable_variables)
    trainable = read(model.trainable_variables)
    fixed = read(model.non_trainable_variables)
    state = read(optimizer.variables)
    for x, y in data:
        if sparsifier.is_due(sparsifier.batch):  # masks are computed from the model's variables
            assign(model.trainable_variables, trainable)
            assign(model.non_trainable_variables, fixed)
        if sparsifier.step():  # what it has set to 0; in a masked model the masks are among `fixed`
            trainable = read(model.trainable_variables)
            fixed = read(model.non_trainable_variables)
        trainable, fixed, state = train(trainable, fixed, state, x, y)
        trainable = sparsifier.apply(trainable)
    assign(model.trainable_variables, trainable)
    assign(model.non_trainable_variables, fixed)


LOOPS = {"tensorflow": tensorflow_loop, "torch": torch_loop, "jax": jax_loop}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="two epochs, no claim")
    epochs = 2 if parser.parse_args().small else 20
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    x, x_test, y, y_test = train_test_split(images, labels, test_size=0.3, random_state=0)

    keras.utils.set_random_seed(0)
    model = make()
    optimizer = keras.optimizers.Adam(3e-3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    updates = epochs * -(-len(x) // BATCH) // 5
    sparsifier = keras_saliency.Sparsifier(
        model,
        0.9,
        data=x[:256],
        scope="erk",
        power=0.5,
        min_edges=2,
        schedule="polynomial",
        frequency=5,
        end=updates * 3 // 4,
    )
    backend = keras.backend.backend()
    LOOPS[backend](model, optimizer, loss, sparsifier, batches(x, y, epochs))

    accuracy = (model.predict(x_test, verbose=0).argmax(-1) == y_test).mean()
    print(f"{backend}: {sparsifier.sparsity:.1%} masked, {accuracy:.1%} right on digits held out")
    print(keras_saliency.sparsity_report(model)[["layer", "size", "zeros", "sparsity"]])


if __name__ == "__main__":
    main()
