"""The page of one expert: its card, provenance, stored files, evaluation and nearest domains."""

from __future__ import annotations

import textwrap

import streamlit as st

from composer.evaluation.comparison import evaluation_of
from registry.catalog.aliases import list_aliases, point
from registry.catalog.lifecycle import get_readme
from registry.catalog.queries import (
    get_expert,
    get_measurement,
    list_mixes,
    list_versions,
    search,
    verify,
)
from registry.domains.documents import load_documents
from registry.home import Registry
from registry.records import ExpertRecord
from ui.web import routes
from ui.web.components import (
    chip,
    empty_state,
    escaped,
    expert_link,
    fact_table,
    facts,
    label,
    page_title,
    score_bar,
)
from ui.web.hub_push import push_form
from ui.web.quality import short_quality
from ui.web.session import (
    current_registry,
    queue,
    refuse,
    shown_errors,
    shown_refusal,
)
from ui.web.stars import star_button
from ui.web.tables import figures
from ui.wording.display import parameters, plural, printable, share
from ui.wording.provenance import in_words

NEIGHBOURS = 5
NEIGHBOUR_WIDTH = 190
EXCERPTS = 3
EXCERPT_CHARS = 600
TITLE_CHARS = 70
PYTHON = """\
from composer.composition import compose
from composer.mix.recipe import Recipe
from registry.home import open_registry

recipe = Recipe(name="NAME", seed="{seed}", experts=["{ref}", "OTHER"])
result = compose(open_registry(), recipe)
"""


def render() -> None:
    """Draw the page of the expert that the address names."""
    with st.container(key="back"):
        st.page_link(routes.catalog(), label="Catalog", icon=":material/arrow_back:")
    ref = st.query_params.get("ref")
    if not ref:
        empty_state("No expert chosen", "Open an expert from the catalog.")
        return
    with shown_errors():
        registry = current_registry()
        expert = get_expert(registry, ref)
        _head(expert)
        story, numbers = st.columns([5, 3], gap="large")
        with story:
            _card(registry, expert)
            _commands(registry, expert)
            _transfer(registry, expert)
            _neighbours(registry, expert)
            _excerpts(registry, expert)
        with numbers, st.container(key="numbers", border=True):
            _facts(expert)
            _digests(registry, expert)
            _provenance(expert)
            _aliases(registry, expert)
            _relatives(registry, expert)


def _head(expert: ExpertRecord) -> None:
    page_title("Expert", expert.name, f"@{expert.version}")
    st.html(facts(expert))
    if expert.draft:
        st.info(f"Draft: until `nexusmix publish {label(expert.ref)}`, only this address finds it.")
    if expert.withdrawn is not None:
        purged = " Its bytes were purged." if expert.purged_at is not None else ""
        st.warning(f"Withdrawn: {label(expert.withdrawn)}{purged}", icon=":material/block:")


def _card(registry: Registry, expert: ExpertRecord) -> None:
    about = escaped(expert.description, lines=True) or "The contributor wrote no description."
    with st.container(key="about"):
        st.html(f'<p class="nm-text">{about}</p>')
        if expert.tags:
            st.html(f'<div class="nm-facts">{"".join(chip(tag) for tag in expert.tags)}</div>')
    readme = get_readme(registry, expert.ref)
    if readme:
        with st.expander("README"):
            # An image of another site would tell it who reads this page.
            st.markdown(printable(readme, lines=True).replace("![", "\\!["))


def _commands(registry: Registry, expert: ExpertRecord) -> None:
    if expert.withdrawn is not None:
        return
    st.subheader("Use it", anchor=False)
    shell, python = st.tabs(["Shell", "Python"])
    with shell, st.container(key="commands"):
        for command in (
            f"nexusmix compose NAME --seed {expert.seed} --experts {expert.ref},OTHER",
            f"nexusmix extend MIX {expert.ref}",
        ):
            st.code(command, language=None, wrap_lines=True)
    with python:
        st.code(PYTHON.format(seed=expert.seed, ref=expert.ref), language="python", wrap_lines=True)
    with st.container(key="run-actions", horizontal=True, vertical_alignment="center"):
        st.page_link(
            routes.compose(),
            label="Compose a mix with it",
            icon=":material/hub:",
            query_params={"seed": expert.seed, "experts": expert.ref},
        )
        with st.popover("Push", icon=":material/cloud_upload:", width="content"):
            push_form(registry, {"expert": expert.ref})
        star_button(registry, "expert", expert.name)


def _transfer(registry: Registry, expert: ExpertRecord) -> None:
    """Draw the expert's scores next to its seed's, on its own domain and on others."""
    st.subheader("Evaluation", anchor=False)
    measurement = get_measurement(registry, expert.ref)
    if measurement is None:
        st.caption(
            "Not measured yet. A measurement compares the expert with its seed on its own and on other domains."
        )
    else:
        scores = measurement["bits_per_byte"]
        own = scores.get(expert.ref, {})
        if own and own["seed"] > 0:
            saved = 1 - own["expert"] / own["seed"]
            words = f"{share(abs(saved))} {'fewer' if saved >= 0 else 'more'} bits than its seed"
            st.html(f'<p class="nm-quality">On text of its own domain, this expert needs {words}.</p>')
        rows = {
            ("its own" if domain == expert.ref else domain): [row["seed"], row["expert"]]
            for domain, row in scores.items()
        }
        caption = "Bits per byte on held-out text, nearest domains first; lower is better"
        st.html(figures(["seed", "this expert"], rows, corner="text", caption=caption))
    with st.container(key="measure"):
        title = "Measure it" if measurement is None else "Measure again"
        if st.button(title, icon=":material/monitoring:", disabled=expert.withdrawn is not None):
            queue(registry, "measure", {"expert": expert.ref})


def _neighbours(registry: Registry, expert: ExpertRecord) -> None:
    """Draw the experts with the nearest domains, by cosine with this expert's mean vector."""
    st.subheader("Nearest domains", anchor=False)
    others = None
    with shown_refusal(), st.spinner("Comparing domains …"):
        hits = search(registry, expert.embedding.mean, limit=NEIGHBOURS + 1)
        others = [hit for hit in hits if hit.expert.ref != expert.ref][:NEIGHBOURS]
    if others is None:
        return
    if not others:
        st.caption("There are no other experts yet.")
    for hit in others:
        with st.container(key=f"neighbour-{hit.expert.ref}", horizontal=True, vertical_alignment="center"):
            expert_link(hit.expert, width=NEIGHBOUR_WIDTH)
            st.html(score_bar(hit.score))


def _excerpts(registry: Registry, expert: ExpertRecord) -> None:
    st.subheader("Excerpts from the training text", anchor=False)
    if expert.purged_at is not None:
        st.caption("The training text was purged.")
        return
    if expert.sample is None:
        st.caption("The training text is private. Only its embedding was contributed.")
        return
    for text in load_documents(registry.blobs, expert.sample)[:EXCERPTS]:
        with st.expander(label(textwrap.shorten(text, TITLE_CHARS, placeholder=" …"))):
            excerpt = text[:EXCERPT_CHARS] + (" …" if len(text) > EXCERPT_CHARS else "")
            st.code(printable(excerpt, lines=True), language=None, wrap_lines=True)


def _facts(expert: ExpertRecord) -> None:
    st.subheader("Overview", anchor=False)
    domain = expert.embedding
    with st.container(key="facts"):
        fact_table(
            {
                "Authors": ", ".join(expert.authors),
                "Seed": expert.seed,
                "Licence": expert.license,
                "Parameters": parameters(expert.parameters),
                "Weights": f"{expert.dtype}, FFN width {expert.ffn_width:,}",
                "Trunk": "the seed's own (anchored)" if expert.anchored else "its own",
                "Stored as": "a low-rank difference from the seed" if expert.difference else "whole weights",
                "Domain": f"{plural(domain.chunk_count, 'chunk')}, {plural(len(domain.centroids), 'centroid')}",
                "Embedder": domain.embedder,
                "Published": f"{expert.created_at:%Y-%m-%d %H:%M} UTC",
            }
        )


def _digests(registry: Registry, expert: ExpertRecord) -> None:
    st.subheader("Stored weights", anchor=False)
    parts = [("FFN", expert.ffn), ("Trunk", expert.trunk)]
    if expert.difference is not None:
        parts = [("Low-rank difference from the seed", expert.difference)]
    for role, digest in parts:
        with st.container(key=f"digest-{role}", gap=None):
            st.caption(role)
            st.code(digest, language=None, wrap_lines=True)
    if st.button(
        "Verify now",
        icon=":material/verified_user:",
        help="Recompute the digests of all stored files of this expert.",
    ):
        with shown_refusal():
            with st.spinner("Hashing …"):
                problems = verify(registry, expert.ref)
            if problems:
                st.error("; ".join(label(problem.message) for problem in problems), icon=":material/gpp_bad:")
            else:
                st.success("All stored files match their digests.", icon=":material/verified:")


def _provenance(expert: ExpertRecord) -> None:
    if expert.provenance:
        st.subheader("Provenance", anchor=False)
        fact_table({_title(name): _figure(value) for name, value in in_words(expert.provenance).items()})


def _aliases(registry: Registry, expert: ExpertRecord) -> None:
    """Draw the expert's aliases, and a form that points an alias to this version."""
    aliases = list_aliases(registry, expert.name)
    st.subheader("Aliases", anchor=False)
    if aliases:
        fact_table({f"{expert.name}@{word}": f"→ {ref}" for word, ref in aliases.items()})
    with st.popover(
        "Point an alias to this version", icon=":material/label:", disabled=expert.withdrawn is not None
    ):
        word = st.text_input("Alias", placeholder="stable").strip()
        below = st.container()
        alias = f"{expert.name}@{word}"
        stands = aliases.get(word)
        if stands == expert.ref:
            st.caption("This alias already points to this version.")
        elif stands:
            st.caption(f"This alias points to {label(stands)} now and will be moved.")
        if st.button("Set alias", type="primary"):
            if not word:
                refuse("Enter an alias, for example: stable.", below)
            elif stands != expert.ref:
                with shown_refusal(below):
                    point(registry, alias, expert.ref, expected=stands)
                    st.rerun()


def _relatives(registry: Registry, expert: ExpertRecord) -> None:
    """Draw links to all versions, and to the mixes that contain this one."""
    versions = list_versions(registry, expert.name)
    if len(versions) > 1:
        st.subheader("Versions", anchor=False)
        with st.container(horizontal=True, key="versions"):
            for version in reversed(versions):
                expert_link(version, disabled=version.ref == expert.ref)
    mixes = list_mixes(registry, expert=expert.ref)
    if mixes:
        st.subheader("Used by", anchor=False)
        with st.container(key="lineage", gap=None):
            for mix in mixes:
                words = short_quality(evaluation_of(mix, mixes))
                name = f"{label(mix.ref)} :gray[{label(words)}]"
                st.page_link(routes.mix(), label=name, query_params={"ref": mix.ref})


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Ffn", "FFN")


def _figure(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
