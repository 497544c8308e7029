"""Compute what large registries and mixes need from measured inputs: python -m bench.scale.

It prints the tables of docs/SCALE.md. Memory is that of `--dry-run` (composer/memory.py). The first constants are
measurements of bench/RESULTS.md on one core; prices are assumptions. Nothing here was run at these sizes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from composer import memory, resources
from composer.mix.recipe import Training
from composer.model.initial import PAIR_BUCKETS

# Measured; the sections are those of bench/RESULTS.md. Bytes, and CPU seconds.
OPERATIONS = 1.2e11  # per second of one core in float32, in passes of 1.1B and 3.2B weights (Real sizes)
OVERHEAD = 1.3  # composing / plain passes, in CPU time (Real sizes)
HASHED = 0.7e9  # bytes per second of one core, from a disk (Real sizes)
TOKENS = 3_857  # of the text that chooses an expert's strength (Real sizes)
ROW, VECTOR, VECTORS = 9_400, 450, 3  # an expert in SQLite, a vector in the index, its vectors (Registry)
ADAPTER_CPU, PROJECTION = 0.063, 10_500  # opening an adapter of 210 projections; each of these (Compose)
FILTERS, PUBLICATION = (0.04, 0.21), 0.015  # counts of 1M with one and three filters; one expert (Registry)
PAGE_CPU, SEARCH_CPU, VISITOR = 0.084, 0.150, 0.29 * 2**20  # a page, a search, a visitor (Web app)
# Assumed.
CORE_HOUR, GB_MONTH = 0.04, 0.023  # dollars
RANK = Training().lora_rank
PASSES = 3  # forward passes that find a strength
FORWARD, LOW_RANK = 2, 4  # operations per weight and token: of a forward pass, and of training a difference


@dataclass(frozen=True)
class Seed:
    """The shape of a Llama in bfloat16."""

    name: str
    layers: int
    hidden: int
    ffn: int
    vocabulary: int
    keys: int  # width of keys and of values

    @property
    def ffns(self) -> int:
        """Weights of the FFNs."""
        return self.layers * 3 * self.hidden * self.ffn

    @property
    def trunk(self) -> int:
        """Weights of the attention, the embeddings and the head."""
        attention = 2 * self.hidden * (self.hidden + self.keys)
        return self.layers * attention + 2 * self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All weights."""
        return self.trunk + self.ffns

    @property
    def difference(self) -> int:
        """Weights of a low-rank difference in every projection of the blocks."""
        attention = 2 * (2 * self.hidden) + 2 * (self.hidden + self.keys)
        return RANK * self.layers * (attention + 3 * (self.hidden + self.ffn))

    def peak(self, experts: int, limit: str, tokens: int) -> int:
        """Predicted memory of composing whole experts in bytes, with a fine-tune of so many tokens."""
        os.environ[resources.VARIABLE] = limit
        model = memory.Model(
            self.layers, self.hidden, self.ffn, self.vocabulary, self.trunk, [self.ffns], stored=2
        )
        training = Training(tokens=tokens).model_dump(mode="json")
        trained = experts * self.difference if tokens else 0
        return max(memory.of_whole(model, training, (experts + 1) * self.weights, trained))


SEEDS = {
    "7B": Seed("Llama-2-7B", 32, 4096, 11008, 32_000, 4096),
    "70B": Seed("Llama-3-70B", 80, 8192, 28672, 128_256, 1024),
}


def experts_of(size: str, count: int, limit: str) -> str:
    """Return the row of a mix of whole experts."""
    seed = SEEDS[size]
    stored = 2 * (count + 1) * seed.weights
    written = 2 * (count + 1) * (seed.vocabulary + PAIR_BUCKETS)
    strengths = OVERHEAD * count * PASSES * TOKENS * FORWARD * seed.weights / OPERATIONS / 3600
    tuning = 50_000 * LOW_RANK * seed.weights / OPERATIONS / 3600
    cells = (
        f"{size} × {count}, `--memory {limit}`",
        gigabytes(stored),
        f"{written / 1e6:.1f} MB",
        gigabytes(seed.peak(count, limit, 0)),
        f"{strengths:,.1f}",
        gigabytes(seed.peak(count, limit, 50_000)),
        f"{tuning:,.1f}",
        f"{stored / HASHED / 60:,.0f} min",
        f"${stored / 1e9 * GB_MONTH:,.0f} a month + ${(strengths + tuning) * CORE_HOUR:,.2f}",
    )
    return f"| {' | '.join(cells)} |"


def adapters_of(size: str, count: int) -> str:
    """Return the row of a mix of adapters."""
    seed = SEEDS[size]
    stored = 4 * count * seed.difference
    projections = 7 * seed.layers
    cells = (
        f"{count:,} adapters of rank {RANK} on {size}",
        gigabytes(stored),
        f"{2 * (count + 1) * (seed.vocabulary + PAIR_BUCKETS) / 1e6:,.0f} MB",
        gigabytes(count * projections * PROJECTION),
        f"{count * ADAPTER_CPU * projections / 210:,.0f} CPU s",
        f"{stored / HASHED / 60:,.1f} min",
        f"${stored / 1e9 * GB_MONTH:,.2f} a month",
    )
    return f"| {' | '.join(cells)} |"


def catalog_of(experts: int) -> str:
    """Return the row of a catalog."""
    cells = (
        f"{experts:,}",
        gigabytes(experts * ROW),
        gigabytes(experts * VECTORS * VECTOR),
        *(f"{seconds * experts / 1e6:.2f} s" for seconds in FILTERS),
        f"{experts * PUBLICATION / 3600:,.1f} h",
        f"${experts * (ROW + VECTORS * VECTOR) / 1e9 * GB_MONTH:,.2f} a month",
    )
    return f"| {' | '.join(cells)} |"


def visitors_of(users: int, pages_per_minute: float) -> str:
    """Return the row of a web app, half of whose pages are searches."""
    cores = users * pages_per_minute / 60 * (PAGE_CPU + SEARCH_CPU) / 2
    cells = (
        f"{users:,}",
        f"{pages_per_minute:g}",
        gigabytes(users * VISITOR),
        f"{cores:,.1f}",
        f"${cores * CORE_HOUR:,.2f} an hour",
    )
    return f"| {' | '.join(cells)} |"


def gigabytes(nbytes: float) -> str:
    """Return a size in GB."""
    return f"{nbytes / 1e9:,.1f} GB"


def main() -> None:
    """Print the tables."""
    print(
        "| mix | registry | new bytes | memory | core-hours | with 50k tokens | more core-hours | hashing | cost |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for size, limit in (("7B", "16GiB"), ("70B", "64GiB")):
        print(experts_of(size, 8, limit))
    print("\n| mix | adapters | new bytes | memory besides the seed | opening | hashing | cost |")
    print("|---|---|---|---|---|---|---|")
    print(adapters_of("7B", 1000))
    print(
        "\n| catalog of | database | index | one filter | three | filling | cost |\n|---|---|---|---|---|---|---|"
    )
    for count in (1_000_000, 10_000_000):
        print(catalog_of(count))
    print("\n| visitors at once | pages a minute | memory | cores | cost |\n|---|---|---|---|---|")
    for users in (500, 10_000):
        print(visitors_of(users, 1))


if __name__ == "__main__":
    main()
