"""Forms of pages: the typed values survive a reload, another page and a refused value, and are part of the address."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import streamlit as st

from ui.web import address

_ALWAYS = object()  # equal to no value


class Form:
    """The fields of one page. Draw each field with the arguments from `field`, then call `write_address`.

    A field's name is its name in the address. A value in the address wins when the page is opened by a link; later
    the widgets' own values win.
    """

    def __init__(self, page: str) -> None:
        self.page = page
        self._defaults: dict[str, Any] = {}
        self._longest: dict[str, int] = {}
        self._given = st.session_state.pop(f"filled {page}", None) or address.opened()

    def key(self, name: str) -> str:
        """Return the key of the field's widget."""
        return f"{self.page} {name}"

    def field(
        self,
        name: str,
        default: Any,
        *,
        read: Callable[[str], Any] = str,
        allowed: Container[Any] | Callable[[Any], bool] | None = None,
        always: bool = False,
        shared_chars: int | None = None,
    ) -> dict[str, Any]:
        """Set the field's value and return the arguments `key` and `persist_state` of its widget.

        `read` converts the text in the address; it may raise ValueError. A value that is not `allowed` becomes the
        default. With `always`, the address contains the default too, because it may change. A value longer than
        `shared_chars` is left out of the address. A value that nobody changed follows a default that changes.
        """
        key, before = self.key(name), f"{self.key(name)} before"
        if st.session_state.get(key, default) == st.session_state.get(before, default) != default:
            del st.session_state[key]
        st.session_state[before] = default
        if name in self._given:
            try:
                st.session_state[key] = read(self._given[name])
            except ValueError:
                st.session_state[key] = default
        st.session_state.setdefault(key, list(default) if isinstance(default, list) else default)
        fits = allowed if callable(allowed) else None if allowed is None else allowed.__contains__
        if fits is not None and st.session_state[key] != default and not fits(st.session_state[key]):
            st.session_state[key] = default
        self._defaults[name] = _ALWAYS if always else default
        if shared_chars is not None:
            self._longest[name] = shared_chars
        return {"key": key, "persist_state": "session"}

    def value(self, name: str) -> Any:
        """Return the value of a field; it is set by `field`, before its widget is drawn."""
        return st.session_state[self.key(name)]

    def set(self, name: str, value: Any) -> None:
        """Set a field's value before it is drawn."""
        st.session_state[self.key(name)] = value

    def fill(self, fields: dict[str, str]) -> None:
        """Draw the page again with these fields, as in an address, and the defaults of all others."""
        for key in [str(key) for key in st.session_state if str(key).startswith(f"{self.page} ")]:
            del st.session_state[key]
        st.session_state[f"filled {self.page}"] = fields
        st.rerun()

    def write_address(self) -> None:
        """Put the fields that differ from their defaults into the address, to reload and to share."""
        values = {
            name: address_text(st.session_state[self.key(name)])
            for name, default in self._defaults.items()
            if st.session_state.get(self.key(name), default) != default and self.key(name) in st.session_state
        }
        kept = {
            name: text for name, text in values.items() if len(text) <= self._longest.get(name, len(text))
        }
        address.write(kept)


def yes_or_no(text: str) -> bool:
    """Read a switch from an address. Raises ValueError."""
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


def names(text: str) -> list[str]:
    """Read names separated by commas from an address."""
    return [name for name in text.split(",") if name]


def address_of(fields: dict[str, Any]) -> dict[str, str]:
    """Return form fields as they are written in an address; fields without a value are left out."""
    return {name: address_text(value) for name, value in fields.items() if value not in (None, "", [])}


def address_text(value: Any) -> str:
    """Return a field's value as it is written in an address."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, list) else "" if value is None else str(value)
