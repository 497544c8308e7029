"""States of all pages: a title of its own in the browser's tab, and ways out of an empty state by a click."""

from __future__ import annotations

from pathlib import Path

import publishing
import pytest
import streamlit
from pages import button, captions, code, html, links, open_page
from starlette.applications import Starlette
from starlette.testclient import TestClient

from registry.catalog.queries import get_mix, record_evaluation
from registry.home import Registry
from registry.queue import claims, runs
from ui.queue.jobs import execute, submit
from ui.web.frame.downloads import ROUTES
from ui.web.login import LOGIN_VARIABLE, link_to

PAGES = (
    "catalog",
    "map",
    "compose",
    "mixes",
    "workbench",
    "lens",
    "playground",
    "runs",
    "contribute",
    "seed",
)


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the browser's tab, in the order in which pages set them."""
    found: list[str] = []

    def record(page_title: str = "", **_: object) -> None:
        found.append(page_title)

    monkeypatch.setattr(streamlit, "set_page_config", record)
    return found


def test_every_page_has_its_own_title(mixed: Registry, titles: list[str]) -> None:
    for page in PAGES:
        assert not open_page(page).exception
    assert not open_page("expert", ref="law").exception
    assert not open_page("mix", ref="team@1").exception
    run = runs.submit(mixed, "evaluate", {"mix": "team@1"})
    assert not open_page("run", id=str(run.id)).exception
    assert len(set(titles)) == len(titles) == len(PAGES) + 3
    assert all(title.endswith(" · nexusmix") for title in titles)
    assert titles[-3:-1] == ["law@1 · Expert · nexusmix", "team@1 · Mix · nexusmix"]
    assert titles[-1] == f"Evaluate team@1 · run {run.id} queued · nexusmix"


@pytest.mark.parametrize("page", ["catalog", "map", "compose", "contribute"])
def test_an_empty_registry_is_left_by_a_click(app_registry: Registry, page: str) -> None:
    app = open_page(page)
    assert not app.exception and not app.code
    assert "Add a seed" in links(app)
    button(app, "Show me the demo").click().run()
    (run,) = runs.list_runs(app_registry)
    assert (run.kind, run.request) == ("demo", {})


def test_the_demo_runs_in_the_registry_of_the_page(
    app_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"seconds": 1.0, "findings": [], "report": "report.html"}
    monkeypatch.setattr("ui.demo.run.run_demo", lambda home, progress: {**made, "home": str(home)})
    result = execute(app_registry, submit(app_registry, "demo", {}), lambda *_: None)
    assert result == {"mix": "demo@2", **made}


@pytest.mark.parametrize("page", ["catalog", "map", "compose"])
def test_a_registry_without_experts_leads_to_the_form_that_contributes_one(
    app_registry: Registry, page: str
) -> None:
    publishing.add_seed(app_registry)
    app = open_page(page)
    assert not app.exception and not app.code
    assert "Contribute an expert" in links(app)


@pytest.mark.parametrize("page", ["mixes", "runs"])
def test_a_registry_without_mixes_or_runs_leads_to_composing(app_registry: Registry, page: str) -> None:
    app = open_page(page)
    assert not app.exception and not app.code
    assert "Compose a mix" in links(app)


def test_the_experts_of_the_map_are_a_list_of_links_too_when_it_is_opened(filled: Registry) -> None:
    app = open_page("map")
    assert [link.split(" ")[0] for link in links(app)] == ["Catalog"]
    app.session_state["map-as-list"] = True
    app.run()
    assert [link.split(" ")[0] for link in links(app)] == ["Catalog", "code", "cooking", "law"]


def test_the_end_of_a_run_that_was_watched_is_a_notification(app_registry: Registry) -> None:
    asked = runs.submit(app_registry, "evaluate", {"mix": "team@1"})
    app = open_page("run", id=str(asked.id))
    assert not app.toast
    claimed = claims.claim(app_registry, "tester", 600.0)
    assert claimed is not None
    claims.finish(app_registry, claimed.fence, "succeeded", result={"mix": "team@1"})
    app.run()
    assert not app.exception
    assert [toast.value.replace("\\", "") for toast in app.toast] == [
        f"Run {asked.id}, evaluate team@1: succeeded."
    ]
    assert not app.run().toast


def test_a_composition_leads_to_the_evaluation_that_follows_and_back_to_its_form(mixed: Registry) -> None:
    recipe = {"name": "team", "seed": "smol", "experts": ["code@1"]}
    runs.submit(mixed, "compose", {"recipe": recipe})
    claimed = claims.claim(mixed, "tester", 600.0)
    assert claimed is not None
    runs.submit(mixed, "evaluate", {"mix": "team@1", "against": []})
    claims.finish(mixed, claimed.fence, "succeeded", result={"mix": "team@1"})
    app = open_page("run", id=str(claimed.id))
    assert not app.exception
    assert {"Its evaluation: queued", "Compose again with changes"} <= set(links(app))


def test_a_contribution_that_failed_leads_back_to_its_filled_form(app_registry: Registry) -> None:
    request = {
        "seed": "smol",
        "source": "/m",
        "name": "law",
        "license": "MIT",
        "description": "",
        "data": ["/a"],
    }
    runs.submit(app_registry, "contribute", request)
    claimed = claims.claim(app_registry, "tester", 600.0)
    assert claimed is not None
    claims.finish(app_registry, claimed.fence, "failed", error="it is a DoRA adapter")
    app = open_page("run", id=str(claimed.id))
    (link,) = [each for each in app.get("page_link") if each.proto.label == "Change it and try again"]
    assert link.proto.query_string == "seed=smol&source=%2Fm&name=law&license=MIT&data=%2Fa"


def test_a_mix_says_its_quality_in_one_sentence(mixed: Registry) -> None:
    said = "keeps 92 % of its experts&#x27; gain over the seed"
    page = html(open_page("mix", ref="team@1"))
    assert said in page
    assert page.count('<div class="row"') == 2 and "dense merging" in page  # a bar per domain, with its marks
    record_evaluation(mixed, "team@2", get_mix(mixed, "team@1").evaluation or {})
    assert said in html(open_page("mixes"))  # a card is of the newest version
    assert "team@1 :gray[keeps 92 % of the gain]" in links(open_page("expert", ref="law@1"))
    assert "Keeps 92 % of the gain" in captions(open_page("playground", mix="team@1"))


def test_an_export_shows_its_files_and_how_to_run_them(
    mixed: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "team"
    submit(mixed, "export", {"mix": "team@1", "out": str(folder), "format": "nexus"})
    claimed = claims.claim(mixed, "tester", 600.0)
    assert claimed is not None
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(2_000))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA mix")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    claims.finish(mixed, claimed.fence, "succeeded", result={"folder": str(folder)})
    app = open_page("run", id=str(claimed.id))
    assert not app.exception
    assert code(app)[0] == str(folder)
    link = f'<a href="exported/{claimed.id}/model.safetensors" download>model.safetensors</a>'
    assert f"<dt>{link}</dt><dd>2 kB</dd>" in html(app)
    assert "A mix" in [each.value.strip() for each in app.markdown]
    client = TestClient(Starlette(routes=ROUTES))
    part = client.get(f"/exported/{claimed.id}/model.safetensors", headers={"Range": "bytes=500-"})
    assert (part.status_code, len(part.content)) == (206, 1_500)
    for name in ("secret", "..%2Fsecret", "link"):
        assert client.get(f"/exported/{claimed.id}/{name}").status_code == 404
    assert client.get("/exported/99/model.safetensors").status_code == 404
    # Streamlit's login protects its own pages only, so a link then has a key, for one file.
    monkeypatch.setenv(LOGIN_VARIABLE, "oidc")
    path = f"exported/{claimed.id}/model.safetensors"
    key = link_to(path).removeprefix(path)
    assert client.get(f"/{path}").status_code == 403
    assert client.get(f"/exported/{claimed.id}/README.md{key}").status_code == 403
    assert client.get(f"/{path}{key}").status_code == 200
    monkeypatch.delenv(LOGIN_VARIABLE)
    assert any(f'from_pretrained("{folder}"' in each.value for each in app.markdown)
    assert "team (nexus)" in links(open_page("mix", ref="team@1"))
    (folder / "model.safetensors").rename(tmp_path / "gone")
    (folder / "README.md").unlink()
    (folder / "link").unlink()
    folder.rmdir()
    assert "was moved or deleted" in captions(open_page("run", id=str(claimed.id)))
