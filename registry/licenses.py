"""Licences: SPDX expressions are checked when they enter, and combined when a mix is made of many."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from registry.checkpoints.safe_files import printable
from registry.errors import LicenseError
from registry.hub_licenses import SPDX_OF_TAG, UNLISTED_TAGS, VAGUE, VERSIONS_OF_TAG

_LICENSE_REF = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_MAX_CHARACTERS = 1000
# Which choices fit together is a hard problem in general; the licences of real models need a few dozen steps.
_MAX_STEPS = 500_000
_NAME = re.compile(r"[A-Za-z0-9.+-]+")

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

    Names of the Hugging Face Hub that mean one licence of SPDX, such as `odc-by`, are understood. Takes time and
    memory in proportion to the length. Raises LicenseError with the nearest known names.
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

    Raises LicenseError naming the two owners whose licences forbid each other, and why, or one whose own terms
    contradict each other; also where the choices are so many that none was found in 500,000 steps.
    """
    parsed = [(owner, _parse(expression)) for owner, expression in licenses]
    for owner, tree in parsed:
        if _always_forbids_adaptations(tree):
            others = next((f" with {other}" for other, _ in parsed if other != owner), "")
            raise LicenseError(
                f"{owner} ({tree.render()}) cannot be merged{others}: its licence forbids sharing adaptations, "
                "and a mix is one"
            )
    return " AND ".join(sorted({term.key for term in _first_fit(_distinct(parsed))}))


@dataclass(frozen=True)
class _Term:
    """One licence that was chosen, and who brought it."""

    owner: str
    key: str


def _distinct(parsed: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Equal expressions once: what fits for one owner fits for all, unless a vague name says nothing of equality."""
    first: dict[str, tuple[str, Any]] = {}
    for owner, tree in parsed:
        text = str(tree.render())
        is_vague = any(_is_vague(key) for key in _licensing().license_keys(tree))
        first.setdefault(f"{owner}\n{text}" if is_vague else text, (owner, tree))
    return list(first.values())


def _first_fit(parsed: Sequence[tuple[str, Any]]) -> list[_Term]:
    """The first choice of terms, in the order of the expressions, of which no two conflict.

    Depth first, without ever writing the choices out: memory grows with the length of the expressions only.
    """
    conflict: str | None = None
    # Each entry: what is to be added, then what is still to be decided (linked lists), and the terms chosen so far.
    forced, choices = _unfold(parsed)
    stack: list[tuple[list[_Term], Any, tuple[_Term, ...]]] = [(forced, _linked(choices, None), ())]
    steps = 0
    while stack and steps < _MAX_STEPS:
        added, pending, chosen = stack.pop()
        steps += 1
        for term in added:
            steps += 1 + len(chosen)
            if term in chosen:
                continue
            found = next(filter(None, (_conflict_of(other, term) for other in chosen)), None)
            if found is not None:
                conflict = conflict or found
                break
            chosen = (*chosen, term)
        else:
            if pending is None:
                return list(chosen)
            (owner, node), rest = pending
            for part in reversed(node.args):
                forced, choices = _unfold([(owner, part)])
                stack.append((forced, _linked(choices, rest), chosen))
    if stack:
        raise LicenseError(
            f"these licences offer more choices than can be weighed in {_MAX_STEPS:,} steps: "
            "write for each work the licence that you choose, without OR"
        )
    assert conflict is not None, "every choice was refused for a reason"
    raise LicenseError(conflict)


def _unfold(parsed: Sequence[tuple[str, Any]]) -> tuple[list[_Term], list[tuple[str, Any]]]:
    """What applies in any case, and the choices (OR nodes) that are left, each with its owner."""
    terms: dict[_Term, None] = {}
    choices: list[tuple[str, Any]] = []
    todo = list(reversed(parsed))
    while todo:
        owner, node = todo.pop()
        if isinstance(node, _licensing().OR):
            choices.append((owner, node))
        elif isinstance(node, _licensing().AND):
            todo.extend((owner, part) for part in reversed(node.args))
        else:
            terms[_Term(owner, _key(node))] = None
    return list(terms), choices


def _linked(items: Sequence[Any], rest: Any) -> Any:
    for item in reversed(items):
        rest = (item, rest)
    return rest


def _key(leaf: Any) -> str:
    # An exception only grants more, so `GPL-2.0-only WITH …` is treated as its licence.
    return str(getattr(leaf, "license_symbol", leaf).key)


def _always_forbids_adaptations(tree: Any) -> bool:
    """Whether each choice that an expression offers forbids adaptations."""
    if isinstance(tree, _licensing().OR):
        return all(_always_forbids_adaptations(part) for part in tree.args)
    if isinstance(tree, _licensing().AND):
        return any(_always_forbids_adaptations(part) for part in tree.args)
    return _forbids_adaptations(_key(tree))


def _is_vague(key: str) -> bool:
    """Whether two owners who write this name may mean different licences."""
    return key.startswith("LicenseRef-") and key.removeprefix("LicenseRef-").lower() in VAGUE


def _conflict_of(one: _Term, other: _Term) -> str | None:
    """Why two terms cannot both apply, as a message; None if they can."""
    if one.owner == other.owner:
        # Whoever puts terms that we do not know on a work next to others knows that they go together.
        reason = _contradiction(one.key, other.key) or _contradiction(other.key, one.key)
        return reason and (
            f"the licence of {one.owner} contradicts itself ({one.key} AND {other.key}): {reason}; ask its owner, "
            "or override with the reason why you may use it"
        )
    reason = _conflict(one.key, other.key) or _conflict(other.key, one.key)
    return reason and (
        f"the licences of {one.owner} ({one.key}) and {other.owner} ({other.key}) forbid each other: {reason}; "
        "leave one out, or override with the reason why you may combine them"
    )


def _conflict(one: str, other: str) -> str | None:
    """Why works under these licences cannot be merged, seen from `one`; None if they can."""
    if one == other:
        return (
            f"{one} need not be the same licence in both places: call it by its name"
            if _is_vague(one)
            else None
        )
    # Model licences with use restrictions (Llama, Gemma, OpenRAIL …) each want to be read.
    unknown = None if _understood(one) else f"the terms of {one} are not known here"
    return _contradiction(one, other) or unknown


def _contradiction(one: str, other: str) -> str | None:
    """Why no work can be under both licences, seen from `one`; None if it can, or if that is not known."""
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
    return None


def _understood(key: str) -> bool:
    known = PERMISSIVE | WEAK_COPYLEFT | _GPL_LIKE | _SHARE_ALIKE
    return key in known or _non_commercial(key)


def _forbids_adaptations(key: str) -> bool:
    return key.startswith("CC-BY-") and "-ND-" in key


def _non_commercial(key: str) -> bool:
    return key.startswith("CC-BY-NC-")


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
        parsed = _licensing().parse(_NAME.sub(_spdx_name, expression), strict=True)
        parsed.render()  # one that is nested too deep for this is refused here
        return parsed
    except (ExpressionError, ExpressionParseError, RecursionError) as error:
        raise LicenseError(
            f"{printable(expression)} is not an SPDX expression; expected one such as 'MIT OR Apache-2.0'"
        ) from error


def _spdx_name(found: re.Match[str]) -> str:
    """A name as SPDX has it. Raises LicenseError for one that means several licences."""
    tag = found[0].lower()
    if tag in VERSIONS_OF_TAG:
        raise LicenseError(
            f"{printable(found[0])} does not say which licence: write {' or '.join(VERSIONS_OF_TAG[tag])}"
        )
    return SPDX_OF_TAG.get(tag, found[0])


def _suggestion(name: str) -> str:
    """The nearest names, those that begin alike first, and the way out for a licence that SPDX lacks."""
    listed = {key.lower(): key for key in _licensing().known_symbols if not key.startswith("LicenseRef")}
    folded = name.lower().replace(" ", "-")
    alike = sorted((key for key in listed if key.startswith(folded)), key=len)
    near = dict.fromkeys([*alike, *get_close_matches(folded, listed, n=3, cutoff=0.6)])
    near = {} if name.lower() in UNLISTED_TAGS else near
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
