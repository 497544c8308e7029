"""Licences: check SPDX expressions at publication, and combine them for a mix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from registry.checkpoints.safe_files import printable
from registry.community_licenses import REF_OF_TAG, community
from registry.errors import LicenseError
from registry.hub_licenses import SPDX_OF_TAG, UNLISTED_TAGS, VAGUE, VERSIONS_OF_TAG

_LICENSE_REF = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_MAX_CHARACTERS = 1000
# Finding a compatible choice is a hard problem in general; the licences of real models need a few dozen steps.
_MAX_STEPS = 500_000
_TEXT_DIGEST = re.compile(r"-[0-9a-f]{12,64}$")  # the end of a LicenseRef that names one text
_NAME = re.compile(r"[A-Za-z0-9.+-]+")

# Weights under these may become part of a work under any other licence if the notices are kept.
PERMISSIVE = frozenset(
    {
        *("0BSD", "AFL-3.0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSL-1.0"),
        *("CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "CDLA-Permissive-1.0"),
        *("CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "NCSA", "ODC-By-1.0", "PDDL-1.0", "PSF-2.0"),
        *("PostgreSQL", "Python-2.0", "Unlicense", "WTFPL", "Zlib"),
    }
)
# These apply only to their own part, so they combine with any licence that does not forbid them.
WEAK_COPYLEFT = frozenset({"LGPL-2.1-or-later", "MPL-2.0"})
# These require their own terms for the whole work, and forbid further restrictions.
_GPL_2_ONLY = frozenset({"GPL-2.0-only", "LGPL-2.0-only", "LGPL-2.1-only"})
_GPL_2_OR_LATER = frozenset({"GPL-2.0-or-later"})
_GPL_3 = frozenset(
    f"{name}-3.0-{later}" for name in ("GPL", "AGPL", "LGPL") for later in ("only", "or-later")
)
_SHARE_ALIKE = frozenset({"CC-BY-SA-3.0", "CC-BY-SA-4.0", "ODbL-1.0"})
_GPL_LIKE = _GPL_2_ONLY | _GPL_2_OR_LATER | _GPL_3


def check_license(expression: str) -> str:
    """Return an SPDX expression in its normal form; `LicenseRef-…` names are not changed.

    A Hugging Face Hub name, such as `odc-by` or `llama3.1`, is replaced by the SPDX name or a LicenseRef. Time and
    memory are proportional to the length. Raises LicenseError, which suggests the nearest known names.
    """
    parsed = _parse(expression)
    unknown = [key for key in _licensing().unknown_license_keys(parsed) if not _LICENSE_REF.fullmatch(key)]
    if unknown:
        raise LicenseError(
            f"unknown licence {printable(unknown[0])}; expected an SPDX expression{_suggestion(unknown[0])}"
        )
    return str(parsed.render())


def combine(licenses: Sequence[tuple[str, str]]) -> str:
    """Return the licence expression of a mix of works, given (owner, expression) pairs.

    If expressions offer choices (`MIT OR GPL-2.0-only`), the first compatible choice is used.

    Raises LicenseError that names the two owners whose licences forbid each other and the reason, or the owner
    whose own terms contradict each other. Also raises it if 500,000 steps are not enough to find a choice.
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


def obligations(expression: str) -> dict[str, list[str]]:
    """Return the names in a licence expression that oblige the user of a work, by the kind of obligation.

    The kinds are "non_commercial", "same_terms" (the whole work), "restricted" (the use is; with the text's address)
    and "unknown" (terms that are not known here). Raises LicenseError.
    """
    keys = sorted(_licensing().license_keys(_parse(expression)))
    return {
        "non_commercial": [key for key in keys if _non_commercial(key)],
        "same_terms": [key for key in keys if key in _GPL_LIKE | _SHARE_ALIKE or "-NC-SA-" in key],
        "restricted": [f"{key} ({terms.source})" for key in keys if (terms := community(key)) is not None],
        "unknown": [key for key in keys if not _understood(key)],
    }


@dataclass(frozen=True)
class _Term:
    """One chosen licence and the owner of the work under it."""

    owner: str
    key: str


def _distinct(parsed: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Keep one of equal expressions; expressions with a vague name are kept for each owner.

    Equal expressions have equal conflicts, but two owners may mean different licences by a vague name.
    """
    first: dict[str, tuple[str, Any]] = {}
    for owner, tree in parsed:
        text = str(tree.render())
        is_vague = any(_is_vague(key) for key in _licensing().license_keys(tree))
        first.setdefault(f"{owner}\n{text}" if is_vague else text, (owner, tree))
    return list(first.values())


def _first_fit(parsed: Sequence[tuple[str, Any]]) -> list[_Term]:
    """Return the first choice of terms without conflicts, in the order of the expressions.

    The search is depth-first and never enumerates all choices, so memory grows only with the expressions' length.
    """
    conflict: str | None = None
    # Each entry: the terms to add, the pending choices (a linked list), and the terms chosen so far.
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
            f"no compatible choice of these licences was found in {_MAX_STEPS:,} steps: "
            "give the licence that you choose for each work, without OR"
        )
    assert conflict is not None, "every choice was refused for a reason"
    raise LicenseError(conflict)


def _unfold(parsed: Sequence[tuple[str, Any]]) -> tuple[list[_Term], list[tuple[str, Any]]]:
    """Return the terms that always apply, and the remaining choices (OR nodes), each with its owner."""
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
    """Return whether every choice of an expression forbids adaptations."""
    if isinstance(tree, _licensing().OR):
        return all(_always_forbids_adaptations(part) for part in tree.args)
    if isinstance(tree, _licensing().AND):
        return any(_always_forbids_adaptations(part) for part in tree.args)
    return _forbids_adaptations(_key(tree))


def _is_vague(key: str) -> bool:
    """Return whether two owners may mean different licences by this name."""
    if not key.startswith("LicenseRef-") or community(key) is not None:
        return False
    return key.removeprefix("LicenseRef-").lower() in VAGUE or not _TEXT_DIGEST.search(key)


def _conflict_of(one: _Term, other: _Term) -> str | None:
    """Return the reason why two terms cannot both apply, as a message; None if they can."""
    if one.owner == other.owner:
        # An owner who combines unknown terms with others on one work knows that they are compatible.
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


def _without_digest(key: str) -> str:
    return _TEXT_DIGEST.sub("", key)


def _conflict(one: str, other: str) -> str | None:
    """Return the reason why `one` prevents merging works under these licences; None if it does not."""
    if one == other:
        return (
            f"{one} may be a different licence in each work: give the licence's exact name, or add the first 12 digits "
            f"of its text's sha256, as in {_without_digest(one)}-0123456789ab"
            if _is_vague(one)
            else None
        )
    if community(one) is not None:
        # Use restrictions are passed on, which permissive and weak copyleft licences allow.
        if other in PERMISSIVE | WEAK_COPYLEFT or _non_commercial(other):
            return _contradiction(one, other)
        return f"{one} restricts the use, and whether {other} permits that must be read in both"
    unknown = None if _understood(one) else f"the terms of {one} are not known here"
    return _contradiction(one, other) or unknown


def _contradiction(one: str, other: str) -> str | None:
    """Return the reason why `one` excludes `other` on the same work; None if there is none or it is not known."""
    if one == other:
        return None
    if _forbids_adaptations(one):
        return f"{one} forbids sharing adaptations, and a mix is one"
    if one in _GPL_2_ONLY and (other in _GPL_3 or other == "Apache-2.0"):
        # As the FSF reads it, Apache's patent clause and version 3's terms restrict the rights of version 2.
        return f"{one} forbids the further conditions of {other}"
    if one in _GPL_LIKE | _SHARE_ALIKE and _non_commercial(other):
        return f"{one} requires its own terms for the whole work, {other} forbids commercial use"
    if one in _SHARE_ALIKE and other in _GPL_LIKE | _SHARE_ALIKE:
        # One exception, declared by Creative Commons: BY-SA 4.0 is one-way compatible with version 3 of the GPL.
        if one == "CC-BY-SA-4.0" and other in _GPL_3 | _GPL_2_OR_LATER:
            return None
        return f"{one} and {other} each require their own terms for the whole work"
    if _non_commercial(one) and "-SA-" in one and (_non_commercial(other) and "-SA-" in other):
        return f"{one} and {other} each require their own terms for the whole work"
    return None


def _understood(key: str) -> bool:
    known = PERMISSIVE | WEAK_COPYLEFT | _GPL_LIKE | _SHARE_ALIKE
    return key in known or _non_commercial(key) or community(key) is not None


def _forbids_adaptations(key: str) -> bool:
    return key.startswith("CC-BY-") and "-ND-" in key


def _non_commercial(key: str) -> bool:
    terms = community(key)
    return key.startswith("CC-BY-NC-") or (terms is not None and terms.non_commercial)


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
    """Return the SPDX name for a Hub name. Raises LicenseError for a name that means several licences."""
    tag = found[0].lower()
    if tag in VERSIONS_OF_TAG:
        raise LicenseError(
            f"{printable(found[0])} means several licences: write {' or '.join(VERSIONS_OF_TAG[tag])}"
        )
    before = found.string[: found.start()]
    if before.endswith(("LicenseRef-", "DocumentRef-")):
        return found[0]
    return SPDX_OF_TAG.get(tag, REF_OF_TAG.get(tag, found[0]))


def _suggestion(name: str) -> str:
    """Return hints: the nearest names, common prefixes first, and the form for a licence that SPDX does not list."""
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
