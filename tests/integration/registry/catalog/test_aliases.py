"""Aliases of experts on both databases: set, moved, and moved by compare-and-swap."""

from __future__ import annotations

import pytest
from publishing import add_expert, add_seed

from registry.catalog import queries
from registry.catalog.aliases import list_aliases, point
from registry.errors import ConflictError, InvalidInputError, NotFoundError
from registry.home import Registry


@pytest.fixture
def versions(any_registry: Registry) -> Registry:
    """law@1, law@2 and prose@1."""
    add_seed(any_registry)
    for name in ("law", "law", "prose"):
        add_expert(any_registry, name)
    return any_registry


def test_an_alias_names_a_version_until_it_is_moved_or_removed(versions: Registry) -> None:
    point(versions, "law@stable", "law@1")
    assert queries.get_expert(versions, "Law@stable").ref == "law@1"
    point(versions, "law@stable", "law")
    assert list_aliases(versions, "law") == {"stable": "law@2"}
    point(versions, "law@stable", None)
    with pytest.raises(NotFoundError, match="no alias"):
        queries.get_expert(versions, "law@stable")


def test_a_move_based_on_an_outdated_look_up_changes_nothing(versions: Registry) -> None:
    point(versions, "law@stable", "law@1", expected=None)
    point(versions, "law@stable", "law@2", expected="law@1")
    for late in ("law@1", None):
        with pytest.raises(ConflictError, match="points to law@2"):
            point(versions, "law@stable", "law@1", expected=late)
    assert queries.get_expert(versions, "law@stable").ref == "law@2"


def test_an_alias_names_no_other_expert_and_no_withdrawn_version(versions: Registry) -> None:
    with pytest.raises(InvalidInputError, match="another expert's"):
        point(versions, "law@stable", "prose@1")
    point(versions, "law@stable", "law@1")
    queries.withdraw(versions, "law@1", "a test")
    with pytest.raises(NotFoundError, match="withdrawn because: a test"):
        queries.get_expert(versions, "law@stable")
    with pytest.raises(InvalidInputError, match="withdrawn"):
        point(versions, "law@best", "law@1")


@pytest.mark.parametrize("alias", ["law", "law@", "law@1", "law@Stable", "law@a b", "../x@stable"])
def test_a_word_that_is_no_alias_is_refused(versions: Registry, alias: str) -> None:
    with pytest.raises(InvalidInputError):
        point(versions, alias, "law@1")
