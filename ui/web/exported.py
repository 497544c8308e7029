"""An exported folder on a page: its path, its files with their sizes, and how to run the model."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from composer.variants import EXPORT_FORMATS
from registry.errors import RegistryError
from registry.home import Registry
from registry.queue import runs
from registry.records import RunRecord
from ui.queue.jobs import ROOTS
from ui.queue.roots import Roots
from ui.web import routes
from ui.web.components import fact_table, label
from ui.wording.display import size

PLACEHOLDER = "path/to/this/folder"  # in the formats' instructions
RUNS_SEARCHED = 200


def exported_files(run: RunRecord) -> None:
    """Draw the files that an export wrote and how to run them; nothing for other kinds of run."""
    if run.kind != "export" or run.state != "succeeded":
        return
    folder = Path(str((run.result or {}).get("folder") or run.request["out"]))
    st.subheader("The folder", anchor=False)
    st.code(str(folder), language=None, wrap_lines=True)
    files = _files(folder, run)
    if files is None:
        st.caption("This folder was moved or deleted since. Export the mix again to get it back.")
        return
    fact_table({name: size(count) for name, count in files.items()} | {"Total": size(sum(files.values()))})
    st.subheader("Run it", anchor=False)
    text = EXPORT_FORMATS[run.request.get("format") or "nexus"].load().loading
    is_plain = not set(str(folder)) & set("`<>\n")  # other names could end the code block
    st.markdown(text.replace(PLACEHOLDER, str(folder)) if is_plain else text)


def _files(folder: Path, run: RunRecord) -> dict[str, int] | None:
    """Return the sizes of the files in bytes; None if the folder is gone, or is not one that the page may read."""
    try:
        if ROOTS in run.request:
            Roots.from_json(run.request[ROOTS]).check_export(folder)
        return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    except (OSError, RegistryError):
        return None


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
