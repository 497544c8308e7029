"""An exported folder on a page: its path, its files with their sizes, and how to run the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import streamlit as st

from composer.variants import EXPORT_FORMATS
from registry.errors import RegistryError
from registry.home import Registry
from registry.queue import runs
from registry.records import RunRecord
from ui.queue.jobs import ROOTS
from ui.queue.roots import Roots
from ui.web import routes
from ui.web.components import escaped, label
from ui.web.login import link_to
from ui.wording.display import size

PLACEHOLDER = "path/to/this/folder"  # in the formats' instructions
RUNS_SEARCHED = 200
README, README_CHARS = "README.md", 50_000


def exported_files(run: RunRecord) -> None:
    """Draw the files that an export wrote and how to run them; nothing for other kinds of run."""
    if run.kind != "export" or run.state != "succeeded":
        return
    folder = folder_of(run)
    st.subheader("The folder", anchor=False)
    st.code(str(folder), language=None, wrap_lines=True)
    files = files_of(run)
    if files is None:
        st.caption("This folder was moved or deleted since. Export the mix again to get it back.")
        return
    st.html(_table(run, files))
    if README in files:
        with st.expander(README):
            st.markdown(_readme(folder / README))
    st.subheader("Run it", anchor=False)
    text = EXPORT_FORMATS[run.request.get("format") or "nexus"].load().loading
    is_plain = not set(str(folder)) & set("`<>\n")  # other names could end the code block
    st.markdown(text.replace(PLACEHOLDER, str(folder)) if is_plain else text)


def folder_of(run: RunRecord) -> Path:
    """Return the folder that an export wrote."""
    return Path(str((run.result or {}).get("folder") or run.request["out"]))


def files_of(run: RunRecord) -> dict[str, int] | None:
    """Return the sizes in bytes of the files that an export wrote, by name.

    None if the run exported nothing, or if the folder is gone or not one that the app may read.
    """
    if run.kind != "export" or run.state != "succeeded":
        return None
    folder = folder_of(run)
    try:
        if ROOTS in run.request:
            Roots.from_json(run.request[ROOTS]).check_export(folder)
        found = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()]
        return {path.name: path.stat().st_size for path in found}
    except (OSError, RegistryError):
        return None


def download_path(run_id: int, name: str) -> str:
    """Return the path of an exported file, relative to the pages (frame/downloads.py)."""
    return f"exported/{run_id}/{quote(name)}"


def _table(run: RunRecord, files: Mapping[str, int]) -> str:
    """The files with their sizes (HTML); each is a link that downloads it."""
    rows = "".join(
        f'<dt><a href="{link_to(download_path(run.id, name))}" download>{escaped(name)}</a></dt><dd>{size(count)}</dd>'
        for name, count in files.items()
    )
    return f'<dl class="nm-table">{rows}<dt>Total</dt><dd>{size(sum(files.values()))}</dd></dl>'


def _readme(path: Path) -> str:
    """Return the card as Markdown, without its front matter and its pictures, which the page cannot load."""
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(README_CHARS)
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return re.sub(r"^!\[.*$", "", text, flags=re.MULTILINE)


def export_links(registry: Registry, mix: str) -> None:
    """Draw links to the runs that exported a mix."""
    done = runs.list_runs(registry, kind="export", states=["succeeded"], limit=RUNS_SEARCHED)
    found = [run for run in done if run.request.get("mix") == mix]
    if not found:
        return
    st.subheader("Exports", anchor=False)
    with st.container(key="exports", gap=None):
        for run in found:
            words = f"{Path(run.request['out']).name} ({run.request.get('format') or 'nexus'})"
            st.page_link(routes.run(), label=label(words), query_params={"id": str(run.id)})
