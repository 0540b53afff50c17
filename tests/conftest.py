"""Shared fixtures; ``harness.py`` beside this file tests a layer from one declaration."""

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
