"""What events and saliency cost: against SciPy with loops, and as series grow.

    KERAS_BACKEND=jax python benchmarks/saliency_cost.py [--small]

Base of the ratios: one `scipy.ndimage.gaussian_filter1d` pass over the whole batch per distinct
scale (12 for 3 octaves of 3 scales), without differences, extrema or events.
"""

import time

import keras
import numpy as np
import pandas as pd
import runner
from scipy.ndimage import gaussian_filter1d

from keras_saliency import SaliencySeries
from keras_saliency.scale_space import scale_sigmas, temporal_events

MOCAP = (184, 1000, 62)
TRAIN = (32, 1000, 62)


def series(shape):
    return np.random.default_rng(0).normal(size=shape).cumsum(axis=1).astype("float32")


def sigmas():
    return np.unique(scale_sigmas().round(9))


def filters(x):
    """Smooth the batch at all scales with SciPy."""
    for sigma in sigmas():
        gaussian_filter1d(x, sigma, axis=1, mode="nearest")


def looped(x):
    """Events and saliency the straightforward way: loops over series, variates and events."""
    steps = np.arange(x.shape[1])
    result = np.zeros(x.shape)
    found = 0
    for b in range(x.shape[0]):
        for v in range(x.shape[2]):
            row = base = x[b, :, v].astype("float64")
            for octave in range(3):
                inherited = 0.5 if octave else 0.0
                scales = 0.5 * 2 ** (np.arange(6) / 3)
                levels = [
                    gaussian_filter1d(row, np.sqrt(max(s**2 - inherited**2, 1e-12)), mode="nearest")
                    for s in scales
                ]
                d = np.diff(levels, axis=0)
                for s in range(1, 4):
                    window = np.stack(
                        [
                            d[s + i, 1 + j : len(row) - 1 + j]
                            for i in (-1, 0, 1)
                            for j in (-1, 0, 1)
                            if i or j
                        ]
                    )
                    center = d[s, 1:-1]
                    events = (center > window.max(0)) | (center < window.min(0))
                    events &= np.abs(center) >= 0.005
                    sigma = scales[s] * 2**octave
                    for t in np.nonzero(events)[0] + 1:
                        time_ = 2**octave * t + (2**octave - 1) / 2
                        low = max(int(np.ceil(time_ - 3 * sigma)), 0)
                        high = int(np.floor(time_ + 3 * sigma)) + 1
                        bell = np.exp(-((steps - time_) ** 2) / (2 * sigma**2))
                        result[b, :, v] += base[low:high].mean() * bell
                        found += 1
                row = gaussian_filter1d(row, np.sqrt(1 - inherited**2 - 0.25), mode="nearest")
                row = row[: len(row) // 2 * 2].reshape(-1, 2).mean(1)
    return result, found


def compiled():
    """Return the layer as one compiled function (PyTorch: eager, without gradients)."""
    layer = SaliencySeries()
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(layer)
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(layer, jit_compile=True)
    import torch

    def run(x):
        with torch.no_grad():
            return layer(x)

    return run


MEMORY = """
import sys
import keras
import numpy as np
sys.path.insert(0, {path!r})
from saliency_cost import compiled, series
shape = tuple(int(n) for n in sys.argv[1].split(","))
x = keras.ops.convert_to_tensor(series(shape))
if sys.argv[2] == "run":
    keras.ops.convert_to_numpy(compiled()(x))
else:
    # The library's code, loaded and compiled, without the batch.
    keras.ops.convert_to_numpy(compiled()(x[:2]))
"""


def memory(shape):
    """Peak bytes above those of a process that has the input and all code, per input byte."""
    from pathlib import Path

    code = MEMORY.format(path=str(Path(__file__).parent))
    text = ",".join(map(str, shape))
    peaks = [runner.peak_memory(code, text, what) for what in ("run", "load")]
    return (peaks[0] - peaks[1]) / (4 * np.prod(shape)) + 1


def main():
    args = runner.arguments(__doc__.splitlines()[0])
    mocap = (4, 100, 3) if args.small else MOCAP
    x = series(mocap)
    run = compiled()
    tensor = keras.ops.convert_to_tensor(x)
    tasks = {
        "gaussian_filter1d, 12 scales": lambda: filters(x),
        "SaliencySeries": lambda: run(tensor),
    }
    timings = runner.measure(tasks, repeats=3, warmup=1)
    part = x[: max(1, len(x) // 23)]
    start = time.perf_counter()
    expected, events = looped(part)
    loop = (time.perf_counter() - start) * len(x) / len(part)
    actual = keras.ops.convert_to_numpy(run(keras.ops.convert_to_tensor(part)))
    apart = np.abs(actual - expected) > 1e-2 * np.abs(expected).max()
    temporal_events(part)  # compiles, where the backend does
    start = time.perf_counter()
    frame = temporal_events(part)
    of_frame = (time.perf_counter() - start) * len(x) / len(part)
    seconds = timings["seconds"]
    base = seconds["gaussian_filter1d, 12 scales"]
    shape = " x ".join(map(str, mocap))
    rows = [
        ("SciPy, looped (from 1/23 of the batch)", shape, loop),
        ("gaussian_filter1d, 12 scales", shape, base),
        ("SaliencySeries", shape, seconds["SaliencySeries"]),
        ("temporal_events (from 1/23 of the batch)", shape, of_frame),
    ]
    rows = [(n, s, t, t / base, t / loop, np.nan) for n, s, t in rows]
    if not args.small:
        name, s, t, a, b, _ = rows[2]
        rows[2] = (name, s, t, a, b, memory(mocap))
        grown = [(8, n, 62) for n in (1000, 4000, 16000)]
        grown += [(n, 1000, 8) for n in (16, 64, 256)] + [(32, 1000, n) for n in (1, 8, 64)]
        tensors = [keras.ops.convert_to_tensor(series(s)) for s in grown]
        tasks = {str(s): lambda t=t: run(t) for s, t in zip(grown, tensors, strict=True)}
        medians = runner.measure(tasks, repeats=3, warmup=1)["seconds"]
        for s in grown:
            shape = " x ".join(map(str, s))
            rows.append(("SaliencySeries", shape, medians[str(s)], np.nan, np.nan, np.nan))
    table = pd.DataFrame(
        rows,
        columns=["task", "shape", "seconds", "of one SciPy pass", "of the loop", "memory / input"],
    )
    sizes = [np.prod([int(n) for n in s.split(" x ")]) for s in table["shape"]]
    table.insert(3, "ns per value", table["seconds"] * 1e9 / sizes)
    runner.write(
        "saliency_cost",
        table,
        notes=f"""Random walks, default arguments. The loop found {events} events where
        temporal_events found {len(frame)}; {100 * apart.mean():.2f} % of the saliency values
        differ by more than 1 % of the largest (SciPy samples its Gaussians, and continues every
        octave by its edge). Memory: peak above a process that holds the input and the code, per
        input byte, the input included. Other processes took
        {100 * timings.attrs["others"]:.0f} % of the CPU.""",
        small=args.small,
    )


if __name__ == "__main__":
    main()
