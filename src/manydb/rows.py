"""Rows without SQL: chosen, changed and deleted by conditions on the columns of one table, on every database alike.

What reaches the database is a statement like any other: judged by the connection's policy, recorded with placeholders,
previewed, confirmed, and part of an open transaction where one is named.
"""

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import orjson
from sqlalchemy import ColumnElement, Label, Select, delete, func, literal_column, or_, select, update
from sqlalchemy import and_ as all_of
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import Delete, Update
from sqlalchemy.sql.elements import quoted_name

from manydb import criteria, names, pages, query, statements, values, writes
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.criteria import Field, Key, Subject
from manydb.dialects.schema import Table
from manydb.errors import (
    BadParameter,
    ConstraintViolated,
    Expired,
    Forbidden,
    Internal,
    ManydbError,
    ReadOnly,
    SqlSyntax,
    TooLarge,
    UnknownColumn,
    UnknownTable,
    Unsupported,
)
from manydb.gateway import Gateway, Place
from manydb.policy import OPEN, Verdict
from manydb.query import Page, QueryResult
from manydb.statements import Statement
from manydb.writes import Change

Function = Literal["count", "count_distinct", "sum", "avg", "min", "max"]
FUNCTIONS: tuple[Function, ...] = get_args(Function)

_NUMBERS = frozenset({"integer", "decimal", "real"})
_ORDERED = _NUMBERS | {"text", "date", "time", "timestamp"}
_SPELLED_VARIOUSLY = frozenset({"text", "time", "timestamp"})
"""Of these, values that count as one need not look the same to a database."""
_WRITABLE = frozenset({"table", "partitioned_table", "partition", "foreign_table", "virtual_table"})
_SAMPLE_ROWS = 5
_LONGEST_KEY = 1_000
"""Bytes of a cursor's value: some databases sort by no more than the first 1,024 of a text."""
_MAC_BYTES = 16
_ANY_CHANGE = "DELETE FROM t WHERE 1 = 0"


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
class Found:
    """A page of rows; *cursor* leads to the next, and *reason* says why there is none where rows are left."""

    page: Page
    cursor: str | None = None
    reason: str = ""


class Rows:
    """Reads rows, page by page. A cursor is good for its caller, while the server runs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._secret = secrets.token_bytes(32)

    async def select(
        self,
        caller: Caller,
        connection: str | None,
        wanted: Selection,
        *,
        cursor: str | None = None,
        row_cap: int | None = None,
        transaction_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Found:
        """The rows that *wanted* describes, from *cursor* on. Raises ManydbError."""
        gateway = self._gateway
        async with gateway.on(caller, connection, transaction_id) as place:
            registration = place.registration
            cap = pages.cap(gateway.settings, registration, row_cap)
            plan = _Plan.of(await _subject(gateway, place, wanted.table), wanted, registration.dialect.quote)
            identity = _identity(registration, plan.subject, wanted)
            after = self._opened(caller, cursor, identity, plan) if cursor else None
            sql, params = _compiled(registration, plan.statement(after).limit(cap + 1))
            with gateway.recorded(caller, registration, sql) as record:
                seconds = gateway.seconds(registration, timeout)
                result = await gateway.query(place, sql, params, limit=cap + 1, timeout=seconds)
                record.rows = min(len(result.rows), cap)
        more = result.more or len(result.rows) > cap
        shown = plan.shown(replace(result, rows=result.rows[:cap], more=more))
        page = pages.cut(gateway.settings, shown, row_cap=cap, byte_budget=registration.limits.byte_budget)
        if page.truncated is None or not page.rows:
            return Found(page)
        last = plan.keys_of(result.rows[len(page.rows) - 1])
        if reason := plan.unpaged or _too_long(last):
            return Found(page, reason=reason)
        return Found(page, self._sealed(caller, identity, last))

    # -- cursors -----------------------------------------------------------------------------------------------------

    def _sealed(self, caller: Caller, identity: str, last: Sequence[Any]) -> str:
        body = orjson.dumps([identity, last])
        return base64.urlsafe_b64encode(self._mac(caller, body) + body).decode().rstrip("=")

    def _opened(self, caller: Caller, cursor: str, identity: str, plan: "_Plan") -> Sequence[Any]:
        """The values of the last row before. Raises BadParameter for a cursor of another call, else Expired."""
        if plan.unpaged:
            raise BadParameter(f"there is no cursor here: {plan.unpaged}")
        try:
            sealed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise BadParameter("cursor is what the reply before gave, unchanged") from None
        mac, body = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(caller, body)):
            raise Expired("the cursor is not known here (any more); ask for the first page again, without a cursor")
        made_for, last = orjson.loads(body)
        if made_for != identity:
            raise BadParameter(
                "the cursor is of another call: connection, table, filter, order, group_by and aggregates "
                "must be those that it came from"
            )
        found: list[Any] = last
        return found

    def _mac(self, caller: Caller, body: bytes) -> bytes:
        owner = f"{caller.kind}\x00{caller.key}\x00".encode()
        return hmac.digest(self._secret, owner + body, "sha256")[:_MAC_BYTES]


def _identity(registration: Registration, subject: Subject, wanted: Selection) -> str:
    told = (wanted.filter, list(wanted.order), list(wanted.group_by), list(wanted.aggregates))
    return writes.digest(registration.name, registration.location, subject.table.address, *told)[:32]


def _too_long(last: Sequence[Any]) -> str:
    if any(len(orjson.dumps(value)) > _LONGEST_KEY for value in last):
        return "the last row's values are too long to order by; order by shorter columns"
    return ""


# -- what is selected ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """What rows are sorted by: a column's *key*, or *aggregate*."""

    descending: bool
    key: Key | None = None
    aggregate: Label[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
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
    def of(cls, subject: Subject, wanted: Selection, quote: Callable[[str], str]) -> "_Plan":
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
        total = groups if is_grouped else _unique_key(subject, quote)
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
            found = found.group_by(*(each.exact() for each in self.groups))
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
    return key.exact() if key.family == "real" else key.column


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
            return func.count(of.exact().distinct())
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


def _unique_key(subject: Subject, quote: Callable[[str], str]) -> tuple[Field, ...] | None:
    """The columns that tell every row from all others: the primary key, or a unique one that is never null."""
    table = subject.table
    by_text = {quote(name): name for name in subject.fields} | {name: name for name in subject.fields}
    candidates = [table.primary_key] if table.primary_key else []
    for index in table.indexes:
        if index.unique and not index.where and by_text.keys() >= set(index.columns):
            key = tuple(by_text[text] for text in index.columns)
            if not any(subject.fields[name].described.nullable for name in key):
                candidates.append(key)
    for key in candidates:
        fields = tuple(subject.fields[name] for name in key if name in subject.fields)
        if fields and not subject.masked.intersection(key) and all(each.family != "other" for each in fields):
            return fields
    return None


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


# -- what is changed -------------------------------------------------------------------------------------------------

Make = Callable[[Registration], Awaitable[Change]]


async def changing(
    gateway: Gateway,
    caller: Caller,
    connection: str | None,
    table: str,
    new: Mapping[str, Any],
    chosen: Any,
    *,
    transaction_id: str | None = None,
) -> Make:
    """What gives the rows that *chosen* describes *new* values, for `Writes`. Raises ManydbError."""
    if not new:
        raise BadParameter("set is empty: name at least one column with its new value")
    subject, condition = await _chosen(gateway, caller, connection, transaction_id, table, chosen, "update_rows")
    fields = [subject.usable(name) for name in new]
    if len(set(fields)) < len(fields):
        raise BadParameter("set names a column twice")
    _require_untelling(subject, fields)
    given = {found.name: _new_value(found, value) for found, value in zip(fields, new.values(), strict=True)}
    statement = update(subject.source).values({subject.source.c[name]: each for name, each in given.items()})
    identity = ("update_rows", subject.table.address, list(new.items()), chosen)
    told = [*new.values(), *_values(chosen)]
    return _make(gateway, subject, condition, statement.where(condition.expression), identity, told, again=True)


async def deleting(
    gateway: Gateway,
    caller: Caller,
    connection: str | None,
    table: str,
    chosen: Any,
    *,
    transaction_id: str | None = None,
) -> Make:
    """What deletes the rows that *chosen* describes, for `Writes`. Raises ManydbError."""
    subject, condition = await _chosen(gateway, caller, connection, transaction_id, table, chosen, "delete_rows")
    statement = delete(subject.source).where(condition.expression)
    identity = ("delete_rows", subject.table.address, chosen)
    return _make(gateway, subject, condition, statement, identity, _values(chosen), again=False)


async def _chosen(
    gateway: Gateway,
    caller: Caller,
    connection: str | None,
    transaction_id: str | None,
    table: str,
    chosen: Any,
    tool: str,
) -> tuple[Subject, criteria.Criterion]:
    # Where reads go, so that the table is the one that the open transaction has.
    async with gateway.on(caller, connection, transaction_id) as place:
        policy, grammar = place.registration.policy, place.registration.dialect.grammar
        policy.require(statements.parse(_ANY_CHANGE, grammar))
        subject = await _subject(gateway, place, table)
    if not policy.is_open and subject.table.kind not in _WRITABLE:
        raise Forbidden(
            f"{subject.table.name} is a {subject.table.kind.replace('_', ' ')}: through a connection that hides or "
            "masks data, only tables are written to"
        )
    condition = criteria.read(subject, chosen)
    if condition.certain:
        raise BadParameter(
            f"{tool} needs a filter that chooses rows, and this one is about every row of the table",
            suggestions=["say which rows are meant; to change all, use execute_statement"],
        )
    return subject, condition


def _new_value(found: Field, value: Any) -> ColumnElement[Any]:
    if found.described.generated:
        raise BadParameter(f"column {found.name} is generated by the database: leave it out", column=found.name)
    if value is None:
        if not found.described.nullable:
            raise found.misfit("a value: it must not be null")
        return criteria.Given(found, None)
    return criteria.Given(found, value if found.family == "other" else found.checked(value))


def _require_untelling(subject: Subject, changed: Sequence[Field]) -> None:
    """Raises Forbidden where the database compares a new value with a masked one: its refusal would tell of that."""
    table = subject.table
    told = [table.primary_key, *((*index.columns, index.where) for index in table.indexes if index.unique)]
    for parts in [*told, *((check,) for check in table.checks)]:
        words = {word.casefold() for part in parts for word in (part, *re.findall(r"\w+", part))}
        masked = next((name for name in subject.masked if name.casefold() in words), None)
        for each in changed:
            if masked and each.name.casefold() in words:
                raise Forbidden(
                    f"column {each.name} shares a key or check with {masked}, which is masked: what the database "
                    "refuses would tell its values",
                    suggestions=["use a connection without masks"],
                )


def _make(
    gateway: Gateway,
    subject: Subject,
    condition: criteria.Criterion,
    core: Update | Delete,
    identity: tuple[Any, ...],
    told: list[Any],
    *,
    again: bool,
) -> Make:
    async def make(registration: Registration) -> Change:
        sql, params = _compiled(registration, core)
        statement = statements.parse(sql, registration.dialect.grammar)
        sample = await _Sample.of(gateway, registration, subject, condition)

        async def work(on: AsyncConnection) -> QueryResult:
            done = await sample.discreetly(sample.run(on, statement, params, writes_too=True))
            return replace(done, generated=None)

        return Change(
            statement,
            told,
            writes.digest(*identity),
            work,
            names=statements.names(statement),
            before=sample.before,
            after=sample.after if again else None,
        )

    return make


def _values(chosen: Any) -> list[Any]:
    """The values of a filter: what an error must not quote."""
    if isinstance(chosen, Mapping):
        return [chosen.get("value")] if "column" in chosen else _values([*chosen.values()])
    return [each for part in chosen for each in _values(part)] if isinstance(chosen, list) else []


@dataclass(frozen=True, slots=True)
class _Sample:
    """Some of the rows that a change is about, without what the connection masks."""

    registration: Registration
    subject: Subject
    condition: criteria.Criterion
    verdict: Verdict
    key: tuple[Field, ...] | None

    @classmethod
    async def of(
        cls, gateway: Gateway, registration: Registration, subject: Subject, condition: criteria.Criterion
    ) -> "_Sample":
        """Raises Forbidden where reading the rows would be: what may not be asked of them may not choose them."""
        sample = cls(registration, subject, condition, OPEN, _unique_key(subject, registration.dialect.quote))
        sql, _ = _compiled(registration, sample._query(condition.expression))
        verdict = await gateway.judged(registration, statements.parse(sql, registration.dialect.grammar))
        return replace(sample, verdict=verdict)

    async def before(self, on: AsyncConnection) -> QueryResult:
        return await self._read(on, self.condition.expression)

    async def after(self, on: AsyncConnection, before: QueryResult) -> QueryResult | None:
        """The same rows by their key, which must be among those that may be read."""
        if self.key is None:
            return None
        places = [before.columns.index(each.name) for each in self.key]
        these = [
            all_of(*(criteria.same(each, row[place]) for each, place in zip(self.key, places, strict=True)))
            for row in before.rows
        ]
        return await self._read(on, or_(*these))

    def _query(self, condition: ColumnElement[Any]) -> Select[Any]:
        found: Select[Any] = select(*(each.column for each in self.subject.fields.values())).where(condition)
        for each in self.key or ():
            found = found.order_by(*criteria.place(Key(each)))
        return found.limit(_SAMPLE_ROWS)

    async def _read(self, on: AsyncConnection, condition: ColumnElement[Any]) -> QueryResult:
        sql, params = _compiled(self.registration, self._query(condition))
        found = await self.run(on, statements.parse(sql, self.registration.dialect.grammar), params)
        return replace(found, rows=self.verdict.conceal(found.columns, found.rows))

    async def run(
        self, on: AsyncConnection, statement: Statement, params: Mapping[str, Any], *, writes_too: bool = False
    ) -> QueryResult:
        dialect, name = self.registration.dialect, self.registration.name
        return await query.run(
            on, dialect, name, statement, params, limit=_SAMPLE_ROWS, goes_on=True, writes=writes_too
        )

    async def discreetly(self, work: Awaitable[QueryResult]) -> QueryResult:
        """*work*; what the database says against it may name hidden tables and quote masked values."""
        try:
            return await work
        except ManydbError:
            raise
        except Exception as exc:
            error = self.registration.dialect.error(exc)
            if self.registration.policy.is_open or not isinstance(error, _TALKATIVE):
                raise
            raise type(error)(
                "the database does not allow this change; why is not told by a connection that hides or masks data"
            ) from None


_TALKATIVE = (
    BadParameter,
    ConstraintViolated,
    Forbidden,
    Internal,
    ReadOnly,
    SqlSyntax,
    TooLarge,
    UnknownColumn,
    UnknownTable,
    Unsupported,
)


# -- the table, and SQL ----------------------------------------------------------------------------------------------


async def _subject(gateway: Gateway, place: Place, name: str) -> Subject:
    """The table called *name* as it is where statements run, and its masked columns. Raises UnknownTable."""
    registration = place.registration
    table = await _described(gateway, place, name)
    if registration.policy.is_open:
        return Subject(table)
    subject = Subject(table)
    sql, _ = _compiled(registration, select(*(each.column for each in subject.fields.values())))
    # What is masked elsewhere and shown by a view, a partition or a generated column is masked here.
    verdict = await gateway.judged(registration, statements.parse(sql, registration.dialect.grammar))
    masked = {table.columns[place].name for place in verdict.masked}
    return Subject(table, registration.policy.masked(*table.address, subject.fields) | masked)


async def _described(gateway: Gateway, place: Place, name: str) -> Table:
    registration = place.registration
    if not place.goes_on:
        (table,) = await gateway.describe(registration, [name])
        return table
    address = names.resolve(await gateway.overview(registration), name, registration.dialect.quote)
    found = await place.run(
        lambda on: registration.dialect.catalog.describe(on, [address]), gateway.seconds(registration, None)
    )
    if not found:
        raise UnknownTable(f"no table or view {name!r}")
    described: Table = registration.policy.visible(found[0])
    return described


def _compiled(registration: Registration, core: Select[Any] | Update | Delete) -> tuple[str, dict[str, Any]]:
    """SQL of the registration's database with `:name` placeholders, and their values."""
    compiled = core.compile(dialect=_speaker(registration.target.url.get_dialect()))
    return str(compiled), dict(compiled.params)


@lru_cache(maxsize=32)
def _speaker(dialect: Callable[..., Dialect]) -> Dialect:
    return dialect(paramstyle="named")


__all__ = ["FUNCTIONS", "Found", "Function", "Make", "Rows", "Selection", "changing", "deleting"]
