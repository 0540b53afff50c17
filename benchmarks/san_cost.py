"""What attention costs: training step, inference, parameters and FLOPs of attended networks.

VGG-16 and ResNet-18 at 32x32, plain against SAN-c, SAN-d, SAN with depthwise smoothing, CBAM and
BAM, in both placements: the claim of G figures 5.9 and 5.10, where SAN costs less than its peers.

    KERAS_BACKEND=jax python benchmarks/san_cost.py
    KERAS_BACKEND=jax python benchmarks/san_cost.py --network ResNet18 --placement bottleneck
"""

import math
from unittest.mock import patch

import numpy as np
import pandas as pd
import runner

from keras_saliency import models

ATTENTIONS = ("san-c", "san-d", "san-depthwise", "cbam", "bam")


def flops(model):
    """Return the floating point operations of all kernels for one sample (elementwise left out)."""
    leaves = [
        layer
        for layer in model._flatten_layers()
        if not layer._layers and any(len(w.shape) > 1 for w in layer.trainable_weights)
    ]
    total = 0

    def counted(layer, call):
        kernels = sum(math.prod(w.shape) for w in layer.trainable_weights if len(w.shape) > 1)

        def wrapper(*args, **kwargs):
            nonlocal total
            output = call(*args, **kwargs)
            total += 2 * kernels * math.prod(output.shape[1:-1])
            return output

        return wrapper

    for layer in leaves:
        object.__setattr__(layer, "call", counted(layer, layer.call))
    try:
        # Through the layer on every backend, so that it is counted.
        with patch(
            "keras_saliency.layers.attention.san.convolve_depthwise", lambda layer, x: layer(x)
        ):
            model(np.zeros((1, *model.input_shape[1:]), "float32"))
    finally:
        for layer in leaves:
            object.__delattr__(layer, "call")
    return total


def variants(network, input_shape, width, placements, attentions):
    """Return {(placement, attention): model}; the plain one is ("", "none")."""
    make = getattr(models, network)
    common = {"num_classes": 10, "width_multiplier": width}
    result = {("", "none"): make(input_shape, **common)}
    for placement in placements:
        for attention in attentions:
            result[placement, attention] = make(
                input_shape, attention=attention, placement=placement, **common
            )
    return result


def rows_of(network, mode, jit, options, placements, attentions, width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(options.batch, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, size=options.batch)
    timings = {}
    for what in ("training", "inference"):
        # Fresh models: a model compiled for one must not lend its memory to the other.
        built = variants(network, (32, 32, 3), width, placements, attentions)
        tasks = {}
        for key, model in built.items():
            if what == "training":
                loss = "sparse_categorical_crossentropy"
                tasks[key] = runner.train_step(model, x, y, jit_compile=jit, loss=loss)
            else:
                tasks[key] = runner.inference_step(model, x, jit_compile=jit)
        timings[what] = runner.measure(tasks, repeats=options.repeats)
    sizes = {key: (model.count_params(), flops(model)) for key, model in built.items()}
    base = ("", "none")
    for key, (parameters, operations) in sizes.items():
        row = {
            "network": network,
            "mode": mode,
            "placement": key[0] or "-",
            "attention": key[1],
            "parameters": f"{parameters:,}",
            "MFLOP": round(operations / 1e6, 1),
        }
        for what, frame in timings.items():
            seconds = frame["seconds"]
            row[f"{what} ms"] = 1e3 * seconds.loc[[key]].iloc[0]
            row[f"{what} ratio"] = seconds.loc[[key]].iloc[0] / seconds.loc[[base]].iloc[0]
        yield row, max(frame.attrs["others"] for frame in timings.values())


def main():
    options = runner.arguments(
        __doc__.splitlines()[0], network="all", placement="all", mode="all", batch=16, repeats=7
    )
    networks = ("VGG16", "ResNet18") if options.network == "all" else (options.network,)
    placements = ("bottleneck", "full") if options.placement == "all" else (options.placement,)
    width, attentions = 1.0, ATTENTIONS
    if options.small:
        options.batch, options.repeats, width = 2, 1, 0.125
        networks, placements, attentions = networks[-1:], placements[:1], ATTENTIONS[2:3]
    modes = {
        "tensorflow": {"graph": False, "XLA": True},
        "jax": {"XLA": True},
        "torch": {"eager": False},
    }[runner.backend()]
    if options.mode != "all":
        modes = {options.mode: modes[options.mode]}
    rows, others = [], 0.0
    for network in networks:
        for mode, jit in modes.items():
            for row, share in rows_of(network, mode, jit, options, placements, attentions, width):
                rows.append(row)
                others = max(others, share)
    runner.write(
        "san_cost",
        pd.DataFrame(rows),
        notes=f"Batches of {options.batch} images of 32x32x3, float32, SGD; medians of "
        f"{options.repeats} interleaved runs. MFLOP: kernels alone, one sample, forward. Other "
        f"processes took up to {others:.0%} of the CPU.",
        small=options.small,
    )


if __name__ == "__main__":
    main()
