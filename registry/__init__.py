"""The registry: experts, seeds and mixes with their blobs, domain embeddings and lineage.

    from registry import open_registry as open_registry

The package does not import torch: it reads checkpoints as bytes with headers. Importing it opens no connection; each
name below is imported at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.catalog.queries import get_expert as get_expert
    from registry.catalog.queries import get_mix as get_mix
    from registry.catalog.queries import get_seed as get_seed
    from registry.catalog.queries import list_experts as list_experts
    from registry.catalog.queries import list_mixes as list_mixes
    from registry.catalog.queries import list_seeds as list_seeds
    from registry.catalog.queries import search as search
    from registry.errors import RegistryError as RegistryError
    from registry.home import Registry as Registry
    from registry.home import open_registry as open_registry
    from registry.intake.intake import add_seed as add_seed

_HOMES = {
    "Registry": "registry.home",
    "RegistryError": "registry.errors",
    "add_seed": "registry.intake.intake",
    "get_expert": "registry.catalog.queries",
    "get_mix": "registry.catalog.queries",
    "get_seed": "registry.catalog.queries",
    "list_experts": "registry.catalog.queries",
    "list_mixes": "registry.catalog.queries",
    "list_seeds": "registry.catalog.queries",
    "open_registry": "registry.home",
    "search": "registry.catalog.queries",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
