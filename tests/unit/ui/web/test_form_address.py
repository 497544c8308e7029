"""The address of a filled form: what a run was asked for, as the form that queued it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from composer.mix.recipe import Recipe
from registry.records import RunRecord
from ui.web.run_words import form_of, waiting


def make_run(kind: str, request: dict[str, Any], **changes: Any) -> RunRecord:
    """A failed run."""
    now = datetime.now(UTC)
    empty = dict.fromkeys(
        ("actor", "worker", "lease_until", "heartbeat_at", "stage", "stage_started_at", "published")
    )
    fields: dict[str, Any] = {
        **empty,
        **dict.fromkeys(("attempt", "token", "done", "total"), 0),
        **dict.fromkeys(("result", "error", "started_at", "finished_at")),
        "id": 7,
        "kind": kind,
        "request": request,
        "state": "failed",
        "max_attempts": 3,
        "cancel_requested": False,
        "log": "",
        "created_at": now,
    }
    return RunRecord(**(fields | changes))


def test_a_contribution_leads_back_to_its_form() -> None:
    request = {"seed": "smol", "source": "/m", "name": "law", "license": "MIT", "description": "A & B"}
    shared = make_run("contribute", {**request, "data": ["/a", "/b"], "roots": {}})
    assert form_of(shared) == {**request, "data": "/a\n/b"}
    private = make_run("contribute", {**request, "embedding": "/e.json"})
    assert form_of(private) == {**request, "embedding": "/e.json", "text": "private"}


def test_a_composition_leads_back_to_its_form() -> None:
    whole = Recipe(name="team", seed="smol", experts=["a@1", "b@1"])
    shown = form_of(make_run("compose", {"recipe": whole.model_dump(mode="json")}))
    assert shown == {"seed": "smol", "experts": "a@1,b@1", "name": "team", "kind": "whole", "strength": "yes"}
    merged = Recipe.parse(
        {
            "name": "team",
            "seed": "smol",
            "experts": ["a@1"],
            "router": "recurrent",
            "top_k": 1,
            "trunk_merge": "mean",
            "training": {"tokens": 10_000, "train": "ffn"},
        }
    )
    shown = form_of(make_run("compose", {"recipe": merged.model_dump(mode="json")}))
    assert shown["kind"] == "merged" and shown["trunk_merge"] == "mean"
    assert (shown["research_router"], shown["tokens"], shown["train"]) == ("recurrent", "10000", "ffn")
    assert "router" not in shown


def test_other_kinds_have_no_form() -> None:
    assert form_of(make_run("evaluate", {"mix": "team@1"})) == {}


def test_a_queued_run_says_what_it_waits_for() -> None:
    run = make_run("evaluate", {}, state="queued")
    others = [replace(run, id=3, state="running"), replace(run, id=5), replace(run, id=6), replace(run, id=9)]
    assert waiting(run, [run]) == "Waiting for a worker"
    assert waiting(run, [*others[1:], run]) == "Waiting for a worker, 2 queued before it"
    assert waiting(run, [*others, run]) == "Waiting for run 3, and for 2 queued before it"
    assert waiting(run, [others[0], run]) == "Waiting for run 3"
