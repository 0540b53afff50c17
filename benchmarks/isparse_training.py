"""What sparse training costs: a step with masked layers, and with the callback on a plain model.

    KERAS_BACKEND=jax python benchmarks/isparse_training.py [--batches 64,256] [--small]

One training step (`train_on_batch`, compiled where the backend compiles) of a convolutional and of
a dense network: plain, with masked layers, and plain with what `iSparseCallback` keeps in the
step between two updates of the masks. Ratios are to the plain model of the same run. Peers: on
PyTorch, `torch.nn.utils.prune` on the same network in plain PyTorch, against that network
unpruned; on TensorFlow, where `tensorflow_model_optimization` and `tf_keras` are installed,
`prune_low_magnitude`, mask updates included (every 100 steps, its default), against plain tf_keras.
"""

import importlib.util
import itertools
import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for the toolkit; Keras 3 does not read it

import keras
import numpy as np
import pandas as pd
import runner
from keras import layers

import keras_saliency


def convolutional(k=layers, model=keras.Sequential, head=None, width=32):
    stack = [head] if head is not None else []
    for filters in (width, 2 * width, 4 * width):
        stack += [k.Conv2D(filters, 3, padding="same", activation="relu"), k.MaxPooling2D()]
    return model([*stack, k.Flatten(), k.Dense(8 * width, activation="relu"), k.Dense(10)])


def dense(k=layers, model=keras.Sequential, head=None, width=32):
    stack = [head] if head is not None else []
    return model(
        [
            *stack,
            k.Flatten(),
            *[k.Dense(32 * width, activation="relu") for _ in range(3)],
            k.Dense(10),
        ]
    )


def with_callback(model, x, y):
    """A training step of a plain model as it is inside `fit` with the callback."""
    callback = keras_saliency.iSparseCallback(
        0.5, method="magnitude", schedule="constant", scope="layer"
    )
    callback.set_params({"epochs": 2, "steps": 10_000})
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)

    def step():
        callback.on_train_batch_begin(0)
        result = model.train_on_batch(x, y)
        callback.on_train_batch_end(0)
        return result

    return step


def torch_peer(name, x, y):
    """Plain PyTorch, and the same with `torch.nn.utils.prune`."""
    import torch
    from torch.nn.utils import prune

    def network():
        if name == "dense":
            sizes = [x[0].size, 1024, 1024, 1024, 10]
            parts = [torch.nn.Flatten()]
            for i, (a, b) in enumerate(itertools.pairwise(sizes)):
                parts += [torch.nn.Linear(a, b), *([torch.nn.ReLU()] if i < 3 else [])]
            return torch.nn.Sequential(*parts)
        parts, previous = [], 3
        for filters in (32, 64, 128):
            parts += [torch.nn.Conv2d(previous, filters, 3, padding=1), torch.nn.ReLU()]
            parts += [torch.nn.MaxPool2d(2)]
            previous = filters
        extent = x.shape[1] // 8
        parts += [torch.nn.Flatten(), torch.nn.Linear(128 * extent**2, 256), torch.nn.ReLU()]
        return torch.nn.Sequential(*parts, torch.nn.Linear(256, 10))

    def step_of(model):
        optimizer = torch.optim.Adam(model.parameters())
        inputs = torch.tensor(np.moveaxis(x, -1, 1).copy())
        targets = torch.tensor(y)

        def step():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            return loss

        return step

    pruned = network()
    for module in pruned:
        if hasattr(module, "weight"):
            prune.l1_unstructured(module, "weight", 0.5)
    return {"PyTorch": step_of(network()), "torch.nn.utils.prune": step_of(pruned)}


def tensorflow_peer(build, x, y):
    """tf_keras, and the same with TensorFlow's Model Optimization Toolkit."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    def make():
        head = tf_keras.layers.InputLayer(x.shape[1:])
        return build(tf_keras.layers, tf_keras.Sequential, head)

    plain = make()
    pruned = tfmot.sparsity.keras.prune_low_magnitude(make())
    for model in (plain, pruned):
        model.compile("adam", "mse")
    update = tfmot.sparsity.keras.UpdatePruningStep()
    update.set_model(pruned)
    update.on_train_begin()
    count = 0

    def step():
        nonlocal count
        update.on_train_batch_begin(count)
        count += 1
        return pruned.train_on_batch(x, y)

    return {"tf_keras": lambda: plain.train_on_batch(x, y), "tfmot": step}


def stepper(model, x, y, **kwargs):
    model.compile("adam", "mse", **kwargs)
    return lambda: model.train_on_batch(x, y)


def tasks_of(name, build, x, y):
    """Dict from the name of a step to the step, and one to the step that it is compared with."""
    plain, other = (build(head=keras.Input(x.shape[1:])) for _ in range(2))
    masked = keras_saliency.sparsify(plain, 0.5, method="magnitude", masked=True)
    tasks = {"plain": stepper(plain, x, y), "masked layers": stepper(masked, x, y)}
    other.compile("adam", "mse")
    tasks["callback on plain"] = with_callback(other, x, y)
    bases = dict.fromkeys(tasks, "plain")
    if runner.backend() == "torch":
        tasks.update(torch_peer(name, x, y))
        bases.update({"PyTorch": "PyTorch", "torch.nn.utils.prune": "PyTorch"})
    if runner.backend() == "tensorflow":
        for label, model in (("plain, XLA", plain), ("masked layers, XLA", masked)):
            tasks[label] = stepper(keras.models.clone_model(model), x, y, jit_compile=True)
            bases[label] = "plain, XLA"
        toolkit = ("tf_keras", "tensorflow_model_optimization")
        if all(map(importlib.util.find_spec, toolkit)):
            tasks.update(tensorflow_peer(build, x, y))
            bases.update({"tf_keras": "tf_keras", "tfmot": "tf_keras"})
    return tasks, bases


def main():
    args = runner.arguments(__doc__, batches="64,256", repeats=25)
    size, batches, repeats = 32, [int(b) for b in args.batches.split(",")], args.repeats
    if args.small:
        size, batches, repeats = 8, [4], 2
    rng = np.random.default_rng(0)
    rows = []
    for name, build in (("convolutional", convolutional), ("dense", dense)):
        for batch in batches:
            x = rng.normal(size=(batch, size, size, 3)).astype("float32")
            y = rng.normal(size=(batch, 10)).astype("float32")
            tasks, bases = tasks_of(name, build, x, y)
            timings = runner.measure(tasks, repeats=repeats, warmup=3)
            for task, base in bases.items():
                rows.append(
                    {
                        "network": name,
                        "batch": batch,
                        "step": task,
                        "seconds": timings["seconds"][task],
                        "ratio": timings["seconds"][task] / timings["seconds"][base],
                        "base": base,
                        "others": timings.attrs["others"],
                    }
                )
    notes = f"""Adam, {size} x {size} x 3 inputs, 0.6 million weights in the convolutional network
    and 5.3 million in the dense one; median of {repeats} interleaved steps. `others` is the share
    of the CPU that other processes took meanwhile."""
    runner.write("isparse_training", pd.DataFrame(rows), notes, small=args.small)


if __name__ == "__main__":
    main()
