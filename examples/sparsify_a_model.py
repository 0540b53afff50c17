"""Make a trained model sparse in one line
==========================================

And see what it costs: scikit-learn's digits, seconds.

Run it with ``python examples/sparsify_a_model.py``. Pictures go to ``output/``.
"""

import importlib.util
import os
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")
os.environ.setdefault("KERAS_BACKEND", next(b for b in BACKENDS if importlib.util.find_spec(b)))

import keras
import matplotlib
import pandas as pd
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

matplotlib.use("Agg")

import keras_saliency
from keras_saliency.visualization import sparsity as pictures

keras.utils.set_random_seed(0)
digits = load_digits()
images = (digits.images[..., None] / 16).astype("float32")
x, x_test, y, y_test = train_test_split(images, digits.target, test_size=0.3, random_state=0)

# A trained model, as anybody may have one.
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(16, 3, padding="same", activation="relu", name="conv_1"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(64, activation="relu", name="hidden"),
        layers.Dense(10, activation="softmax", name="output"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, epochs=30, batch_size=64, verbose=0)
dense = model.evaluate(x_test, y_test, verbose=0)[1]
print(f"dense: {dense:.3f} of the test digits are read correctly")

# One line, no labels, no retraining: the weights that stay are refitted.
sparse, report = keras_saliency.sparsify(model, 0.9, data=x[:512], return_report=True)
accuracy = sparse.evaluate(x_test, y_test, verbose=0)[1]
print(f"90 % zeros: {accuracy:.3f}")
print(report[["layer", "size", "zeros", "sparsity", "error_masked", "error"]].round(3))

# Masks alone, and the competitors, are one argument away (Garg 2020, section 4.6.1).
rows, models = [{"method": None, "sparsity": 0.0, "accuracy": dense}], {}
ways = {
    "refit": {},
    "isparse": {"method": "isparse", "reconstruct": False},
    "magnitude": {"method": "magnitude", "reconstruct": False},
    "random": {"method": "random", "reconstruct": False},
}
for way, options in ways.items():
    for share in (0.3, 0.5, 0.7, 0.8, 0.9):
        trial = keras_saliency.sparsify(model, share, data=x[:512], masked=True, **options)
        accuracy = trial.evaluate(x_test, y_test, verbose=0)[1]
        rows.append({"method": way, "sparsity": share, "accuracy": accuracy})
        if share == 0.5:
            models[way] = trial
frame = pd.DataFrame(rows)
print(frame.pivot_table(index="sparsity", columns="method", values="accuracy").round(3))

# Which layer can least do without its edges?
sensitivity = keras_saliency.sensitivity(model, (x_test, y_test), (0.5, 0.8, 0.95))
print(sensitivity.pivot(index="layer", columns="sparsity", values="accuracy").round(3))

output = Path("output")
output.mkdir(exist_ok=True)
pictures.plot_masks(models, "conv_2", reference="magnitude").savefig(output / "masks.png")
pictures.plot_accuracy(frame).savefig(output / "accuracy_against_sparsity.png")
pictures.plot_weights(models["refit"]).savefig(output / "weights.png")
pictures.plot_sensitivity(sensitivity).savefig(output / "sensitivity.png")

# A plain Keras model with zeros in place: it loads without keras_saliency.
sparse.save(output / "sparse_digits.keras")
print("the loaded model:", keras.saving.load_model(output / "sparse_digits.keras").name)
