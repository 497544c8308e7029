"""The registry: experts, seeds and mixes with their blobs, domain embeddings and lineage.

    from registry import open_registry

It imports no torch: checkpoints are bytes with headers. Nothing connects at import, and every name below is imported
when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.catalog import get_expert as get_expert
    from registry.catalog import get_mix as get_mix
    from registry.catalog import get_seed as get_seed
    from registry.catalog import list_experts as list_experts
    from registry.catalog import list_mixes as list_mixes
    from registry.catalog import list_seeds as list_seeds
    from registry.catalog import search as search
    from registry.errors import RegistryError as RegistryError
    from registry.home import Registry as Registry
    from registry.home import open_registry as open_registry
    from registry.intake import add_seed as add_seed

_HOMES = {
    "Registry": "registry.home",
    "RegistryError": "registry.errors",
    "add_seed": "registry.intake",
    "get_expert": "registry.catalog",
    "get_mix": "registry.catalog",
    "get_seed": "registry.catalog",
    "list_experts": "registry.catalog",
    "list_mixes": "registry.catalog",
    "list_seeds": "registry.catalog",
    "open_registry": "registry.home",
    "search": "registry.catalog",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
