"""What attention costs as series grow: XM2AHeads against dot-product attention.

``python benchmarks/xm2a_cost.py`` measures a training step and inference of one layer, batch 4,
8 heads of 64, 64 variates, and then peak memory, each layer in a fresh process; ``--table time``
or ``--table memory`` does one of them. TensorFlow and JAX compile with XLA; PyTorch runs eagerly,
as Keras does by default (``--compile`` turns TorchDynamo on).
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
import runner

import keras_saliency

BATCH, VARIATES, HEADS, SIZE = 4, 64, 8, 64
BASE = "MultiHeadAttention"


def attention_model(kind, steps):
    """Return a model of one attention layer."""
    inputs = keras.Input((steps, VARIATES))
    if kind.startswith(BASE):
        flash = True if kind.endswith("flash") else None
        layer = keras.layers.MultiHeadAttention(HEADS, SIZE, flash_attention=flash)
        outputs = layer(inputs, inputs)
    elif kind == "MSMSA":
        outputs = keras_saliency.MSMSA(HEADS, SIZE)(inputs)
    else:
        options = {"XM2AHeads": {}, "XM2AHeads, remat=False": {"remat": False}}[kind]
        outputs = keras_saliency.XM2AHeads(HEADS, SIZE, **options)(inputs)
    return keras.Model(inputs, outputs)


def data(steps):
    return np.random.default_rng(0).normal(size=(BATCH, steps, VARIATES)).astype("float32")


def tasks(kind, steps, jit):
    x = data(steps)
    train = runner.train_step(attention_model(kind, steps), x, x, jit_compile=jit)
    infer = runner.inference_step(attention_model(kind, steps), x, jit_compile=jit)
    return train, infer


def has_flash(steps=128):
    """Whether this backend has a fused kernel for Keras's attention on this machine."""
    try:
        attention_model(f"{BASE}, flash", steps)(data(steps))
    except Exception as error:  # each backend refuses in its own words
        print(f"no flash attention here: {str(error).strip().splitlines()[-1][:100]}")
        return False
    return True


def times(lengths, longest_quadratic, jit):
    kinds = [BASE, "MSMSA", "XM2AHeads"]
    if has_flash():
        kinds.insert(1, f"{BASE}, flash")
    rows, others, first = [], [], {}
    for steps in lengths:
        names = kinds if steps <= longest_quadratic else ["XM2AHeads"]
        made = {kind: tasks(kind, steps, jit) for kind in names}
        begin = time.perf_counter()
        runner.block([task() for pair in made.values() for task in pair])
        runner.block([task() for pair in made.values() for task in pair])
        slow = (time.perf_counter() - begin) / 2
        found = []
        for i in range(2):
            timings = runner.measure(
                {kind: pair[i] for kind, pair in made.items()},
                repeats=2 if slow > 3 else 7,
                warmup=0,
            )
            others.append(timings.attrs["others"])
            found.append(timings["seconds"])
        for kind in names:
            row = {"layer": kind, "steps": steps}
            for what, seconds in zip(("training", "inference"), found, strict=True):
                row[f"{what} ms"] = 1000 * seconds[kind]
                row[f"{what} / {BASE}"] = seconds[kind] / seconds.get(BASE, np.nan)
                if steps == 1024:
                    first[kind, what] = seconds[kind] / steps
                per_step = first.get((kind, what), np.nan)
                row[f"{what} per step / at 1024"] = seconds[kind] / steps / per_step
            rows.append(row)
    note = f"Other processes took up to {max(others):.0%} of the CPU."
    return pd.DataFrame(rows).sort_values(["layer", "steps"]), note


def memory(lengths, longest_quadratic, jit):
    code = f"""
import sys
sys.path[:0] = {[os.path.dirname(os.path.abspath(__file__)), os.getcwd()]!r}
import xm2a_cost
what, kind, steps = sys.argv[1:4]
train, infer = xm2a_cost.tasks(kind, int(steps), {jit})
for _ in range(2):
    xm2a_cost.runner.block({{"training": train, "inference": infer}}.get(what, lambda: 0)())
"""
    idle = runner.peak_memory(code, "nothing", "XM2AHeads", 8)
    rows, base, first = [], {}, {}
    for steps in lengths:
        kinds = [BASE, "MSMSA"] if steps <= longest_quadratic else []
        for kind in [*kinds, "XM2AHeads, remat=False", "XM2AHeads"]:
            row = {"layer": kind, "steps": steps}
            for what in ("training", "inference"):
                peak = runner.peak_memory(code, what, kind, steps) - idle
                base.setdefault((steps, what), peak if kind == BASE else np.nan)
                first.setdefault((kind, what), peak / steps)
                row[f"{what} MiB"] = peak / 2**20
                row[f"{what} / {BASE}"] = peak / base[steps, what]
                row[f"{what} per step / at {lengths[0]}"] = peak / steps / first[kind, what]
            print(row, flush=True)
            rows.append(row)
    return pd.DataFrame(rows).sort_values(["layer", "steps"])


def main():
    options = runner.arguments(
        __doc__.splitlines()[0], table="both", longest_quadratic=4096, longest=16384, compile=0
    )
    small = options.small
    jit = keras.backend.backend() != "torch" or bool(options.compile)
    setting = f"batch {BATCH}, {HEADS} heads of {SIZE}, {VARIATES} variates, float32, " + (
        "compiled" if jit else "eager"
    )
    if options.table in ("both", "time"):
        lengths = [128, 256] if small else [128, 256, 512, 1024, 2048, 4096, 8192, 16384]
        lengths = [n for n in lengths if n <= options.longest]
        frame, note = times(lengths, options.longest_quadratic, jit)
        note += f" {setting}. Medians; dot-product attention is measured up to "
        note += f"{options.longest_quadratic} steps. "
        runner.write("xm2a_cost", frame, note, small)
    if options.table in ("both", "memory"):
        lengths = [64] if small else [1024, 4096, 16384]
        frame = memory(lengths, options.longest_quadratic, jit)
        note = f"{setting}. Peak resident memory of two steps above that of the imported library."
        runner.write("xm2a_memory", frame, note, small)


if __name__ == "__main__":
    main()
