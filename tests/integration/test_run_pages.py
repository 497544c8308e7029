"""The pages of the queue and of one run, in each state that a run can be in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from registry import claims, runs
from registry.home import Registry, open_registry
from registry.records import Metric, RunRecord

REQUEST = {"recipe": {"name": "team", "seed": "smol", "experts": ["code@1"]}}
LEASE_SECONDS = 600.0


@pytest.fixture(autouse=True)
def _fresh_app() -> Iterator[None]:
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


@pytest.fixture
def registry() -> Iterator[Registry]:
    opened = open_registry()
    yield opened
    opened.engine.dispose()


@pytest.fixture
def running(registry: Registry) -> RunRecord:
    """A run half way through its training, with a log that tries to escape."""
    runs.submit(registry, "compose", REQUEST)
    run = claims.claim(registry, "tester", LEASE_SECONDS)
    assert run is not None
    losses = [Metric("loss", step, 4.0 - step / 10) for step in range(1, 11)]
    claims.report(
        registry, run.fence, progress=("training", 10, 20), metrics=losses, log="trunk\n\x1b[2J<script>"
    )
    return run


def open_run(id: str | None = None) -> AppTest:
    def page() -> None:
        from ui.pages import run

        run.render()

    app = AppTest.from_function(page, default_timeout=30)
    if id is not None:
        app.query_params["id"] = id
    return app.run()


def open_runs() -> AppTest:
    def page() -> None:
        from ui.pages import runs

        runs.render()

    return AppTest.from_function(page, default_timeout=30).run()


def html(app: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in app.get("html"))


def links(app: AppTest) -> list[str]:
    return [element.proto.label.replace("\\", "") for element in app.get("page_link")]


def test_an_empty_queue_says_what_to_do() -> None:
    app = open_runs()
    assert not app.exception
    assert "Nothing was queued yet" in html(app)


def test_a_queued_run_waits_and_is_cancelled_at_once(registry: Registry) -> None:
    run = runs.submit(registry, "compose", REQUEST)
    app = open_run(str(run.id))
    assert not app.exception
    assert "queued" in html(app)
    app.button[0].click().run()
    assert runs.get_run(registry, run.id).state == "cancelled"
    assert app.button[0].label == "Try again"
    app.button[0].click().run()
    assert runs.get_run(registry, run.id).state == "queued"


def test_a_running_run_shows_progress_loss_and_an_inert_log(registry: Registry, running: RunRecord) -> None:
    app = open_run(str(running.id))
    assert not app.exception
    assert "Training: 50 %" in app.get("progress")[0].proto.text.replace("\\", "")
    assert any("3.000 nats per token at step 10" in caption.value for caption in app.caption)
    assert len(app.get("vega_lite_chart")) == 1
    assert any("\\x1b[2J<script>" in block.value for block in app.code)
    app.button[0].click().run()
    assert runs.get_run(registry, running.id).cancel_requested
    assert app.button[0].disabled


def test_a_run_that_succeeded_leads_to_its_mix(registry: Registry, running: RunRecord) -> None:
    claims.finish(registry, running.fence, "succeeded", result={"mix": "team@1"})
    app = open_run(str(running.id))
    assert not app.exception
    assert {"Open team@1", "Play with it"} <= set(links(app))
    assert not app.button


def test_a_run_that_failed_says_why_and_is_tried_again(registry: Registry, running: RunRecord) -> None:
    claims.finish(registry, running.fence, "failed", error="the loss became nan at step 3")
    app = open_run(str(running.id))
    assert not app.exception
    assert any("the loss became nan" in block.value for block in app.code)
    app.button[0].click().run()
    assert runs.get_run(registry, running.id).state == "queued"


@pytest.mark.parametrize("id", ["99", "0", "seven", "²", "-1"])
def test_a_run_that_does_not_exist_has_a_page_that_says_so(id: str) -> None:
    app = open_run(id)
    assert not app.exception
    assert "Not found" in html(app)
    assert "No run chosen" in html(open_run())


def test_the_queue_lists_runs_by_state_and_cancels(registry: Registry, running: RunRecord) -> None:
    waiting = runs.submit(registry, "evaluate", {"mix": "team@1"})
    app = open_runs()
    assert not app.exception
    assert [link.split(" ")[0] for link in links(app)] == ["evaluate", "compose"]
    assert "Waiting for a worker" in html(app)
    app.button(key=f"cancel-{waiting.id}").click().run()
    assert runs.get_run(registry, waiting.id).state == "cancelled"
    app.segmented_control[0].set_value("Failed").run()
    assert "No such run" in html(app)
