"""Uploads on forms: stored in a private place, read by the run alone, and removed after it."""

from __future__ import annotations

import io
import os
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pico
import pytest
from pages import button, captions, field, open_page, said
from streamlit.testing.v1 import AppTest

from registry.access import Actor
from registry.catalog import queries
from registry.domains.embedding import embed_domain, load_embedder, save_embedding
from registry.errors import AccessError, InvalidInputError
from registry.home import Registry
from registry.intake.intake import add_seed
from registry.queue import runs
from ui.queue import uploads
from ui.queue.jobs import execute


@pytest.fixture
def seeded(app_registry: Registry, pico_seed: Path) -> Registry:
    """A registry with a seed, behind an app that may read no folder."""
    add_seed(app_registry, "smol", pico_seed, license="Apache-2.0")
    os.environ["NEXUSMIX_IMPORT_ROOTS"] = ""
    return app_registry


def packed(folder: Path, inside: str = "expert/") -> bytes:
    """A zip file of a folder's files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__MACOSX/._config.json", "x")
        for path in folder.iterdir():
            archive.write(path, f"{inside}{path.name}")
    return buffer.getvalue()


def upload(app: AppTest, key: str, *files: tuple[str, bytes]) -> AppTest:
    """Upload files in the field with this key."""
    uploader = next(each for each in app.file_uploader if key in str(each.key))
    given = [(name, content, "application/octet-stream") for name, content in files]
    return uploader.set_value(given if uploader.accept_multiple_files else given[0]).run()


def folders(registry: Registry) -> list[Path]:
    """The folders of uploads."""
    return list((registry.home / "work").glob("upload-*/"))


def test_weights_and_an_embedding_are_uploaded_contributed_and_removed(
    seeded: Registry, pico_expert: Path, tmp_path: Path
) -> None:
    embedding, _chunks = embed_domain(load_embedder(seeded.embedder), pico.domain_documents("law"))
    save_embedding(tmp_path / "law.json", embedding)
    app = open_page("contribute", name="law", license="MIT", text="private")
    upload(app, "weights", ("expert.zip", packed(pico_expert)))
    assert not app.exception and len(app.success) == 1
    assert "config.json" in captions(app)
    upload(app, "embedding", ("law.json", (tmp_path / "law.json").read_bytes()))
    assert not app.exception and not app.error
    assert [folder.stat().st_mode & 0o777 for folder in folders(seeded)] == [0o700, 0o700]
    button(app, "Contribute").click().run()
    (run,) = runs.list_runs(seeded)
    uploads.clean(seeded, -1.0)  # a run needs them
    assert execute(seeded, run, lambda *_: None)["expert"] == "law@1"
    assert queries.get_expert(seeded, "law@1").sample is None
    assert folders(seeded) == []


def test_uploaded_text_is_the_domain_and_an_upload_can_be_removed(
    seeded: Registry, pico_expert: Path
) -> None:
    app = open_page("contribute", name="law", license="MIT")
    upload(app, "weights", *[(path.name, path.read_bytes()) for path in pico_expert.iterdir()])
    upload(app, "text", ("law.txt", "\n".join(pico.domain_documents("law")).encode()))
    assert "Still needed" not in captions(app)
    app.button(key="remove contribute text").click().run()
    assert "Still needed: its domain." in captions(app) and len(folders(seeded)) == 1


def test_an_upload_of_another_visitor_cannot_be_read(seeded: Registry, pico_expert: Path) -> None:
    files = [(path.name, path.read_bytes()) for path in pico_expert.iterdir()]
    other = uploads.keep(seeded, files)
    app = open_page("contribute")
    field(app, "Folder").set_value(str(other)).run()
    assert "not allowed to read any folder" in "\n".join(each.value for each in app.code)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("a.json", b"1"), ("a.json", b"2")], "two files"),
        ([("-rf.json", b"1")], "name"),
        ([("x.zip", b"no zip")], "zip"),
        ([("x.json", b"0" * 50), ("y.json", b"0" * 51)], "more than 100 B"),
    ],
)
def test_names_and_sizes_that_are_refused_leave_nothing(
    seeded: Registry, files: list[tuple[str, bytes]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 100)
    app = upload(open_page("contribute"), "weights", *files)
    assert not app.exception and reason in said(app.error[0])
    assert folders(seeded) == []


def test_a_zip_file_is_unpacked_only_up_to_the_limit_and_from_one_folder(
    seeded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", b"0" * 10_000)
    monkeypatch.setattr(uploads, "MOST_BYTES", 1_000)
    with pytest.raises(InvalidInputError, match="more than"):
        uploads.keep(seeded, [("big.zip", buffer.getvalue())])
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/x", b"")
        archive.writestr("b/y", b"")
    with pytest.raises(InvalidInputError, match="2 folders"):
        uploads.keep(seeded, [("two.zip", buffer.getvalue())])
    assert folders(seeded) == []


def test_the_place_is_bounded_and_forgotten_uploads_make_room(
    seeded: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_KEPT", 10)
    old = uploads.keep(seeded, [("a", b"12345678")])
    with pytest.raises(InvalidInputError, match="wait for a run"):
        uploads.keep(seeded, [("b", b"12345678")])
    day_before = time.time() - uploads.KEPT_SECONDS - 1
    os.utime(old, (day_before, day_before))
    assert folders(seeded) == [old]
    uploads.keep(seeded, [("b", b"12345678")])
    assert old not in folders(seeded)


def test_who_may_not_queue_runs_may_not_upload(seeded: Registry) -> None:
    with pytest.raises(AccessError):
        uploads.keep(replace(seeded, actor=Actor("visitor", "reader")), [("a", b"1")])


RECIPE = """
name: pasted
seed: smol
experts: [law, code]
trunk_merge: mean
top_k: 2
training: {tokens: 30000, batch_tokens: 4096}
"""


def test_a_pasted_recipe_fills_the_form(filled: Registry) -> None:
    app = open_page("compose", experts="code@1", name="before", router="linear", kind="merged")
    app.text_area(key="recipe text").set_value(RECIPE).run()
    button(app, "Fill the form with it").click().run()
    assert not app.exception and not app.error
    assert app.multiselect[0].value == ["law@1", "code@1"]
    assert field(app, "Name").value == "pasted"
    assert "--top-k 2" in app.code[0].value and "--tokens 30000" in app.code[0].value
    assert "linear" not in app.code[0].value
    assert app.query_params["name"] == "pasted"


def test_an_uploaded_recipe_is_composed_as_it_is(filled: Registry) -> None:
    app = upload(open_page("compose"), "recipe file", ("team.yaml", RECIPE.encode()))
    button(app, "Compose it as it is").click().run()
    (run,) = runs.list_runs(filled)
    assert run.request["recipe"]["experts"] == ["law@1", "code@1"]
    assert run.request["recipe"]["training"]["batch_tokens"] == 4096


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Paste a recipe"),
        ("- a", "expected a mapping"),
        ("name: [", "cannot read the recipe"),
        ("{name: x, seed: smol, experts: [nobody]}", "nobody"),
        ("{name: x, seed: smol, experts: [code], topk: 2}", "topk"),
        ("{name: x, seed: smol, experts: [code, cooking]}", "license_override"),
    ],
)
def test_a_recipe_that_is_refused_says_why_below_its_field(filled: Registry, text: str, reason: str) -> None:
    app = open_page("compose")
    app.text_area(key="recipe text").set_value(text).run()
    button(app, "Compose it as it is").click().run()
    assert not app.exception and reason in said(app.error[0])
    assert not runs.list_runs(filled)
