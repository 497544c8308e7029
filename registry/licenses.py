"""Licences: SPDX expressions are checked when they enter, and combined when a mix is made of many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from itertools import combinations, islice, product
from typing import Any

from registry.errors import LicenseError
from registry.safe_files import printable

_LICENSE_REF = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_MAX_CHARACTERS = 1000
_MAX_CHOICES = 4096

# Weights under these may become part of a work under any other licence, with notices kept.
PERMISSIVE = frozenset(
    {
        *("0BSD", "AFL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0"),
        *("CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "CDLA-Permissive-1.0"),
        *("CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "NCSA", "ODC-By-1.0", "PDDL-1.0", "PSF-2.0"),
        *("PostgreSQL", "Python-2.0", "Unlicense", "WTFPL", "Zlib"),
    }
)
# These ask for their terms on their own part only, so they sit beside anything that does not forbid them.
WEAK_COPYLEFT = frozenset({"LGPL-2.1-or-later", "MPL-2.0"})
# These ask for their own terms on the whole, and forbid further restrictions.
_GPL_2_ONLY = frozenset({"GPL-2.0-only", "LGPL-2.0-only", "LGPL-2.1-only"})
_GPL_2_OR_LATER = frozenset({"GPL-2.0-or-later"})
_GPL_3 = frozenset(
    f"{name}-3.0-{later}" for name in ("GPL", "AGPL", "LGPL") for later in ("only", "or-later")
)
_SHARE_ALIKE = frozenset({"CC-BY-SA-3.0", "CC-BY-SA-4.0", "ODbL-1.0"})
_GPL_LIKE = _GPL_2_ONLY | _GPL_2_OR_LATER | _GPL_3


def check_license(expression: str) -> str:
    """Return an SPDX expression in its normal form; `LicenseRef-…` names are taken as they are.

    Raises LicenseError with the nearest known names.
    """
    parsed = _parse(expression)
    unknown = [key for key in _licensing().unknown_license_keys(parsed) if not _LICENSE_REF.fullmatch(key)]
    if unknown:
        raise LicenseError(
            f"unknown licence {printable(unknown[0])}; expected an SPDX expression{_suggestion(unknown[0])}"
        )
    return str(parsed.render())


def combine(licenses: Sequence[tuple[str, str]]) -> str:
    """The expression that a mix of works under these licences has, given (owner, expression) pairs.

    Where an expression offers a choice (`MIT OR GPL-2.0-only`) the first choice that fits all is taken.

    Raises LicenseError naming the two owners whose licences forbid each other, and why.
    """
    choices = [(owner, _alternatives(check_license(expression))) for owner, expression in licenses]
    for owner, alternatives in choices:
        if all(any(_forbids_adaptations(key) for key in keys) for keys in alternatives):
            others = next((f" with {other}" for other, _ in choices if other != owner), "")
            raise LicenseError(
                f"{owner} ({' OR '.join(' AND '.join(keys) for keys in alternatives)}) cannot be "
                f"merged{others}: its licence forbids sharing adaptations, and a mix is one"
            )
    conflict = None
    for chosen in islice(product(*(alternatives for _, alternatives in choices)), _MAX_CHOICES):
        found = _first_conflict([(owner, keys) for (owner, _), keys in zip(choices, chosen, strict=True)])
        if found is None:
            return " AND ".join(sorted({key for keys in chosen for key in keys}))
        conflict = conflict or found
    assert conflict is not None, "every choice was refused for a reason"
    raise LicenseError(conflict)


def _first_conflict(chosen: Sequence[tuple[str, tuple[str, ...]]]) -> str | None:
    for (one, keys), (other, other_keys) in combinations(chosen, 2):
        for key, other_key in product(keys, other_keys):
            reason = _conflict(key, other_key) or _conflict(other_key, key)
            if reason:
                return (
                    f"the licences of {one} ({key}) and {other} ({other_key}) forbid each other: {reason}; "
                    "leave one out, or override with the reason why you may combine them"
                )
    return None


def _conflict(one: str, other: str) -> str | None:
    """Why a work cannot be under both licences, seen from `one`; None if it can."""
    if one == other:
        return None
    if _forbids_adaptations(one):
        return f"{one} forbids sharing adaptations, and a mix is one"
    if one in _GPL_2_ONLY and (other in _GPL_3 or other == "Apache-2.0"):
        # The FSF's reading: Apache's patent clause and version 3's terms restrict what version 2 grants.
        return f"{one} forbids the further conditions of {other}"
    if one in _GPL_LIKE | _SHARE_ALIKE and _non_commercial(other):
        return f"{one} asks for its own terms on the whole, {other} forbids commercial use"
    if one in _SHARE_ALIKE and other in _GPL_LIKE | _SHARE_ALIKE:
        # One exception, declared by Creative Commons: BY-SA 4.0 may be taken over into version 3 of the GPL.
        if one == "CC-BY-SA-4.0" and other in _GPL_3 | _GPL_2_OR_LATER:
            return None
        return f"{one} and {other} each ask for their own terms on the whole"
    if _non_commercial(one) and "-SA-" in one and (_non_commercial(other) and "-SA-" in other):
        return f"{one} and {other} each ask for their own terms on the whole"
    if not _understood(one):
        # Model licences with use restrictions (Llama, Gemma, OpenRAIL …) each want to be read.
        return f"the terms of {one} are not known here"
    return None


def _understood(key: str) -> bool:
    known = PERMISSIVE | WEAK_COPYLEFT | _GPL_LIKE | _SHARE_ALIKE
    return key in known or _non_commercial(key)


def _forbids_adaptations(key: str) -> bool:
    return key.startswith("CC-BY-") and "-ND-" in key


def _non_commercial(key: str) -> bool:
    return key.startswith("CC-BY-NC-")


def _alternatives(expression: str) -> list[tuple[str, ...]]:
    """The choices that an expression offers, each a tuple of licences that hold together."""
    licensing = _licensing()

    def expand(node: Any) -> list[tuple[str, ...]]:
        if isinstance(node, licensing.OR):
            return [keys for part in node.args for keys in expand(part)]
        if isinstance(node, licensing.AND):
            parts = product(*(expand(part) for part in node.args))
            return [tuple(dict.fromkeys(key for keys in part for key in keys)) for part in parts]
        # An exception only grants more, so `GPL-2.0-only WITH …` is treated as its licence.
        return [(str(getattr(node, "license_symbol", node).key),)]

    return expand(licensing.parse(expression))


def _parse(expression: str) -> Any:
    from license_expression import (  # type: ignore[import-untyped]
        ExpressionError,
        ExpressionParseError,
    )

    if not expression or not expression.strip():
        raise LicenseError("a licence is required; give an SPDX expression such as Apache-2.0")
    if len(expression) > _MAX_CHARACTERS:
        raise LicenseError(f"a licence expression has at most {_MAX_CHARACTERS} characters")
    try:
        return _licensing().parse(expression, strict=True)
    except (ExpressionError, ExpressionParseError, RecursionError) as error:
        raise LicenseError(
            f"{printable(expression)} is not an SPDX expression; expected one such as 'MIT OR Apache-2.0'"
        ) from error


def _suggestion(name: str) -> str:
    """The nearest names, those that begin alike first, and the way out for a licence that SPDX lacks."""
    listed = {key.lower(): key for key in _licensing().known_symbols if not key.startswith("LicenseRef")}
    folded = name.lower().replace(" ", "-")
    alike = sorted((key for key in listed if key.startswith(folded)), key=len)
    near = dict.fromkeys([*alike, *get_close_matches(folded, listed, n=3, cutoff=0.6)])
    names = [listed[key] for key in near][:3]
    reference = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")[:60]
    hints = ([f"did you mean {' or '.join(names)}?"] if names else []) + (
        [f"use LicenseRef-{reference} for a licence that SPDX does not list"] if reference else []
    )
    return "".join(f"; {hint}" for hint in hints)


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()
