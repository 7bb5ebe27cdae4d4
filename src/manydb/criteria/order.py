"""Orders in which every row has its place, and the rows behind one of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, or_
from sqlalchemy.sql import operators

from manydb.criteria.fields import Field
from manydb.dialects.comparing import NOTHING, Exact, NullRank, Value
from manydb.errors import BadParameter


@dataclass(frozen=True, slots=True)
class Key:
    """A column that rows are sorted by; those without a value come last, whichever the direction."""

    field: Field
    descending: bool = False


def place(key: Key, *, grouped: bool = False) -> Iterable[ColumnElement[Any]]:
    """The terms of ORDER BY for *key*; in a *grouped* query, of what is grouped by."""
    exact = Exact(key.field, ordered=True)
    if key.field.described.nullable:
        yield last_if_null(Exact(key.field) if grouped else key.field.column)
    yield exact.desc() if key.descending else exact.asc()


def last_if_null(of: ColumnElement[Any]) -> ColumnElement[Any]:
    """A term of ORDER BY that puts NULL behind everything else."""
    return NullRank(of)


def beyond(keys: Sequence[tuple[Key, Any]]) -> ColumnElement[Any]:
    """Rows that come after the one with these values, in the order of *keys*; no two rows have all of them in common.

    Rows that were inserted in the meantime are before or behind it like any other.
    """
    first, first_value = keys[0]
    alternatives = []
    for number, (key, value) in enumerate(keys):
        equal = [same(each.field, known) for each, known in keys[:number]]
        alternatives.append(and_(*equal, _behind(key, value)))
    found = or_(*alternatives)
    if first_value is None:
        return found
    # Says nothing new, but a database finds its way in an index by it.
    return and_(or_(_behind(first, first_value), same(first.field, first_value)), found)


def same(field: Field, value: Any) -> ColumnElement[Any]:
    """Rows with *value*, which came out of the database, NULL among them."""
    return field.column.is_(None) if value is None else Exact(field, ordered=True) == Value(field, _again(field, value))


def _behind(key: Key, value: Any) -> ColumnElement[Any]:
    if value is None:
        return NOTHING
    field = key.field
    compare = operators.lt if key.descending else operators.gt
    found: ColumnElement[Any] = compare(Exact(field, ordered=True), Value(field, _again(field, value)))
    return or_(found, field.column.is_(None)) if field.described.nullable else found


def _again(field: Field, value: Any) -> Any:
    """A value that came out of the database, as it is bound; what no caller may send ("infinity", NaN) stays text."""
    try:
        return field.checked(value)
    except BadParameter:
        return value
