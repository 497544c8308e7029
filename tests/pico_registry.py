"""A registry with a pico seed and experts that were trained on text of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pico

from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute


def stocked_registry(root: Path, names: Sequence[str], **seed_settings: Any) -> Registry:
    """Open a registry in `root` with the seed `pico` and one expert per name, whose name is its domain.

    `seed_settings` are those of `write_pico`.
    """
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed", **seed_settings)
    add_seed(registry, "pico", seed, license="Apache-2.0")
    for number, name in enumerate(names, 1):
        folder = pico.branch_pico(seed, root / name, seed=number)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    return registry
