"""What a mix cost, in training-token equivalents."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Tokens trained in a CPU second, where none were: only for planning.
GUESSED_RATE = 2000.0


@dataclass(frozen=True)
class Cost:
    """Tokens trained and passed forward, CPU seconds of work on cached states, and of everything."""

    trained: int
    forwarded: int
    solving_seconds: float
    cpu_seconds: float

    def equivalents(self, rate: float) -> float:
        """A token trained counts 1, one passed forward 1/3, a second as many as `rate` tokens trained in it."""
        return self.trained + self.forwarded / 3 + self.solving_seconds * rate

    def as_json(self) -> dict[str, Any]:
        """As a cell keeps it."""
        return asdict(self)


def training_rate(cells: Iterable[Mapping[str, Any]]) -> float:
    """Tokens trained in a CPU second: the median over the cells that trained and passed nothing else forward."""
    costs = [Cost(**cell["cost"]) for cell in cells if "cost" in cell]
    rates = [c.trained / c.cpu_seconds for c in costs if c.trained and not c.forwarded and c.cpu_seconds]
    return statistics.median(rates) if rates else GUESSED_RATE
