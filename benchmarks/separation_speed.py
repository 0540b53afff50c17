"""What `separation_index` costs beside scikit-learn's brute-force neighbors: time and memory.

    KERAS_BACKEND=jax python benchmarks/separation_speed.py [--small] [--count 60000] [--repeats 3]

The data are Fashion-MNIST's training images, 784 features each, as float32.
"""

import json
import time

import numpy as np
import pandas as pd
import runner

_TASK = """
import json, sys, time
import numpy as np
path, method, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = np.load(path)
x, y = data["x"], data["y"]
import keras_saliency.complexity
from sklearn.neighbors import NearestNeighbors
if method == "separation_index":
    task = lambda: keras_saliency.complexity.separation_index(x, y)
elif method == "scikit-learn":
    task = lambda: NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x).kneighbors()[1]
else:
    task = lambda: None
for _ in range(repeats):
    start = time.perf_counter()
    task()
    print("seconds", json.dumps(time.perf_counter() - start))
"""


def main(options):
    import tempfile
    from pathlib import Path

    import networks
    from sklearn.neighbors import NearestNeighbors

    from keras_saliency import separation_index

    (x, y), _ = networks.fashion_mnist()
    count = 3000 if options.small else options.count
    x, y = x[:count].reshape(count, -1), y[:count]
    repeats = 2 if options.small else options.repeats
    print(f"{count} images, about {2 * (repeats + 1) * (count / 60_000) ** 2 * 60:.0f} s in all")

    def brute():
        return NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x).kneighbors()[1][:, 0]

    found = {}

    def ours():
        found["index"] = separation_index(x, y)

    start = time.perf_counter()
    found["brute"] = float((y[brute()] == y).mean())
    print(f"scikit-learn once: {time.perf_counter() - start:.0f} s", flush=True)
    timings = runner.measure({"scikit-learn": brute, "separation_index": ours}, repeats, warmup=0)
    ratios = runner.ratios(timings, "scikit-learn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, x=x, y=y)
        peaks = {m: runner.peak_memory(_TASK, path, m, 1) for m in ("nothing", *timings.index)}
    frame = pd.DataFrame(
        {
            "task": timings.index,
            "seconds": timings["seconds"].round(2).to_numpy(),
            "ratio": ratios.round(3).to_numpy(),
            "MiB beyond the data": [
                round((peaks[m] - peaks["nothing"]) / 2**20) for m in timings.index
            ],
            "index": [round(found["brute"], 6), round(found["index"], 6)],
        }
    )
    runner.write(
        "separation_speed",
        frame,
        notes=(
            f"The first {count} training images of Fashion-MNIST, float32. Medians of {repeats} "
            "runs in turn; `ratio` to scikit-learn's NearestNeighbors(algorithm='brute') alone. "
            "Memory: peak of a fresh process less that of one that only loads the data. Other "
            f"processes took {timings.attrs['others']:.0%} of the machine meanwhile. Goals: ratio "
            f"at most 1.1, memory at most 500 MiB. Raw: {json.dumps(timings.round(2).to_dict())}"
        ),
        small=options.small,
    )


if __name__ == "__main__":
    main(runner.arguments(__doc__.splitlines()[0], count=60_000, repeats=3))
