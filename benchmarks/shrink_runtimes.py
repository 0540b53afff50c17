"""What every runtime makes of zeros, of 2:4 sparsity and of fewer channels.

    KERAS_BACKEND=tensorflow python benchmarks/shrink_runtimes.py [--network ResNet50] [--size 224]
        [--batch 1] [--repeats 9] [--small]

One network, dense, with 90 % of its weights set to zero one by one, with two of every four
neighbors set to zero, and with half of its channels removed; each in Keras on this backend and in
the formats that Keras exports from it. Seconds of one inference, as multiples of the dense
network's in the same runtime and run.
"""

import gc
import os
import tempfile

import keras
import numpy as np
import pandas as pd
import runner

import keras_saliency


def network(name, size):
    return getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=100, classifier_activation=None
    )


def variants(dense):
    def zeroed(sparsity, **kwargs):
        sparse = keras_saliency.sparsify(dense, sparsity, method="magnitude", **kwargs)
        return keras_saliency.strip_masks(sparse)

    return {
        "dense": dense,
        "90 % zeros": zeroed(0.9),
        "2:4": zeroed(0.5, granularity=(2, 4), exclude=lambda layer: layer.kernel.shape[-2] % 4),
        "half the channels": keras_saliency.shrink_to(
            dense, channels=0.5, method="magnitude", verbose=False
        ),
    }


def in_keras(model, x, path):
    return runner.inference_step(model, x)


def in_keras_xla(model, x, path):
    return runner.inference_step(model, x, jit_compile=True)


def in_saved_model(model, x, path):
    import tensorflow as tf

    model.export(path, format="tf_saved_model", verbose=False)
    saved = tf.saved_model.load(path)  # must outlive its functions
    return lambda: saved.serve(x)


def in_onnxruntime(model, x, path):
    import onnxruntime

    model.export(f"{path}.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(f"{path}.onnx", providers=["CPUExecutionProvider"])
    key = session.get_inputs()[0].name
    return lambda: session.run(None, {key: x})


def in_litert(model, x, path):
    import tensorflow as tf

    model.export(f"{path}.tflite", format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(f"{path}.tflite", num_threads=os.cpu_count())
    key = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(key, x.shape)
    interpreter.allocate_tensors()

    def run():
        interpreter.set_tensor(key, x)
        interpreter.invoke()

    return run


RUNTIMES = {
    "tensorflow": {
        "Keras": in_keras,
        "Keras, jit_compile": in_keras_xla,
        "SavedModel": in_saved_model,
        "onnxruntime": in_onnxruntime,
        "LiteRT": in_litert,
    },
    "jax": {"Keras": in_keras},
    "torch": {"Keras": in_keras, "onnxruntime": in_onnxruntime},
}


def main():
    options = runner.arguments(
        __doc__.splitlines()[0], network="ResNet50", size=224, batch=1, repeats=9
    )
    name, size = ("ResNet50", 32) if options.small else (options.network, options.size)
    x = np.random.default_rng(0).normal(size=(options.batch, size, size, 3)).astype("float32")
    models = variants(network(name, size))
    for model in models.values():
        model(x)  # exporters want a model that has been called
    table = []
    for runtime, make in RUNTIMES[runner.backend()].items():
        with tempfile.TemporaryDirectory() as folder:
            tasks = {
                label: make(model, x, os.path.join(folder, str(index)))
                for index, (label, model) in enumerate(models.items())
            }
            seconds = runner.measure(tasks, 2 if options.small else options.repeats)["seconds"]
        del tasks
        gc.collect()
        table.append({"runtime": runtime, **(seconds / seconds["dense"])})
        print(table[-1], flush=True)
    notes = f"{name}, a batch of {options.batch} of {size}×{size}, random weights."
    runner.write("shrink_runtimes", pd.DataFrame(table), notes, small=options.small)


if __name__ == "__main__":
    main()
