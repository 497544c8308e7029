"""Pushing to the Hugging Face Hub: a stand-in receives an expert and a mix, which are contributed and opened again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pico
import pytest
from hub_stand_in import COMMIT, StandIn, busy, fine, say
from typer.testing import CliRunner

from composer.composition import compose
from composer.experts.contribution import contribute
from composer.formats.push import push
from composer.mix.recipe import Recipe
from registry.catalog.events import list_events
from registry.catalog.lifecycle import describe
from registry.errors import HubError, InvalidInputError, NotFoundError
from registry.home import Registry
from registry.intake import hub
from registry.intake.intake import add_seed
from ui.cli import app
from ui.queue.jobs import execute, submit


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An empty hub; nothing waits."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub, "_wait", lambda _seconds: None)
    with StandIn({}, uploads=tmp_path / "uploads") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
        yield server


def mix_of_code(name: str) -> Recipe:
    """The recipe of a mix of the expert code, without training."""
    training = {"warm_start": False, "tokens": 0}
    return Recipe.parse(
        {"name": name, "seed": "pico", "experts": ["code"], "trunk_merge": "mean", "training": training}
    )


@pytest.fixture
def stocked(registry: Registry, pico_seed: Path, pico_expert: Path, tmp_path: Path) -> Registry:
    """A registry with the seed pico, the expert code@1, and the mix team@1 of it."""
    add_seed(registry, "pico", pico_seed, license="Apache-2.0")
    data = [pico.write_documents(tmp_path / "code.jsonl", "code")]
    contribute(
        registry, "code", pico_expert, seed="pico", license="MIT", data=data, description="Writes code."
    )
    compose(registry, mix_of_code("team"))
    return registry


def test_an_expert_from_the_hub_has_the_digests_that_it_was_pushed_with(
    stocked: Registry, served: StandIn, tmp_path: Path
) -> None:
    expert = describe(stocked, "code", tags=["python"], readme="# How it was made")
    pushed = push(stocked, "code", "hf:acme/code", private=True)
    assert (pushed.ref, pushed.repository, pushed.commit) == ("code@1", "acme/code", COMMIT)
    assert served.private == {"acme/code": True}
    folder = served.repositories["acme/code"]
    card = (folder / "README.md").read_text()
    assert (
        "license: mit" in card
        and "- python" in card
        and "Writes code." in card
        and "# How it was made" in card
    )
    assert json.loads((folder / "nexusmix.json").read_text())["ffn"] == expert.ffn
    data = [tmp_path / "code.jsonl"]
    again = contribute(stocked, "again", "hf:acme/code", seed="pico", license="MIT", data=data)
    assert (again.ffn, again.trunk) == (expert.ffn, expert.trunk)
    (event,) = [each for each in list_events(stocked) if each.action == "push"]
    assert (event.subject, event.digest, event.detail) == (
        "code@1",
        expert.ffn,
        {"to": f"hf:acme/code@{COMMIT}"},
    )


def test_a_mix_is_pushed_with_its_lock(stocked: Registry, served: StandIn) -> None:
    done = CliRunner().invoke(app, ["--home", str(stocked.home), "push", "team", "hf:acme/team", "--json"])
    assert done.exit_code == 0, done.output
    folder = served.repositories["acme/team"]
    assert {"README.md", "config.json", "nexusmix.json", "nexusmix.lock.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert not list((stocked.home / "work").glob("push-*"))


def test_a_busy_hub_is_asked_again_and_a_refusal_is_reported(stocked: Registry, served: StandIn) -> None:
    served.faults = [busy]
    push(stocked, "code", "hf:acme/code")
    served.faults = [
        fine,
        *[lambda handler: say(handler, 403, {"Content-Type": "application/json"}, b"{}")] * 3,
    ]
    with pytest.raises(HubError, match="403"):
        push(stocked, "code", "hf:acme/code")


@pytest.mark.parametrize("target", ["acme/code", "hf:code", "hf:acme/code@v1", "hf:../x", "hf:"])
def test_a_target_that_is_no_repository_is_refused_before_anything_is_sent(
    stocked: Registry, served: StandIn, target: str
) -> None:
    with pytest.raises(InvalidInputError, match="hf:owner/name"):
        push(stocked, "code", target)
    with pytest.raises(NotFoundError):
        push(stocked, "nobody", "hf:acme/x")
    assert served.requests == []


def test_a_queued_push_uploads_the_kind_that_was_asked_for(served: StandIn, stocked: Registry) -> None:
    compose(stocked, mix_of_code("code"))
    for kind in ("mix", "expert"):
        run = submit(stocked, "push", {kind: "code@1", "target": f"hf:acme/{kind}"})
        pushed = execute(stocked, run, lambda *_: None)
        assert pushed == {"ref": "code@1", "repository": f"acme/{kind}", "commit": COMMIT}
    digests = [event.digest for event in list_events(stocked) if event.action == "push"]
    assert len(set(digests)) == 2
