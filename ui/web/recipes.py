"""Functions for a recipe on a page: its command line, its default name, and experts proposed for samples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from composer.mix.research import OPTIONS
from ui.query import CLOSE

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe, Training
    from composer.proposals import Proposal
    from registry.home import Registry
    from registry.records import ExpertRecord

MOST_PROPOSED = 4
NAME_CHARS = 40
BETWEEN_SAMPLES = re.compile(r"^\s*-{3,}\s*$", re.MULTILINE)
_TRAINING_FLAGS = ("tokens", "train", "data_mix", "learning_rate", "lora_rank", "random_seed")
_RESEARCH_FLAGS = tuple(o.name for o in OPTIONS.values() if o.training and not o.variants)


def command(recipe: Recipe) -> str:
    """Shell command that composes a recipe, without the options that have their defaults.

    Fields that no option sets, such as the parameters of a merge, are only in the recipe file.
    """
    from composer.mix.recipe import Training
    from composer.mix.routing import RoutingOptions

    flags = ("router", *RoutingOptions.model_fields, "license_override")
    default, training = recipe.usual(), Training(warm_start=recipe.training.warm_start, tokens=0)
    words = ["nexusmix", "compose", recipe.name]
    words += ["--seed", recipe.seed, "--experts", ",".join(recipe.experts)]
    for part, standard, names in (
        (recipe, default, flags),
        (recipe.training, training, (*_TRAINING_FLAGS, *_RESEARCH_FLAGS)),
    ):
        for name in names:
            value = getattr(part, name)
            if value == (_usual_tokens(recipe, training) if name == "tokens" else getattr(standard, name)):
                continue
            if name == "train_router":
                words.append("--train-router" if value else "--freeze-router")
            else:
                words += [f"--{name.replace('_', '-')}", str(value)]
    if not recipe.trunk_merge.routed:
        words += ["--trunk-merge", recipe.trunk_merge.method]
    if not recipe.training.warm_start:
        words.append("--no-warm-start")
    return shlex.join(words)


def _usual_tokens(recipe: Recipe, default: Training) -> int | None:
    """Return the tokens that the command has without the option; None if it needs the option."""
    from composer.mix.recipe import OF_THE_FINE_TUNE

    asked = any(getattr(recipe.training, name) != getattr(default, name) for name in OF_THE_FINE_TUNE)
    return None if asked else recipe.usual_tokens


def default_name(experts: Sequence[ExpertRecord]) -> str:
    """Join the names of the first experts to a name of limited length: "law-python"."""
    name = ""
    for expert in experts:
        longer = f"{name}-{expert.name}" if name else expert.name
        if len(longer) > NAME_CHARS:
            break
        name = longer
    return name or "mix"


def propose(registry: Registry, text: str, seed: str, limit: int = MOST_PROPOSED) -> list[Proposal]:
    """Propose experts of a seed for pasted samples, which lines of three or more dashes separate.

    An expert whose score is below CLOSE is never proposed, so the result may be empty. Raises the errors of
    `composer.proposals.propose`.
    """
    from composer.proposals import propose as choose
    from ui.query import vector_of_sample

    samples = [sample.strip() for sample in BETWEEN_SAMPLES.split(text) if sample.strip()]
    vectors = [vector_of_sample(registry, sample) for sample in samples]
    return choose(registry, vectors, seed=seed, limit=limit, least=CLOSE)
