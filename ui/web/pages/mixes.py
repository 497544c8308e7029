"""The mixes page: one card per name with its versions, the lineage, and a comparison of two mixes."""

from __future__ import annotations

import streamlit as st

from composer.evaluation.comparison import compare, evaluation_of, gain_kept
from registry.catalog.queries import list_mixes
from registry.home import Registry
from registry.records import MixRecord
from ui.web import routes
from ui.web.components import compose_link, empty_state, escaped, label, lineage_link, page_title
from ui.web.mix_words import (
    children,
    manifest_of,
    mix_facts,
    score_line,
    settings_line,
    step,
    text_words,
)
from ui.web.quality import gain_bar, quality, rival
from ui.web.session import current_registry, queue, shown_errors
from ui.web.tables import figures
from ui.wording.display import plural


def render() -> None:
    """Draw the page: the cards, then the comparison."""
    page_title("Mixes")
    with shown_errors():
        registry = current_registry()
        with st.spinner("Reading the mixes …"):
            mixes = list_mixes(registry)
        if not mixes:
            empty_state(
                "No mixes yet",
                "Choose experts of one seed and compose them into one model.",
            )
            compose_link()
            return
        by_name: dict[str, list[MixRecord]] = {}
        for mix in mixes:
            by_name.setdefault(mix.name, []).append(mix)
        st.caption(plural(len(by_name), "mix").replace("mixs", "mixes") + ", sorted by name")
        with st.container(key="mixes"):
            for versions in by_name.values():
                _card(versions, mixes)
        _lineage(mixes)
        if len(mixes) > 1:
            _comparison(registry, mixes)


def _card(versions: list[MixRecord], mixes: list[MixRecord]) -> None:
    """Draw a card with the newest version on top and links to the older ones below."""
    newest = versions[-1]
    with st.container(key=f"mixcard-{newest.name}"):
        st.page_link(
            routes.mix(),
            label=f"{label(newest.name)} :gray[{label(f'@{newest.version}')}]",
            query_params={"ref": newest.ref},
        )
        evaluation = evaluation_of(newest, mixes)
        kept = gain_kept(evaluation) if evaluation else None
        if evaluation and kept is not None:
            words = f"It {quality(evaluation)}. {rival(evaluation)}"
            bar = gain_bar(kept, score_line(evaluation))
        else:
            words, bar = score_line(evaluation), ""
        st.html(f'{mix_facts(newest)}<p class="nm-line">{escaped(words)}</p>{bar}')
        if len(versions) > 1:
            with st.container(horizontal=True, key=f"older-{newest.name}", vertical_alignment="center"):
                st.caption("Earlier versions:", width="content")
                for version in reversed(versions[:-1]):
                    query = {"ref": version.ref}
                    st.page_link(routes.mix(), label=label(f"@{version.version}"), query_params=query)


def _lineage(mixes: list[MixRecord]) -> None:
    """Draw the tree of which mix was made from which; nothing if no mix was made from another."""
    known = {mix.ref: mix for mix in mixes}
    if not any(mix.parent in known for mix in mixes):
        return
    st.subheader("Lineage", anchor=False)
    with st.container(key="lineage", gap=None):
        for mix in mixes:
            if mix.parent not in known and children(mix, mixes):
                lineage_link(mix, "composed", 0)
                _descendants(mix, mixes, 1)


def _descendants(mix: MixRecord, mixes: list[MixRecord], depth: int) -> None:
    for child in children(mix, mixes):
        lineage_link(child, step(mix, child), depth)
        _descendants(child, mixes, depth + 1)


def _comparison(registry: Registry, mixes: list[MixRecord]) -> None:
    st.subheader("Compare two mixes", anchor=False)
    known = {mix.ref: mix for mix in mixes}
    refs = list(known)
    for key, default in (("a", refs[-1]), ("b", refs[-2])):
        given = st.query_params.get(key)
        st.session_state.setdefault(key, given if given in known else default)
    with st.container(horizontal=True):
        one = known[st.selectbox("First mix", refs, key="a", persist_state="session")]
        other = known[st.selectbox("Second mix", refs, key="b", persist_state="session")]
    st.query_params.from_dict({"a": one.ref, "b": other.ref})
    if one.ref == other.ref:
        st.caption("Choose two different mixes.")
        return
    rows = [_settings(registry, mix) for mix in (one, other)]
    body = "".join(
        f'<tr class="{"" if rows[0][name] == rows[1][name] else "differs"}"><th scope="row">{escaped(name)}</th>'
        f"<td><span>{escaped(rows[0][name])}</span></td><td><span>{escaped(rows[1][name])}</span></td></tr>"
        for name in rows[0]
    )
    head = f'<th></th><th scope="col">{escaped(one.ref)}</th><th scope="col">{escaped(other.ref)}</th>'
    st.html(
        f'<div class="nm-scroll" tabindex="0"><table class="nm-figures words">'
        f"<caption>Differences are highlighted</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
    _scores(registry, one, other)


def _settings(registry: Registry, mix: MixRecord) -> dict[str, str]:
    manifest = manifest_of(registry, mix)
    tokens = manifest["training"].get("tokens", 0)
    return {
        "Seed": mix.seed,
        "Experts": ", ".join(mix.experts),
        **settings_line(manifest),
        "Fine-tune": f"{tokens:,} tokens" if tokens else "none",
    }


def _scores(registry: Registry, one: MixRecord, other: MixRecord) -> None:
    """Draw their scores on the same text; scores on different text are not comparable."""
    evaluations = (one.evaluation or {}, other.evaluation or {})
    found = compare(one.ref, one.evaluation, other.ref, other.evaluation)
    rows = {domain: list(scores) for domain, scores in found.rows.items()}
    if len(rows) > 1:
        rows["mean"] = [sum(column) / len(rows) for column in zip(*rows.values(), strict=True)]
    if rows:
        caption = "Bits per byte by domain, on text that both mixes were evaluated on; lower is better"
        st.html(figures([one.ref, other.ref], rows, corner="domain", caption=caption))
    if found.unlike:
        texts = (
            f"{domain} ({text_words(evaluations[0], domain)}, {text_words(evaluations[1], domain)})"
            for domain in found.unlike
        )
        st.caption(label(f"Evaluated on different text, so not compared: {'; '.join(texts)}."))
    elif not rows:
        missing = [mix.ref for mix in (one, other) if not mix.evaluation]
        st.caption(
            label(f"Not evaluated yet: {', '.join(missing)}. Evaluate both to compare their scores.")
            if missing
            else "They were evaluated on different domains."
        )
    if (found.unlike or not rows) and one.seed == other.seed:
        about = "Queue an evaluation of the first mix that also measures the second."
        if st.button("Evaluate both on the same text", icon=":material/monitoring:", help=about):
            queue(registry, "evaluate", {"mix": one.ref, "against": [other.ref]})
