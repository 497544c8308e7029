"""The queue page: every run with its state, newest first; it refreshes itself while runs are live."""

from __future__ import annotations

import streamlit as st

from registry.home import Registry
from registry.queue import runs
from registry.records import RunRecord, RunState
from ui.web import routes
from ui.web.components import compose_link, empty_state, escaped, label, page_title
from ui.web.run_words import ago, progress, spent, state_chip, subject
from ui.web.session import current_registry, shown_errors, shown_refusal
from ui.wording.display import duration, plural

REFRESH_SECONDS = 1
RUNS_SHOWN = 50
FILTERS: dict[str, tuple[RunState, ...] | None] = {
    "All": None,
    "Live": runs.LIVE,
    "Succeeded": ("succeeded",),
    "Failed": ("failed",),
    "Cancelled": ("cancelled",),
}


def render() -> None:
    """Draw the page: a filter, then the runs."""
    page_title("Runs")
    with shown_errors():
        registry = current_registry()
        counts = runs.count_runs(registry)
        if not counts:
            empty_state(
                "No runs yet",
                "Compose a mix to queue a run. Its progress is shown here.",
            )
            compose_link()
            return
        chosen = st.segmented_control(
            "State", list(FILTERS), default="All", required=True, label_visibility="collapsed"
        )
        live = sum(counts.get(state, 0) for state in runs.LIVE)
        every = REFRESH_SECONDS if live else None
        st.fragment(_list, run_every=every)(registry, FILTERS[chosen], live)


def _list(registry: Registry, states: tuple[RunState, ...] | None, live: int) -> None:
    """Draw the runs; repeated every second while any run is live."""
    with shown_errors():
        counts = runs.count_runs(registry)
        if sum(counts.get(state, 0) for state in runs.LIVE) != live:
            st.rerun()
        found = runs.list_runs(registry, states=states, limit=RUNS_SHOWN)
        st.caption(", ".join(f"{count:,} {state}" for state, count in sorted(counts.items())))
        if counts.get("queued") and not counts.get("running"):
            st.info(
                "Queued runs wait for a worker. Start one with `nexusmix worker`.",
                icon=":material/hourglass_empty:",
            )
        if not found:
            empty_state("No runs in this state", "Choose another state above.")
        with st.container(key="runs"):
            waiting_for = runs.list_runs(registry, states=runs.LIVE) if live else []
            for run in found:
                _row(registry, run, waiting_for)
        if len(found) == RUNS_SHOWN:
            st.caption(f"The newest {plural(RUNS_SHOWN, 'run')}; `nexusmix runs --limit N` lists more.")


def _row(registry: Registry, run: RunRecord, waiting_for: list[RunRecord]) -> None:
    with st.container(key=f"run-{run.id}", horizontal=True, vertical_alignment="center"):
        st.page_link(
            routes.run(),
            label=f"{label(run.kind)} **{label(subject(run))}** :gray[{run.id}]",
            query_params={"id": str(run.id)},
        )
        seconds = spent(run)
        took = "" if seconds is None else f"{duration(seconds)} · "
        note = progress(run, waiting_for)[1] if run.is_live else f"{took}{ago(run.created_at)}"
        st.html(f'{state_chip(run)} <span class="nm-note">{escaped(note)}</span>')
        if run.is_live and st.button(
            "Cancel", key=f"cancel-{run.id}", type="tertiary", disabled=run.cancel_requested
        ):
            with shown_refusal():
                runs.request_cancel(registry, run.id)
                st.rerun()
