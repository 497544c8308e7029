"""What the pages share: the open registry, how an error is shown, and how a run is queued."""

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
    """The registry that the environment names, opened once for all visitors."""
    return open_registry()


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show on the page what it cannot do without, and end the page there; for one field see `shown_refusal`."""
    try:
        yield
    except NotFoundError as error:
        empty_state("Not found", str(error))
    except (RegistryError, ComposerError) as error:
        says = "registry" if isinstance(error, RegistryError) else "composer"
        st.error(f"This did not work. The {says} says:", icon=":material/error:")
        # A code block shows text as it is: an error may quote what somebody else wrote.
        st.code(printable(error), language=None, wrap_lines=True)
    else:
        return
    st.stop()


@contextmanager
def shown_refusal(place: DeltaGenerator | None = None) -> Iterator[None]:
    """Show what is refused where it arose, at its field or its button; the page goes on after the block."""
    try:
        yield
    except (RegistryError, ComposerError, OSError) as error:
        refuse(str(error), place)


def refuse(reason: str, place: DeltaGenerator | None = None) -> None:
    """Say at a field or a button why it does not work."""
    (place or st).error(label(reason), icon=":material/error:")


def queue(
    registry: Registry, kind: str, request: Mapping[str, Any], place: DeltaGenerator | None = None
) -> None:
    """Queue the work and follow it on its page; a refusal is shown in `place`, or here."""
    with shown_refusal(place):
        run = submit(registry, kind, request, roots=configured_roots())
        st.switch_page(routes.run(), query_params={"id": str(run.id)})
