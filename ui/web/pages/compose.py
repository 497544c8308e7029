"""The compose page: choose experts of one seed, see an estimate of their mix, and queue it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from composer.estimate import Estimate, estimate
from registry.catalog.queries import get_expert, list_refs, list_seeds
from registry.home import Registry
from registry.records import ExpertRecord, SeedRecord
from ui.query import closeness
from ui.web.components import (
    contribute_link,
    empty_state,
    escaped,
    expert_link,
    fact_table,
    facts,
    label,
    page_title,
    score_bar,
)
from ui.web.form import Form, names, yes_or_no
from ui.web.recipe_file import open_recipe
from ui.web.recipe_form import recipe_form
from ui.web.recipes import command, default_name, propose
from ui.web.run_words import roughly
from ui.web.session import (
    current_registry,
    first_steps,
    queue,
    refuse,
    shown_errors,
    shown_refusal,
)
from ui.wording.display import parameters, plural, size
from ui.wording.licenses import licence_words

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe

SAMPLE_CHARS = 100_000


def render() -> None:
    """Draw the page: experts, recipe and the recipe as text on the left, the estimate on the right."""
    page_title("Compose a mix")
    with shown_errors():
        registry = current_registry()
        seeds = {seed.name: seed for seed in list_seeds(registry)}
        if not seeds:
            empty_state(
                "No seeds yet",
                "A mix combines experts of one seed. Add a seed first, or run the demo.",
            )
            first_steps(registry)
            return
        form = Form("compose")
        left, outlook = st.columns([5, 3], gap="large")
        with left:
            seed, experts = _choose(registry, form, seeds)
            if not experts:
                form.write_address()
                with outlook:
                    _nothing_chosen()
                return
            settings = recipe_form(form, experts)
        # An invalid name does not hide the rest of the page, which continues with the default name.
        is_named = settings["name"] is not None
        settings["name"] = settings["name"] or default_name(experts)
        with outlook, st.container(key="numbers"), shown_refusal():
            recipe, forecast = _outlook(registry, form, seed, experts, settings)
            _submit_button(registry, form, recipe, forecast, is_named=is_named)
            with left:
                _as_text(recipe)
        form.write_address()


def _choose(
    registry: Registry, form: Form, seeds: dict[str, SeedRecord]
) -> tuple[SeedRecord, list[ExpertRecord]]:
    """Return the chosen seed and experts; only experts that can be mixed with those chosen so far are offered."""
    st.subheader("Experts", anchor=False)
    name = next(iter(seeds))
    field = form.field("seed", name, allowed=seeds, always=True)
    if len(seeds) > 1:
        name = st.selectbox("Seed", list(seeds), **field)
    seed = seeds[name]
    chooser = st.container()
    field = form.field("experts", [], read=names)
    with st.container(horizontal=True):
        _proposals(registry, form, seed)
        open_recipe(registry, form)
    offered = list_refs(registry, seed=seed.name)
    known = set(offered)
    chosen = [ref for ref in form.value("experts") if ref in known]
    if chosen:
        embedder = get_expert(registry, chosen[0]).embedding.embedder
        offered = list_refs(registry, seed=seed.name, embedder=embedder)
        known = set(offered)
    form.set("experts", [ref for ref in chosen if ref in known])
    with chooser:
        if not offered:
            empty_state(
                "No experts of this seed yet",
                f"Contribute an expert that was fine-tuned from {seed.name}, then come back.",
            )
            contribute_link(seed.name)
        refs = st.multiselect(
            "Experts of the mix",
            offered,
            placeholder="Type a name, or propose from samples",
            disabled=not offered,
            **field,
        )
        experts = [get_expert(registry, ref) for ref in refs]
        for expert in experts:
            _chosen_row(expert)
    return seed, experts


def _proposals(registry: Registry, form: Form, seed: SeedRecord) -> None:
    with st.popover("Propose experts from samples", icon=":material/auto_awesome:", width="content"):
        text = st.text_area(
            "What should the mix be good at?",
            key="samples",
            persist_state="session",
            height=180,
            max_chars=SAMPLE_CHARS,
            placeholder="Paste a few typical inputs.\n---\nSeparate the inputs with lines of dashes.",
            help="The samples are embedded and compared with the experts' domains. They are not stored.",
        )
        if st.button("Propose", type="primary", width="stretch"):
            if not (text or "").strip():
                refuse("Paste a sample first.")
                return
            proposals = None
            with shown_refusal(), st.spinner("Comparing domains …"):
                proposals = propose(registry, text, seed.name)
            if proposals is None:
                return
            if not proposals:
                st.info(
                    "No expert of this seed fits this text. The experts that were chosen are unchanged.",
                    icon=":material/search_off:",
                )
                return
            st.session_state["proposed"] = {proposal.expert.ref: proposal for proposal in proposals}
            form.set("experts", [proposal.expert.ref for proposal in proposals])


def _chosen_row(expert: ExpertRecord) -> None:
    proposal = st.session_state.get("proposed", {}).get(expert.ref)
    with st.container(key=f"row-{expert.ref}"):
        expert_link(expert)
        bar = ""
        if proposal is not None:
            fit = closeness(proposal.score, request=False)
            bar = f'{score_bar(proposal.score, fit)}<p class="nm-line">{escaped(proposal.reason)}</p>'
        st.html(f'<p class="nm-line">{escaped(expert.description)}</p>{facts(expert)}{bar}')


def _nothing_chosen() -> None:
    with st.container(key="numbers"):
        st.subheader("Estimate", anchor=False)
        st.caption("Choose experts to see the size, the training time and the licence of their mix.")


def _outlook(
    registry: Registry, form: Form, seed: SeedRecord, experts: list[ExpertRecord], settings: dict[str, Any]
) -> tuple[Recipe, Estimate]:
    """Draw the estimate; return the current recipe and its estimate."""
    from composer.mix.recipe import Recipe

    st.subheader("Estimate", anchor=False)
    refs = [expert.ref for expert in experts]
    recipe = Recipe.parse({**settings, "seed": seed.name, "experts": refs})
    forecast = estimate(registry, seed, experts, recipe.model_dump(mode="json"))
    trained = f"{parameters(forecast.tokens)} tokens" if forecast.tokens else "none"
    about = "based on recent runs here" if forecast.seconds_measured else "a rough estimate"
    fact_table(
        {
            "Name": recipe.name,
            "Experts": f"{len(experts)} plus the seed; {_taken(recipe)} per token",
            "Total": f"{parameters(forecast.total)} parameters",
            "Active": f"{parameters(forecast.active)} parameters per token",
            "New storage": size(forecast.bytes_written),
            "Memory": f"≈ {size(forecast.memory)}",
            "Fine-tune": trained,
            "Time": f"≈ {roughly(forecast.seconds)}, {about}" if forecast.tokens else "seconds",
            "Licence": forecast.license,
        }
    )
    if forecast.is_allowed:
        st.caption(label(licence_words(forecast.license or "")))
        return recipe, forecast
    st.warning(label(forecast.conflict), icon=":material/gavel:")
    reason = st.text_input(
        "Why may you combine them?",
        placeholder="For example: written permission from …",
        **form.field("license_override", ""),
    )
    return recipe.model_copy(update={"license_override": reason.strip() or None}), forecast


def _taken(recipe: Recipe) -> str:
    """The number of experts per token, in words."""
    if recipe.top_p is not None:
        return f"the fewest with total p ≥ {recipe.top_p:g}"
    return ("at most " if recipe.null_experts else "") + plural(recipe.top_k, "expert")


def _submit_button(
    registry: Registry, form: Form, recipe: Recipe, forecast: Estimate, *, is_named: bool
) -> None:
    measured = st.toggle(
        "Evaluate it afterwards",
        help="A second run compares the mix with its seed, each expert and dense merging, and records its routing.",
        **form.field("evaluate", True, read=yes_or_no),
    )
    with st.container(key="action"):
        wanted = st.button("Compose", type="primary", icon=":material/hub:", width="stretch")
    if wanted:
        if not is_named:
            refuse("Correct the name first.")
        elif not forecast.is_allowed and recipe.license_override is None:
            refuse("First state why you may combine these licences.")
        else:
            queue(registry, "compose", {"recipe": recipe.model_dump(mode="json"), "evaluate": measured})
    if len(recipe.experts) == 1:
        st.caption("A mix of one expert is valid, but routing is more useful with two or more.")


def _as_text(recipe: Recipe) -> None:
    st.subheader("As text", anchor=False)
    shell, file = st.tabs(["Command", "Recipe file"])
    with shell:
        st.code(command(recipe), language=None, wrap_lines=True)
    with file:
        st.code(recipe.to_yaml(), language="yaml", wrap_lines=True)
