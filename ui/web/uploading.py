"""Uploads on forms: files are stored in a private folder at once, and the form shows them until they are removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import streamlit as st

from registry.home import Registry
from ui.queue import uploads
from ui.queue.roots import Roots, configured_roots
from ui.web.components import label
from ui.web.session import shown_refusal
from ui.wording.display import size

MOST_MB = uploads.MOST_BYTES // 1_000_000
WEIGHTS = ("safetensors", "json", "jinja", "model", "txt", "md", "zip")
NAMES_SHOWN = 4
_KEPT = "uploads"


def allowed_roots() -> Roots:
    """Return the app's roots, and the visitor's own uploads to read from."""
    roots = configured_roots()
    own = tuple(folder.resolve() for folder in _kept().values() if folder.is_dir())
    return replace(roots, imports=(*roots.imports, *own))


def weights_upload(registry: Registry, form: str) -> str:
    """Draw the upload of a checkpoint's or an adapter's files; return their folder, or an empty text."""
    about = f"All files of one folder, or a zip file of them; at most {MOST_MB} MB together."
    folder = _field(registry, f"{form} weights", "Or upload the files", about, WEIGHTS)
    return "" if folder is None else str(folder)


def text_upload(registry: Registry, form: str) -> list[str]:
    """Draw the upload of text files; return their folder as a list of one path, or an empty list."""
    about = f"The same kinds of file as in a folder; at most {MOST_MB} MB together."
    folder = _field(registry, f"{form} text", "Or upload text files", about, None)
    return [] if folder is None else [str(folder)]


def embedding_upload(registry: Registry, form: str) -> str:
    """Draw the upload of an embedding file; return its path, or an empty text."""
    about = "The file that `nexusmix embed` wrote."
    folder = _field(registry, f"{form} embedding", "Or upload the embedding file", about, ("json",))
    return "" if folder is None else str(next(iter(sorted(folder.iterdir()))))


def _kept() -> dict[str, Path]:
    kept: dict[str, Path] = st.session_state.setdefault(_KEPT, {})
    return kept


def _field(registry: Registry, name: str, title: str, about: str, types: Sequence[str] | None) -> Path | None:
    folder = _kept().get(name)
    if folder is not None and folder.is_dir():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"Uploaded: {label(_words(folder))}")
            st.button("Remove", key=f"remove {name}", on_click=_remove, args=(registry, name))
        return folder
    with st.expander(title):
        st.caption(about)
        one = types == ("json",)
        given = st.file_uploader(
            title,
            list(types) if types else None,
            accept_multiple_files=not one,
            max_upload_size=MOST_MB,
            key=f"upload {name}",
            label_visibility="collapsed",
        )
        files = given if isinstance(given, list) else [given] if given else []
        if files:
            with shown_refusal(), st.spinner("Storing the files …"):
                _kept()[name] = uploads.keep(registry, [(each.name, each.getvalue()) for each in files])
                st.rerun()  # without the widget, Streamlit frees the memory of the files
    return None


def _words(folder: Path) -> str:
    files = sorted(folder.iterdir())
    names = ", ".join(path.name for path in files[:NAMES_SHOWN])
    more = f" and {len(files) - NAMES_SHOWN} more" if len(files) > NAMES_SHOWN else ""
    return f"{names}{more}, {size(sum(path.stat().st_size for path in files))}"


def _remove(registry: Registry, name: str) -> None:
    uploads.discard(registry, _kept().pop(name))
