"""Favourites of a visitor, and pushing to the Hub from the page of an expert or a mix."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pages import button, html, links, open_page, said, toggle

from registry.access import ANONYMOUS, Actor
from registry.accounts import add_account, remove_account
from registry.catalog.favourites import star, starred, unstar
from registry.catalog.queries import count_experts
from registry.catalog.sizes import mix_bytes
from registry.errors import AccessError, NotFoundError
from registry.home import Registry
from registry.queue import runs


def test_a_favourite_is_marked_and_the_catalog_shows_only_favourites_on_request(filled: Registry) -> None:
    button(open_page("expert", ref="law@1"), "Star").click().run()
    assert starred(filled, "expert") == {"law"}
    app = open_page("catalog")
    assert html(app).count("★ favourite") == 1
    toggle(app, "Favourites only").set_value(True).run()
    assert not app.exception
    assert [link for link in links(app) if "@" in link] == ["law :gray[@1]"]
    assert app.query_params["starred"] == "yes"
    button(open_page("expert", ref="law@1"), "Unstar").click().run()
    assert "No expert matches" in html(open_page("catalog", starred="yes"))


def test_a_favourite_mix_is_marked_and_can_be_shown_alone(mixed: Registry) -> None:
    assert not open_page("mixes").toggle
    button(open_page("mix", ref="team@1"), "Star").click().run()
    app = open_page("mixes")
    assert html(app).count("★ favourite") == 1
    toggle(app, "Favourites only").set_value(True).run()
    assert not app.exception and "★ favourite" in html(app)


def test_favourites_are_each_accounts_own_and_leave_with_it(filled: Registry) -> None:
    add_account(filled, "alice", "reader")
    alice = replace(filled, actor=Actor("alice", "reader"))
    for _ in range(2):
        star(alice, "expert", "law@1")
    assert starred(filled, "expert") == frozenset()
    assert count_experts(filled, starred_by="alice") == 1
    unstar(filled, "expert", "law")
    assert starred(alice, "expert") == {"law"}
    remove_account(filled, "alice")
    assert starred(alice, "expert") == frozenset()
    with pytest.raises(NotFoundError):
        star(alice, "mix", "law")
    with pytest.raises(AccessError, match="belong to an account"):
        star(replace(filled, actor=ANONYMOUS), "expert", "law")


@pytest.mark.parametrize(("page", "kind"), [("expert", "expert"), ("mix", "mix")])
def test_a_push_is_queued_or_refused_below_its_field(mixed: Registry, page: str, kind: str) -> None:
    ref = {"expert": "law@1", "mix": "team@1"}[kind]
    for typed, reason in (("", "Enter a repository"), ("hf:acme/law@main", "without a revision")):
        app = open_page(page, ref=ref)
        app.text_input(key="push target").set_value(typed)
        button(app, "Push it").click().run()
        assert not app.exception and reason in said(app.error[0])
    assert not runs.list_runs(mixed)
    app = open_page(page, ref=ref)
    app.text_input(key="push target").set_value("acme/law")
    button(app, "Push it").click().run()
    (run,) = runs.list_runs(mixed)
    more = {"format": "nexus"} if kind == "mix" else {}
    assert (run.kind, run.request) == (
        "push",
        {kind: ref, "target": "hf:acme/law", "private": True, **more},
    )
    assert f"{ref} → hf:acme/law" in "".join(each.value for each in open_page("run", id="1").title).replace(
        "\\", ""
    )


def test_a_mix_says_what_it_adds_to_the_storage(mixed: Registry) -> None:
    own, total = mix_bytes(mixed, "team@1")
    assert 0 < own < total
    assert "of its own;" in html(open_page("mix", ref="team@1"))
