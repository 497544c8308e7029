"""Trunk merges: how the experts' non-FFN parameters become the mix's. One file each, one row each here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter

from composer.trunks.base import NamedMerge, TrunkMerge
from composer.trunks.mean import Mean
from composer.trunks.mean_with_seed import MeanWithSeed
from composer.trunks.pcb import Pcb
from composer.trunks.regmean import RegMean
from composer.trunks.seed import Seed
from composer.trunks.task_arithmetic import TaskArithmetic
from composer.trunks.ties import Ties
from composer.trunks.weighted import Weighted

__all__ = ["TRUNK_MERGES", "NamedMerge", "TrunkMerge", "TrunkMergeChoice", "chosen_merge"]

TrunkMergeChoice = Annotated[
    Mean | MeanWithSeed | RegMean | Seed | Weighted | TaskArithmetic | Ties | Pcb,
    Field(discriminator="method"),
    # A method that needs no parameters may be written as its name alone.
    BeforeValidator(lambda given: {"method": given} if isinstance(given, str) else given),
]

TRUNK_MERGES: dict[str, type[NamedMerge]] = {
    "mean": Mean,
    "mean_with_seed": MeanWithSeed,
    "regmean": RegMean,
    "seed": Seed,
    "weighted": Weighted,
    "task_arithmetic": TaskArithmetic,
    "ties": Ties,
    "pcb": Pcb,
}


def chosen_merge(choice: str | Mapping[str, Any]) -> NamedMerge:
    """The merge that a lock names, with its parameters. Raises ValueError for one that does not exist."""
    merge: NamedMerge = TypeAdapter(TrunkMergeChoice).validate_python(choice)
    return merge
