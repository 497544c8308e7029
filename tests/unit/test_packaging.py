"""The files of an installation: everything that the code reads at run time is in the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["registry", "composer", "ui"])
def test_every_file_that_is_no_code_is_installed(package: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]
    named = {path for pattern in patterns.get(package, []) for path in (ROOT / package).glob(pattern)}
    named |= {path for pattern in patterns["*"] for path in (ROOT / package).rglob(pattern)}
    files = {
        path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in files if path.suffix != ".py"} - named == set()
