"""Trunk merges: how the experts' non-FFN parameters become the mix's. One file each, one row each here."""

from composer.trunks.base import TrunkMerge
from composer.trunks.mean import Mean
from composer.trunks.mean_with_seed import MeanWithSeed
from composer.trunks.seed import Seed

TRUNK_MERGES: dict[str, type[TrunkMerge]] = {
    "mean": Mean,
    "mean_with_seed": MeanWithSeed,
    "seed": Seed,
}
