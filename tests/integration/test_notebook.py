"""The code of the notebook and of the README runs unchanged on a small registry."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from registry.home import Registry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def in_the_registry(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make open_registry() open the small registry, and withdraw its expert with a restrictive licence."""
    from registry.catalog.publish import withdraw

    withdraw(filled, "cooking", "its licence forbids mixes")
    monkeypatch.setenv("NEXUSMIX_HOME", str(filled.home))
    assert os.environ["NEXUSMIX_EMBEDDER"] == "hashing:64"


@pytest.mark.usefixtures("in_the_registry")
def test_the_notebook_runs_from_its_first_to_its_last_cell() -> None:
    notebook = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells)
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert names["mix"].ref == "tour@1"
    assert names["evaluation"]["mean"]["mix"] > 0
    assert names["written"].tokens


@pytest.mark.usefixtures("in_the_registry")
def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str], filled: Registry) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(block.splitlines()) <= 10
    script = block.replace('".demo"', repr(str(filled.home)))
    script = script.replace(
        'seed="demo-seed", experts=["python", "math"]', 'seed="smol", experts=["code", "law"], **QUICK'
    )
    exec(script, {"QUICK": {"training": {"tokens": 0}}})
    assert "'mix'" in capsys.readouterr().out
