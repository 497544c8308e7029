"""The contribute page: the results of the check before any expensive work, and the queued run."""

from __future__ import annotations

import json
from pathlib import Path

import pico
import pytest
from pages import button, captions, code, field, html, open_page, said

from registry.catalog import queries
from registry.domains.documents import load_documents
from registry.domains.embedding import embed_domain, load_embedder, save_embedding
from registry.errors import InvalidInputError
from registry.home import Registry
from registry.intake.intake import add_seed
from registry.queue import runs
from ui.queue.jobs import execute, submit
from ui.queue.roots import Roots
from ui.web import card_fields


@pytest.fixture
def seeded(app_registry: Registry, pico_seed: Path) -> Registry:
    """A registry with a seed and no expert."""
    add_seed(app_registry, "smol", pico_seed, license="Apache-2.0")
    return app_registry


def test_without_a_seed_the_page_says_what_comes_first(app_registry: Registry) -> None:
    app = open_page("contribute")
    assert not app.exception
    assert "No seeds yet" in html(app)


def test_a_folder_that_fits_shows_what_would_be_stored(seeded: Registry, pico_expert: Path) -> None:
    app = open_page("contribute")
    field(app, "Folder").set_value(str(pico_expert)).run()
    assert not app.exception
    assert len(app.success) == 1
    assert "llama" in html(app) and "32.6 k" in html(app)
    assert "Still needed: a name, a licence, its domain." in captions(app)
    app.button[0].click().run()
    assert "Still needed" in app.error[0].value and not runs.list_runs(seeded)
    assert not list(seeded.home.glob("blobs/tmp/*"))


def test_a_folder_that_does_not_fit_shows_every_reason(seeded: Registry, tmp_path: Path) -> None:
    other = pico.write_pico(tmp_path / "other", hidden_size=64, num_hidden_layers=3)
    app = open_page("contribute")
    field(app, "Folder").set_value(str(other)).run()
    assert not app.exception
    assert "does not fit" in app.error[0].value
    assert html(app).count("<li>") >= 2
    assert "Still needed: weights that fit" in captions(app)


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
    assert run.request.pop("roots")
    assert run.request == {
        "name": "law",
        "license": "MIT",
        "description": "",
        "data": [str(data)],
        "seed": "smol",
        "source": str(pico_expert),
    }


def test_a_table_has_a_field_for_its_column_which_the_run_reads(
    seeded: Registry, pico_expert: Path, tmp_path: Path
) -> None:
    table = tmp_path / "law.csv"
    rows = [f'{number},"{text}"' for number, text in enumerate(pico.domain_documents("law"))]
    table.write_text("\n".join(["number,body", *rows]))
    app = open_page("contribute")
    field(app, "Folder").set_value(str(pico_expert))
    field(app, "Name").set_value("law")
    field(app, "Licence").set_value("MIT")
    field(app, "Files or folders").set_value(str(table)).run()
    field(app, "Column of the text").set_value("body").run()
    app.button[0].click().run()
    (run,) = runs.list_runs(seeded)
    assert run.request["text_column"] == "body"
    executed = execute(seeded, run, lambda *_: None)
    sample = queries.get_expert(seeded, executed["expert"]).sample
    assert set(load_documents(seeded.blobs, sample)) <= set(pico.domain_documents("law"))


def test_private_text_is_explained_and_hands_over_an_embedding_only(
    seeded: Registry, pico_expert: Path, tmp_path: Path
) -> None:
    embedded = tmp_path / "law.json"
    save_embedding(embedded, embed_domain(load_embedder("hashing:64"), pico.domain_documents("law", 4))[0])
    app = open_page("contribute")
    field(app, "Training text").set_value("private").run()
    assert not app.exception
    assert "Only an embedding of the text is contributed" in captions(app)
    assert code(app) == ["nexusmix embed ./private --seed smol --out law.json"]
    field(app, "Folder").set_value(str(pico_expert))
    field(app, "Name").set_value("law")
    field(app, "Licence").set_value("MIT")
    field(app, "Embedding file").set_value(str(embedded)).run()
    app.button[0].click().run()
    (run,) = runs.list_runs(seeded)
    assert run.request["embedding"] == str(embedded)
    assert "data" not in run.request


def test_bad_fields_are_refused_under_themselves_and_take_nothing_away(
    seeded: Registry, pico_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(card_fields.LICENSES, "Apache-9", "")  # the test harness cannot type a new option
    app = open_page("contribute")
    field(app, "Folder").set_value(str(pico_expert))
    field(app, "Name").set_value("../up")
    field(app, "Licence").set_value("Apache-9")
    field(app, "Description").set_value("Speaks law.")
    field(app, "Files or folders").set_value(f"{tmp_path}\n{tmp_path / 'nowhere'}").run()
    assert not app.exception
    assert len(app.error) == 3
    assert "../up" in said(app.error[0]) and "Apache-9" in said(app.error[1])
    assert "nowhere" in said(app.error[2])
    assert len(app.success) == 1 and "Still needed: a name, a licence, its domain." in captions(app)
    field(app, "Name").set_value("law").run()
    assert len(app.error) == 2
    assert field(app, "Description").value == "Speaks law."
    assert field(app, "Licence").value == "Apache-9"
    field(app, "Training text").set_value("private").run()
    field(app, "Embedding file").set_value(str(tmp_path / "none.json")).run()
    assert "none.json" in said(app.error[-1]) and not app.exception


@pytest.mark.parametrize("outside", ["/proc/self/environ", "/etc/passwd", "/sys/kernel", "link"])
def test_paths_outside_the_roots_are_refused_before_anything_is_read_or_queued(
    outside: str, seeded: Registry, pico_expert: Path, tmp_path: Path
) -> None:
    if outside == "link":
        (tmp_path / "link").symlink_to("/etc/passwd")
        outside = str(tmp_path / "link")
    app = open_page("contribute")
    field(app, "Name").set_value("law")
    field(app, "Licence").set_value("MIT")
    field(app, "Folder").set_value(outside)
    field(app, "Files or folders").set_value(outside).run()
    assert not app.exception
    assert sum(code(app)[0].count(word) for word in ("--import-root", "a system folder that")) == 1
    field(app, "Folder").set_value(str(pico_expert)).run()
    assert any(word in said(app.error[0]) for word in ("--import-root", "a system folder that"))
    app.button[0].click().run()
    field(app, "Training text").set_value("private").run()
    field(app, "Embedding file").set_value(outside).run()
    assert any(word in said(app.error[0]) for word in ("--import-root", "a system folder that"))
    app.button[0].click().run()
    assert not runs.list_runs(seeded)


def test_a_run_of_the_web_app_is_bound_to_its_roots_by_the_worker_too(
    seeded: Registry, pico_expert: Path, tmp_path: Path
) -> None:
    roots = Roots(imports=(tmp_path, pico_expert.parent))
    secret = tmp_path.parent / "secret.txt"
    secret.write_text("never to be read")
    text = pico.write_documents(tmp_path / "law.jsonl", "law")
    request = {
        "name": "law",
        "license": "MIT",
        "seed": "smol",
        "source": str(pico_expert),
        "data": [str(text)],
    }
    with pytest.raises(InvalidInputError, match="--import-root"):
        submit(seeded, "contribute", {**request, "data": [str(secret)]}, roots=roots)
    with pytest.raises(InvalidInputError, match="--import-root"):
        submit(seeded, "contribute", {**request, "source": "/etc"}, roots=roots)
    run = submit(seeded, "contribute", request, roots=roots)
    text.unlink()
    text.symlink_to(secret)
    with pytest.raises(InvalidInputError, match="--import-root"):
        execute(seeded, run, lambda *_: None)
    text.unlink()
    pico.write_documents(text, "law")
    assert execute(seeded, run, lambda *_: None)["expert"] == "law@1"


def test_the_address_follows_the_form_and_opens_it_again_as_it_was(seeded: Registry, tmp_path: Path) -> None:
    app = open_page("contribute")
    field(app, "Folder").set_value("/nowhere")
    field(app, "Name").set_value("../up")
    field(app, "Licence").set_value("MIT")
    field(app, "Description").set_value("Speaks\nlaw.")
    field(app, "Files or folders").set_value(f"{tmp_path}\n/none").run()
    address = dict(app.query_params)
    assert address == {
        "seed": "smol",
        "source": "/nowhere",
        "name": "../up",
        "license": "MIT",
        "description": "Speaks\nlaw.",
        "data": f"{tmp_path}\n/none",
    }
    again = open_page("contribute", **address)
    assert not again.exception
    names = ("Folder", "Name", "Licence", "Description", "Files or folders")
    assert [field(again, name).value for name in names] == [field(app, name).value for name in names]


def test_a_late_address_of_the_same_visit_changes_no_field(seeded: Registry) -> None:
    app = open_page("contribute", name="../up", license="MIT")
    late = dict(app.query_params)
    field(app, "Name").set_value("up").run()
    app.query_params.clear()
    app.query_params.update(late)  # the browser clicked before the new address reached it
    field(app, "Description").set_value("Speaks law.").run()
    assert field(app, "Name").value == "up"
    assert app.query_params["name"] == "up"
    app.query_params["name"] = "sea"  # a person edits the address
    app.run()
    assert (field(app, "Name").value, field(app, "Licence").value) == ("sea", "MIT")


def test_the_text_is_kept_while_the_other_kind_of_domain_is_looked_at(
    seeded: Registry, tmp_path: Path
) -> None:
    app = open_page("contribute")
    field(app, "Files or folders").set_value(str(tmp_path)).run()
    field(app, "Training text").set_value("private").run()
    field(app, "Training text").set_value("shared").run()
    assert field(app, "Files or folders").value == str(tmp_path)


def test_an_untouched_copy_of_the_seed_does_not_fit(seeded: Registry, pico_seed: Path) -> None:
    app = open_page("contribute", source=str(pico_seed))
    assert not app.exception and not app.success
    assert "does not fit" in app.error[0].value and "equal" in html(app)


def test_an_adapter_that_is_more_than_a_low_rank_sum_is_refused_on_the_page(
    seeded: Registry, tmp_path: Path
) -> None:
    refused = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "layer_replication": [[0, 1]]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(refused))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    app = open_page("contribute", source=str(tmp_path))
    assert not app.exception and not app.success and not app.info
    assert "it repeats blocks of the seed" in html(app)


def test_a_seed_is_added_from_the_page(app_registry: Registry, pico_seed: Path) -> None:
    app = open_page("seed")
    assert not app.exception
    field(app, "Folder").set_value(str(pico_seed)).run()
    assert len(app.success) == 1
    button(app, "Add the seed").click().run()
    assert "Still needed: a name, a licence." in said(app.error[0])
    field(app, "Name").set_value("smol")
    field(app, "Licence").set_value("MIT").run()
    button(app, "Add the seed").click().run()
    (run,) = runs.list_runs(app_registry)
    assert (run.kind, run.request["name"]) == ("add-seed", "smol")
    assert execute(app_registry, run, lambda *_: None)["seed"] == "smol"
    taken = open_page("seed", name="smol")
    assert "exists already" in said(taken.error[0]) and field(taken, "Name").value == "smol"


def test_a_folder_that_is_no_model_cannot_be_a_seed(app_registry: Registry, tmp_path: Path) -> None:
    app = open_page("seed", source=str(tmp_path))
    assert not app.exception and not app.success
    assert "cannot be a seed" in app.error[0].value
