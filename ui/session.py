"""What the pages share: the open registry, and one way to show an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from composer.errors import ComposerError
from registry.errors import NotFoundError, RegistryError
from registry.home import Registry, open_registry
from ui.components import empty_state
from ui.display import printable


@st.cache_resource(show_spinner="Opening the registry …")
def current_registry() -> Registry:
    """The registry that the environment names, opened once for all visitors."""
    return open_registry()


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show what the registry or the composer refuses or cannot find on the page, and end the page there."""
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
