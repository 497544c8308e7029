"""nexusmix: the public names of `registry` and `composer` under the name of the installed package.

from nexusmix import Recipe, compose, open_registry
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import composer
import registry

if TYPE_CHECKING:
    from composer import *  # noqa: F403
    from registry import *  # noqa: F403

__all__ = sorted([*composer.__all__, *registry.__all__])


def __getattr__(name: str) -> Any:
    for package in (composer, registry):
        if name in package.__all__:
            return getattr(package, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
