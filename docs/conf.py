"""How Sphinx builds the documentation: `sphinx-build -W -b html docs docs/_build/html`."""

import importlib
import inspect
import os
import pathlib
import re
import shutil
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("MPLBACKEND", "Agg")
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import keras_saliency

project = "keras_saliency"
author = "The keras_saliency authors"
copyright = f"2026, {author}"
version = release = keras_saliency.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "filename_pattern": os.environ.get("ONLY_EXAMPLES", r"\.py$"),  # which ones run
    "within_subsection_order": "gallery.ByJob",
    "reset_argv": "gallery.arguments",
    "reset_modules": ("matplotlib", "gallery.fresh"),
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 3600,
}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "keras_saliency"
default_role = "code"  # docstrings are written in Markdown's backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [
    ("Call arguments", "params_style"),
    ("Input shape", "notes_style"),
    ("Output shape", "notes_style"),
    ("Output", "notes_style"),
]
add_module_names = False

NAMES = re.compile(r"^ +[\w, *]+,$")  # arguments described together, over two lines
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)$")


def _to_rst(app, what, name, obj, options, lines):
    """Turn the fenced code blocks of a docstring, which are Markdown, into RST's."""
    result, inside, indent = [], False, ""
    for line in lines:
        if result and NAMES.match(result[-1]) and not inside:
            line = f"{result.pop()} {line.strip()}"
        fence = FENCE.match(line)
        if fence and not inside:
            inside, indent = True, fence["indent"]
            result += ["", f"{indent}.. code-block:: {fence['language'] or 'text'}", ""]
        elif fence:
            inside = False
            result.append("")
        else:
            # `|a|` stands for an absolute value, not for a substitution.
            result.append(f"    {line}" if inside and line else line.replace("|", r"\|"))
    lines[:] = result


def _public():
    """{package: its public classes and functions}, each name on one page alone."""
    pages, seen = {}, set()
    packages = ["keras_saliency", *(f"keras_saliency.{n}" for n in keras_saliency._SUBPACKAGES)]
    packages[1:1] = ["keras_saliency.layers", "keras_saliency.regularizers"]
    for package in [*packages[1:], "keras_saliency.sparsity.criteria", packages[0]]:
        module = importlib.import_module(package)
        names = []
        for name in sorted(getattr(module, "__all__", ()), key=str.lower):
            value = getattr(module, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
                seen.add(id(value))
                names.append(name)
        if names:
            pages[package] = names
    return pages


def _write_api(app):
    """A page per package, every public name on it with its docstring."""
    folder = pathlib.Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    index = ["# API", "", "```{toctree}", ":maxdepth: 1", ""]
    for package, names in _public().items():
        module = importlib.import_module(package)
        text = [package, "=" * len(package), "", inspect.getdoc(module) or "", ""]
        text += [f".. currentmodule:: {package}", ""]
        for name in names:
            kind = "class" if inspect.isclass(getattr(module, name)) else "function"
            text += [name, "-" * len(name), "", f".. auto{kind}:: {name}", ""]
        _write(folder / f"{package}.rst", "\n".join(text))
        index.append(package)
    _write(folder / "index.md", "\n".join([*index, "```", ""]))


def _write_results(app):
    """The tables of the benchmarks are pages of their own."""
    folder = pathlib.Path(app.srcdir) / "results"
    folder.mkdir(exist_ok=True)
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        text = path.read_text()
        title = "" if text.startswith("# ") else f"# {path.stem}\n\n"
        _write(folder / path.name, f"---\norphan: true\n---\n\n{title}{text}")

    for path in (ROOT / "benchmarks" / "results").glob("*.png"):
        shutil.copy(path, folder)


def _link_results(app, name, content):
    content[0] = content[0].replace("](../benchmarks/results/", "](results/")


def _write(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def setup(app):
    app.connect("autodoc-process-docstring", _to_rst, priority=100)  # before napoleon
    app.connect("builder-inited", _write_api)
    app.connect("builder-inited", _write_results)
    app.connect("source-read", _link_results)
