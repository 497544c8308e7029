"""Accounts, roles and the event log on both databases."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from publishing import add_expert, add_mix, add_seed
from sqlalchemy import select, text

from registry.access import ACTIONS, ANONYMOUS, ROLES, Actor, Role, local_actor
from registry.accounts import (
    actor_named,
    actor_of_email,
    actor_of_token,
    add_account,
    list_accounts,
    remove_account,
    renew_token,
    set_role,
)
from registry.catalog import queries
from registry.catalog.aliases import point
from registry.catalog.deletion import delete_mix, delete_seed
from registry.catalog.events import list_events
from registry.catalog.favourites import star
from registry.catalog.gc import collect
from registry.catalog.lifecycle import describe, publish_draft, purge
from registry.database.schema import Account
from registry.errors import AccessError, ConflictError, InvalidInputError, NotFoundError, StorageError
from registry.home import Registry, open_registry
from registry.intake.hub_upload import upload
from registry.queue import claims, runs

# A change of each kind, on a registry with the seeds base and spare, the expert python and the mix blend.
CHANGES: dict[str, Callable[[Registry], object]] = {
    "star": lambda registry: star(registry, "expert", "python"),
    "publish seed": lambda registry: add_seed(registry, "new"),
    "publish expert": lambda registry: add_expert(registry, "new"),
    "publish draft": lambda registry: publish_draft(registry, "python@2"),
    "describe expert": lambda registry: describe(registry, "python", tags=["x"]),
    "purge expert": lambda registry: purge(registry, "gone@1"),
    "publish mix": lambda registry: add_mix(registry, experts=["python"]),
    "push": lambda registry: upload(
        registry, registry.home, "acme/law", ref="python@1", digest="sha256:1", private=True
    ),
    "evaluate mix": lambda registry: queries.record_evaluation(registry, "blend@1", {}),
    "measure expert": lambda registry: queries.record_measurement(registry, "python", {}),
    "move alias": lambda registry: point(registry, "python@stable", "python@1"),
    "queue run": lambda registry: runs.submit(registry, "evaluate", {}),
    "cancel run": lambda registry: runs.request_cancel(registry, 1),
    "retry run": lambda registry: runs.retry(registry, 2),
    "withdraw expert": lambda registry: queries.withdraw(registry, "python", "a reason"),
    "delete mix": lambda registry: delete_mix(registry, "blend@1"),
    "delete seed": lambda registry: delete_seed(registry, "spare"),
    "collect garbage": lambda registry: collect(registry, grace=timedelta(days=-1)),
    "work on runs": lambda registry: claims.claim(registry, "worker", 60.0),
    "add user": lambda registry: add_account(registry, "bob", "reader"),
    "change user": lambda registry: renew_token(registry, "alice"),
    "remove user": lambda registry: remove_account(registry, "alice"),
}
# The run itself records its worker, and nobody else reads a person's favourites.
UNLOGGED = {"work on runs", "star"}


@pytest.fixture
def shared(any_registry: Registry) -> Registry:
    """A registry with something to change of each kind, and the account alice."""
    for name in ("base", "spare"):
        add_seed(any_registry, name)
    add_expert(any_registry)
    add_expert(any_registry, draft=True)
    add_expert(any_registry, "gone")
    queries.withdraw(any_registry, "gone", "a reason")
    add_mix(any_registry, experts=["python"])
    add_account(any_registry, "alice", "maintainer")
    for owner in ("first", "second"):
        mine = replace(any_registry, actor=Actor("visitor", "contributor"))
        run = runs.submit(mine, "evaluate", {"owner": owner})
    runs.request_cancel(any_registry, run.id)
    any_registry.blobs.put_bytes(b"garbage")
    return any_registry


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_needs_its_role_and_is_logged(
    shared: Registry, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.intake.hub_upload.retried", lambda *_: SimpleNamespace(oid="0" * 40))
    assert set(CHANGES) == set(ACTIONS)
    before = list_events(shared)
    for role in ROLES:
        visitor = replace(shared, actor=Actor("visitor", role))
        if ROLES.index(role) < ROLES.index(ACTIONS[action]):
            with pytest.raises(AccessError, match=f"visitor is a {role}.*'{action}'"):
                CHANGES[action](visitor)
            assert list_events(shared) == before
    CHANGES[action](replace(shared, actor=Actor("visitor", ACTIONS[action])))
    events = list_events(shared, limit=1)
    assert action in UNLOGGED or (events[0].actor, events[0].action) == ("visitor", action)


def test_an_event_tells_who_what_when_and_the_digest(shared: Registry) -> None:
    expert = add_expert(replace(shared, actor=Actor("bob", "contributor")), "law")
    (event,) = list_events(shared, subject="law@1")
    assert (event.actor, event.action, event.digest) == ("bob", "publish expert", expert.ffn)
    assert abs(event.at - expert.created_at) < timedelta(minutes=5)
    assert [each.subject for each in list_events(shared, actor="bob")] == ["law@1"]
    newest = list_events(shared, limit=2)
    assert list_events(shared, before=newest[0].id, limit=1) == newest[1:]


@pytest.mark.parametrize("statement", ["UPDATE events SET actor = 'nobody'", "DELETE FROM events"])
def test_the_log_cannot_be_changed(shared: Registry, statement: str) -> None:
    before = list_events(shared)
    with pytest.raises((StorageError, ConflictError), match="append-only"), shared.session() as session:
        session.execute(text(statement))
    assert list_events(shared) == before


def test_a_token_is_shown_once_and_only_its_hash_is_stored(any_registry: Registry) -> None:
    made = add_account(any_registry, "alice", "contributor", email="Alice@Example.org")
    assert actor_of_token(any_registry, made.token) == Actor("alice", "contributor")
    assert actor_of_email(any_registry, "alice@example.org") == Actor("alice", "contributor")
    with any_registry.session(read_only=True) as session:
        stored = session.scalar(select(Account.token_hash))
    assert stored is not None and made.token.split(".")[2] not in stored
    renewed = renew_token(any_registry, "ALICE").token
    for wrong in (made.token, "", "nxm.1.", "nxm.99." + "a" * 32, renewed + "a", "nxm.1.\0"):
        with pytest.raises(AccessError, match="token is wrong"):
            actor_of_token(any_registry, wrong)
    assert set_role(any_registry, "alice", "reader").role == "reader"
    assert actor_of_token(any_registry, f" {renewed}\n").role == "reader"
    remove_account(any_registry, "alice")
    for ask in (lambda: actor_of_token(any_registry, renewed), lambda: actor_named(any_registry, "alice")):
        with pytest.raises(AccessError):
            ask()
    assert list_accounts(any_registry) == []


def test_a_wrong_account_is_refused(any_registry: Registry) -> None:
    add_account(any_registry, "alice", "reader", email="a@b.c")
    for name, role, email, error in (
        ("Alice", "reader", None, ConflictError),
        ("bob", "reader", "A@b.c", ConflictError),
        ("bob", "owner", None, InvalidInputError),
        ("bob", "reader", "nobody", InvalidInputError),
        ("local:bob", "reader", None, InvalidInputError),
        ("\u0430lice", "reader", None, InvalidInputError),
    ):
        with pytest.raises(error):
            add_account(any_registry, name, role, email=email)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        remove_account(any_registry, "bob")


@pytest.mark.parametrize("role", ROLES)
def test_a_registry_opens_as_the_owner_of_the_token(
    any_registry: Registry, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = any_registry.engine.url.render_as_string(hide_password=False)
    assert any_registry.actor == local_actor()
    assert any_registry.actor.role == "maintainer"
    token = add_account(any_registry, "alice", role).token
    with open_registry(any_registry.home, database_url=url, token=token) as opened:
        assert opened.actor == Actor("alice", role)
    monkeypatch.setenv("NEXUSMIX_TOKEN", token)
    with open_registry(any_registry.home, database_url=url) as opened:
        assert opened.actor == Actor("alice", role)
    monkeypatch.setenv("NEXUSMIX_TOKEN", "nxm.1.no")
    with pytest.raises(AccessError):
        open_registry(any_registry.home, database_url=url)
    monkeypatch.delenv("NEXUSMIX_TOKEN")
    is_file = any_registry.engine.dialect.name == "sqlite"
    with open_registry(any_registry.home, database_url=url) as opened:
        assert opened.actor == (local_actor() if is_file else ANONYMOUS)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    with open_registry(any_registry.home, database_url=url) as opened:
        assert opened.actor == ANONYMOUS
        assert queries.list_seeds(opened) == []


def test_a_run_belongs_to_who_queued_it_and_only_a_maintainer_cancels_that_of_another(
    any_registry: Registry,
) -> None:
    alice, bob = (replace(any_registry, actor=Actor(name, "contributor")) for name in ("alice", "bob"))
    run = runs.submit(alice, "evaluate", {})
    assert run.actor == "alice"
    with pytest.raises(AccessError, match="queued by alice"):
        runs.request_cancel(bob, run.id)
    runs.request_cancel(alice, run.id)
    with pytest.raises(AccessError, match="queued by alice"):
        runs.retry(bob, run.id)
    runs.retry(any_registry, run.id)
