"""Cost of making a mix, in training-token equivalents."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Trained tokens per CPU second, used for planning before any training was measured.
GUESSED_RATE = 2000.0


@dataclass(frozen=True)
class Cost:
    """Tokens trained, tokens passed forward only, CPU seconds of work on cached states, and total CPU seconds."""

    trained: int
    forwarded: int
    solving_seconds: float
    cpu_seconds: float

    def equivalents(self, rate: float) -> float:
        """Return the cost in token equivalents.

        A trained token counts 1, a token passed forward 1/3, and a second of work on cached states `rate` tokens.
        """
        return self.trained + self.forwarded / 3 + self.solving_seconds * rate

    def as_json(self) -> dict[str, Any]:
        """Return the form that a cell stores."""
        return asdict(self)


def training_rate(cells: Iterable[Mapping[str, Any]]) -> float:
    """Return the trained tokens per CPU second: the median over the cells that trained but had no warm start."""
    costs = [Cost(**cell["cost"]) for cell in cells if "cost" in cell]
    rates = [c.trained / c.cpu_seconds for c in costs if c.trained and not c.forwarded and c.cpu_seconds]
    return statistics.median(rates) if rates else GUESSED_RATE
