"""The numbers we publish come from this runner, so it is tested as the library is."""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("runner", None)
    import runner

    return runner


def test_tasks_run_in_turn_and_ratios_follow(runner):
    order = []
    tasks = {
        "short": lambda: (order.append("short"), time.sleep(0.002)),
        "long": lambda: (order.append("long"), time.sleep(0.02)),
    }
    timings = runner.measure(tasks, repeats=3, warmup=1)
    assert order == ["short", "long"] * 4
    assert runner.ratios(timings, "short")["short"] == 1
    assert runner.ratios(timings, "short")["long"] > 1
    assert 0 <= timings.attrs["others"] <= 1


def test_peak_memory_sees_an_allocation(runner):
    base = runner.peak_memory("import numpy")
    more = runner.peak_memory("import numpy, sys; numpy.ones(int(sys.argv[1]))", 8 << 20)
    assert 60 * 2**20 < more - base < 80 * 2**20


def test_confidence_interval(runner):
    mean, half = runner.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    np.testing.assert_allclose(half, 4.302652729911275 / np.sqrt(3), rtol=1e-9)


def test_each_backend_keeps_its_section(runner, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    frame = pd.DataFrame({"task": ["a (#1)"], "ratio": [1.25]})
    for backend in ("jax", "torch"):
        monkeypatch.setattr(runner, "backend", lambda backend=backend: backend)
        monkeypatch.setattr(runner, "machine", lambda: "2 cores")
        runner.write("demo", frame, notes="Measured: once.")
    runner.write("demo", frame * 2, small=True)
    text = (tmp_path / "demo.md").read_text()
    assert text.index("## jax") < text.index("## torch")
    assert text.count("| a (#1) | 1.25 |") == 2
    assert text.count("Measured: once.") == 2
