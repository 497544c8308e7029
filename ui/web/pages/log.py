"""The log page: who changed what in the registry, newest first."""

from __future__ import annotations

import streamlit as st

from registry.catalog.events import list_events
from ui.web import routes
from ui.web.components import empty_state, escaped, page_title
from ui.web.session import current_registry, shown_errors

EVENTS_PER_PAGE = 50


def render() -> None:
    """Draw one page of events, narrowed by the address."""
    with shown_errors():
        registry = current_registry()
        page_title("Log")
        query = st.query_params.to_dict()
        subject, user = query.get("subject") or None, query.get("user") or None
        before = int(query["before"]) if query.get("before", "").isdecimal() else None
        events = list_events(registry, subject=subject, actor=user, before=before, limit=EVENTS_PER_PAGE)
        if not events:
            empty_state("No events", "Every change of the registry is listed here: who, what, and when.")
            return
        rows = "".join(
            f"<tr><td>{event.at:%Y-%m-%d %H:%M:%S}</td><td>{escaped(event.actor)}</td>"
            f"<td>{escaped(event.action)}</td><td>{escaped(event.subject)}</td>"
            f"<td>{escaped((event.digest or '')[:19])}</td></tr>"
            for event in events
        )
        head = "".join(
            f'<th scope="col">{title}</th>' for title in ("When (UTC)", "Who", "What", "Subject", "Digest")
        )
        st.html(
            f'<div class="nm-scroll" tabindex="0"><table class="nm-figures"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
        if len(events) == EVENTS_PER_PAGE:
            earlier = {"subject": subject or "", "user": user or "", "before": str(events[-1].id)}
            st.page_link(
                routes.log(),
                label="Earlier events",
                icon=":material/arrow_forward:",
                query_params={name: value for name, value in earlier.items() if value},
            )
