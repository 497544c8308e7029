"""The form that pushes an expert or a mix to the Hugging Face Hub, as a queued run."""

from __future__ import annotations

from typing import Any

import streamlit as st

from composer.variants import EXPORT_FORMATS
from registry.home import Registry
from registry.intake.hub import PREFIX
from ui.web.session import queue, refuse

FORMATS = {row.name: row.title for row in EXPORT_FORMATS.values()}


def push_form(registry: Registry, request: dict[str, Any], *, formats: list[str] | None = None) -> None:
    """Draw the fields and the button; `request` names the expert or the mix, `formats` are those of a mix."""
    st.caption(
        "Uploads it with a card and its digests, as one commit. The worker's token of the Hub must be allowed to "
        "write: set HF_TOKEN, or run `hf auth login` on its machine."
    )
    target = st.text_input("Repository", placeholder=f"{PREFIX}owner/name", key="push target").strip()
    below = st.container()
    if formats:
        format = st.selectbox("Format", formats, format_func=FORMATS.__getitem__, key="push format")
        request = {**request, "format": format}
    private = st.toggle("Create it as a private repository", value=True, key="push private")
    if st.button("Push it", type="primary", width="stretch"):
        if not target:
            refuse(f"Enter a repository, for example {PREFIX}acme/law.", below)
            return
        target = target if target.startswith(PREFIX) else f"{PREFIX}{target}"
        queue(registry, "push", {**request, "target": target, "private": private}, below)
