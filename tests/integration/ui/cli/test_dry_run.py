"""`nexusmix compose --dry-run`: the estimate without a mix."""

from __future__ import annotations

import json
from pathlib import Path

import pico
import pytest

from composer import resources
from registry.catalog.queries import list_mixes
from registry.home import Registry
from registry.intake.intake import add_seed, contribute
from ui.cli import main


def test_a_dry_run_reports_memory_within_the_limit_and_composes_nothing(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = pico.write_pico(tmp_path / "seed")
    add_seed(registry, "pico", seed, license="MIT")
    data = [pico.write_documents(tmp_path / "code.jsonl", "code")]
    contribute(
        registry,
        "code",
        pico.branch_pico(seed, tmp_path / "code", seed=1),
        seed="pico",
        data=data,
        license="MIT",
    )
    monkeypatch.setenv(resources.VARIABLE, "1GiB")
    home = ["--home", str(registry.home)]
    asked = ["compose", "team", "--seed", "pico", "--experts", "code", "--dry-run"]
    assert main([*home, *asked, "--json"]) == 0
    roomy = json.loads(capsys.readouterr().out)
    assert roomy["license"] == "MIT"
    assert main([*home, "--memory", "100K", *asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] < roomy["memory"]
    assert main([*home, "--memory", "100K", *asked]) == 0
    shown = capsys.readouterr()
    assert "not counting mapped files" in shown.out
    assert "more than --memory allows" in shown.err
    assert not list_mixes(registry)
