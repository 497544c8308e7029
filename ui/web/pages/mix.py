"""The page of one mix: its experts, lineage, scores and routing, and the actions on it."""

from __future__ import annotations

from typing import Any

import streamlit as st
import yaml

from composer.evaluation.comparison import evaluation_of
from registry.catalog.queries import get_expert, get_mix, list_mixes
from registry.catalog.sizes import mix_bytes
from registry.home import Registry
from registry.records import MixRecord
from ui.web import routes, snippets
from ui.web.components import empty_state, escaped, expert_link, fact_table, label, lineage_link, page_title
from ui.web.exported import export_links
from ui.web.mix_actions import draw_actions
from ui.web.mix_words import (
    ancestors,
    children,
    manifest_of,
    mix_facts,
    settings_line,
    step,
)
from ui.web.quality import gain_bars, quality, rival
from ui.web.session import (
    current_registry,
    shown_errors,
)
from ui.web.tables import heat_map, score_table, task_table
from ui.web.workbench import compose_again, recipe_of, runs_by_mix, sizes_of
from ui.wording.display import parameters, printable, size, withdrawn_words
from ui.wording.licenses import licence_words
from ui.wording.tasks import task_rows
from ui.wording.training_cost import learning_facts


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
        draw_actions(registry, mix, manifest, mixes)
        story, numbers = st.columns([5, 3], gap="large")
        with story:
            _scores(mix, mixes)
            _routing(mix)
            _tasks(mix)
            snippets.draw(mix, manifest)
        with numbers, st.container(key="numbers"):
            _facts(registry, mix, manifest)
            _experts(registry, mix)
            _made(registry, mix, manifest)
            _lineage(mix, mixes)
            export_links(registry, mix.ref)
            _digests(mix)


def _scores(mix: MixRecord, mixes: list[MixRecord]) -> None:
    st.subheader("Evaluation", anchor=False)
    evaluation = evaluation_of(mix, mixes)
    if evaluation is None:
        empty_state(
            "Not evaluated yet",
            "Evaluate the mix to compare it with its seed, its experts and dense merging.",
        )
        return
    if kept := quality(evaluation):
        with st.container(key="gains"):
            st.html(
                f'<p class="nm-quality">This mix {escaped(kept)}.</p><p class="nm-line">{rival(evaluation)}</p>'
                f"{gain_bars(evaluation)}"
            )
    if mix.evaluation is None:
        st.caption("Measured by an evaluation of another mix. Evaluate this one to see its routing.")
    with st.expander("Bits per byte", expanded=not kept):
        st.html(score_table(evaluation))


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


def _facts(registry: Registry, mix: MixRecord, manifest: dict[str, Any]) -> None:
    st.subheader("Overview", anchor=False)
    sizes = sizes_of(registry, mix, manifest)
    stored = mix_bytes(registry, mix.ref)
    learning = {name.capitalize(): fact for name, fact in learning_facts(manifest["training"]).items()}
    with st.container(key="facts"):
        fact_table(
            {
                "Seed": mix.seed,
                **settings_line(manifest),
                "Weights": f"{parameters(sizes.total)}, {parameters(sizes.active)} active per token"
                if sizes
                else None,
                "Storage": f"{size(stored.own)} of its own; {size(stored.total)} with seed and experts",
                "Licence means": licence_words(manifest["license"]),
                "Licence override": manifest.get("license_override"),
                **learning,
                "Published": f"{mix.created_at:%Y-%m-%d %H:%M} UTC",
            }
        )


def _made(registry: Registry, mix: MixRecord, manifest: dict[str, Any]) -> None:
    """Draw the recipe, the way to compose it again with changes, and the run that made the mix."""
    st.subheader("Recipe", anchor=False)
    with st.container(key="exports-recipe", gap=None):
        query = compose_again(registry, mix, manifest)
        st.page_link(
            routes.compose(), label="Compose again with changes", icon=":material/edit:", query_params=query
        )
        if run := runs_by_mix(registry).get(mix.ref):
            words = f"Run {run.id} composed it"
            st.page_link(
                routes.run(), label=words, icon=":material/monitoring:", query_params={"id": str(run.id)}
            )
    with st.expander("As in the lock"):
        recipe = yaml.safe_dump(recipe_of(registry, mix, manifest), sort_keys=False, allow_unicode=True)
        st.code(printable(recipe, lines=True), language="yaml", wrap_lines=True)


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
