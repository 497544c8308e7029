"""The web app's pages in Streamlit's own test harness, in each of their states."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pico
import pytest
from pages import button, captions, code, field, html, links, open_page, said, toggle
from streamlit.testing.v1 import AppTest

from registry.catalog import queries
from registry.errors import StorageError
from registry.home import Registry
from registry.queue import runs
from ui.queue.jobs import execute
from ui.web.frame import heap

APP = str(Path(__file__).parents[4] / "ui" / "web" / "frame" / "app.py")


def cards(app: AppTest) -> list[str]:
    """The names on the cards, in order."""
    return [link.split(" ")[0] for link in links(app)]


def test_the_app_opens_on_the_catalog(filled: Registry) -> None:
    app = AppTest.from_file(APP, default_timeout=30).run()
    assert not app.exception
    assert app.title[0].value == "What should your model be good at?"
    assert cards(app) == ["code", "cooking", "law"]


def test_the_app_excludes_imported_modules_from_collections_once(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = AppTest.from_file(APP, default_timeout=30).run()
    monkeypatch.setattr(heap, "_frozen_modules", 0)
    gc.unfreeze()
    app.run()
    frozen = gc.get_freeze_count()
    assert frozen > 10 * len(sys.modules)
    app.run()
    assert gc.get_freeze_count() <= frozen


def test_an_empty_registry_says_how_to_begin(app_registry: Registry) -> None:
    app = open_page("catalog")
    assert not app.exception
    assert "This registry is empty" in html(app)
    assert "Add a seed" in links(app)


def test_the_catalog_shows_every_expert_with_its_facts(filled: Registry) -> None:
    app = open_page("catalog")
    assert not app.exception
    assert cards(app) == ["code", "cooking", "law"]
    assert said(app.caption[0]) == "3 experts, sorted by name"
    assert html(app).count("⚓ anchored") == 1
    for fact in ("Speaks code.", "smol", "MIT", "32.6 k params"):
        assert fact in html(app)


def test_a_search_puts_the_nearest_expert_first_and_shows_scores(filled: Registry) -> None:
    app = open_page("catalog")
    app.text_input(key="q").set_value("plaintiff court statute verdict").run()
    assert not app.exception
    assert app.query_params["q"] == "plaintiff court statute verdict"
    assert cards(app)[0] == "law"
    assert html(app).count('class="figure"') == 3


def test_the_address_contains_the_search(filled: Registry) -> None:
    app = open_page("catalog", q="simmer garlic broth", seed="smol")
    assert cards(app)[0] == "cooking"
    assert app.text_input(key="q").value == "simmer garlic broth"


def test_a_pasted_sample_is_searched_with_and_replaces_the_query(filled: Registry) -> None:
    app = open_page("catalog", q="simmer garlic broth")
    app.text_area(key="sample").set_value(pico.domain_documents("code", 3)[0]).run()
    assert cards(app)[0] == "code"
    assert app.text_input(key="q").value == ""
    app.text_input(key="q").set_value("court verdict").run()
    assert cards(app)[0] == "law"
    assert app.text_area(key="sample").value == ""


def test_a_seed_without_experts_says_how_to_contribute_one(filled: Registry) -> None:
    app = open_page("catalog", seed="lonely")
    assert not app.exception
    assert "No experts yet" in html(app)
    (link,) = [each.proto for each in app.get("page_link") if each.proto.label == "Contribute an expert"]
    assert link.query_string == "seed=lonely"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"anchored": "yes"}, ["law"]),
        ({"size": "tiny", "license": "Apache-2.0", "q": "court verdict"}, ["law"]),
        ({"measured": "yes"}, ["code", "law"]),
        ({"license": "Nobody-1.0", "size": "enormous"}, ["code", "cooking", "law"]),
    ],
)
def test_the_address_contains_the_filters(mixed: Registry, query: dict[str, str], shown: list[str]) -> None:
    app = open_page("catalog", **query)
    assert not app.exception
    assert [link.split(" ")[0] for link in links(app)] == shown
    assert {name: app.query_params[name] for name in app.query_params} == {
        name: value for name, value in query.items() if value not in ("Nobody-1.0", "enormous")
    }


def test_filters_that_nothing_passes_are_cleared_in_one_click(filled: Registry) -> None:
    app = open_page("catalog", size="large")
    assert "No expert matches these filters" in html(app)
    button(app, "Clear the filters").click().run()
    assert not app.exception
    assert len(links(app)) == 3 and "size" not in app.query_params
    toggle(app, "Anchored only").set_value(True).run()
    assert len(links(app)) == 1 and app.query_params["anchored"] == "yes"


def test_many_experts_are_paged(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.web.pages.catalog.CARDS_PER_PAGE", 2)
    assert cards(open_page("catalog")) == ["code", "cooking"]
    assert cards(open_page("catalog", page="2")) == ["law"]


def test_the_catalog_is_sorted_as_its_address_says(filled: Registry) -> None:
    app = open_page("catalog", order="newest")
    assert cards(app) == ["cooking", "law", "code"]
    assert said(app.caption[0]) == "3 experts, newest first"
    assert app.query_params["order"] == "newest"


def test_a_hostile_card_is_inert(filled: Registry) -> None:
    for app in (open_page("catalog"), open_page("expert", ref="cooking@1")):
        assert not app.exception
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html(app)
        assert "<script" not in html(app)
        assert "\u202e" not in html(app) and "\\u202eevil" in html(app)
        assert not any("javascript:" in element.value for element in app.markdown)


def test_an_expert_shows_its_card_digests_provenance_and_neighbours(filled: Registry) -> None:
    expert = queries.get_expert(filled, "law")
    app = open_page("expert", ref="law@1")
    assert not app.exception
    assert app.title[0].value.replace("\\", "") == "law :gray[@1]"
    assert {expert.ffn, expert.trunk} <= set(code(app))
    assert "nexusmix extend MIX law@1" in code(app)
    (python,) = (block for block in code(app) if block.startswith("from composer"))
    compile(python, "snippet", "exec")
    assert 'seed="smol", experts=["law@1", "OTHER"]' in python
    assert "the seed&#x27;s own (anchored)" in html(app)
    assert "Trained tokens" in html(app) and "1,500,000" in html(app)
    assert set(cards(app)) >= {"code", "cooking"}
    assert any("plaintiff" in block for block in code(app))  # an excerpt of its text


def test_verifying_an_expert_reports_what_is_on_the_disk(filled: Registry) -> None:
    app = open_page("expert", ref="code@1")
    button(app, "Verify now").click().run()
    assert [message.value for message in app.success] == ["All stored files match their digests."]
    path = filled.blobs.path(queries.get_expert(filled, "code").ffn)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    button(app, "Verify now").click().run()
    assert not app.success
    assert len(app.error) == 1


def test_an_expert_shows_what_it_gained_and_lost_elsewhere(filled: Registry) -> None:
    app = open_page("expert", ref="law@1")
    assert "Not measured yet" in captions(app)
    button(app, "Measure it").click().run()
    (run,) = runs.list_runs(filled)
    assert (run.kind, run.request) == ("measure", {"expert": "law@1"})
    execute(filled, run, lambda *_: None)
    app = open_page("expert", ref="law@1")
    assert not app.exception
    assert "its own" in html(app) and "code@1" in html(app) and "this expert" in html(app)


def test_an_alias_is_pointed_at_the_version_that_is_open(filled: Registry) -> None:
    app = open_page("expert", ref="law@1")
    field(app, "Alias").set_value("stable").run()
    button(app, "Set alias").click().run()
    assert not app.exception
    assert "law@stable" in html(app) and "→ law@1" in html(app)
    assert open_page("expert", ref="law@stable").title[0].value.replace("\\", "") == "law :gray[@1]"


def test_a_withdrawn_expert_says_why_and_offers_no_command(filled: Registry) -> None:
    queries.withdraw(filled, "law@1", "the text had to be *deleted*")
    app = open_page("expert", ref="law@1")
    assert not app.exception
    assert "the text had to be \\*deleted\\*" in app.warning[0].value
    assert not any(command.startswith("nexusmix") for command in code(app))


def test_an_unknown_expert_and_none_at_all_have_their_own_states(filled: Registry) -> None:
    unknown = open_page("expert", ref="nobody@7")
    assert not unknown.exception
    assert "Not found" in html(unknown) and "nobody@7" in html(unknown)
    assert "No expert chosen" in html(open_page("expert"))


def test_a_registry_that_fails_is_an_error_on_the_page(
    app_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Registry:
        raise StorageError("the database is newer than this program: \x1b[2J")

    monkeypatch.setattr("ui.web.session.open_registry", refuse)
    app = open_page("catalog")
    assert not app.exception
    assert len(app.error) == 1
    assert code(app) == ["the database is newer than this program: \\x1b[2J"]


def linked() -> None:
    """Link to each page twice: by its address alone, and through the frame of the app."""
    import streamlit as st

    from ui.web import routes

    def render() -> None:
        """Show the page."""

    for name in (
        "catalog",
        "domain_map",
        "expert",
        "compose",
        "mixes",
        "mix",
        "playground",
        "runs",
        "run",
        "contribute",
    ):
        st.page_link(getattr(routes, name)(), label=name)
        st.page_link(getattr(routes, name)(render), label=name)


def test_a_link_by_an_address_alone_leads_to_the_page_that_the_frame_renders() -> None:
    found = [element.proto for element in AppTest.from_function(linked).run().get("page_link")]
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert len(pairs) == 10
    for bare, real in pairs:
        assert (bare.page, bare.page_script_hash) == (real.page, real.page_script_hash)
