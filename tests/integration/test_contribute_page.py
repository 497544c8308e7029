"""The contribute page: what the check finds before anything heavy, and the run that is queued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pico
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from registry import runs
from registry.home import Registry, open_registry
from registry.intake import add_seed


@pytest.fixture(autouse=True)
def _fresh_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test's app opens its own registry, with the offline embedder."""
    monkeypatch.setenv("NEXUSMIX_EMBEDDER", "hashing:64")
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def seeded(pico_seed: Path) -> Iterator[Registry]:
    registry = open_registry()
    add_seed(registry, "smol", pico_seed, license="Apache-2.0")
    yield registry
    registry.engine.dispose()


def open_contribute() -> AppTest:
    def page() -> None:
        from ui.pages import contribute

        contribute.render()

    return AppTest.from_function(page, default_timeout=30).run()


def html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def field(app: AppTest, label: str) -> Any:
    fields = [*app.text_input, *app.text_area, *app.selectbox, *app.segmented_control]
    return next(field for field in fields if field.label.startswith(label))


def test_without_a_seed_the_page_says_what_comes_first() -> None:
    app = open_contribute()
    assert not app.exception
    assert "There is no seed yet" in html(app)


def test_a_folder_that_fits_shows_what_would_be_stored(seeded: Registry, pico_expert: Path) -> None:
    app = open_contribute()
    assert app.button[0].disabled
    field(app, "Folder").set_value(str(pico_expert)).run()
    assert not app.exception
    assert len(app.success) == 1
    assert "llama" in html(app) and "32.6 k" in html(app)
    assert app.button[0].disabled  # a name, a licence and the domain are still missing
    assert not list(seeded.home.glob("blobs/tmp/*"))


def test_a_folder_that_does_not_fit_shows_every_reason(seeded: Registry, tmp_path: Path) -> None:
    other = pico.write_pico(tmp_path / "other", hidden_size=64, num_hidden_layers=3)
    app = open_contribute()
    field(app, "Folder").set_value(str(other)).run()
    assert not app.exception
    assert "does not fit" in app.error[0].value
    assert html(app).count("<li>") >= 2
    assert app.button[0].disabled


def test_a_folder_that_is_not_there_is_an_error_on_the_page(seeded: Registry, tmp_path: Path) -> None:
    app = open_contribute()
    field(app, "Folder").set_value(str(tmp_path / "nowhere")).run()
    assert not app.exception
    assert len(app.error) == 1


def test_a_complete_form_queues_a_contribution(seeded: Registry, pico_expert: Path, tmp_path: Path) -> None:
    data = pico.write_documents(tmp_path / "law.jsonl", "law")
    app = open_contribute()
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
    app = open_contribute()
    field(app, "Training text").set_value("Keep it private").run()
    assert not app.exception
    assert any("Only an embedding of the text is handed over" in caption.value for caption in app.caption)
    assert [block.value for block in app.code] == ["nexusmix embed ./private --out law.json"]
    field(app, "Folder").set_value(str(pico_expert))
    field(app, "Name").set_value("law")
    field(app, "Licence").set_value("MIT")
    field(app, "Embedding file").set_value("/data/law.json").run()
    app.button[0].click().run()
    (run,) = runs.list_runs(seeded)
    assert run.request["embedding"] == "/data/law.json"
    assert "data" not in run.request
