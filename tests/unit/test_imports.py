"""Imports form no circle, at the top of a module or inside a function, and respect the documented layers."""

from __future__ import annotations

import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("registry", "composer", "ui")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import of the three packages: top-level, lazy and for type checking alike."""
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def circle(graph: grimp.ImportGraph) -> list[str]:
    """The modules of an import circle, or an empty list."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circle(graph) == []


def test_a_circle_through_an_import_inside_a_function_is_found(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "circular"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from circular import two\n")
    (package / "two.py").write_text("def late():\n    from circular.one import two\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = circle(grimp.build_graph("circular", cache_dir=None))
    assert set(found) == {"circular.one", "circular.two"}


def test_the_model_code_imports_nothing_but_torch_and_transformers(graph: grimp.ImportGraph) -> None:
    # An export carries these files to a machine without nexusmix.
    imported = graph.find_upstream_modules("composer.model.modeling")
    own = {module for module in imported if module.startswith("composer.")}
    foreign = {module for module in imported - own if module not in sys.stdlib_module_names}
    assert foreign == {"torch", "transformers"}
    allowed = (
        *(
            "composer.model.routers",
            "composer.model.routed",
            "composer.model.prefix",
            "composer.model.selection",
            "composer.model.losses",
            "composer.model.initial",
        ),
        "composer.variants",
    )
    assert {module for module in own if not module.startswith(allowed)} == set()


def test_a_run_loads_no_command_line_and_a_verb_no_page() -> None:
    script = (
        "import sys, ui.queue.child, ui.queue.jobs, ui.wording.failures, ui.wording.shapes;"
        "sys.exit('typer' in sys.modules or 'ui.cli' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
    script = "import sys, ui.cli, ui.web.launch; sys.exit('streamlit' in sys.modules or 'ui.web.routes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_a_command_imports_no_other_command() -> None:
    script = (
        "import sys; from ui.cli import main; main(['search', '--help']);"
        "verbs = {m for m in sys.modules if m.startswith('ui.cli.') and not m.startswith('ui.cli.kit')};"
        "sys.exit(verbs != {'ui.cli.search'})"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True).returncode == 0
