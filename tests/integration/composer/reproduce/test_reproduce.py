"""`nexusmix reproduce` as a user runs it: on pico corpora, killed in the middle, resumed, its report checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pico
import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[4]
CASES = ("linear-50k", "ours-0", "ours-0+0")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a pico seed, three corpora and one of general text."""
    root = tmp_path_factory.mktemp("reproduce")
    pico.write_pico(root / "pico")
    for domain in ("code", "cooking", "law", "math"):
        pico.write_documents(root / "corpora" / domain / "train.jsonl", domain, count=120)
        pico.write_documents(root / "corpora" / domain / "test.jsonl", domain, count=20, seed=1)
    return root


def command(place, *options):
    """The command, running in a separate process."""
    script = "import sys; from ui.cli import main; sys.exit(main(sys.argv[1:]))"
    folders = [str(place / name) for name in ("pico", "corpora", "out")]
    arguments = ["--home", str(place / "home"), "reproduce", *folders, "--quick", "--newcomer", "law"]
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments, "--general", "math", "--random-seeds", "0,1", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NEXUSMIX_EMBEDDER": "hashing:16"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_resumes_and_its_report_shows_its_cells(place):
    options = ("--license", "MIT", "--cases", ",".join(CASES))
    run = command(place, *options)
    with run:
        while not (line := run.stderr.readline()).startswith("measuring 6 cells: 33"):
            assert line, "the run ended before it could be killed"
        run.kill()
    out = place / "out"
    written = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}
    assert {"baselines.json", "linear-50k~0.json", "linear-50k~1.json"} <= {path.name for path in written}
    assert not (out / "results.json").exists()

    again = command(place, *options, "--json")
    printed, errors = again.communicate()
    assert again.returncode == 0, errors
    assert {path: path.stat().st_mtime_ns for path in written} == written
    results = json.loads((out / "results.json").read_text())
    assert json.loads(printed) == results
    for case in CASES:
        found = results["cases"][case]
        cells = [json.loads((out / "cells" / f"{case}~{s}.json").read_text()) for s in (0, 1)]
        assert found["random_seeds"] == [0, 1]
        for domain in ("code", "cooking", "law", "general"):
            values = [cell["bits_per_byte"][domain] for cell in cells]
            assert found["figures"]["bits"][domain]["values"] == values
            assert found["figures"]["bits"][domain]["mean"] == pytest.approx(sum(values) / 2)
    page = (out / "index.html").read_text()
    warm = results["cases"]["ours-0"]["figures"]["old"]
    assert f"{warm['mean']:.3f} ± {warm['deviation']:.3f}" in page
    assert (out / "budgets.svg").exists()


def test_cells_of_other_settings_are_not_mixed_and_mixes_are_not_published(place):
    from registry.catalog import queries
    from registry.home import open_registry

    other = command(place, "--license", "MIT", "--max-bytes", "999")
    _, errors = other.communicate()
    assert other.returncode == 2
    assert "max_bytes was 1500, now 999" in errors
    registry = open_registry(place / "home", embedder="hashing:16")
    assert queries.list_mixes(registry) == []
    registry.engine.dispose()


def test_a_domain_that_is_not_there_is_named_with_those_that_are(place):
    run = command(place, "--newcomer", "chess")
    _, errors = run.communicate()
    assert run.returncode == 2
    assert "has no domain chess; it has code, cooking, law, math" in errors
