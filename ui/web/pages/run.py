"""One run: where it stands, its loss as it falls, its log; cancel it, try it again, open what it made."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import streamlit as st
import yaml

from registry.errors import NotFoundError
from registry.home import Registry
from registry.queue import runs
from registry.records import RunRecord
from ui.queue.jobs import ROOTS
from ui.web import routes
from ui.web.components import chip, empty_state, fact_table, label
from ui.web.run_words import ago, outcome, progress, spent, state_chip, subject
from ui.web.session import current_registry, shown_errors, shown_refusal
from ui.wording.display import duration, printable
from ui.wording.training_cost import learning_facts

if TYPE_CHECKING:
    import altair as alt

REFRESH_SECONDS = 1
LOG_HEIGHT = 260
CHART_HEIGHT = 260
ACCENT = "#7a73ea"
SMOOTHING = 12  # the running mean spans one twelfth of the steps


def render() -> None:
    """Draw the page of the run that the address names."""
    with st.container(key="back"):
        st.page_link(routes.runs(), label="Runs", icon=":material/arrow_back:")
    with shown_errors():
        registry = current_registry()
        run_id = _asked()
        if run_id is None:
            empty_state("No run chosen", "Open one from the runs; its address then names it.")
            return
        run = runs.get_run(registry, run_id)
        st.title(f"{label(run.kind.capitalize())} :gray[{label(subject(run))}]", anchor=False)
        if run.is_live:
            st.fragment(_live, run_every=REFRESH_SECONDS)(registry, run_id)
        else:
            _body(registry, run)


def _asked() -> int | None:
    given = st.query_params.get("id")
    if not given:
        return None
    if not given.isascii() or not given.isdecimal():
        raise NotFoundError(f"no run {given!a}: a run has a number, see Runs")
    return int(given)


def _live(registry: Registry, run_id: int) -> None:
    """Drawn again every few seconds; when the run has ended, the whole page is drawn once more."""
    with shown_errors():
        run = runs.get_run(registry, run_id)
        if not run.is_live:
            st.rerun()
        _body(registry, run)


def _body(registry: Registry, run: RunRecord) -> None:
    _head(run)
    _actions(registry, run)
    story, numbers = st.columns([5, 3], gap="large")
    with story:
        _loss(registry, run)
        _log(run)
    with numbers, st.container(key="numbers"):
        _facts(run)


def _head(run: RunRecord) -> None:
    marks = [state_chip(run), chip(f"run {run.id}"), chip(f"queued {ago(run.created_at)}")]
    st.html(f'<div class="nm-facts">{"".join(marks)}</div>')
    if run.is_live:
        fraction, words = progress(run)
        st.progress(fraction, text=label(words))
        if run.state == "queued":
            st.caption("`nexusmix ui` brings a worker with it; another is started by `nexusmix worker`.")
    if run.error:
        kind = st.error if run.state == "failed" else st.warning
        kind("What went wrong:", icon=":material/error:")
        st.code(printable(run.error, lines=True), language=None, wrap_lines=True)


def _actions(registry: Registry, run: RunRecord) -> None:
    made = outcome(run)
    with st.container(horizontal=True, vertical_alignment="center", key="run-actions"):
        if run.is_live:
            if st.button("Cancel", icon=":material/cancel:", disabled=run.cancel_requested):
                with shown_refusal():
                    runs.request_cancel(registry, run.id)
                    st.rerun()
        elif run.state in ("failed", "cancelled") and st.button("Try again", icon=":material/replay:"):
            with shown_refusal():
                runs.retry(registry, run.id)
                st.rerun()
        if "mix" in made:
            query = {"ref": made["mix"]}
            st.page_link(
                routes.mix(), label=f"Open {label(made['mix'])}", icon=":material/hub:", query_params=query
            )
            if run.state == "succeeded":
                st.page_link(
                    routes.playground(),
                    label="Play with it",
                    icon=":material/stylus_note:",
                    query_params={"mix": made["mix"]},
                )
        if "expert" in made and run.kind in ("contribute", "measure"):
            query = {"ref": made["expert"]}
            st.page_link(routes.expert(), label=f"Open {label(made['expert'])}", query_params=query)


def _loss(registry: Registry, run: RunRecord) -> None:
    """The curve of what is measured; absent where nothing is trained."""
    values = runs.get_metrics(registry, run.id).get("loss", [])
    if not values:
        if run.kind in ("compose", "extend", "train-expert"):
            st.subheader("Loss", anchor=False)
            waits = "It appears with the first step of training." if run.is_live else "Nothing was trained."
            st.caption(waits)
        return
    st.subheader("Loss", anchor=False)
    step, newest = values[-1]
    st.caption(f"{newest:.3f} nats per token at step {step:,}; it began at {values[0][1]:.3f}")
    st.altair_chart(_curve(values), height=CHART_HEIGHT)


def _curve(values: list[tuple[int, float]]) -> alt.LayerChart | alt.FacetChart:
    """The loss by step, faint, and its running mean; the axis begins where something happens."""
    import altair as alt

    width = max(1, len(values) // SMOOTHING)
    losses = [loss for _, loss in values]
    points = [
        {"step": step, "loss": loss, "mean": fmean(losses[max(0, place - width + 1) : place + 1])}
        for place, (step, loss) in enumerate(values)
    ]
    chart = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("step:Q", title="optimiser step", axis=alt.Axis(tickMinStep=1, grid=False)),
        tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("loss:Q", format=".3f")],
    )
    scale, title = alt.Scale(zero=False), "loss (nats per token)"
    raw = chart.mark_line(color=ACCENT, opacity=0.3).encode(y=alt.Y("loss:Q", title=title, scale=scale))
    smooth = chart.mark_line(color=ACCENT, strokeWidth=2.5).encode(
        y=alt.Y("mean:Q", title=title, scale=scale)
    )
    return alt.layer(raw, smooth)


def _log(run: RunRecord) -> None:
    st.subheader("Log", anchor=False)
    if not run.log:
        st.caption("Nothing was printed yet.")
        return
    with st.container(height=LOG_HEIGHT, autoscroll=True):
        st.code(printable(run.log, lines=True), language=None, wrap_lines=True)


def _learning(run: RunRecord) -> dict[str, str]:
    """What the learning of the mix that this run made has cost."""
    result = run.result or {}
    return learning_facts(result["training"], result.get("stage_seconds")) if "training" in result else {}


def _facts(run: RunRecord) -> None:
    st.subheader("At a glance", anchor=False)
    seconds = spent(run)
    made = outcome(run)
    fact_table(
        {
            "State": run.state,
            "Took" if run.finished_at else "Running for": None if seconds is None else duration(seconds),
            "Attempt": f"{run.attempt} of {run.max_attempts}" if run.attempt else None,
            "Worker": run.worker,
            "Queued": f"{run.created_at:%Y-%m-%d %H:%M} UTC",
            **{name.capitalize(): fact for name, fact in _learning(run).items()},
            "Mix": made.get("mix"),
            "Expert": made.get("expert"),
            "Folder": made.get("folder"),
        }
    )
    st.subheader("Asked for", anchor=False)
    asked = yaml.safe_dump(_request(run), sort_keys=False, allow_unicode=True)
    st.code(printable(asked, lines=True), language="yaml", wrap_lines=True)
    st.subheader("In the shell", anchor=False)
    st.code(f"nexusmix runs follow {run.id}", language=None)


def _request(run: RunRecord) -> dict[str, Any]:
    """What was asked for, but for the web app's roots; of a recipe, what is not its default."""
    from composer.errors import RecipeError
    from composer.mix.recipe import Recipe

    request = {name: value for name, value in run.request.items() if name != ROOTS}
    if "recipe" not in request:
        return request
    try:
        recipe = Recipe.parse(request["recipe"])
    except RecipeError:  # another version's
        return request
    return {**request, "recipe": recipe.written(mode="json", exclude_defaults=True)}
