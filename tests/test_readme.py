"""Every Python block of the README and the docs runs as it stands, in order of its file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guides").glob("*.md")]
    if "```python" in path.read_text()
)


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_blocks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / name).read_text())
    if any("import keras_hub" in block for block in blocks):
        pytest.importorskip("keras_hub")
    names = {}  # a page is read from its top
    for block in blocks:
        exec(compile(block, name, "exec"), names)
