"""The query part of a page's address: opened by a link or a person, and written by the page itself.

The browser sends its address with every click. After a quick click, that may be an address that the page has replaced
in the meantime. So an address that the page has read or written before, in this visit, does not count as opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

import streamlit as st

_PAGE, _KNOWN = "address page", "address known"


def visit(page: str) -> None:
    """Begin a visit if another page was drawn before; the frame calls it on every run."""
    if st.session_state.get(_PAGE) != page:
        st.session_state[_PAGE] = page
        st.session_state[_KNOWN] = []


def opened() -> dict[str, str]:
    """Return the query if a link or a person has opened it since the last `write`; else an empty one."""
    query = st.query_params.to_dict()
    return query if query not in st.session_state.get(_KNOWN, []) else {}


def write(query: Mapping[str, str]) -> None:
    """Put the query into the address, to reload and to share, after everything opened was read."""
    known = st.session_state.setdefault(_KNOWN, [])
    known += [each for each in (st.query_params.to_dict(), dict(query)) if each not in known]
    st.query_params.from_dict(query)


def share_link() -> None:
    """Draw the page's address, to copy; call it after `write`."""
    with st.popover("Share", icon=":material/share:", width="content"):
        st.caption("This address opens the page with the same text and settings.")
        query = urlencode(st.query_params.to_dict(), quote_via=quote)
        st.code(f"{(st.context.url or '').split('?')[0]}?{query}", language=None, wrap_lines=True)
