"""Fields of the card of a seed or an expert: licence, description and text, each checked under itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from registry.domains.reading import is_table
from registry.errors import NotFoundError
from registry.home import Registry
from registry.licenses import check_license
from ui.web.form import Form
from ui.web.session import checked
from ui.web.uploading import allowed_roots, text_upload

PERMISSIVE = "Mixes with it may use almost any licence."
LICENSES = {
    "Apache-2.0": PERMISSIVE,
    "MIT": PERMISSIVE,
    "BSD-3-Clause": PERMISSIVE,
    "CC0-1.0": PERMISSIVE,
    "CC-BY-4.0": PERMISSIVE,
    "CC-BY-SA-4.0": "Mixes with it must be shared under the same terms.",
    "CC-BY-NC-4.0": "Mixes with it are for non-commercial use only.",
    "GPL-3.0-or-later": "Mixes with it must be under the GPL too.",
}
DESCRIPTION_CHARS = 2_000


def license_field(form: Form) -> str | None:
    """Draw the licence with its consequence; return it in its normal form, or None if it is absent or refused."""
    license = st.selectbox(
        "Licence",
        list(LICENSES),
        index=None,
        accept_new_options=True,
        placeholder="Choose, or type an SPDX expression",
        **form.field("license", None),
    )
    license = checked(check_license, license)
    if license:
        other = "Compatibility with other licences is checked when a mix is composed."
        st.caption(LICENSES.get(license, other))
    return license


def description_field(form: Form, placeholder: str) -> str:
    """Draw the description and return it."""
    return st.text_area(
        "Description",
        max_chars=DESCRIPTION_CHARS,
        placeholder=placeholder,
        **form.field("description", "", allowed=lambda text: len(text) <= DESCRIPTION_CHARS),
    ).strip()


def text_fields(registry: Registry, form: Form, title: str) -> dict[str, Any]:
    """Draw the paths of text, their upload, and the column's name if one is a table.

    Returns them as `data`, which is None if a path is refused, and as `text_column`.
    """
    typed = st.text_area(
        title,
        placeholder="/data/law.jsonl",
        height=90,
        help="JSON lines, JSON, CSV, TSV, Parquet or text files, also as .gz or .zst, or folders of them.",
        **form.field("data", ""),
    )
    lines = [line.strip() for line in typed.splitlines() if line.strip()]
    found = [checked(_text_path, line) for line in lines]
    uploaded = text_upload(registry, form.page)
    fields: dict[str, Any] = {"data": [*lines, *uploaded] if all(found) else None}
    column = form.field("text_column", "")
    names = [Path(line) for line in lines] + [path for each in uploaded for path in Path(each).iterdir()]
    if any(map(is_table, names)):
        given = st.text_input(
            "Column of the text (optional)", placeholder="text, content or messages", **column
        )
        if given.strip():
            fields["text_column"] = given.strip()
    return fields


def _text_path(path: str) -> str:
    """Check the path of a text file or folder without reading it. Raises InvalidInputError or NotFoundError."""
    if not allowed_roots().check_import(path).exists():
        raise NotFoundError(f"{path}: no such file or folder on the registry's machine")
    return path
