"""Pages of a list of experts, one after another by a cursor.

A cursor is the position of the last expert of a page in the list's order. So the next page takes the time of the
first one, however long the list is, and skips or repeats nothing when experts are published in between.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Unpack

from sqlalchemy import ColumnElement, UnaryExpression, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute

from registry.catalog.filters import Sides, wanted_by
from registry.database.rows import expert_records
from registry.database.schema import Expert
from registry.errors import InvalidInputError
from registry.home import Registry
from registry.records import ExpertPage

Order = Literal["name", "newest", "smallest", "largest"]
# Columns of each order, and whether it is descending. Every order is total.
_ORDERS: dict[str, tuple[tuple[InstrumentedAttribute[Any], ...], bool]] = {
    "name": ((Expert.name_key, Expert.version), False),
    "newest": ((Expert.created_at, Expert.id), True),
    "smallest": ((Expert.parameters, Expert.id), False),
    "largest": ((Expert.parameters, Expert.id), True),
}


def page_experts(
    registry: Registry,
    *,
    order: Order = "name",
    limit: int = 50,
    cursor: str | None = None,
    skip: int = 0,
    include_withdrawn: bool = False,
    **sides: Unpack[Sides],
) -> ExpertPage:
    """Return one page of the versions of experts that pass the filters: the first, or the one at `cursor`.

    `skip` experts are left out before it: a jump over them, whose time grows with their number.

    Raises InvalidInputError for an unknown order, a limit below 1, or a cursor of another order; NotFoundError for an
    unknown seed.
    """
    if order not in _ORDERS:
        raise InvalidInputError(f"order is {order!r}, expected one of {', '.join(_ORDERS)}")
    if limit < 1:
        raise InvalidInputError(f"limit is {limit}, expected at least 1")
    columns, descending = _ORDERS[order]
    by = sorting(order)
    with registry.session(read_only=True) as session:
        wanted = wanted_by(session, sides, include_withdrawn)
        if cursor is not None:
            wanted.append(_beyond(columns, descending, _decode(cursor, order)))
        # With a join, SQLite may begin at the seed, and then it sorts all of the seed's experts.
        asked = select(Expert.id, *columns).where(*wanted).order_by(*by).limit(limit + 1).offset(skip or None)
        rows = session.execute(asked).all()
        following = _encode(order, rows[limit - 1][1:]) if len(rows) > limit else None
        return ExpertPage(expert_records(session, [row.id for row in rows[:limit]]), following)


def sorting(order: Order) -> list[UnaryExpression[Any]]:
    """Return the expressions that sort experts."""
    columns, descending = _ORDERS[order]
    return [column.desc() if descending else column.asc() for column in columns]


def _beyond(
    columns: Sequence[InstrumentedAttribute[Any]], descending: bool, place: Sequence[Any]
) -> ColumnElement[bool]:
    """Return the condition for rows after a place (first, second) in the order of two columns."""
    first, second = columns
    a, b = place
    # The first condition is implied by the second, but only it makes SQLite seek in the index.
    if descending:
        return and_(first <= a, or_(first < a, second < b))
    return and_(first >= a, or_(first > a, second > b))


def _encode(order: str, place: Sequence[Any]) -> str:
    text = json.dumps([order, *(each.isoformat() if isinstance(each, datetime) else each for each in place)])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _decode(cursor: str, order: str) -> tuple[Any, int]:
    try:
        of, first, second = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if of != order:
            raise ValueError(f"it belongs to the order {of!r}")
        if order == "newest":
            first = datetime.fromisoformat(first)
        return first, int(second)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"the cursor {cursor!a} is not one of a list in the order {order!r} ({error}): start at the first page"
        ) from error
