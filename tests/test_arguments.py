"""Whatever is passed to a public function: a right result, or an error that names the argument.

A few inputs per function by default; `ARGUMENTS_EXAMPLES=300` for a thorough run.
"""

import os
import warnings

import matplotlib.pyplot as plt
import pytest
from arguments import FORMS, ODD_VALUES, TARGETS, assert_same, odd_arrays, outcome
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("ARGUMENTS_EXAMPLES", 8))
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    plt.close("all")


@pytest.mark.parametrize("name", TARGETS)
@thorough
@given(data=st.data())
def test_an_odd_argument_is_refused_by_name_or_works(name, data):
    target = TARGETS[name]
    arguments = target.arguments()
    odd = data.draw(st.sampled_from(target.names), label="argument")
    values = st.sampled_from(ODD_VALUES)
    if odd in target.data or odd not in arguments:
        values = st.one_of(values, odd_arrays())
    arguments[odd] = data.draw(values, label="value")
    # Keras's own layers take None, or an array, for an initializer, and fail when it is due.
    assume(not odd.endswith("initializer") or isinstance(arguments[odd], str | int | float))
    outcome(target, arguments)
    plt.close("all")


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, t in TARGETS.items() for a in t.data])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__.strip("_"))
def test_the_same_data_in_another_form_give_the_same(name, argument, form):
    target = TARGETS[name]
    arguments = target.arguments()
    expected = target.value(target.function(**arguments))
    found = outcome(target, {**arguments, argument: form(arguments[argument])})
    if found is not None:
        assert_same(target.value(found[0]), expected)
