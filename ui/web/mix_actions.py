"""The actions on a mix: links to read and play with it, and forms that queue runs or delete it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from registry.catalog.deletion import delete_mix, mixes_built_on
from registry.catalog.queries import list_refs
from registry.home import Registry
from registry.records import MixRecord
from ui.queue.roots import configured_roots
from ui.web import models, routes
from ui.web.components import label
from ui.web.hub_push import FORMATS, push_form
from ui.web.mix_words import near
from ui.web.session import queue, refuse, shown_refusal
from ui.web.stars import star_button
from ui.wording.display import parameters

TOKENS = [0, 10_000, 30_000, 100_000, 300_000, 1_000_000]
EVALUATED = "A second run compares the mix with its seed, each expert and dense merging."


def draw_actions(
    registry: Registry, mix: MixRecord, manifest: dict[str, Any], mixes: list[MixRecord]
) -> None:
    """Draw the links and the buttons with their forms."""
    with st.container(horizontal=True, vertical_alignment="center", key="mix-actions"):
        st.page_link(
            routes.lens(), label="Read your text", icon=":material/visibility:", query_params={"mix": mix.ref}
        )
        st.page_link(
            routes.playground(),
            label="Play",
            icon=":material/stylus_note:",
            query_params={"mix": mix.ref},
        )
        if len(mixes) > 1:
            query = {"mixes": ",".join(near(mix, mixes))}
            st.page_link(
                routes.workbench(), label="Compare", icon=":material/compare_arrows:", query_params=query
            )
        with st.popover("Evaluate", icon=":material/monitoring:", width="content"):
            _evaluate(registry, mix, mixes)
        with st.popover("Extend", icon=":material/add:", width="content"):
            _extend(registry, mix, manifest)
        with st.popover("Remove", icon=":material/remove:", width="content"):
            _remove(registry, mix, manifest)
        with st.popover("Export", icon=":material/download:", width="content"):
            _export(registry, mix, manifest)
        with st.popover("Push", icon=":material/cloud_upload:", width="content"):
            push_form(registry, {"mix": mix.ref}, formats=_formats(manifest))
        star_button(registry, "mix", mix.name)
        with st.popover("Delete", icon=":material/delete:", width="content"):
            _delete(registry, mix)


def _evaluate(registry: Registry, mix: MixRecord, mixes: list[MixRecord]) -> None:
    st.caption(
        "Measures bits per byte on held-out text, for the mix, the seed, each expert and dense merging."
    )
    others = [each.ref for each in mixes if each.seed == mix.seed and each.ref != mix.ref]
    against = st.multiselect("Compare with other mixes", others, placeholder="None")
    if st.button("Evaluate it", type="primary", width="stretch"):
        queue(registry, "evaluate", {"mix": mix.ref, "against": against})


def _extend(registry: Registry, mix: MixRecord, manifest: dict[str, Any]) -> None:
    whole = bool(manifest.get("routed_trunk"))
    how = "nothing else changes" if whole else "the router starts from its trained weights"
    st.caption(f"Adds an expert; {how}. The result is the mix's next version.")
    refs = [ref for ref in list_refs(registry, seed=mix.seed) if ref not in mix.experts]
    if not refs:
        st.info("The mix already contains every expert of its seed.")
        return
    expert = st.selectbox("Expert", refs)
    tokens = 0
    if not whole:
        tokens = st.select_slider(
            "Tokens of fine-tuning",
            TOKENS,
            format_func=_tokens_words,
        )
    evaluate = st.toggle("Evaluate it afterwards", value=True, key="evaluate extended", help=EVALUATED)
    if st.button("Extend it", type="primary", width="stretch"):
        training = {"tokens": tokens, "load_balance": manifest["load_balance"]}
        request = {"mix": mix.ref, "expert": expert, "training": training, "evaluate": evaluate}
        queue(registry, "extend", request)


def _remove(registry: Registry, mix: MixRecord, manifest: dict[str, Any]) -> None:
    if len(mix.experts) == 1:
        st.info("The mix has only one expert, which cannot be removed.")
        return
    st.caption(
        "Composes the other experts again, so that nothing of the removed expert remains, not even in the trunk."
    )
    expert = st.selectbox("Expert to remove", mix.experts)
    before = int(manifest["training"].get("tokens", 0))
    tokens = st.select_slider(
        "Tokens of fine-tuning",
        sorted({*TOKENS, before}),
        value=before,
        format_func=_tokens_words,
        key="tokens without",
        help="The default is that of this mix.",
    )
    evaluate = st.toggle("Evaluate it afterwards", value=True, key="evaluate without", help=EVALUATED)
    if st.button("Compose without it", type="primary", width="stretch"):
        changed = {"tokens": tokens} if tokens != before else {}
        request = {"mix": mix.ref, "expert": expert, "evaluate": evaluate, **changed}
        queue(registry, "remove", request)


def _tokens_words(count: int) -> str:
    return parameters(count) if count else "none"


def _export(registry: Registry, mix: MixRecord, manifest: dict[str, Any]) -> None:
    whole = bool(manifest.get("routed_trunk"))
    st.caption(
        "Writes a folder on the registry's machine."
        + (" Whole experts fit no stock architecture, so the folder has its own modeling code." * whole)
    )
    folder = st.text_input("New folder", value=_new_folder(f"{mix.name}-{mix.version}")).strip()
    below = st.container()
    format = st.selectbox("Format", _formats(manifest), format_func=FORMATS.__getitem__)
    if st.button("Export it", type="primary", width="stretch"):
        if folder:
            queue(registry, "export", {"mix": mix.ref, "out": folder, "format": format}, below)
        else:
            refuse("Enter a folder that does not exist yet.", below)


def _formats(manifest: dict[str, Any]) -> list[str]:
    """Return the formats of a mix: whole experts fit no stock architecture."""
    return ["nexus"] if manifest.get("routed_trunk") else list(FORMATS)


def _new_folder(name: str) -> str:
    """Return a default folder for the export: in the working directory if allowed, else below the first root."""
    roots = configured_roots().exports
    if not roots or any(Path.cwd().resolve().is_relative_to(root) for root in roots):
        return f"./{name}"
    return str(roots[0] / name)


def _delete(registry: Registry, mix: MixRecord) -> None:
    made = mixes_built_on(registry, mix.ref)
    if made:
        st.info(label(f"Other mixes were extended from this one. Delete them first: {', '.join(made)}."))
        return
    st.caption(
        "The experts and the lock are kept, so the same mix can be composed again byte for byte. "
        "The version number is not reused. Run `nexusmix gc` afterwards to free the disk space."
    )
    if st.button(f"Delete {label(mix.ref)}", type="primary", width="stretch"):
        with shown_refusal():
            delete_mix(registry, mix.ref)
            models.release()
            st.switch_page(routes.mixes())
