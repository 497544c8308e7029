"""Plan of the measurements: systems, budgets, and cases in order of importance.

A budget is in training-token equivalents: a trained token counts 1, a token passed forward 1/3, and work on cached
states by its measured seconds (cost.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.errors import RecipeError

BASELINES = {
    False: "baselines",
    True: "baselines-anchored",
}  # cells of the dense models; key: anchored experts
# The paper's peak learning rate and load balancing (arXiv 2408.15901, section 3).
PAPER = {"warm_start": False, "learning_rate": 1e-3, "batch_tokens": 1024, "load_balance": 0.05}
ADDITIVE = {"combine": "additive", "trunk_merge": "mean"}
BALANCE_DIVISOR = 100


@dataclass(frozen=True)
class System:
    """A way to make a mix: its recipe and training settings that differ from the defaults."""

    title: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    anchored: bool = False

    @property
    def warm(self) -> bool:
        """Return whether part of a budget is spent on the warm start."""
        return bool(self.training.get("warm_start", True))


OURS, ANCHORED, NEXUS, LINEAR = "ours", "ours-anchored", "paper", "linear"
# The paper's question is about mixes with one trunk.
MERGED = {"trunk_merge": "regmean"}
SYSTEMS = {
    OURS: System("Nexus, our default", MERGED),
    ANCHORED: System("Nexus, our default, anchored experts", MERGED, anchored=True),
    NEXUS: System("Nexus as in the paper", ADDITIVE, PAPER),
    LINEAR: System("linear router (BTX)", {**ADDITIVE, "router": "linear"}, PAPER),
}


@dataclass(frozen=True)
class Settings:
    """Settings of a run. `training` overrides every case's training; `max_bytes` of text are evaluated per domain."""

    members: tuple[str, ...]
    newcomer: str
    general: str | None = None
    random_seeds: tuple[int, ...] = (0, 1, 2)
    budgets: tuple[int, int, int] = (30_000, 100_000, 300_000)
    expert_tokens: int = 600_000
    max_bytes: int = 40_000
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.members) < 2 or self.newcomer in self.members:
            raise RecipeError(
                f"expected two or more domains and a different new domain (--newcomer), "
                f"got {', '.join(self.members) or 'none'} and {self.newcomer}"
            )
        if len(self.budgets) != 3 or list(self.budgets) != sorted(set(self.budgets)):
            raise RecipeError(f"expected three budgets in rising order, got {self.budgets}")

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the members' domains, then the new domain."""
        return (*self.members, self.newcomer)


QUICK = {
    "budgets": (
        30_000,
        40_000,
        50_000,
    ),  # a warm start passes the same number of chunks forward, however small they are
    "expert_tokens": 4096,
    "max_bytes": 1500,
    "training": {"sequence_length": 64, "batch_tokens": 1024},
}


@dataclass(frozen=True)
class Case:
    """One mix to measure for each random seed. With `parent`, it is that case's mix extended with the new domain.

    `like` names the case whose cost is the warm start alone; this cost is subtracted from the budget.
    """

    name: str
    system: str
    budget: int
    parent: str | None = None
    variant: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    like: str | None = None

    @property
    def title(self) -> str:
        """Return the system's title and the variant."""
        return SYSTEMS[self.system].title + (f", {self.variant}" if self.variant else "")


LOW_BALANCE, KEPT_EMBEDDINGS, SOLVED, PROPORTIONAL = (
    "load balance / 100",
    "old embeddings kept",
    "all embeddings solved anew",
    "proportional sampling",
)

# Variants of an extension without a gradient step: (old embeddings kept, all solved again). "" is the default.
WITHOUT_GRADIENTS = {OURS: (KEPT_EMBEDDINGS, ""), ANCHORED: ("", SOLVED)}


def short(tokens: int) -> str:
    """Format a number of tokens: 300000 as 300k."""
    return f"{tokens // 1000}k" if tokens >= 1000 and tokens % 1000 == 0 else str(tokens)


def thousands(tokens: float) -> str:
    """Format a measured number of tokens, rounded to thousands: 98412.3 as 98k."""
    return f"{tokens / 1000:.0f}k"


def composed(system: str, budget: int, variant: str = "", training: Mapping[str, Any] | None = None) -> Case:
    """Return the case of a mix of the members."""
    like = f"{system}-0" if budget and SYSTEMS[system].warm else None
    return Case(
        _slug(f"{system}-{short(budget)}", variant), system, budget, None, variant, training or {}, like
    )


def extended(parent: Case, budget: int, variant: str = "", training: Mapping[str, Any] | None = None) -> Case:
    """Return the case of a mix extended with the new domain."""
    like = f"{parent.name}+0" if budget and SYSTEMS[parent.system].warm else None
    name = _slug(f"{parent.name}+{short(budget)}", variant)
    return Case(name, parent.system, budget, parent.name, variant, training or {}, like)


def plan(settings: Settings) -> list[Case]:
    """Return every case, the most important first; each case comes after the cases that it refers to."""
    low, main, high = settings.budgets
    base = {system: composed(system, main) for system in (OURS, NEXUS, LINEAR)}
    untrained = {system: composed(system, 0) for system in (OURS, ANCHORED)}
    # No gradient step: the old experts' embeddings are kept, or all are solved again (a router-only warm start).
    keep, solve = {"train_router": False}, {"train_router": True}
    return [
        composed(LINEAR, high),
        untrained[OURS],
        base[OURS],
        extended(untrained[OURS], 0),
        extended(untrained[OURS], 0, KEPT_EMBEDDINGS, keep),
        base[LINEAR],
        extended(base[OURS], 0),
        *(extended(base[system], main) for system in (OURS, LINEAR)),
        *(_low_balance(system, main) for system in (OURS, LINEAR)),
        untrained[ANCHORED],
        extended(untrained[ANCHORED], 0),
        extended(untrained[ANCHORED], 0, SOLVED, solve),
        composed(OURS, low),
        composed(NEXUS, high),
        base[NEXUS],
        extended(base[LINEAR], 0),
        *(extended(base[system], low) for system in (OURS, LINEAR)),
        composed(LINEAR, low),
        extended(base[NEXUS], 0),
        extended(base[NEXUS], main),
        composed(OURS, high),
        _low_balance(NEXUS, main),
        *(composed(s, main, PROPORTIONAL, {"data_mix": "proportional"}) for s in (OURS, LINEAR)),
    ]


def _low_balance(system: str, budget: int) -> Case:
    from composer.mix.recipe import Training

    usual = SYSTEMS[system].training.get("load_balance", Training().load_balance)
    return composed(system, budget, LOW_BALANCE, {"load_balance": usual / BALANCE_DIVISOR})


def _slug(name: str, variant: str) -> str:
    words: Sequence[str] = variant.replace("/", "over").split()
    return "-".join([name, *words])
