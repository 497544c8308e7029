"""The page of inputs says what happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inputs import page

ROOT = Path(__file__).parents[2]


def test_the_page_of_inputs_is_what_happens(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    written = (ROOT / "docs" / "INPUTS.md").read_text(encoding="utf-8")
    assert page(tmp_path) == written, "write it again: python -m tests.inputs docs/INPUTS.md"
