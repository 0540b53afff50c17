"""Installing and importing the library: what it costs, what it pulls in, what it offers."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_saliency

ROOT = Path(keras_saliency.__file__).parent
HEAVY = {"sklearn", "skimage", "pandas", "matplotlib", "cv2", "joblib", "scipy", "tqdm", "dask"}
BACKENDS = {"tensorflow", "jax", "torch"}


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_cheap_and_light(tmp_path):
    code = """
import json, sys, time, keras
before = set(sys.modules)
start = time.process_time()
import keras_saliency
print(json.dumps([time.process_time() - start, sorted(set(sys.modules) - before)]))
"""
    # Compiled files are kept, as for any user, whatever the tests' own Python does.
    kept = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    runs = [json.loads(run(code, **kept).splitlines()[-1]) for _ in range(3)]
    assert min(seconds for seconds, _ in runs) <= 0.1
    added = {name.split(".")[0] for name in runs[0][1]}
    assert not added & (HEAVY | BACKENDS)


def test_no_module_imports_a_backend_or_a_heavy_package_at_its_top():
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found = {name.split(".")[0] for name in names} & (HEAVY | BACKENDS)
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


# Each floor stands on those before it; rooms of one floor do not know each other.
FLOORS = (
    {"version", "typing"},
    {"validation"},
    {"files", "graph", "scale_space"},
    {"layers", "regularizers"},
    {"sparsity", "attribution", "complexity"},
    {"imaging", "racknet", "models"},
    {"callbacks"},
    {"visualization"},
)
SPARSITY_FLOORS = (
    {"registry", "ranking"},
    {"kernels", "operations"},
    {"significance"},
    {"reconstruction"},
    {"criteria"},
    {"masking"},
    {"shrinking"},
    {"training"},
    {"reports"},
    {"deploy"},
)


def imports_of(path):
    """Every module of the library that a file imports, imports inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    ("prefix", "floors"),
    [("keras_saliency", FLOORS), ("keras_saliency.sparsity", SPARSITY_FLOORS)],
)
def test_dependencies_point_downwards(prefix, floors):
    floor = {room: i for i, rooms in enumerate(floors) for room in rooms}
    root = ROOT.joinpath(*prefix.split(".")[1:])
    kept = (path for path in root.iterdir() if path.is_dir() or path.suffix == ".py")
    rooms = {path.stem for path in kept if not path.stem.startswith("__")}
    assert rooms <= set(floor), f"rooms without a floor: {rooms - set(floor)}"
    for room in rooms:
        place = root / room
        for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
            for module in imports_of(path):
                parts = module.removeprefix(prefix + ".").split(".")
                if not module.startswith(prefix + ".") or parts[0] == room:
                    continue
                below = floor.get(parts[0], len(floors))
                assert below < floor[room], f"{path.relative_to(ROOT)} imports {module}"


def test_every_public_name_exists_and_is_documented():
    for name in keras_saliency.__all__:
        value = getattr(keras_saliency, name)
        if name != "__version__":
            assert value.__doc__, f"{name} has no docstring"


PACKAGES = ("", ".layers", ".regularizers", ".sparsity.criteria")
PACKAGES += tuple(f".{name}" for name in keras_saliency._SUBPACKAGES)


def own_functions(value):
    """A public function, or the constructor and public methods of a class but Keras's own ones."""
    if not inspect.isclass(value):
        return [value]
    found = []
    for cls in value.__mro__:
        if cls.__module__.startswith("keras_saliency"):
            foreign = [c for c in cls.__mro__ if not c.__module__.startswith("keras_saliency")]
            for name, member in vars(cls).items():
                inherited = any(hasattr(c, name) for c in foreign)
                if name == "__init__" or not (name.startswith("_") or inherited):
                    member = getattr(member, "fget", None) or getattr(member, "func", member)
                    found.append(getattr(member, "__func__", member))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_signature_is_typed(package):
    module = importlib.import_module(f"keras_saliency{package}")
    missing = set()
    for name in module.__all__:
        for function in own_functions(getattr(module, name)):
            if not inspect.isfunction(function) or "<locals>" in function.__qualname__:
                continue
            signature = inspect.signature(function)
            bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
            if signature.return_annotation is signature.empty and function.__name__ != "__init__":
                bare.append("return")
            missing |= {f"{function.__qualname__}: {n}" for n in bare if n not in ("self", "cls")}
    assert not missing
    assert (ROOT / "py.typed").exists()


def test_checkers_see_what_is_imported_on_first_use():
    (block,) = (
        x
        for x in ast.parse(Path(keras_saliency.__file__).read_text()).body
        if isinstance(x, ast.If)
    )
    seen = {alias.name for line in block.body for alias in line.names}
    assert seen == {*keras_saliency._LAZY, *keras_saliency._SUBPACKAGES, "*"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = keras_saliency.no_such_name


def test_every_layer_is_registered_under_its_own_name():
    for name in keras_saliency.layers.__all__:
        value = getattr(keras_saliency.layers, name)
        if isinstance(value, type) and issubclass(value, keras.layers.Layer):
            registered = keras.saving.get_registered_name(value)
            assert registered == f"keras_saliency>{value.__name__}"


EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_take_the_backend_that_is_installed(path, monkeypatch):
    before = re.split("^(?:import|from) keras", path.read_text(), flags=re.MULTILINE)[0]
    chosen = re.findall(r"^(?:import importlib|import os$|BACKENDS|os\.).*\n", before, re.MULTILINE)
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "torch" or None)
    exec("".join(chosen), {})
    assert os.environ["KERAS_BACKEND"] == "torch"
