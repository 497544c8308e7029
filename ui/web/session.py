"""Shared by the pages: the open registry, the display of errors, and the queueing of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from composer.errors import ComposerError
from registry.errors import NotFoundError, RegistryError
from registry.home import Registry, open_registry
from ui.queue.jobs import submit
from ui.queue.roots import configured_roots
from ui.web import routes
from ui.web.components import empty_state, label
from ui.wording.display import printable


@st.cache_resource(show_spinner="Opening the registry …")
def current_registry() -> Registry:
    """Return the registry that the environment configures, opened once for all visitors."""
    return open_registry()


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


def refuse(reason: str, place: DeltaGenerator | None = None) -> None:
    """Show the reason for a refusal at a field or button."""
    (place or st).error(label(reason), icon=":material/error:")


def queue(
    registry: Registry, kind: str, request: Mapping[str, Any], place: DeltaGenerator | None = None
) -> None:
    """Queue a run and open its page; an error is shown in `place`, or here."""
    with shown_refusal(place):
        run = submit(registry, kind, request, roots=configured_roots())
        st.switch_page(routes.run(), query_params={"id": str(run.id)})
