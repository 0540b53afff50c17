"""Shared fixtures; ``harness.py`` beside this file tests a layer from one declaration."""

import importlib.util
import os

# Without a choice of the user's, the tests run on the backend that is installed.
installed = [b for b in ("tensorflow", "jax", "torch") if importlib.util.find_spec(b)]
os.environ.setdefault("KERAS_BACKEND", installed[0])
os.environ.setdefault("MPLBACKEND", "Agg")
# Tests run each compiled function once or twice: what counts is how long XLA compiles.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import harness
import keras
import pytest


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    """Give every test the same seed, layer names and precision policy."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(11)
    yield
    keras.config.set_dtype_policy("float32")


def pytest_generate_tests(metafunc):
    harness.parametrize_cases(metafunc)


def pytest_collection_modifyitems(config, items):
    """Leave out the harness's tests of what no case of a layer asks for (masks, data formats)."""
    empty = [item for item in items if item.name.endswith("[NOTSET]")]
    items[:] = [item for item in items if not item.name.endswith("[NOTSET]")]
    config.hook.pytest_deselected(items=empty)
