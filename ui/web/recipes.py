"""Functions for a recipe on a page: its command line, its default name, and experts proposed for samples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from composer.mix.research import OPTIONS
from ui.query import CLOSE

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe
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
    from composer.mix.routing import RoutingOptions

    flags = ("router", *RoutingOptions.model_fields, "license_override")
    default = recipe.usual()
    words = ["nexusmix", "compose", recipe.name]
    words += ["--seed", recipe.seed, "--experts", ",".join(recipe.experts)]
    for part, standard, names in (
        (recipe, default, flags),
        (recipe.training, default.training, (*_TRAINING_FLAGS, *_RESEARCH_FLAGS)),
    ):
        for name in names:
            value = getattr(part, name)
            if value == getattr(standard, name):
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


def default_name(experts: Sequence[ExpertRecord]) -> str:
    """Join the names of the first experts to a name of limited length: "law-python"."""
    name = ""
    for expert in experts:
        longer = f"{name}-{expert.name}" if name else expert.name
        if len(longer) > NAME_CHARS:
            break
        name = longer
    return name or "mix"


def propose(registry: Registry, text: str, seed: str, limit: int = MOST_PROPOSED) -> dict[str, float]:
    """Find the experts of a seed that are nearest to pasted samples: cosine by expert, best first.

    Lines of three or more dashes separate samples. The result has the best expert of each sample, and then the best
    of the others. An expert whose cosine is below CLOSE is never proposed, so the result may be empty. Raises the
    errors of `catalog.queries.search`.
    """
    from registry.catalog import queries
    from ui.query import vector_of_sample

    samples = [sample.strip() for sample in BETWEEN_SAMPLES.split(text) if sample.strip()]
    best: dict[str, float] = {}
    others: dict[str, float] = {}
    for sample in samples:
        hits = queries.search(registry, vector_of_sample(registry, sample), seed=seed, limit=limit)
        for rank, hit in enumerate(hits):
            pool = best if rank == 0 else others
            if hit.score >= CLOSE:
                pool[hit.expert.ref] = max(hit.score, pool.get(hit.expert.ref, -1.0))
    close = {ref: score for ref, score in others.items() if ref not in best}
    for ref in sorted(close, key=lambda ref: -close[ref])[: max(0, limit - len(best))]:
        best[ref] = close[ref]
    return dict(sorted(best.items(), key=lambda item: -item[1]))
