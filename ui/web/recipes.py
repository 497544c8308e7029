"""A recipe as it is put together on a screen: its command line, its default name, experts proposed by samples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ui.query import CLOSE

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe
    from registry.home import Registry
    from registry.records import ExpertRecord

MOST_PROPOSED = 4
NAME_CHARS = 40
BETWEEN_SAMPLES = re.compile(r"^\s*-{3,}\s*$", re.MULTILINE)
_TRAINING_FLAGS = ("tokens", "train", "data_mix", "learning_rate", "random_seed")


def command(recipe: Recipe) -> str:
    """The shell command that composes a recipe; what has its default is left out.

    What no option of the command says, such as a merge's parameters, stands in the recipe's file only.
    """
    from composer.mix.routing import RoutingOptions

    flags = ("router", *RoutingOptions.model_fields, "license_override")
    default = type(recipe)(name=recipe.name, seed=recipe.seed, experts=recipe.experts)
    words = ["nexusmix", "compose", recipe.name]
    words += ["--seed", recipe.seed, "--experts", ",".join(recipe.experts)]
    for part, standard, names in (
        (recipe, default, flags),
        (recipe.training, default.training, _TRAINING_FLAGS),
    ):
        for name in names:
            value = getattr(part, name)
            if value != getattr(standard, name):
                words += [f"--{name.replace('_', '-')}", str(value)]
    if recipe.trunk_merge != default.trunk_merge:
        words += ["--trunk-merge", recipe.trunk_merge.method]
    if not recipe.training.warm_start:
        words.append("--no-warm-start")
    return shlex.join(words)


def default_name(experts: Sequence[ExpertRecord]) -> str:
    """The experts' names joined, as many as a short name holds: "law-python"."""
    name = ""
    for expert in experts:
        longer = f"{name}-{expert.name}" if name else expert.name
        if len(longer) > NAME_CHARS:
            break
        name = longer
    return name or "mix"


def propose(registry: Registry, text: str, seed: str, limit: int = MOST_PROPOSED) -> dict[str, float]:
    """The experts of a seed that are nearest to pasted samples, best first, each with its cosine.

    Lines of three or more dashes separate samples. The best expert of each sample is always among them, then
    the best of what remains. Raises what `catalog.search` raises.
    """
    from registry.catalog import queries
    from ui.query import vector_of_sample

    samples = [sample.strip() for sample in BETWEEN_SAMPLES.split(text) if sample.strip()]
    best: dict[str, float] = {}
    others: dict[str, float] = {}
    for sample in samples:
        hits = queries.search(registry, vector_of_sample(registry, sample), seed=seed, limit=limit)
        for place, hit in enumerate(hits):
            pool = best if place == 0 else others
            pool[hit.expert.ref] = max(hit.score, pool.get(hit.expert.ref, -1.0))
    close = {ref: score for ref, score in others.items() if ref not in best and score >= CLOSE}
    for ref in sorted(close, key=lambda ref: -close[ref])[: max(0, limit - len(best))]:
        best[ref] = close[ref]
    return dict(sorted(best.items(), key=lambda item: -item[1]))
