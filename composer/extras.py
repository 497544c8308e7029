"""Check for packages of an extra, which runs before any work so that a missing package costs no time."""

from __future__ import annotations

from importlib.util import find_spec

from composer.errors import MissingExtraError


def require(package: str, extra: str) -> None:
    """Raise MissingExtraError, with the install command, if the package is not installed."""
    if find_spec(package) is None:
        raise MissingExtraError(
            f"the package {package} is needed but not installed: run pip install 'nexusmix[{extra}]'"
        )
