"""Layers, maps, pruning and 2:4 sparsity on a GPU, each beside a named peer, in one run.

    KERAS_BACKEND=torch python benchmarks/gpu.py [--small]

Medians after two warm-up runs, inputs already on the device, inference unless said otherwise. On
PyTorch layers run eagerly, on TensorFlow and JAX compiled. Every row stands alone: what fails is
written down as such. About three minutes on a data center GPU.
"""

import os
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import time

import keras
import numpy as np
import pandas as pd
import runner
from keras import layers, ops

import keras_saliency
from keras_saliency import saliency_map

RNG = np.random.default_rng(0)
ROWS = []
SMALL = False


def device():
    name = keras.backend.backend()
    if name == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if name == "jax":
        import jax

        return jax.devices()[0].device_kind
    import tensorflow as tf

    return (tf.config.list_physical_devices("GPU") or ["CPU"])[0]


def record(what, peer, ours, theirs, memory=np.nan, note=""):
    ROWS.append(
        {
            "what": what,
            "peer": peer,
            "ms": 1000 * ours,
            "of the peer's": ours / theirs if theirs else np.nan,
            "MiB": memory,
            "note": note,
        }
    )
    print(ROWS[-1], flush=True)


def wait():
    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def timed(run, repeats=9):
    found = []
    for i in range(2 + repeats):
        wait()
        begin = time.perf_counter()
        runner.block(run())
        wait()
        if i > 1:
            found.append(time.perf_counter() - begin)
    return float(np.median(found))


def peak(run):
    """MiB that a call takes beyond what is there, on PyTorch."""
    if keras.backend.backend() != "torch":
        return np.nan
    import torch

    if not torch.cuda.is_available():
        return np.nan
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def forward(model):
    if keras.backend.backend() == "torch":
        import torch

        def run(x):
            with torch.no_grad():
                return model(x, training=False)

        return run
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(lambda x: model(x, training=False))
    import tensorflow as tf

    return tf.function(lambda x: model(x, training=False), jit_compile=True)


def compare(what, peer, ours, theirs, x):
    x = ops.convert_to_tensor(x)
    a, b = (forward(m) for m in (ours, theirs))
    record(what, peer, timed(lambda: a(x)), timed(lambda: b(x)), peak(lambda: a(x)))


def san():
    shape = (8, 32, 32, 64) if SMALL else (64, 56, 56, 64)
    inputs = keras.Input(shape[1:])
    attended = keras_saliency.SANAttention(smoothing=None)([inputs, inputs])
    conv = layers.Conv2D(shape[-1], 3, padding="same")(inputs)
    x = RNG.normal(size=shape).astype("float32")
    models = [keras.Model(inputs, y) for y in (attended, conv)]
    compare(f"SANAttention(smoothing=None), {shape}", "Conv2D of 3 x 3", *models, x)


def xm2a():
    for steps in (64,) if SMALL else (1024, 4096, 16384):
        x = RNG.normal(size=(4, steps, 64)).astype("float32")
        inputs = keras.Input(x.shape[1:])
        ours = keras.Model(inputs, keras_saliency.XM2AHeads(8, 64)(inputs))
        theirs = keras.Model(inputs, layers.MultiHeadAttention(8, 64)(inputs, inputs))
        compare(f"XM2AHeads(8), {steps} steps", "MultiHeadAttention", ours, theirs, x)


def sdma():
    x = RNG.normal(size=(16, 32 if SMALL else 256, 16)).astype("float32")
    inputs = keras.Input(x.shape[1:])
    ours = keras.Model(inputs, keras_saliency.SDMACrossAttention(64)(inputs))
    one, two = (layers.LSTM(64, return_sequences=True)(inputs) for _ in range(2))
    theirs = keras.Model(inputs, layers.add([one, two]))
    compare("SDMACrossAttention(64)", "two LSTMs", ours, theirs, x)


def maps():
    size, count = (64, 4) if SMALL else (224, 32)
    model = keras.applications.ResNet50(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    x = RNG.normal(size=(count, size, size, 3)).astype("float32")
    run = forward(model)
    tensor = ops.convert_to_tensor(x)
    base = timed(lambda: run(tensor), 5)
    for method, options in (
        ("grad_cam", {}),
        ("gradient", {}),
        ("integrated_gradients", {"steps": 8}),
        ("occlusion", {}),
    ):
        part = x if method in ("grad_cam", "gradient") else x[:1]

        def ours(part=part, method=method, options=options):
            return saliency_map(model, part, method, target=1, batch_size=count, **options)

        record(
            f"{method} of {len(part)} images, ResNet-50",
            f"a forward pass of {count}",
            timed(ours, 3),
            base,
            peak(ours),
        )


def recurrent_maps():
    """Layers whose fused kernels refuse gradients in inference mode elsewhere."""
    x = RNG.normal(size=(8, 32, 4)).astype("float32")
    inputs = keras.Input(x.shape[1:])
    for name, layer in {
        "LSTM": layers.LSTM(16),
        "GRU": layers.GRU(16),
        "Bidirectional LSTM": layers.Bidirectional(layers.LSTM(16)),
        "MultiHeadAttention": layers.MultiHeadAttention(2, 8),
    }.items():
        attention = name == "MultiHeadAttention"
        y = layer(inputs, inputs) if attention else layer(inputs)
        y = layers.GlobalAveragePooling1D()(y) if attention else y
        model = keras.Model(inputs, layers.Dense(3)(y))
        whole = saliency_map(model, x, "integrated_gradients", target=1, reduce=None, steps=64)
        fall = np.ravel(model.predict(x, verbose=0)[:, 1] - model.predict(0 * x, verbose=0)[:, 1])
        gap = np.abs(whole.sum(axis=(1, 2)) - fall).max() / np.abs(fall).max()
        run = timed(lambda model=model: saliency_map(model, x, "gradient", target=1), 3)
        record(f"gradient through {name}", "", run, None, note=f"completeness gap {gap:.1e}")


def semi_structured():
    if keras.backend.backend() != "torch":
        return
    for width, rows in ((256, 64),) if SMALL else ((4096, 4096), (8192, 8192)):
        _semi_structured(width, rows)


def _semi_structured(width, rows):
    dense = layers.Dense(width, use_bias=False, dtype="float16")
    model = keras.Sequential([keras.Input((width,)), dense])
    sparse = keras_saliency.sparsify(model, 0.5, method="magnitude", granularity=(2, 4))
    fast = keras_saliency.accelerate(sparse)
    x = ops.convert_to_tensor(RNG.normal(size=(rows, width)), "float16")
    a, b, c = (forward(m) for m in (fast, sparse, model))
    gap = float(ops.max(ops.abs(a(x) - b(x))) / ops.max(ops.abs(b(x))))
    record(
        f"accelerate, {rows} x {width} x {width}, float16",
        "dense",
        timed(lambda: a(x)),
        timed(lambda: c(x)),
        note=f"largest difference {gap:.1e}" + (" (not accelerated)" if fast is sparse else ""),
    )


def pruning():
    size, count = (64, 16) if SMALL else (224, 128)
    model = keras.applications.ResNet50(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation="softmax"
    )
    x = RNG.normal(size=(count, size, size, 3)).astype("float32")

    def streams():
        return [model.predict(x, batch_size=32, verbose=0) for _ in range(2)]

    base = timed(streams, 1)
    for sparsity in (0.9,) if SMALL else (0.5, 0.9):
        begin = time.perf_counter()
        keras_saliency.sparsify(model, sparsity, data=x, method="magnitude", gate=False)
        seconds = time.perf_counter() - begin
        record(
            f"sparsify with refit at {sparsity}, ResNet-50, {count} inputs",
            "two forward passes",
            seconds,
            base,
        )


def main():
    global SMALL
    options = runner.arguments(__doc__, only="")
    SMALL = options.small
    parts = [san, xm2a, sdma, maps, recurrent_maps, semi_structured, pruning]
    for part in parts:
        if options.only and part.__name__ not in options.only.split(","):
            continue
        try:
            part()
        except Exception as error:
            traceback.print_exc()
            row = {"what": part.__name__, "note": f"failed: {type(error).__name__}: {error}"[:200]}
            ROWS.append({**dict.fromkeys(("peer", "ms", "of the peer's", "MiB"), np.nan), **row})
        frame = pd.DataFrame(ROWS)[["what", "peer", "ms", "of the peer's", "MiB", "note"]]
        runner.write("gpu", frame.fillna({"peer": ""}), f"On {device()}.", small=SMALL)


if __name__ == "__main__":
    main()
