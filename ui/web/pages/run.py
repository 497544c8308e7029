"""The page of one run: state, loss curve and log; buttons to cancel or retry it, links to its results."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

import streamlit as st
import yaml

from registry.catalog.queries import get_mix, list_mixes
from registry.errors import NotFoundError
from registry.home import Registry
from registry.queue import runs
from registry.records import RunRecord
from ui.queue.jobs import ROOTS
from ui.web import routes
from ui.web.components import chip, empty_state, escaped, fact_table, label, page_title
from ui.web.exported import exported_files
from ui.web.mix_words import near
from ui.web.quality import quality
from ui.web.run_words import ago, form_of, outcome, progress, spent, state_chip, subject
from ui.web.session import current_registry, shown_errors, shown_refusal
from ui.wording.display import duration, printable
from ui.wording.training_cost import learning_facts

if TYPE_CHECKING:
    import altair as alt

REFRESH_SECONDS = 1.0
STOPPING_SECONDS = 0.4
RUNS_SEARCHED = 50  # for the evaluation that follows
LOG_HEIGHT, LOG_LINES = 260, 8  # the box of a longer log scrolls
CHART_HEIGHT = 260
ACCENT = "#7a73ea"
SMOOTHING = 12  # the running mean covers one twelfth of the steps


def render() -> None:
    """Draw the page of the run that the address names."""
    with st.container(key="back"):
        st.page_link(routes.runs(), label="Runs", icon=":material/arrow_back:")
    with shown_errors():
        registry = current_registry()
        run_id = _asked()
        if run_id is None:
            empty_state("No run chosen", "Open a run from the list of runs.")
            return
        run = runs.get_run(registry, run_id)
        _title(run)
        _notify(run)
        if run.is_live:
            every = STOPPING_SECONDS if run.cancel_requested else REFRESH_SECONDS
            st.fragment(_live, run_every=every)(registry, run_id)
        else:
            _body(registry, run)


def _title(run: RunRecord) -> None:
    """Draw the title. The tab's title says the state, so that it can be read while another tab is open."""
    page_title(f"run {run.id} {run.state}", f"{run.kind.capitalize()} ", subject(run))


def _notify(run: RunRecord) -> None:
    """Show a notification when a run ends that this visitor saw live."""
    watched: set[int] = st.session_state.setdefault("watched runs", set())
    if run.is_live:
        watched.add(run.id)
    elif run.id in watched:
        watched.discard(run.id)
        icon = ":material/check_circle:" if run.state == "succeeded" else ":material/error:"
        st.toast(
            f"Run {run.id}, {label(run.kind)} {label(subject(run))}: {run.state}.", icon=icon, duration="long"
        )


def _asked() -> int | None:
    given = st.query_params.get("id")
    if not given:
        return None
    if not given.isascii() or not given.isdecimal():
        raise NotFoundError(f"no run {given!a}: a run id is a number, see Runs")
    return int(given)


def _live(registry: Registry, run_id: int) -> None:
    """Draw the run every second while it is live; when it ends, draw the whole page once more."""
    with shown_errors():
        run = runs.get_run(registry, run_id)
        if not run.is_live:
            st.rerun()
        with st.container(key="live"):
            _body(registry, run)


def _body(registry: Registry, run: RunRecord) -> None:
    _head(registry, run)
    _actions(registry, run)
    story, numbers = st.columns([5, 3], gap="large")
    with story:
        exported_files(run)
        _loss(registry, run)
        _log(run)
    with numbers, st.container(key="numbers"):
        _facts(run)


def _head(registry: Registry, run: RunRecord) -> None:
    marks = [state_chip(run), chip(f"run {run.id}"), chip(f"queued {ago(run.created_at)}")]
    st.html(f'<div class="nm-facts">{"".join(marks)}</div>')
    if run.is_live:
        fraction, words = progress(run, runs.list_runs(registry, states=runs.LIVE))
        st.progress(fraction, text=label(words))
        if run.state == "queued":
            st.caption("`nexusmix ui` starts a worker of its own. `nexusmix worker` starts another.")
    elif (mix := run.request.get("mix") if run.kind == "evaluate" else None) and run.state == "succeeded":
        _quality(registry, mix)
    if run.error:
        kind = st.error if run.state == "failed" else st.warning
        kind("Error:" if run.state == "failed" else "Last error:", icon=":material/error:")
        st.code(printable(run.error, lines=True), language=None, wrap_lines=True)


def _quality(registry: Registry, ref: str) -> None:
    """Draw the result of an evaluation in one sentence."""
    try:
        evaluation = get_mix(registry, ref).evaluation
    except NotFoundError:  # it was deleted since
        return
    if evaluation and (kept := quality(evaluation)):
        st.html(f'<p class="nm-quality">{escaped(ref)} {escaped(kept)}.</p>')


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
            if run.state == "succeeded" and run.kind != "evaluate":
                known = list_mixes(registry)
                others = [each for mix in known if mix.ref == made["mix"] for each in near(mix, known)]
                if len(others) > 1:
                    st.page_link(
                        routes.workbench(),
                        label="Compare it with other mixes",
                        icon=":material/compare_arrows:",
                        query_params={"mixes": ",".join(others)},
                    )
            if run.state == "succeeded":
                st.page_link(
                    routes.playground(),
                    label="Play with it",
                    icon=":material/stylus_note:",
                    query_params={"mix": made["mix"]},
                )
        for following in _following(registry, run):
            query = {"id": str(following.id)}
            words = f"Its evaluation: {following.state}"
            st.page_link(routes.run(), label=words, icon=":material/monitoring:", query_params=query)
        _form_link(run)
        if run.kind == "add-seed" and run.state == "succeeded":
            query = {"seed": run.request["name"]}
            st.page_link(
                routes.contribute(),
                label="Contribute an expert",
                icon=":material/upload:",
                query_params=query,
            )
        if "expert" in made and run.kind in ("contribute", "measure"):
            query = {"ref": made["expert"]}
            st.page_link(routes.expert(), label=f"Open {label(made['expert'])}", query_params=query)


def _following(registry: Registry, run: RunRecord) -> list[RunRecord]:
    """Return the newest evaluation of the mix that this run made, if one was queued after it."""
    made = outcome(run).get("mix")
    if made is None or run.kind not in ("compose", "extend", "remove"):
        return []
    later = runs.list_runs(registry, kind="evaluate", limit=RUNS_SEARCHED)
    return [each for each in later if each.request.get("mix") == made and each.id > run.id][:1]


def _form_link(run: RunRecord) -> None:
    """Draw the way back to the filled form of a run that ended."""
    fields = form_of(run)
    pages = {"compose": routes.compose, "contribute": routes.contribute, "add-seed": routes.seed}
    if run.is_live or not fields:
        return
    if run.state != "succeeded":
        words = "Change it and try again"
    elif run.kind == "compose":
        words = "Compose again with changes"
    else:
        return
    st.page_link(pages[run.kind](), label=words, icon=":material/edit:", query_params=fields)


def _loss(registry: Registry, run: RunRecord) -> None:
    """Draw the loss curve; nothing for a kind of run that does not train."""
    values = runs.get_metrics(registry, run.id).get("loss", [])
    if not values:
        if run.kind in ("compose", "extend", "train-expert"):
            st.subheader("Loss", anchor=False)
            waits = (
                "The curve appears after the first training step." if run.is_live else "Nothing was trained."
            )
            st.caption(waits)
        return
    st.subheader("Loss", anchor=False)
    step, newest = values[-1]
    st.caption(f"{newest:.3f} nats per token at step {step:,}; the first value was {values[0][1]:.3f}")
    st.altair_chart(_curve(values), height=CHART_HEIGHT)


def _curve(values: list[tuple[int, float]]) -> alt.LayerChart | alt.FacetChart:
    """The loss by step (faint) and its running mean; the y axis does not start at zero."""
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
        st.caption("No output yet.")
        return
    scrolls = run.is_live or run.log.count("\n") > LOG_LINES
    with st.container(height=LOG_HEIGHT if scrolls else "content", autoscroll=scrolls):
        st.code(printable(run.log, lines=True), language=None, wrap_lines=True)


def _learning(run: RunRecord) -> dict[str, str]:
    """Return the training cost of the mix that this run composed, by title."""
    result = run.result or {}
    return learning_facts(result["training"], result.get("stage_seconds")) if "training" in result else {}


def _facts(run: RunRecord) -> None:
    st.subheader("Overview", anchor=False)
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
    st.subheader("Request", anchor=False)
    asked = yaml.safe_dump(_request(run), sort_keys=False, allow_unicode=True)
    st.code(printable(asked, lines=True), language="yaml", wrap_lines=True)
    st.subheader("Follow in the shell", anchor=False)
    st.code(f"nexusmix runs follow {run.id}", language=None)


def _request(run: RunRecord) -> dict[str, Any]:
    """Return the run's request without the web app's roots, and its recipe without default values."""
    from composer.errors import RecipeError
    from composer.mix.recipe import Recipe

    request = {name: value for name, value in run.request.items() if name != ROOTS}
    if "recipe" not in request:
        return request
    try:
        recipe = Recipe.parse(request["recipe"])
    except RecipeError:  # written by another version
        return request
    return {**request, "recipe": recipe.written(mode="json", exclude_defaults=True)}
