"""Packages that only an extra brings: asked for before any work, so that a missing one costs no time."""

from __future__ import annotations

from importlib.util import find_spec

from composer.errors import MissingExtraError


def require(package: str, extra: str) -> None:
    """Raise MissingExtraError, which says how to install it, unless the package can be imported."""
    if find_spec(package) is None:
        raise MissingExtraError(
            f"this needs {package}, which is not installed: pip install 'nexusmix[{extra}]'"
        )
