"""Seeds are run once before they are published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pico
import pytest

from composer.experts.dry_run import attempt, check_runs
from registry.catalog import queries
from registry.checkpoints.families import FAMILIES
from registry.errors import IncompatibleError, NotFoundError
from registry.home import Registry
from registry.intake.intake import add_seed

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_model_of_each_family_runs(tmp_path: Path, model_type: str) -> None:
    attempt(pico.write_pico(tmp_path / "seed", model_type=model_type))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    ],
)
def test_a_model_with_a_scaled_rope_runs(tmp_path: Path, rope: dict[str, Any]) -> None:
    attempt(pico.write_pico(tmp_path / "seed", rope_parameters={"rope_theta": 10000.0, **rope}))


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "nonsense"}, {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1e4}}]
)
def test_a_configuration_that_cannot_run_is_refused_before_anything_is_stored(
    registry: Registry, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = pico.edit_config(pico.write_pico(tmp_path / "seed"), **changes)
    with pytest.raises(IncompatibleError, match=r"config\.json does not run .*nonsense"):
        add_seed(registry, "base", folder, license="MIT", check=attempt)
    with pytest.raises(NotFoundError):
        queries.get_seed(registry, "base")


def test_importing_the_check_does_not_import_torch() -> None:
    script = "import sys, composer.experts.dry_run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = pico.write_pico(tmp_path / "seed")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(("},
        "behavior": "Isolated",
        "invert": False,
    }
    path.write_text(json.dumps(content))
    with pytest.raises(IncompatibleError, match="tokenizer does not work"):
        check_runs(folder)


def _with_pattern(folder: Path, pattern: str) -> Path:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    path.write_text(json.dumps(content))
    return folder


def test_a_regular_expression_that_searches_without_end_is_refused_in_bounded_time(tmp_path: Path) -> None:
    folder = _with_pattern(pico.write_pico(tmp_path / "seed"), "(a+a+)+$")
    with pytest.raises(IncompatibleError, match=r"tokenizer does not work|did not run within"):
        check_runs(folder, time_limit=40)


def test_a_dry_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match=r"did not run within 0\.01 seconds; look in tokenizer\.json"):
        check_runs(pico.write_pico(tmp_path / "seed"), time_limit=0.01)


def test_a_dry_run_that_crashes_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pico.write_pico(tmp_path / "seed")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "transformers.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(IncompatibleError, match="the dry run ended with status -6"):
        check_runs(folder)


def test_a_tokenizer_that_loses_text_or_writes_ids_beyond_the_rows_is_refused(tmp_path: Path) -> None:
    lossy = pico.write_pico(tmp_path / "lossy")
    content = json.loads((lossy / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "return"}, "content": ""}
    (lossy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(IncompatibleError, match=r"the tokenizer does not work .*it reads"):
        attempt(lossy)
    short = pico.edit_config(pico.write_pico(tmp_path / "short"), vocab_size=64)
    with pytest.raises(IncompatibleError, match="but the embedding has 64 rows"):
        attempt(short)
