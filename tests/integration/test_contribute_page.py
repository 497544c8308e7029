"""The contribute page: what the check finds before anything heavy, and the run that is queued."""

from __future__ import annotations

from pathlib import Path

import pico
import pytest
from pages import captions, code, field, html, open_page

from registry import runs
from registry.home import Registry
from registry.intake import add_seed


@pytest.fixture
def seeded(app_registry: Registry, pico_seed: Path) -> Registry:
    """A seed and no expert yet."""
    add_seed(app_registry, "smol", pico_seed, license="Apache-2.0")
    return app_registry


def test_without_a_seed_the_page_says_what_comes_first(app_registry: Registry) -> None:
    app = open_page("contribute")
    assert not app.exception
    assert "There is no seed yet" in html(app)


def test_a_folder_that_fits_shows_what_would_be_stored(seeded: Registry, pico_expert: Path) -> None:
    app = open_page("contribute")
    assert app.button[0].disabled
    field(app, "Folder").set_value(str(pico_expert)).run()
    assert not app.exception
    assert len(app.success) == 1
    assert "llama" in html(app) and "32.6 k" in html(app)
    assert app.button[0].disabled  # a name, a licence and the domain are still missing
    assert not list(seeded.home.glob("blobs/tmp/*"))


def test_a_folder_that_does_not_fit_shows_every_reason(seeded: Registry, tmp_path: Path) -> None:
    other = pico.write_pico(tmp_path / "other", hidden_size=64, num_hidden_layers=3)
    app = open_page("contribute")
    field(app, "Folder").set_value(str(other)).run()
    assert not app.exception
    assert "does not fit" in app.error[0].value
    assert html(app).count("<li>") >= 2
    assert app.button[0].disabled


def test_a_folder_that_is_not_there_is_an_error_on_the_page(seeded: Registry, tmp_path: Path) -> None:
    app = open_page("contribute")
    field(app, "Folder").set_value(str(tmp_path / "nowhere")).run()
    assert not app.exception
    assert len(app.error) == 1


def test_a_complete_form_queues_a_contribution(seeded: Registry, pico_expert: Path, tmp_path: Path) -> None:
    data = pico.write_documents(tmp_path / "law.jsonl", "law")
    app = open_page("contribute")
    field(app, "Folder").set_value(str(pico_expert))
    field(app, "Name").set_value("law")
    field(app, "Licence").set_value("MIT")
    field(app, "Files or folders").set_value(str(data)).run()
    assert not app.exception
    app.button[0].click().run()
    (run,) = runs.list_runs(seeded)
    assert run.kind == "contribute"
    assert run.request == {
        "name": "law",
        "license": "MIT",
        "description": "",
        "data": [str(data)],
        "seed": "smol",
        "source": str(pico_expert),
    }


def test_private_text_is_explained_and_hands_over_an_embedding_only(
    seeded: Registry, pico_expert: Path
) -> None:
    app = open_page("contribute")
    field(app, "Training text").set_value("Keep it private").run()
    assert not app.exception
    assert "Only an embedding of the text is handed over" in captions(app)
    assert code(app) == ["nexusmix embed ./private --out law.json"]
    field(app, "Folder").set_value(str(pico_expert))
    field(app, "Name").set_value("law")
    field(app, "Licence").set_value("MIT")
    field(app, "Embedding file").set_value("/data/law.json").run()
    app.button[0].click().run()
    (run,) = runs.list_runs(seeded)
    assert run.request["embedding"] == "/data/law.json"
    assert "data" not in run.request
