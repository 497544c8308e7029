"""One file and one row make a variant: the recipe, the command line's help, the form and the README show it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dummies
import pytest
import torch
from pages import field, open_page

from composer import variant_table, variants
from composer.composition import compose
from composer.errors import RecipeError
from composer.extension import extend
from composer.formats import export
from composer.formats.nexus import bundle
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from registry.checkpoints import family_table
from registry.home import Registry

ROOT = Path(__file__).parents[3]
UNTRAINED = Training(warm_start=False, tokens=0)


@pytest.fixture
def dummy_rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The rows of tests/dummies.py, in the tables for one test."""
    for table, row in dummies.rows().items():
        monkeypatch.setitem(getattr(variants, table), row.name, row)
    monkeypatch.setitem(family_table.FAMILIES, "dummy_family", dummies.dummy_family())  # type: ignore[arg-type]
    yield


def test_a_recipe_composes_extends_and_exports_with_variants_of_one_row_each(
    filled: Registry, dummy_rows: None, tmp_path: Path
) -> None:
    recipe = Recipe.parse(
        {
            "name": "team",
            "seed": "smol",
            "experts": ["law", "code"],
            "router": "dummy_router",
            "trunk_merge": "dummy_merge",
            "training": UNTRAINED,
        }
    )
    manifest = compose(filled, recipe).manifest
    assert manifest.trunk == manifest.members[1].expert.trunk
    assert (manifest.router_kind, find_mix(filled, "team")[1]) == ("dummy_router", manifest)
    extend(filled, "team", "cooking", training=UNTRAINED, license_override="a test")
    with torch.no_grad():
        logits = open_mix(filled, find_mix(filled, "team")[1]).model(input_ids=torch.tensor([[5, 6]])).logits
    assert logits.isfinite().all()
    assert (export(filled, "team", tmp_path / "out", format="dummy_format").folder / "config.json").exists()
    export(filled, "team", tmp_path / "stock", format="qwen2_moe")
    compile(bundle(), "modeling_nexus.py", "exec")
    assert '"dummy_router": DummyRouter' in bundle()


def test_the_form_offers_a_variant_with_its_title(filled: Registry, dummy_rows: None) -> None:
    app = open_page("compose", seed="smol", experts="code@1,law@1")
    field(app, "Kind of mix").set_value("merged").run()
    assert not app.exception
    assert "Dummy router" in field(app, "Router").options
    assert "Dummy merge" in field(app, "Trunk").options


@pytest.mark.parametrize(
    ("verb", "name"), [("compose", "dummy_router"), ("compose", "dummy_merge"), ("export", "dummy_format")]
)
def test_the_help_names_a_variant(verb: str, name: str) -> None:
    script = f"import dummies; dummies.install(); from ui.cli import main; main(['{verb}', '--help'])"
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": "200", "NO_COLOR": "1"}
    said = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert name in said.stdout


def test_the_table_of_the_readme_is_written_from_the_rows(dummy_rows: None) -> None:
    table = variant_table.markdown()
    for line in (
        "| router | `dummy_router` | Routes as a test asks. |  |",
        "| trunk merge | `dummy_merge` | Takes the last expert's trunk. |  |",
        "| export format | `dummy_format` | Writes a folder without tensors. |  |",
    ):
        assert line in table
    assert "`dummy_family`" in table


@pytest.mark.parametrize("name", ["README.md", "docs/COMMANDS.md"])
def test_the_documents_have_the_tables_of_today(name: str) -> None:
    document = (ROOT / name).read_text(encoding="utf-8")
    assert variant_table.rewritten(document) == document, f"run: python -m composer.variant_table {name}"


def test_the_table_lists_research_variants_apart_with_their_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    row = variants.RouterVariant(
        "late", "Late", "Routes late.", "dummy_router:DummyRouter", verdict="no gain"
    )
    monkeypatch.setitem(variants.ROUTERS, "late", row)
    proven, _, apart = variant_table.markdown().partition("Research variants")
    assert "`late`" not in proven and "| router | `late` | Routes late. | no gain |  |" in apart
    assert "| `router: late` | Routes late. | no gain |" in variant_table.research_options()
    assert "late" not in variants.ROUTERS.choices() and "late" in variants.ROUTERS.words(research=True)


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no markers"):
        variant_table.rewritten("# Title")


@pytest.mark.parametrize("field_name", ["router", "trunk_merge"])
def test_a_variant_without_a_row_is_refused_with_those_that_exist(field_name: str) -> None:
    values = {"name": "team", "seed": "smol", "experts": ["code"], field_name: "magic"}
    with pytest.raises(RecipeError, match=f"{field_name}: .*'magic'; expected one of .*(nexus|regmean)"):
        Recipe.parse(values)


def test_every_row_names_code_that_exists() -> None:
    for table in (variants.ROUTERS, variants.TRUNK_MERGES, variants.DATA_MIXES, variants.EXPORT_FORMATS):
        for name, row in table.items():
            code = row.load()
            assert row.name == name and (callable(code) or callable(code.plan))
            assert row.title and row.summary.endswith(".")
    for row in variants.ROUTERS.values():
        assert row.trainable is not row.load().fixed


def test_the_rows_are_read_without_torch_and_numpy() -> None:
    script = (
        "import sys, composer.variants; print(sorted({'torch', 'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
