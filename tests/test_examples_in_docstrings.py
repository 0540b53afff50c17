"""The example in every public docstring runs as it stands."""

import doctest
import inspect
import re
import textwrap

import keras
import numpy as np

import keras_saliency

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def public_objects():
    """Return {dotted name: object} of all that a user may import, each object once."""
    found, seen = {}, set()
    places = [("keras_saliency", keras_saliency)]
    places += [
        (f"keras_saliency.{name}", getattr(keras_saliency, name))
        for name in keras_saliency.__all__
        if inspect.ismodule(getattr(keras_saliency, name))
    ]
    for place, module in places:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
                seen.add(id(value))
                found[f"{place}.{name}"] = value
    return found


OBJECTS = public_objects()


def pytest_generate_tests(metafunc):
    metafunc.parametrize("name", OBJECTS)


def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(OBJECTS[name]) or ""
    blocks = BLOCK.findall(text)
    for block in blocks:
        exec(compile(textwrap.dedent(block), f"<docstring of {name}>", "exec"), {})
    # Examples at a prompt also promise what is printed.
    names = {**vars(keras_saliency), "keras": keras, "keras_saliency": keras_saliency, "np": np}
    names[name.rsplit(".", 1)[1]] = OBJECTS[name]
    prompts = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    result = doctest.DocTestRunner().run(prompts)
    assert not result.failed
    assert blocks or result.attempted, f"{name} has no example"
