"""Research options: options of a recipe that showed no clear gain when measured, or were never measured.

This table is their only list. The recipe's `research` block, the panel of the command line's help, the expander of the
web app's form and docs/COMMANDS.md read it. Locks, manifests and the database store the options flat, as fields of
the recipe and of its training. The figures of the verdicts are in bench/RESULTS.md, 'Routers and selections of
experts'.
This module imports neither pydantic nor torch, so that the help stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composer.variants import DATA_MIXES, ROUTERS, TRUNK_MERGES, Table, Variant

BLOCK = "research"


@dataclass(frozen=True)
class ResearchOption:
    """One option. With `training` it is a field of the recipe's training, else of the recipe.

    `verdict` is the result of its measurement. If the option has `variants`, only their research rows belong to the
    block, and each row has its own verdict.
    """

    name: str
    title: str
    summary: str
    verdict: str = ""
    training: bool = False
    variants: Table[Any] | None = None

    @property
    def about(self) -> str:
        """Summary and verdict for a help text or a caption."""
        return f"{self.summary} Verdict: {self.verdict}."

    def rows(self) -> list[Variant]:
        """Research rows of the option's variants, if it has any."""
        return [] if self.variants is None else self.variants.rows(research=True)

    def covers(self, value: Any) -> bool:
        """Whether a value of the option belongs to the research block."""
        if self.variants is None:
            return True
        name = value["method"] if isinstance(value, Mapping) else value
        return name in self.variants and self.variants[name].research


REGMIX = DATA_MIXES["regmix"].verdict

OPTIONS = {
    option.name: option
    for option in (
        ResearchOption(
            "router", "Research router", "Router that scores the experts of each block.", variants=ROUTERS
        ),
        ResearchOption(
            "trunk_merge", "Research trunk merge", "Rule that merges the trunks.", variants=TRUNK_MERGES
        ),
        ResearchOption(
            "top_p",
            "Top-p",
            "Use the fewest experts whose probabilities sum to P, instead of a fixed number.",
            "no gain in 3 random seeds",
        ),
        ResearchOption(
            "null_experts",
            "Null experts",
            "Extra choices that compute nothing; they need two or more experts per token, or top-p.",
            "0.003 bits per byte better than the default in 3 random seeds, but at 1.75 experts per token",
        ),
        ResearchOption(
            "train_router",
            "Train the router",
            "Train the router too; by default only one without a warm start or one that needs training. "
            "An extension then solves the embeddings of all experts again.",
            "0.040 bits per byte worse than the default in 3 random seeds; better in an extension without a "
            "fine-tune, where it is the default if the trunk is fitted",
            training=True,
        ),
        ResearchOption(
            "data_mix",
            "Research data mix",
            "Rule for the domains' shares of the tokens.",
            training=True,
            variants=DATA_MIXES,
        ),
        ResearchOption(
            "regmix_runs",
            "RegMix runs",
            "Number of proxy runs of the data mix regmix.",
            REGMIX,
            training=True,
        ),
        ResearchOption(
            "regmix_tokens",
            "RegMix tokens",
            "Tokens of each proxy run of the data mix regmix.",
            REGMIX,
            training=True,
        ),
        ResearchOption(
            "balance_over",
            "Load balance over",
            "Batch over which the load balance counts: micro_batch, or global_batch for a whole step.",
            "with the router trained, 0.041 bits per byte worse than the default in 3 random seeds",
            training=True,
        ),
        ResearchOption(
            "z_loss",
            "Z-loss",
            "Factor of the z-loss, which keeps the router's logits small.",
            "with the router trained, 0.048 bits per byte worse than the default in 3 random seeds",
            training=True,
        ),
        ResearchOption(
            "entropy",
            "Entropy loss",
            "Factor of the router's entropy, a loss for top-p.",
            "with top-p and the router trained, 0.032 bits per byte worse than the default in 3 random seeds",
            training=True,
        ),
        ResearchOption(
            "dense_to_sparse",
            "Dense to sparse",
            "Share of the steps in which routing changes from dense to sparse.",
            "with the router trained, 0.025 bits per byte worse than the default in 3 random seeds; "
            "0.015 better than a trained router without it",
            training=True,
        ),
    )
}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Move the options of the `research` block to their fields in a recipe.

    Raises ValueError for an unknown option, and for one that is given twice with different values.
    """
    recipe = {name: value for name, value in values.items() if name != BLOCK}
    block = values.get(BLOCK)
    if block is None:
        return recipe
    if not isinstance(block, Mapping):
        raise ValueError(f"{BLOCK}: expected a mapping of options, got {type(block).__name__}")
    if unknown := [str(name) for name in block if name not in OPTIONS]:
        raise ValueError(f"{BLOCK}: unknown {', '.join(unknown)}; expected some of {', '.join(OPTIONS)}")
    training = recipe.get("training", {})
    if not isinstance(training, Mapping):
        raise ValueError(f"training: expected a mapping of options, got {type(training).__name__}")
    training = dict(training)
    for name, value in block.items():
        part, path = (training, f"training.{name}") if OPTIONS[name].training else (recipe, name)
        if name in part and part[name] != value:
            raise ValueError(
                f"{path} is {part[name]!r}, but {BLOCK}.{name} is {value!r}; remove one of the two"
            )
        part[name] = value
    return {**recipe, "training": training} if training else recipe


def with_block(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Move research options of a flat recipe to a `research` block; `flat` reverses it.

    Research options that have their default value are omitted.
    """
    recipe = dict(values)
    training = recipe["training"] = dict(recipe.get("training", {}))
    block = {}
    for name, option in OPTIONS.items():
        part, standard = (training, defaults["training"]) if option.training else (recipe, defaults)
        if name in part and option.covers(part[name]):
            value = part.pop(name)
            if value != standard[name]:
                block[name] = value
    if not training:
        del recipe["training"]
    return {**recipe, BLOCK: block} if block else recipe
