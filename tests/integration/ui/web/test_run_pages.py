"""The pages of the queue and of one run, in each state that a run can be in."""

from __future__ import annotations

import pytest
import yaml
from pages import captions, code, html, links, open_page

from composer.mix.recipe import LORA_LEARNING_RATE, Recipe
from registry.home import Registry
from registry.queue import claims, runs
from registry.records import Metric, RunRecord

REQUEST = {"recipe": {"name": "team", "seed": "smol", "experts": ["code@1"]}}
LEASE_SECONDS = 600.0


@pytest.fixture
def running(app_registry: Registry) -> RunRecord:
    """A run in the middle of its training, with a log that tries to inject markup."""
    runs.submit(app_registry, "compose", REQUEST)
    run = claims.claim(app_registry, "tester", LEASE_SECONDS)
    assert run is not None
    losses = [Metric("loss", step, 4.0 - step / 10) for step in range(1, 11)]
    claims.report(
        app_registry, run.fence, progress=("training", 10, 20), metrics=losses, log="trunk\n\x1b[2J<script>"
    )
    return run


def test_an_empty_queue_says_what_to_do(app_registry: Registry) -> None:
    app = open_page("runs")
    assert not app.exception
    assert "No runs yet" in html(app)


def test_a_queued_run_waits_and_is_cancelled_at_once(app_registry: Registry) -> None:
    run = runs.submit(app_registry, "compose", REQUEST)
    app = open_page("run", id=str(run.id))
    assert not app.exception
    assert "queued" in html(app)
    app.button[0].click().run()
    assert runs.get_run(app_registry, run.id).state == "cancelled"
    assert app.button[0].label == "Try again"
    app.button[0].click().run()
    assert runs.get_run(app_registry, run.id).state == "queued"


def test_what_was_asked_for_is_the_recipe_without_its_defaults(app_registry: Registry) -> None:
    trained = {"tokens": 77, "learning_rate": LORA_LEARNING_RATE}
    recipe = Recipe.parse({**REQUEST["recipe"], "training": {"tokens": 77}}).model_dump(mode="json")
    run = runs.submit(app_registry, "compose", {"recipe": recipe, "evaluate": True})
    (asked,) = (block for block in code(open_page("run", id=str(run.id))) if block.startswith("recipe:"))
    assert yaml.safe_load(asked) == {
        "recipe": {**REQUEST["recipe"], "trunk_merge": "routed", "training": trained},
        "evaluate": True,
    }
    foreign = runs.submit(app_registry, "compose", {"recipe": {**recipe, "from_the_future": 1}})
    assert any("from_the_future" in block for block in code(open_page("run", id=str(foreign.id))))


def test_a_running_run_shows_progress_loss_and_an_inert_log(
    app_registry: Registry, running: RunRecord
) -> None:
    app = open_page("run", id=str(running.id))
    assert not app.exception
    assert "Training: 50 %" in app.get("progress")[0].proto.text.replace("\\", "")
    assert "3.000 nats per token at step 10" in captions(app)
    assert len(app.get("vega_lite_chart")) == 1
    assert any("\\x1b[2J<script>" in block for block in code(app))
    app.button[0].click().run()
    assert runs.get_run(app_registry, running.id).cancel_requested
    assert app.button[0].disabled


def test_a_run_that_succeeded_leads_to_its_mix(app_registry: Registry, running: RunRecord) -> None:
    claims.finish(app_registry, running.fence, "succeeded", result={"mix": "team@1"})
    app = open_page("run", id=str(running.id))
    assert not app.exception
    assert {"Open team@1", "Play with it"} <= set(links(app))
    assert not app.button


def test_a_run_that_failed_says_why_and_is_tried_again(app_registry: Registry, running: RunRecord) -> None:
    claims.finish(app_registry, running.fence, "failed", error="the loss became nan at step 3")
    app = open_page("run", id=str(running.id))
    assert not app.exception
    assert any("the loss became nan" in block for block in code(app))
    app.button[0].click().run()
    assert runs.get_run(app_registry, running.id).state == "queued"


@pytest.mark.parametrize("id", ["99", "0", "seven", "²", "-1"])
def test_a_run_that_does_not_exist_has_a_page_that_says_so(app_registry: Registry, id: str) -> None:
    app = open_page("run", id=id)
    assert not app.exception
    assert "Not found" in html(app)
    assert "No run chosen" in html(open_page("run"))


def test_the_queue_lists_runs_by_state_and_cancels(app_registry: Registry, running: RunRecord) -> None:
    waiting = runs.submit(app_registry, "evaluate", {"mix": "team@1"})
    app = open_page("runs")
    assert not app.exception
    assert [link.split(" ")[0] for link in links(app)] == ["evaluate", "compose"]
    assert f"Waiting for run {running.id}" in html(app)
    app.button(key=f"cancel-{waiting.id}").click().run()
    assert runs.get_run(app_registry, waiting.id).state == "cancelled"
    app.segmented_control[0].set_value("Failed").run()
    assert "No runs in this state" in html(app)
