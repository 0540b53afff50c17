"""Every Python block of README, home page and guides runs as it stands, in order of its file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


GUIDES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("name", ["README.md", "docs/index.md", *GUIDES])
def test_blocks_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / name).read_text())
    if any("import keras_hub" in block for block in blocks):
        pytest.importorskip("keras_hub")
    assert blocks or name.endswith("install.md")
    names = {}  # a page is read from its top
    for block in blocks:
        exec(compile(block, name, "exec"), names)
