"""Shared by the pages: the open registry, the display of errors, and the queueing of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from composer.errors import ComposerError
from registry.errors import NotFoundError, RegistryError
from registry.home import Registry, open_registry
from ui.queue.jobs import submit
from ui.queue.roots import Roots, configured_roots
from ui.web import login, routes
from ui.web.components import empty_state, label
from ui.wording.display import printable


@st.cache_resource(show_spinner="Opening the registry …")
def open_once() -> Registry:
    """Return the registry that the environment configures, opened once for all visitors."""
    return open_registry()


def current_registry() -> Registry:
    """Return the open registry, with the visitor as its actor. Raises AccessError without a login, if it needs one."""
    opened = open_once()
    how = login.required()
    if how is None:
        return opened
    if how == "oidc":
        actor = login.actor_of_claims(opened, st.user.to_dict() if st.user.is_logged_in else {})
    else:
        actor = login.actor_of_cookie(opened, st.context.cookies.get(login.COOKIE))
    return replace(opened, actor=actor)


def visitor_line() -> None:
    """Draw the visitor's name and the way out, if the app has a login."""
    how = login.required()
    if how is None:
        return
    with shown_errors():
        st.caption(f"Logged in as {label(current_registry().actor.name)}")
    if how == "oidc":
        st.button("Log out", on_click=st.logout, type="tertiary")
    else:
        st.link_button("Log out", login.LEAVE, type="tertiary")


def logged_in() -> bool:
    """Return whether the page may be drawn; otherwise draw the way to Streamlit's own login."""
    if login.required() == "oidc" and not st.user.is_logged_in:
        st.title("nexusmix", anchor=False)
        st.button("Log in", type="primary", on_click=st.login)
        return False
    return True


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show an error of the block and stop the page; for an error of one field see `shown_refusal`."""
    try:
        yield
    except NotFoundError as error:
        empty_state("Not found", str(error))
    except (RegistryError, ComposerError) as error:
        source = "registry" if isinstance(error, RegistryError) else "composer"
        st.error(f"Error from the {source}:", icon=":material/error:")
        # A code block renders no Markdown: an error may quote text by contributors.
        st.code(printable(error), language=None, wrap_lines=True)
    else:
        return
    st.stop()


@contextmanager
def shown_refusal(place: DeltaGenerator | None = None) -> Iterator[None]:
    """Show an error of the block at its field or button; the page continues after the block."""
    try:
        yield
    except (RegistryError, ComposerError, OSError) as error:
        refuse(str(error), place)


def checked(check: Callable[[str], str], value: str | None) -> str | None:
    """Return the checked value; None if it is empty, or if it is refused (the reason is shown below its field)."""
    if value:
        with shown_refusal():
            return check(value)
    return None


def refuse(reason: str, place: DeltaGenerator | None = None) -> None:
    """Show the reason for a refusal at a field or button."""
    (place or st).error(label(reason), icon=":material/error:")


def first_steps(registry: Registry) -> None:
    """Draw the ways out of an empty registry: the demo as a run, and the page that adds a seed."""
    with st.container(
        horizontal=True, horizontal_alignment="center", vertical_alignment="center", key="first-steps"
    ):
        about = "Trains four small experts on text of this machine and composes mixes of them, in about 5 minutes."
        if st.button("Show me the demo", type="primary", icon=":material/play_arrow:", help=about):
            queue(registry, "demo", {})
        st.page_link(routes.seed(), label="Add a seed", icon=":material/add:")


def queue(
    registry: Registry,
    kind: str,
    request: Mapping[str, Any],
    place: DeltaGenerator | None = None,
    *,
    roots: Roots | None = None,
) -> None:
    """Queue a run and open its page; an error is shown in `place`, or here. The default `roots` are the app's."""
    with shown_refusal(place):
        run = submit(registry, kind, request, roots=roots or configured_roots())
        st.switch_page(routes.run(), query_params={"id": str(run.id)})
