"""Pages of the list of experts: orders, cursors and filters, on both databases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from publishing import add_expert, add_seed
from sqlalchemy import event, text, update

from registry.catalog.lifecycle import describe
from registry.catalog.pages import Order
from registry.catalog.queries import count_experts, get_expert, list_experts, page_experts, withdraw
from registry.database import rows
from registry.database.schema import Expert
from registry.errors import InvalidInputError
from registry.home import Registry


@pytest.fixture
def experts(any_registry: Registry) -> Registry:
    add_seed(any_registry)
    for number, name in enumerate(("eel", "ant", "Dog", "cat", "bee", "ant")):
        add_expert(
            any_registry,
            name,
            parameters=(number % 3 + 1) * 1_000_000_000_000,
            license=("MIT", "Apache-2.0")[number % 2],
        )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with any_registry.session() as session:
        for number in range(1, 7):
            moment = start + timedelta(days=number // 2)
            session.execute(update(Expert).where(Expert.id == number).values(created_at=moment))
    return any_registry


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("name", "ant@1 ant@2 bee@1 cat@1 Dog@1 eel@1"),
        ("newest", "ant@2 bee@1 cat@1 Dog@1 ant@1 eel@1"),
        ("smallest", "eel@1 cat@1 ant@1 bee@1 Dog@1 ant@2"),
        ("largest", "ant@2 Dog@1 bee@1 ant@1 cat@1 eel@1"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 6, 9])
def test_pages_together_are_the_whole_list_in_order(
    experts: Registry, order: Order, expected: str, limit: int
) -> None:
    found, cursor = [], None
    while True:
        page = page_experts(experts, order=order, limit=limit, cursor=cursor)
        found += [expert.ref for expert in page.experts]
        if (cursor := page.next) is None:
            break
        assert len(page.experts) == limit
    assert found == expected.split()


def test_a_list_that_is_read_in_parts_is_in_order_and_has_all_fields(
    experts: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(experts, "cat@1", tags=["b", "a"], authors=["Ann"])
    monkeypatch.setattr(rows, "_ROWS_A_TIME", 2)
    found = list_experts(experts)
    assert [each.ref for each in found] == ["ant@1", "ant@2", "bee@1", "cat@1", "Dog@1", "eel@1"]
    for each in found:
        alone = get_expert(experts, each.ref)
        vectors = ("mean", "centroids", "centroid_weights")
        for name in vectors:
            np.testing.assert_array_equal(getattr(each.embedding, name), getattr(alone.embedding, name))
        assert replace(each, embedding=alone.embedding) == alone
    assert (found[3].tags, found[3].authors) == (("a", "b"), ("Ann",))


def test_a_page_contains_only_what_passes_the_filters(experts: Registry) -> None:
    withdraw(experts, "bee@1", "wrong")
    mit = page_experts(experts, license="MIT", limit=1)
    assert [expert.ref for expert in mit.experts] == ["Dog@1"]
    rest = page_experts(experts, license="MIT", limit=5, cursor=mit.next)
    assert [expert.ref for expert in rest.experts] == ["eel@1"] and rest.next is None
    day = datetime(2026, 1, 3, tzinfo=UTC)
    assert [e.ref for e in page_experts(experts, created=(day, None)).experts] == ["ant@2", "cat@1"]
    assert [e.ref for e in page_experts(experts, created=(None, day), order="newest").experts] == [
        *("Dog@1", "ant@1", "eel@1")
    ]


def test_an_expert_published_between_two_pages_moves_nothing(experts: Registry) -> None:
    first = page_experts(experts, limit=2)
    add_expert(experts, "aaa")
    second = page_experts(experts, limit=2, cursor=first.next)
    assert [expert.ref for expert in second.experts] == ["bee@1", "cat@1"]


@pytest.mark.parametrize("cursor", ["", "x", "bm90IGpzb24=", "WzFd"])
def test_a_cursor_of_another_list_is_refused(registry: Registry, cursor: str) -> None:
    with pytest.raises(InvalidInputError, match="first page"):
        page_experts(registry, cursor=cursor)


def test_a_cursor_belongs_to_its_order(experts: Registry) -> None:
    cursor = page_experts(experts, limit=1, order="newest").next
    with pytest.raises(InvalidInputError, match="newest"):
        page_experts(experts, cursor=cursor)


def test_a_page_may_skip_experts_after_its_cursor(experts: Registry) -> None:
    first = page_experts(experts, limit=2)
    assert [each.ref for each in page_experts(experts, limit=2, skip=1, cursor=first.next).experts] == [
        "cat@1",
        "Dog@1",
    ]


def test_a_count_may_end_early(experts: Registry) -> None:
    assert count_experts(experts) == len(list_experts(experts)) == 6
    assert count_experts(experts, at_most=4) == 4
    assert count_experts(experts, at_most=40, license="MIT") == 3


@pytest.mark.parametrize("order", ["name", "newest", "smallest", "largest"])
@pytest.mark.parametrize("sides", [{}, {"seed": "base"}, {"license": "MIT"}])
def test_sqlite_reads_a_page_from_an_index_and_sorts_nothing(
    registry: Registry, order: Order, sides: dict[str, str]
) -> None:
    """A sorted filter would take a time that grows with the registry."""
    seed = add_seed(registry)
    for number in range(40):
        add_expert(registry, f"expert-{number}", license=("MIT", "Apache-2.0")[number % 2])
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and "LIMIT" in statement and "FROM experts" in statement:
            rows = connection.connection.driver_connection.execute(
                f"EXPLAIN QUERY PLAN {statement}", parameters
            ).fetchall()
            plans.append("\n".join(row[3] for row in rows))

    with registry.session() as session:
        session.execute(text("ANALYZE"))
    event.listen(registry.engine, "before_cursor_execute", explain)
    wanted = {**sides, "seed": seed.name} if "seed" in sides else sides
    assert len(page_experts(registry, order=order, limit=5, **wanted).experts) == 5
    (plan,) = plans
    assert "USING INDEX" in plan.splitlines()[0] and "TEMP B-TREE" not in plan, plan
