"""What shrinking brings: parameters, operations, bytes and seconds against the dense network.

    KERAS_BACKEND=tensorflow python benchmarks/shrink_cost.py [--networks VGG16,ResNet50]
        [--sizes 224,32] [--shares 0.75,0.5,0.25] [--batch 1] [--no-training 1] [--small]

Rows of networks and sizes that are not measured this time stay in the table.

Every row is one network with a share of its channels (`shrink_to(channels=share)`, lowest
magnitudes first) or with 90 % of its weights set to zero and nothing removed. All numbers are
ratios to the dense network in the same run, except `shrink seconds`, the time that `shrink`
takes for the network with the channels masked.
"""

import gc
import os
import tempfile
import time

import keras
import numpy as np
import pandas as pd
import runner

import keras_saliency
from keras_saliency.sparsity import count_operations, count_parameters

# Exporters hold several copies of the weights: VGG-16 takes more than 20 GB.
MOST_FOR_ONNX = 60e6


def network(name, size):
    # Small inputs cannot pass the stride of the large stems; classes do not matter here.
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=100, classifier_activation=None
    )


def zeroed(model, share):
    """A copy with a random share of every kernel's entries set to zero."""
    copy = keras.models.clone_model(model)
    rng = np.random.default_rng(0)
    values = [w * (rng.random(w.shape) >= share) if w.ndim > 1 else w for w in model.get_weights()]
    copy.set_weights(values)
    return copy


def file_size(model, compressed=False):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        if compressed:
            return keras_saliency.save_compressed(model, path, level=1)
        model.save(path)
        return os.path.getsize(path)


def onnx_session(model, x, path):
    """A callable that runs the exported model in onnxruntime, or `None` where it cannot export."""
    try:
        import onnxruntime
    except ImportError:
        return None
    if runner.backend() == "jax":
        return None
    model(x)  # the exporter wants a model that has been called
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if len(session.get_inputs()) > 1:
        return None  # tf2onnx makes inputs of the constants of EfficientNet's first layers
    key = session.get_inputs()[0].name
    return lambda: session.run(None, {key: x})


def shrink_seconds(model, share):
    sparse = keras_saliency.sparsify(model, 1 - share, method="magnitude", granularity="channel")
    start = time.perf_counter()
    try:
        keras_saliency.shrink(sparse, verbose=False)
    except ValueError:  # a narrow layer lost all its channels
        return np.nan
    return time.perf_counter() - start


def rows(name, size, shares, batch, training, repeats):
    dense = network(name, size)
    variants = {"dense": dense, "90 % zeros": zeroed(dense, 0.9)}
    for share in shares:
        variants[f"{share:.0%} of channels"] = keras_saliency.shrink_to(
            dense, channels=share, method="magnitude", verbose=False
        )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, size, size, 3)).astype("float32")
    y = rng.normal(size=(batch, 100)).astype("float32")
    kinds = {"inference": lambda model, _: runner.inference_step(model, x)}
    if training:
        kinds["training"] = lambda model, _: runner.train_step(
            keras.models.clone_model(model), x, y
        )
    if count_parameters(dense) <= MOST_FOR_ONNX:
        kinds["onnxruntime"] = lambda model, path: onnx_session(model, x, path)
    seconds = {}
    # One kind after another, so that what it needs is freed before the next.
    for kind, make in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            tasks = {
                label: make(model, os.path.join(folder, f"{index}.onnx"))
                for index, (label, model) in enumerate(variants.items())
            }
            if all(tasks.values()):
                seconds[kind] = runner.measure(tasks, repeats=repeats, warmup=1)["seconds"]
            del tasks
        gc.collect()
    table = []
    for label, model in variants.items():
        row = {"network": name, "size": size, "variant": label}
        for column, measure in {
            "parameters": count_parameters,
            "flops": count_operations,
            "bytes": file_size,
            "compressed bytes": lambda m: file_size(m, compressed=True),
        }.items():
            row[column] = measure(model) / measure(dense)
        for kind, of in seconds.items():
            row[kind] = of[label] / of["dense"]
        if label.endswith("channels"):
            row["shrink seconds"] = shrink_seconds(dense, float(label.split("%")[0]) / 100)
        table.append(row)
    return table


def main():
    options = runner.arguments(
        __doc__.splitlines()[0],
        networks="VGG16,ResNet50,MobileNetV2,EfficientNetB0",
        sizes="224,32",
        shares="0.75,0.5,0.25",
        batch=1,
        no_training=0,
        repeats=5,
    )
    networks, sizes = options.networks.split(","), [int(s) for s in options.sizes.split(",")]
    shares = [float(s) for s in options.shares.split(",")]
    if options.small:
        networks, sizes, shares = ["MobileNetV2"], [32], [0.5]
    table = []
    for name in networks:
        for size in sizes:
            training = not options.no_training
            repeats = 1 if options.small else options.repeats
            table += rows(name, size, shares, options.batch, training, repeats)
            keras.utils.clear_session()
    notes = (
        f"Ratios to the dense network, batch of {options.batch}, weights random. Flops are those "
        "of kernels. Zeros alone bring no speed: dense kernels multiply them like other numbers."
    )
    frame = pd.DataFrame(table)
    if not options.small:
        frame = runner.merged("shrink_cost", frame, ["network", "size"])
    frame = frame.sort_values(["size", "network"], ascending=[False, True], kind="stable")
    runner.write("shrink_cost", frame, notes, small=options.small)


if __name__ == "__main__":
    main()
