"""Form of a recipe: each choice with a line of explanation, and the recipe's default first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from composer.mix.research import OPTIONS
from composer.variants import DATA_MIXES, ROUTERS, TRUNK_MERGES, chosen_by_name
from registry.names import check_name
from registry.records import ExpertRecord
from ui.web.form import Form, address_text, yes_or_no
from ui.web.recipes import default_name
from ui.web.session import shown_refusal
from ui.wording.display import parameters

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe, Training

TOKENS = [0, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
TRAINED = {"all": "Everything", "lora": "Low-rank", "trunk": "Trunk", "ffn": "FFNs", "router": "Router"}
ROUTER_TRAINING = {None: "Default", True: "Yes", False: "No"}
BALANCE_OVER = {"micro_batch": "Micro-batch", "global_batch": "Global batch"}
MOST_NULL_EXPERTS = 4

# The value in the recipe, its name on the page, and its explanation.
Choices = Mapping[str, tuple[str, str]]
COMBINATIONS: Choices = {
    "convex": ("Convex", "(1 − p) · seed + p · expert: at a low p the seed dominates."),
    "additive": ("Additive", "seed + p · expert, as in the paper."),
}

KINDS: Choices = {
    "whole": (
        "Whole experts",
        "Each token passes through one whole expert. Best measured, and nothing is trained. Exports to transformers.",
    ),
    "merged": (
        "Merged trunk",
        "One shared attention with the experts' FFNs. Smaller, and exports to llama.cpp and vLLM as well.",
    ),
}


def recipe_form(form: Form, experts: Sequence[ExpertRecord]) -> dict[str, Any]:
    """Draw the controls and return the recipe's fields, except its seed and its experts.

    The name is None if the typed name is not valid.
    """
    from composer.mix.recipe import Recipe

    st.subheader("Recipe", anchor=False)
    typed = st.text_input(
        "Name",
        placeholder=default_name(experts),
        help="A name that exists gets the next version.",
        **form.field("name", ""),
    )
    name = None
    with shown_refusal():
        name = check_name(typed.strip() or default_name(experts))
    kind = _one_of("Kind of mix", KINDS, form, "kind", "whole")
    if kind == "whole":
        return {"name": name, "trunk_merge": "routed", "training": _whole(form)}
    merged = Recipe(name="mix", seed="seed", experts=["expert"], trunk_merge="regmean")  # type: ignore[arg-type]
    return {"name": name, **_merged(form, merged, len(experts))}


def _whole(form: Form) -> dict[str, Any]:
    """Training options of a mix of whole experts."""
    tokens = st.select_slider(
        "Tokens of fine-tuning",
        TOKENS,
        format_func=lambda count: parameters(count) if count else "none",
        help="Trains one low-rank difference per expert on the text of its domain. The experts stay as they are.",
        **form.field("whole_tokens", 0, read=int, allowed=TOKENS),
    )
    with st.expander("More"):
        warm_start = st.toggle(
            "Measure each expert's strength",
            help="How far each expert goes from the seed to itself, found on text that nothing was trained on.",
            **form.field("strength", True, read=yes_or_no),
        )
    return {"warm_start": warm_start, "tokens": tokens}


def _merged(form: Form, default: Recipe, experts: int) -> dict[str, Any]:
    """Options of a mix with one merged trunk."""
    training = default.training
    steps = sorted({*TOKENS, training.tokens})
    tokens = st.select_slider(
        "Tokens of fine-tuning",
        steps,
        format_func=lambda count: parameters(count) if count else "none",
        help="The warm start fits the router and the trunk. A fine-tune then trains the other parts; on a real seed it "
        "made mixes worse.",
        **form.field("tokens", training.tokens, read=int, allowed=steps),
    )
    train = st.segmented_control(
        "What to train",
        list(TRAINED),
        required=True,
        format_func=TRAINED.__getitem__,
        disabled=tokens == 0,
        help="Trained FFNs are written as new blobs.",
        **form.field("train", training.train, allowed=TRAINED),
    )
    top_k = st.number_input(
        "Experts per token",
        1,
        experts,
        width=160,
        **form.field("top_k", default.top_k, read=int, allowed=range(1, experts + 1)),
    )
    merges = {key: words for key, words in TRUNK_MERGES.words().items() if key != "routed"}
    with st.expander("More"):
        st.caption("A recipe file can set more: batches, the load balance, parameters of a merge.")
        router = _one_of("Router", ROUTERS.words(), form, "router", default.router)
        combine = _one_of("Combination", COMBINATIONS, form, "combine", default.combine)
        merge = _from_list("Trunk", merges, form, "trunk_merge", default.trunk_merge.method)
        more = _training(form, training, tokens)
    with st.expander("Research options"):
        st.caption(
            "Options without a clear measured gain, each with its verdict. The figures are in bench/RESULTS.md."
        )
        selection = _research_selection(form, default, top_k)
        chosen = _research_variants(form, tokens)
        losses = _research_training(form, training, tokens)
    router = chosen.pop("router", router)
    if not tokens and (ROUTERS[router].needs_training or not more["warm_start"]):
        st.warning("Only a fine-tune trains this router: choose tokens of fine-tuning.")
    data_mix = chosen.pop("data_mix", more["data_mix"])
    return {
        "router": router,
        "combine": combine,
        **selection,
        "trunk_merge": default.trunk_merge if merge == default.trunk_merge.method else merge,
        **chosen,
        "training": {"tokens": tokens, "train": train, **more, **losses, "data_mix": data_mix},
    }


def _research_selection(form: Form, default: Recipe, top_k: int) -> dict[str, Any]:
    """Number of experts per token: `top_k`, or `top_p` in its place, and null experts."""
    top_p = _number(form, "top_p", default.top_p, 0.05, 1.0, step=0.05, placeholder="off")
    several = top_p is not None or top_k > 1
    nulls = _number(form, "null_experts", default.null_experts, 0, MOST_NULL_EXPERTS, disabled=not several)
    return {
        "top_k": default.top_k if top_p is not None else top_k,
        "top_p": top_p,
        "null_experts": nulls if several else default.null_experts,
    }


def _research_variants(form: Form, tokens: int) -> dict[str, Any]:
    """The chosen research rows by option; they replace the choices under "More"."""
    chosen: dict[str, str] = {}
    for option in OPTIONS.values():
        rows = {row.name: row for row in option.rows() if chosen_by_name(row)}
        if not rows:
            continue
        titles: dict[str | None, str] = {None: "None", **{row.name: row.title for row in rows.values()}}
        name = st.selectbox(
            option.title,
            list(titles),
            format_func=titles.__getitem__,
            disabled=option.training and tokens == 0,
            **form.field(f"research_{option.name}", None, allowed=rows),
        )
        for row in [rows[name]] if name else rows.values():
            st.caption(f"{row.title}: {row.summary} Verdict: {row.verdict}.")
        if name:
            chosen[option.name] = name
    return chosen


def _research_training(form: Form, default: Training, tokens: int) -> dict[str, Any]:
    """Research options of the fine-tune."""
    off = {"disabled": tokens == 0}
    return {
        "train_router": _choice(form, "train_router", ROUTER_TRAINING, default.train_router, **off),
        "regmix_runs": _number(form, "regmix_runs", default.regmix_runs, 2, None, **off),
        "regmix_tokens": _number(form, "regmix_tokens", default.regmix_tokens, 8, None, **off),
        "balance_over": _choice(form, "balance_over", BALANCE_OVER, default.balance_over, **off),
        "z_loss": _number(form, "z_loss", default.z_loss, 0.0, None, format="%.1e", **off),
        "entropy": _number(form, "entropy", default.entropy, 0.0, None, format="%.1e", **off),
        "dense_to_sparse": _number(
            form, "dense_to_sparse", default.dense_to_sparse, 0.0, 1.0, step=0.05, **off
        ),
    }


def _number(form: Form, name: str, default: Any, least: Any, most: Any, **more: Any) -> Any:
    """Input of a research option that is a number, with its verdict."""
    whole = isinstance(least, int)
    more |= {"value": None} if default is None else {}
    field = form.field(
        name,
        default,
        read=int if whole else float,
        allowed=lambda value: value is not None and least <= value and (most is None or value <= most),
    )
    value = st.number_input(OPTIONS[name].title, least, most, width=160, **more, **field)
    st.caption(OPTIONS[name].about)
    return value


def _choice(form: Form, name: str, titles: Mapping[Any, str], default: Any, **more: Any) -> Any:
    """Input of a research option that is one of a few values, with its verdict."""
    values = list(titles)
    said = {address_text(value): value for value in values}

    def read(text: str) -> Any:
        if text not in said:
            raise ValueError(text)
        return said[text]

    field = form.field(name, default, read=read)
    value = st.selectbox(OPTIONS[name].title, values, format_func=titles.__getitem__, **more, **field)
    st.caption(OPTIONS[name].about)
    return value


def _training(form: Form, default: Training, tokens: int) -> dict[str, Any]:
    """Further settings of the training."""
    from composer.mix.recipe import Training

    warm_start = st.toggle(
        "Fit the router to the domains first",
        help="The warm start: closed forms on the experts' samples, in seconds.",
        **form.field("warm_start", default.warm_start, read=yes_or_no),
    )
    data_mix = _one_of(
        "Data mix", DATA_MIXES.words(), form, "data_mix", default.data_mix, disabled=tokens == 0
    )
    with st.container(horizontal=True):
        usual = Training(warm_start=warm_start, tokens=tokens).learning_rate
        field = form.field("learning_rate", usual, read=float, allowed=lambda rate: 1e-6 <= rate <= 1)
        rate = st.number_input("Learning rate", 1e-6, 1.0, format="%.1e", width=150, **field)
        field = form.field("random_seed", default.random_seed, read=int, allowed=range(2**32))
        random_seed = st.number_input("Random seed", 0, 2**32 - 1, width=150, **field)
    return {
        "warm_start": warm_start,
        "data_mix": data_mix,
        "learning_rate": rate,
        "random_seed": random_seed,
    }


def _one_of(title: str, choices: Choices, form: Form, name: str, default: str, **more: Any) -> str:
    """Radio buttons: all choices with their explanations."""
    keys = list(choices)
    chosen: str = st.radio(
        title,
        keys,
        format_func=lambda key: choices[key][0],
        captions=[about for _name, about in choices.values()],
        **more,
        **form.field(name, default, allowed=keys),
    )
    return chosen


def _from_list(title: str, choices: Choices, form: Form, name: str, default: str) -> str:
    """List of choices, with the explanation of the selected one below."""
    keys = sorted(choices, key=lambda key: key != default)
    field = form.field(name, default, allowed=keys)
    chosen: str = st.selectbox(title, keys, format_func=lambda key: choices[key][0], **field)
    st.caption(choices[chosen][1])
    return chosen
