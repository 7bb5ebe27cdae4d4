"""What is selected: checked against the table, and made a query whose rows have a total order if they can."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Label, Select, func, literal_column, select
from sqlalchemy.sql.elements import quoted_name

from manydb import criteria, values
from manydb.criteria import Field, Key, Subject
from manydb.errors import (
    BadParameter,
)
from manydb.query import QueryResult
from manydb.rows.subjects import unique_key

Function = Literal["count", "count_distinct", "sum", "avg", "min", "max"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)

_NUMBERS = frozenset({"integer", "decimal", "real"})
_ORDERED = _NUMBERS | {"text", "date", "time", "timestamp"}
_SPELLED_VARIOUSLY = frozenset({"text", "time", "timestamp"})
"""Of these, values that count as one need not look the same to a database."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows, and what of them. *order* are columns or aggregates, ``-name`` or ``{"column", "desc"}`` descending;
    *aggregates* are ``{"op", "column", "name"}``.
    """

    table: str
    columns: Sequence[str] | None = None
    filter: Any = field(default=None, repr=False)
    order: Sequence[Any] = ()
    group_by: Sequence[str] = ()
    aggregates: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class _Order:
    """What rows are sorted by: a column's *key*, or *aggregate*."""

    descending: bool
    key: Key | None = None
    aggregate: Label[Any] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A selection that was checked. *keys* sort rows into a total order, unless *unpaged* says why there is none.

    *sums* are the positions of what is a whole number, however a database writes its sum.
    """

    subject: Subject
    shows: tuple[ColumnElement[Any], ...]
    condition: criteria.Criterion
    orders: tuple[_Order, ...]
    groups: tuple[Field, ...]
    keys: tuple[Key, ...]
    unpaged: str
    sums: frozenset[int]

    @classmethod
    def of(cls, subject: Subject, wanted: Selection, quote: Callable[[str], str]) -> "Plan":
        """Raises BadParameter, UnknownColumn and Forbidden, which name what cannot be had."""
        groups = tuple(_comparable(subject.usable(name), "group_by") for name in wanted.group_by)
        made = [_aggregate(subject, each) for each in wanted.aggregates]
        is_grouped = bool(groups or made)
        if is_grouped and wanted.columns:
            raise BadParameter("columns and groups exclude each other: the reply has group_by, then aggregates")
        if is_grouped:
            shows: list[ColumnElement[Any]] = [_grouped(each) for each in groups]
            shows += [label for label, _ in made]
        else:
            shows = [subject.find(name).column for name in wanted.columns or subject.fields]
        repeated = [name for name in _labels(shows) if _labels(shows).count(name) > 1]
        if repeated:
            raise BadParameter(f"the reply would have two columns called {repeated[0]!r}")
        orders = _orders(
            subject, wanted.order, groups if is_grouped else None, dict(zip(_names(made), made, strict=True))
        )
        total = groups if is_grouped else unique_key(subject, quote)
        sorted_by, unpaged = _total(orders, total, is_grouped=is_grouped)
        keys = () if unpaged else tuple(order.key for order in sorted_by if order.key)
        first = len(groups)
        sums = frozenset(first + number for number, (_, is_sum) in enumerate(made) if is_sum)
        condition = criteria.read(subject, wanted.filter)
        return cls(subject, tuple(shows), condition, sorted_by, groups, keys, unpaged, sums)

    def statement(self, after: Sequence[Any] | None) -> Select[Any]:
        """The query, of the rows behind the one with the key values *after*."""
        is_grouped = bool(self.groups)
        marks = [
            _key_shown(key.field, is_grouped=is_grouped).label(f"manydb_key_{n}") for n, key in enumerate(self.keys)
        ]
        found: Select[Any] = select(*self.shows, *marks).select_from(self.subject.source)
        if self.condition.certain is not True:
            found = found.where(self.condition.expression)
        if after is not None:
            found = found.where(criteria.beyond(list(zip(self.keys, after, strict=True))))
        if self.groups:
            found = found.group_by(*(criteria.Exact(each) for each in self.groups))
        for order in self.orders:
            if order.key:
                found = found.order_by(*criteria.place(order.key, grouped=is_grouped))
            elif order.aggregate is not None:
                of = order.aggregate.element
                found = found.order_by(criteria.last_if_null(of), of.desc() if order.descending else of.asc())
        return found

    def shown(self, result: QueryResult) -> QueryResult:
        """*result* without the key values, and sums as whole numbers."""
        width = len(self.shows)
        rows = [row[:width] for row in result.rows] if self.keys else result.rows
        types = result.types[:width]
        if self.sums:
            rows = [[_whole(cell) if place in self.sums else cell for place, cell in enumerate(row)] for row in rows]
            types = ["integer" if place in self.sums else name for place, name in enumerate(types)]
        return replace(result, columns=result.columns[:width], types=types, rows=rows)

    def keys_of(self, row: Sequence[Any]) -> Sequence[Any]:
        return list(row[len(self.shows) :])


def _labels(shows: Sequence[ColumnElement[Any]]) -> list[str]:
    return [str(getattr(each, "name", "")) for each in shows]


def _names(made: Sequence[tuple[Label[Any], bool]]) -> list[str]:
    return [str(label.name) for label, _ in made]


def _whole(cell: Any) -> Any:
    return values.integer(int(cell)) if isinstance(cell, str) else cell


def _comparable(found: Field, where: str) -> Field:
    if found.family == "other":
        raise BadParameter(f"column {found.name} ({found.described.type}) cannot be used in {where}", column=found.name)
    return found


def _grouped(group: Field) -> ColumnElement[Any]:
    """A column that is grouped by, as the reply shows it: as one of the rows of the group has it."""
    return _key_shown(group, is_grouped=True).label(quoted_name(group.name, True)) if _varies(group) else group.column  # noqa: FBT003


def _varies(group: Field) -> bool:
    return group.family in _SPELLED_VARIOUSLY


def _key_shown(key: Field, *, is_grouped: bool) -> ColumnElement[Any]:
    if is_grouped and _varies(key):
        return func.min(key.column)
    return criteria.Exact(key) if key.family == "real" else key.column


def _aggregate(subject: Subject, given: Any) -> tuple[Label[Any], bool]:
    """The expression that an aggregate describes, under its name; and whether it is a sum of whole numbers."""
    if not isinstance(given, Mapping) or given.keys() - {"op", "column", "name"} or given.get("op") not in FUNCTIONS:
        raise BadParameter(f'aggregates: takes {{"op", "column", "name"}}, where op is one of {", ".join(FUNCTIONS)}')
    op, named = given["op"], given.get("column")
    if named is None and op != "count":
        raise BadParameter(f"aggregates: {op} needs a column")
    found = None if named is None else subject.usable(named)
    name = str(given.get("name") or (op if found is None else f"{op}_{found.name}"))
    label = _expression(op, found).label(quoted_name(name, True))  # noqa: FBT003
    return label, op == "sum" and found is not None and found.family == "integer"


def _expression(op: Function, of: Field | None) -> ColumnElement[Any]:
    if of is None:
        return func.count(literal_column("*"))
    fitting = _NUMBERS if op in ("sum", "avg") else _ORDERED if op in ("min", "max") else None
    if of.family == "other" or (fitting is not None and of.family not in fitting):
        raise BadParameter(f"column {of.name} ({of.described.type or 'no type'}) has no {op}", column=of.name)
    match op:
        case "count":
            return func.count(of.column)
        case "count_distinct":
            return func.count(criteria.Exact(of).distinct())
        case "sum":
            return func.sum(of.column)
        case "avg":
            return func.avg(criteria.Double(of))
        case "min" | "max":
            return criteria.Extreme(of, op)


def _orders(
    subject: Subject,
    given: Sequence[Any],
    groups: Sequence[Field] | None,
    made: Mapping[str, tuple[Label[Any], bool]],
) -> list[_Order]:
    """What *given* says to sort by; in a query with *groups*, these and what is *made* of them."""
    found: list[_Order] = []
    for each in given:
        name, descending = _direction(each, {*subject.fields, *made})
        if name in made:
            found.append(_Order(descending, aggregate=made[name][0]))
            continue
        key = _comparable(subject.usable(name), "order")
        if groups is not None and key not in groups:
            raise BadParameter(
                f"column {key.name} is not in group_by, so there is no order by it; order by groups or aggregates"
            )
        if any(other.key and other.key.field == key for other in found):
            raise BadParameter(f"column {key.name} is in order twice")
        found.append(_Order(descending, key=Key(key, descending)))
    return found


def _direction(given: Any, known: set[str]) -> tuple[Any, bool]:
    if isinstance(given, str):
        return (given[1:], True) if given[:1] == "-" and given not in known else (given, False)
    if isinstance(given, Mapping) and given.keys() <= {"column", "desc"} and isinstance(given.get("desc", False), bool):
        return given.get("column"), given.get("desc", False)
    raise BadParameter('order: takes "column", "-column" or {"column", "desc"}')


def _total(orders: list[_Order], unique: Sequence[Field] | None, *, is_grouped: bool) -> tuple[tuple[_Order, ...], str]:
    """*orders*, continued until no two rows are equal; and why rows cannot be told by that, if they cannot."""
    sorted_by = [order.key.field for order in orders if order.key]
    rest = [each for each in unique or () if each not in sorted_by]
    total = (*orders, *(_Order(descending=False, key=Key(each)) for each in rest))
    if unique is None:
        return total, "the table has no primary key that may be read"
    if any(order.aggregate is not None for order in orders):
        return total, "pages cannot go on in the order of an aggregate"
    if is_grouped and not unique:
        return total, "there is one group"
    return total, ""
