"""The recipe as a form: each choice with a line that says what it means, and the recipe's own default first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from composer.variants import ROUTERS, TRUNK_MERGES
from registry.names import check_name
from registry.records import ExpertRecord
from ui.web.recipes import default_name
from ui.web.session import shown_refusal
from ui.wording.display import parameters

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe, Training

TOKENS = [0, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
TRAINED = {"all": "Everything", "trunk": "Trunk", "ffn": "FFNs", "router": "Router"}
TOP_K, TOP_P = "top_k", "top_p"
FIRST_TOP_P = 0.7
MOST_NULL_EXPERTS = 4

# What stands in the recipe, its name on the page, and what it means.
Choices = Mapping[str, tuple[str, str]]
SELECTIONS: Choices = {
    TOP_K: ("A fixed number", "Every token takes the same number of experts (top-k)."),
    TOP_P: (
        "As many as it needs",
        "As few as reach a probability together; an easy token takes one (top-p).",
    ),
}
COMBINATIONS: Choices = {
    "convex": ("Convex", "(1 − p) · seed + p · expert: an unsure token stays with the seed."),
    "additive": ("Additive", "seed + p · expert, as in the paper."),
}
DATA_MIXES: Choices = {
    "uniform": ("Equal parts", "As much of each domain, however much text it has."),
    "proportional": ("As there is text", "A domain with more text is seen more often."),
    "regmix": ("By trial", "Short runs on different mixtures tell which is best (RegMix); takes longer."),
}


def recipe_form(experts: Sequence[ExpertRecord]) -> dict[str, Any]:
    """Draw the controls and return the recipe's fields, but for its seed and its experts.

    The name is None where what was typed cannot be one.
    """
    from composer.mix.recipe import Recipe

    default = Recipe(name="mix", seed="seed", experts=["expert"])
    training = default.training
    st.subheader("Recipe", anchor=False)
    typed = st.text_input(
        "Name", value="", placeholder=default_name(experts), help="Composed again, it gets the next version."
    )
    name = None
    with shown_refusal():
        name = check_name(typed.strip() or default_name(experts))
    tokens = st.select_slider(
        "Tokens of fine-tuning",
        sorted({*TOKENS, training.tokens}),
        value=training.tokens,
        format_func=lambda count: parameters(count) if count else "none",
        help="After its warm start the router is good already; a short fine-tune settles the rest.",
    )
    train = st.segmented_control(
        "What to train",
        list(TRAINED),
        default=training.train,
        required=True,
        format_func=TRAINED.__getitem__,
        disabled=tokens == 0,
        help="Training FFNs writes new ones.",
    )
    selection = _selection(default, len(experts))
    with st.expander("More"):
        st.caption("A recipe file says more than this form: losses, batches, parameters of a merge.")
        router = _one_of("Router", ROUTERS.words(), default.router)
        combine = _one_of("Combination", COMBINATIONS, default.combine)
        merge = _from_list("Trunk", TRUNK_MERGES.words(), default.trunk_merge.method)
        more = _training(training, tokens)
    return {
        "name": name,
        "router": router,
        "combine": combine,
        **selection,
        "trunk_merge": default.trunk_merge if merge == default.trunk_merge.method else merge,
        "training": {"tokens": tokens, "train": train, **more},
    }


def _selection(default: Recipe, experts: int) -> dict[str, Any]:
    """How many experts a token takes, and whether it may take none."""
    way = _one_of("Experts a token", SELECTIONS, TOP_K)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if way == TOP_P:
            chosen: dict[str, Any] = {TOP_P: st.slider("Probability", 0.1, 1.0, FIRST_TOP_P, 0.05, width=260)}
        else:
            chosen = {TOP_K: st.number_input("Number", 1, experts, default.top_k, width=130)}
        may_be_none = way == TOP_P or chosen[TOP_K] > 1
        nulls = st.number_input(
            "Null experts",
            0,
            MOST_NULL_EXPERTS,
            default.null_experts,
            width=130,
            disabled=not may_be_none,
            help="Choices that compute nothing: a token that takes one is left to the seed. They need two experts "
            "a token or more.",
        )
    return {**chosen, "null_experts": nulls if may_be_none else default.null_experts}


def _training(default: Training, tokens: int) -> dict[str, Any]:
    """The rest of the fine-tune."""
    warm_start = st.toggle(
        "Fit the router to the domains first",
        value=default.warm_start,
        help="Solved in closed form on the experts' own samples, in seconds.",
    )
    data_mix = _one_of("How much of each domain", DATA_MIXES, default.data_mix, disabled=tokens == 0)
    with st.container(horizontal=True):
        rate = st.number_input("Learning rate", 1e-6, 1.0, default.learning_rate, format="%.1e", width=150)
        random_seed = st.number_input("Random seed", 0, 2**32 - 1, default.random_seed, width=150)
    return {
        "warm_start": warm_start,
        "data_mix": data_mix,
        "learning_rate": rate,
        "random_seed": random_seed,
    }


def _one_of(title: str, choices: Choices, default: str, **more: Any) -> str:
    """All choices with their meaning below."""
    keys = list(choices)
    chosen: str = st.radio(
        title,
        keys,
        index=keys.index(default),
        format_func=lambda key: choices[key][0],
        captions=[about for _name, about in choices.values()],
        **more,
    )
    return chosen


def _from_list(title: str, choices: Choices, default: str) -> str:
    """Many choices: a list, and the meaning of the chosen one."""
    keys = sorted(choices, key=lambda key: key != default)
    chosen: str = st.selectbox(title, keys, format_func=lambda key: choices[key][0])
    st.caption(choices[chosen][1])
    return chosen
