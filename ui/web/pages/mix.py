"""The page of one mix: its experts, lineage, scores and routing, and the actions on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from composer.variants import EXPORT_FORMATS
from registry.catalog.deletion import delete_mix, mixes_built_on
from registry.catalog.queries import get_expert, get_mix, list_mixes, list_refs
from registry.home import Registry
from registry.records import MixRecord
from ui.queue.roots import configured_roots
from ui.web import models, routes
from ui.web.components import empty_state, escaped, expert_link, fact_table, label, lineage_link, page_title
from ui.web.exported import export_links
from ui.web.mix_words import (
    ancestors,
    children,
    manifest_of,
    mix_facts,
    quality,
    settings_line,
    step,
)
from ui.web.session import (
    current_registry,
    queue,
    refuse,
    shown_errors,
    shown_refusal,
)
from ui.web.tables import heat_map, score_table, task_table
from ui.wording.display import parameters, withdrawn_words
from ui.wording.licenses import licence_words
from ui.wording.tasks import task_rows
from ui.wording.training_cost import learning_facts

TOKENS = [0, 10_000, 30_000, 100_000, 300_000, 1_000_000]
DEFAULT_TOKENS = 100_000
FORMATS = {row.name: row.title for row in EXPORT_FORMATS.values()}


def render() -> None:
    """Draw the page of the mix that the address names."""
    with st.container(key="back"):
        st.page_link(routes.mixes(), label="Mixes", icon=":material/arrow_back:")
    ref = st.query_params.get("ref")
    if not ref:
        empty_state("No mix chosen", "Open a mix from the list of mixes.")
        return
    with shown_errors():
        registry = current_registry()
        mix = get_mix(registry, ref)
        manifest = manifest_of(registry, mix)
        mixes = list_mixes(registry)
        page_title("Mix", mix.name, f"@{mix.version}")
        st.html(mix_facts(mix))
        if words := withdrawn_words(mix):
            st.warning(label(words), icon=":material/block:")
        _actions(registry, mix, manifest, mixes)
        story, numbers = st.columns([5, 3], gap="large")
        with story:
            _scores(mix)
            _routing(mix)
            _tasks(mix)
        with numbers, st.container(key="numbers"):
            _facts(mix, manifest)
            _experts(registry, mix)
            _lineage(mix, mixes)
            export_links(registry, mix.ref)
            _digests(mix)


def _actions(registry: Registry, mix: MixRecord, manifest: dict[str, Any], mixes: list[MixRecord]) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="mix-actions"):
        st.page_link(
            routes.playground(),
            label="Play",
            icon=":material/stylus_note:",
            query_params={"mix": mix.ref},
        )
        with st.popover("Evaluate", icon=":material/monitoring:", width="content"):
            _evaluate(registry, mix, mixes)
        with st.popover("Extend", icon=":material/add:", width="content"):
            _extend(registry, mix, manifest)
        with st.popover("Remove", icon=":material/remove:", width="content"):
            _remove(registry, mix)
        with st.popover("Export", icon=":material/download:", width="content"):
            _export(registry, mix, manifest)
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
            value=DEFAULT_TOKENS,
            format_func=lambda count: parameters(count) if count else "none",
        )
    if st.button("Extend it", type="primary", width="stretch"):
        training = {"tokens": tokens, "load_balance": manifest["load_balance"]}
        queue(registry, "extend", {"mix": mix.ref, "expert": expert, "training": training})


def _remove(registry: Registry, mix: MixRecord) -> None:
    if len(mix.experts) == 1:
        st.info("The mix has only one expert, which cannot be removed.")
        return
    st.caption(
        "Composes the other experts again, so that nothing of the removed expert remains, not even in the trunk."
    )
    expert = st.selectbox("Expert to remove", mix.experts)
    if st.button("Compose without it", type="primary", width="stretch"):
        queue(registry, "remove", {"mix": mix.ref, "expert": expert})


def _export(registry: Registry, mix: MixRecord, manifest: dict[str, Any]) -> None:
    whole = bool(manifest.get("routed_trunk"))
    st.caption(
        "Writes a folder on the registry's machine."
        + (" Whole experts fit no stock architecture, so the folder has its own modeling code." * whole)
    )
    folder = st.text_input("New folder", value=_new_folder(f"{mix.name}-{mix.version}")).strip()
    below = st.container()
    formats = ["nexus"] if whole else list(FORMATS)
    format = st.selectbox("Format", formats, format_func=FORMATS.__getitem__)
    if st.button("Export it", type="primary", width="stretch"):
        if folder:
            queue(registry, "export", {"mix": mix.ref, "out": folder, "format": format}, below)
        else:
            refuse("Enter a folder that does not exist yet.", below)


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


def _scores(mix: MixRecord) -> None:
    st.subheader("Evaluation", anchor=False)
    if mix.evaluation is None:
        empty_state(
            "Not evaluated yet",
            "Evaluate the mix to compare it with its seed, its experts and dense merging.",
        )
        return
    if kept := quality(mix.evaluation):
        st.html(f'<p class="nm-quality">This mix {escaped(kept)}.</p>')
        rival = mix.evaluation["mean"].get("btm")
        if rival is not None:
            better = "better" if mix.evaluation["mean"]["mix"] < rival else "not better"
            st.caption(f"It is {better} than sending each whole request to the nearest expert.")
    st.html(score_table(mix.evaluation))


def _routing(mix: MixRecord) -> None:
    """Draw the routing of each domain's tokens: the mean over the blocks, or one block."""
    if mix.evaluation is None:
        return
    st.subheader("Routing", anchor=False)
    by_layer = mix.evaluation.get("routing_by_layer")
    routing, words = mix.evaluation["routing"], "mean over blocks"
    if by_layer:
        blocks = len(next(iter(next(iter(by_layer.values())).values())))
        if blocks == 1:
            words = "one router before the first block"
    if by_layer and blocks > 1:
        chosen = st.select_slider(
            "Block",
            range(blocks + 1),
            value=0,
            key="block",
            format_func=lambda block: f"block {block}" if block else "all blocks",
        )
        if chosen:
            words = f"block {chosen} of {blocks}"
            routing = {
                domain: {expert: shares[chosen - 1] for expert, shares in row.items()}
                for domain, row in by_layer.items()
            }
    st.html(heat_map(routing, f"Share of each domain's tokens routed to each expert; {words}"))


def _tasks(mix: MixRecord) -> None:
    rows = task_rows((mix.evaluation or {}).get("tasks", {}))
    if rows:
        st.subheader("Tasks", anchor=False)
        st.html(task_table(rows))


def _facts(mix: MixRecord, manifest: dict[str, Any]) -> None:
    st.subheader("Overview", anchor=False)
    learning = {name.capitalize(): fact for name, fact in learning_facts(manifest["training"]).items()}
    fact_table(
        {
            "Seed": mix.seed,
            **settings_line(manifest),
            "Licence means": licence_words(manifest["license"]),
            "Licence override": manifest.get("license_override"),
            **learning,
            "Published": f"{mix.created_at:%Y-%m-%d %H:%M} UTC",
        }
    )


def _experts(registry: Registry, mix: MixRecord) -> None:
    st.subheader("Experts", anchor=False)
    with st.container(key="versions", gap=None):
        for ref in mix.experts:
            expert_link(get_expert(registry, ref))


def _lineage(mix: MixRecord, mixes: list[MixRecord]) -> None:
    before, after = ancestors(mix, mixes), children(mix, mixes)
    if not before and not after:
        return
    st.subheader("Lineage", anchor=False)
    line = [*before, mix]
    with st.container(key="lineage", gap=None):
        for place, each in enumerate(line):
            happened = step(line[place - 1], each) if place else "composed"
            lineage_link(each, happened, place, here=each.ref == mix.ref)
        for child in after:
            lineage_link(child, step(mix, child), len(line))


def _digests(mix: MixRecord) -> None:
    st.subheader("Lock and manifest", anchor=False)
    st.caption("Lock: composing from it gives the same bytes")
    st.code(mix.lock, language=None, wrap_lines=True)
    st.caption("Manifest")
    st.code(mix.manifest, language=None, wrap_lines=True)
