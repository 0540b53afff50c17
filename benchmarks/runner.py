"""What every benchmark shares: interleaved timings, peak memory, and the table that is kept.

Machines are noisy, so tasks that are compared run in turn, again and again, and the median of
each is taken; what is reported is a ratio to a named base of the same run, never one absolute
time alone. Results go to ``results/NAME.md``, one section per backend, with the same rows in
``results/NAME.BACKEND.csv``.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results"


def arguments(description, **options):
    """Parse ``--small`` and the given options (name -> default)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--small", action="store_true", help="seconds, not minutes; keeps no table")
    for name, default in options.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(default), default=default, help=f"default {default}")
    return parser.parse_args()


def backend():
    import keras

    return keras.backend.backend()


def machine():
    """Return one line that says where and with what the numbers were measured."""
    import keras

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    package = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}[backend()]
    version = __import__(package).__version__
    return (
        f"{os.cpu_count()} cores ({name}), Python {platform.python_version()}, "
        f"Keras {keras.__version__}, {package} {version}"
    )


def block(value):
    """Wait until `value`, which a backend may still be computing, exists."""
    import keras

    for leaf in keras.tree.flatten(value):
        if hasattr(leaf, "block_until_ready"):
            leaf.block_until_ready()
        elif type(leaf).__module__.startswith("torch") and leaf.is_cuda:
            import torch

            torch.cuda.synchronize()
    return value


def measure(tasks, repeats=9, warmup=2):
    """Time callables in turn.

    Args:
        tasks: Dict from name to a callable without arguments.
        repeats: Timed rounds; in each, every task runs once.
        warmup: Untimed rounds before them.

    Returns:
        A frame indexed by name: `seconds` (median), `low` and `high` (quartiles). Its
        `attrs["others"]` is the share of the CPU that other processes took meanwhile.
    """
    import psutil

    for _ in range(warmup):
        for task in tasks.values():
            block(task())
    seconds = {name: [] for name in tasks}
    process = psutil.Process()

    def cpu():
        own = process.cpu_times()
        total = psutil.cpu_times()
        busy = sum(total) - total.idle - getattr(total, "iowait", 0.0)
        return own.user + own.system, busy

    (own, busy), start = cpu(), time.perf_counter()
    for _ in range(repeats):
        for name, task in tasks.items():
            begin = time.perf_counter()
            block(task())
            seconds[name].append(time.perf_counter() - begin)
    (own_end, busy_end), elapsed = cpu(), time.perf_counter() - start
    others = ((busy_end - busy) - (own_end - own)) / (elapsed * os.cpu_count())
    frame = pd.DataFrame(
        {name: np.quantile(values, [0.5, 0.25, 0.75]) for name, values in seconds.items()},
        index=["seconds", "low", "high"],
    ).T
    frame.index.name = "task"
    frame.attrs["others"] = min(max(others, 0.0), 1.0)  # the system's clock ticks coarsely
    return frame


def ratios(timings, base):
    """Return the medians of `measure` as multiples of the row `base`."""
    return timings["seconds"] / timings["seconds"][base]


def train_step(model, x, y, jit_compile=False, optimizer="sgd", loss="mse"):
    """Return a callable that runs one training step of `model` the way `fit` would."""
    model.compile(optimizer, loss, jit_compile=jit_compile)
    return lambda: model.train_on_batch(x, y)


def inference_step(model, x, jit_compile=False):
    """Return a callable that runs `model` on `x` the way `predict` would."""
    model.compile("sgd", "mse", jit_compile=jit_compile)
    return lambda: model.predict_on_batch(x)


# On Linux a child's ru_maxrss starts at its parent's size; VmHWM is its own.
_REPORT_PEAK = """
import sys as _sys
def _peak():
    try:
        with open("/proc/self/status") as status:
            return next(int(x.split()[1]) * 1024 for x in status if x.startswith("VmHWM"))
    except OSError:
        import resource
        unit = 1 if _sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print("peak-bytes", _peak())
"""


def peak_memory(code, *values, env=None):
    """Run Python source in a fresh process and return its peak resident bytes.

    Measure a baseline with source that only imports, and subtract it. `values` arrive as
    ``sys.argv[1:]``.
    """
    result = subprocess.run(
        [sys.executable, "-c", code + _REPORT_PEAK, *map(str, values)],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(result.stdout.split("peak-bytes")[-1])


def working_memory(task):
    """Return the bytes that `task` takes at most beyond what the process holds; Linux with glibc.

    What earlier tasks freed is given back first, so that tasks of one process can be compared.
    """
    import ctypes
    import gc

    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(name))

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    block(task())
    return status("VmHWM") - before


def cpu_seconds(tasks, repeats=3):
    """Return the median CPU seconds of callables that run in turn, where a clock would lie."""
    seconds = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.process_time()
            block(task())
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def applications(measure, options, quick):
    """Run `measure(name)` for the models of keras.applications, one after another.

    Args:
        measure: Function of a model's name that returns a row.
        options: With `only`, names separated by commas (all if empty), and `small`.
        quick: The names that `small` takes.

    Returns:
        The rows, and the names of the models that Keras does not make on this backend.
    """
    import inspect

    import keras

    found = vars(keras.applications).items()
    names = sorted(name for name, value in found if inspect.isfunction(value))
    if options.small or options.only:
        names = [n for n in names if n in (options.only.split(",") if options.only else quick)]
    rows, absent = [], []
    for name in names:
        keras.backend.clear_session()
        try:
            rows.append(measure(name))
        except ValueError as error:
            if "not available with the" not in str(error):
                raise
            absent.append(name)
            continue
        print(rows[-1], flush=True)
    return rows, absent


def interval(values, confidence=0.95):
    """Return (mean, half width of Student's confidence interval) of independent runs."""
    from scipy import stats

    values = np.asarray(values, "float64")
    if len(values) < 2:
        return float(values.mean()), float("nan")
    t = stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    return float(values.mean()), float(t * values.std(ddof=1) / np.sqrt(len(values)))


def _cell(value):
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4g}"
    return str(value)


def markdown(frame):
    """Return `frame` as a Markdown table, without its index."""
    rows = [frame.columns.astype(str).tolist(), ["---"] * frame.shape[1]]
    rows += [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def merged(name, frame, keys):
    """Add to `frame` what this backend's table already has on other subjects.

    For benchmarks that are measured in pieces.

    Args:
        name: Name of the benchmark, as `write` takes it.
        frame: The new rows, which replace earlier ones of the same subjects.
        keys: Columns that tell a subject.
    """
    path = RESULTS / f"{name}.{backend()}.csv"
    if not path.exists():
        return frame
    earlier = pd.read_csv(path, comment="#")
    new = pd.MultiIndex.from_frame(frame[keys].astype(str))
    old = pd.MultiIndex.from_frame(earlier[keys].astype(str))
    return pd.concat([earlier[~old.isin(new)], frame], ignore_index=True)


class Rows:
    """A table that is kept row by row, so that a long benchmark can stop and go on.

    Args:
        name: Name of the table, as `write` takes it.
        notes: As `write` takes them.
        small: Whether this is a quick run, which reads and keeps nothing.
    """

    def __init__(self, name, notes="", small=False):
        self.name, self.notes, self.small = name, notes, small
        self.frame = pd.DataFrame()
        self._read()

    def _read(self):
        path = RESULTS / f"{self.name}.{backend()}.csv"
        if path.exists() and not self.small:
            self.frame = pd.read_csv(path, comment="#")

    def find(self, **subject):
        """Return the rows that have these cells."""
        chosen = pd.Series(True, self.frame.index)
        for column, value in subject.items():
            chosen &= self.frame[column].eq(value) if column in self.frame else False
        return self.frame[chosen]

    def add(self, row):
        """Print a new row and keep it, beside what other runs have kept meanwhile."""
        print(row, f"{time.process_time():.0f} s of CPU so far", flush=True)
        self._read()
        self.frame = pd.concat([self.frame, pd.DataFrame([row])], ignore_index=True)
        write(self.name, self.frame, self.notes, self.small)


def write(name, frame, notes="", small=False):
    """Print `frame`; keep it as this backend's section of ``results/NAME.md`` unless `small`.

    Args:
        name: Name of the benchmark's script.
        frame: One row per measurement; numbers that are compared are ratios.
        notes: What a reader must know; the first paragraph of the section.
        small: Whether this was a quick run, whose numbers are not kept.
    """
    print(markdown(frame))
    if small:
        return
    RESULTS.mkdir(exist_ok=True)
    head = {"backend": backend(), "machine": machine(), "notes": " ".join(notes.split())}
    path = RESULTS / f"{name}.{backend()}.csv"
    with path.open("w") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in head.items())
        frame.to_csv(file, index=False)
    script = Path(sys.argv[0]).name
    sections = [f"# {name}\n\nMeasured by `python benchmarks/{script}`, once per backend.\n"]
    for part in sorted(RESULTS.glob(f"{name}.*.csv")):
        lines = part.read_text().splitlines()
        found = dict(line[2:].split(": ", 1) for line in lines[: len(head)])
        table = markdown(pd.read_csv(part, skiprows=len(head)))
        note = f"{found['notes']}\n\n" if found.get("notes") else ""
        sections.append(f"## {found['backend']}\n\n{found['machine']}\n\n{note}{table}\n")
    (RESULTS / f"{name}.md").write_text("\n".join(sections))
