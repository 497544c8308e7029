"""The front door: several needs at once, each with an answer, and a mix of the experts that fit."""

from __future__ import annotations

import json

import pico
import pytest
from pages import html, links, open_page

from registry.home import Registry

CODE, LAW = "def import class return", "plaintiff court statute verdict"


@pytest.fixture
def low_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds of a match that the hashing embedder can reach."""
    monkeypatch.setattr("ui.query.STRONG_REQUEST", 0.12)
    monkeypatch.setattr("ui.query.CLOSE_REQUEST", 0.1)


def test_each_of_several_needs_has_its_expert_and_both_are_one_click_from_a_mix(
    filled: Registry, low_bar: None
) -> None:
    app = open_page("catalog", q=f"{CODE}; {LAW}")
    assert not app.exception
    assert [link.split(" ")[0] for link in links(app)[:2]] == ["code", "law"]
    assert html(app).count("nm-passage") == 2  # the text that matched
    (offer,) = [each.proto for each in app.get("page_link") if "Compose these 2" in each.proto.label]
    assert offer.query_string == "seed=smol&experts=code%401%2Claw%401"
    assert "of new storage" in html(app)


def test_a_need_that_nothing_fits_says_so(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.query.STRONG_REQUEST", 2.0)
    monkeypatch.setattr("ui.query.CLOSE_REQUEST", 2.0)
    app = open_page("catalog", q="quantum chromodynamics; zebra <b>fish")
    assert not app.exception
    assert html(app).count("Nothing here fits") == 2
    assert "zebra &lt;b&gt;fish" in html(app)
    assert not any("Compose" in link for link in links(app))


def test_one_need_shows_the_passage_and_words_for_its_closeness(filled: Registry) -> None:
    app = open_page("catalog", q=LAW)
    assert "nm-passage" in html(app)
    assert {"strong match", "some match", "no match"} & set(html(app).replace("<", ">").split(">"))


def test_needs_are_stars_on_the_map(filled: Registry) -> None:
    app = open_page("map", q=f"{pico.domain_documents('law', 1)[0][:60]}; <i>code")
    assert not app.exception
    (chart,) = app.get("plotly_chart")
    stars = json.loads(chart.proto.spec)["data"][-1]
    assert stars["marker"]["symbol"] == "star" and len(stars["text"]) == 2
    assert "&lt;i&gt;code" in stars["text"][1]
