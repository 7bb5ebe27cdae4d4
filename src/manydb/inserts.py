"""Many rows into a table: checked against it first, sent by the driver's fastest path, all of them or by batches."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import names, reads, redaction, statements, writes
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.dialects.loading import Load, Loaded, Loader, OnConflict, Part, Told
from manydb.dialects.schema import Column, Table
from manydb.errors import (
    BadParameter,
    ConfirmationNeeded,
    ConstraintViolated,
    Forbidden,
    ManydbError,
    TooLarge,
    UnknownColumn,
    Unsupported,
)
from manydb.gateway import Gateway, Place
from manydb.query import QueryResult
from manydb.statements import Statement
from manydb.writes import Change, Preview, Writes

Mode = Literal["all", "batches"]
Row = Sequence[Any]

_SLICE = 1_000
"""Rows that are made ready at once: a few milliseconds in which nobody else gets a turn."""
_LOADABLE = {"table", "partitioned_table", "partition", "foreign_table", "virtual_table"}


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be inserted: *rows* with *columns*, or *records*; *key* is what ``on_conflict`` is about."""

    table: str
    columns: Sequence[str] | None = None
    rows: Sequence[Row] | None = None
    records: Sequence[Mapping[str, Any]] | None = None
    on_conflict: OnConflict = "error"
    key: Sequence[str] | None = None

    @property
    def count(self) -> int:
        return len(self.rows or self.records or ())

    def spread(self) -> tuple[list[str], Sequence[Row]]:
        """Columns and rows. Raises BadParameter where they are no such, or do not belong together."""
        if (self.rows is None) == (self.records is None):
            raise BadParameter("give rows (lists, with columns) or records (objects)")
        _require("rows", self.rows, list)
        _require("records", self.records, dict)
        if self.records is not None:
            return _spread(self.records, self.columns)
        rows = self.rows or ()
        if not self.columns:
            raise BadParameter("rows need columns: the names of their values, in order")
        if set(map(len, rows)) - {len(self.columns)}:
            number = next(number for number, row in enumerate(rows) if len(row) != len(self.columns))
            raise BadParameter(
                f"row {number} has {len(rows[number])} values for {len(self.columns)} columns", row=number
            )
        return list(self.columns), rows


def _require(name: str, given: object, kind: type) -> None:
    """*given* is a list of *kind*, or nothing; those who validate arguments would copy each row."""
    if given is not None and (not isinstance(given, list) or set(map(type, given)) - {kind}):
        raise BadParameter(f"{name}: should be a list of {'lists' if kind is list else 'objects'}")


def _spread(records: Sequence[Mapping[str, Any]], columns: Sequence[str] | None) -> tuple[list[str], Sequence[Row]]:
    wanted = list(columns or (records[0] if records else ()))
    pick = itemgetter(*wanted) if len(wanted) > 1 else lambda record: tuple(record[name] for name in wanted)
    try:
        rows = list(map(pick, records))
    except KeyError:
        rows = []
    if len(rows) < len(records) or set(map(len, records)) - {len(wanted)}:
        number = next(number for number, record in enumerate(records) if record.keys() != set(wanted))
        odd = sorted(set(wanted) ^ records[number].keys())
        raise BadParameter(
            f"row {number}: every record has the same keys ({', '.join(wanted)}), null for nothing; "
            f"here {', '.join(odd)[:200]} differ",
            row=number,
        )
    return wanted, rows


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows from *first* to *last*, and how their transaction ended: *error* is why they are not there."""

    first: int
    last: int
    error: ManydbError | None = None


@dataclass(slots=True)
class Outcome:
    """Numbers of rows; None where the database does not tell. *batches* only where there was more than one try."""

    connection: str
    table: str
    inserted: int | None = None
    updated: int | None = None
    skipped: int | None = None
    written: int | None = None
    batches: list[Batch] = field(default_factory=list)

    def add(self, loaded: Loaded) -> None:
        for name in ("inserted", "updated", "skipped", "written"):
            if (count := getattr(loaded, name)) is not None:
                setattr(self, name, (getattr(self, name) or 0) + count)


async def insert(
    gateway: Gateway,
    consent: Writes,
    caller: Caller,
    connection: str | None,
    request: Request,
    told: Told,
    *,
    mode: Mode = "all",
    batch_rows: int = 10_000,
    confirm: str | None = None,
    transaction_id: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109
) -> Outcome:
    """Insert all rows in one transaction, or as *mode* says each batch in its own. Raises ManydbError.

    With batches, one that fails does not keep the others from lasting; that raises only where none lasts.
    """
    if mode == "batches" and (transaction_id is not None or confirm is not None):
        raise BadParameter("batches have transactions of their own: leave mode out for transaction_id or confirm")
    ready = await _prepare(gateway, caller, connection, request, transaction_id, timeout)
    outcome = Outcome(ready.registration.name, ready.name)
    size = batch_rows if mode == "batches" else max(1, len(ready.rows))
    for first in range(0, len(ready.rows), size):
        some = ready.parts(first, first + size)
        batch = _Run(ready, some, told, told_apart=confirm is not None)
        try:
            await consent.perform(
                caller,
                connection,
                batch.change,
                confirm=confirm,
                transaction_id=transaction_id,
                timeout=timeout,
            )
        except ManydbError as exc:
            if mode == "all" or isinstance(exc, ConfirmationNeeded):
                raise
            outcome.batches.append(Batch(first, some[-1].first + some[-1].count - 1, exc))
            if not isinstance(exc, BadParameter | ConstraintViolated):
                break  # it would happen to the next one as well
        else:
            outcome.add(batch.loaded)
            outcome.batches.append(Batch(first, some[-1].first + some[-1].count - 1))
    errors = [batch.error for batch in outcome.batches if batch.error]
    if errors and len(errors) == len(outcome.batches):
        raise errors[0]
    return outcome


async def preview(
    gateway: Gateway,
    consent: Writes,
    caller: Caller,
    connection: str | None,
    request: Request,
    *,
    transaction_id: str | None = None,
    timeout: float | None = None,  # noqa: ASYNC109
) -> tuple[Preview, Outcome]:
    """Insert all rows and roll that back: what it would do, and a token to confirm it with."""
    ready = await _prepare(gateway, caller, connection, request, transaction_id, timeout)
    run = _Run(ready, ready.parts(0, len(ready.rows)), lambda _: None, told_apart=True)
    found = await consent.preview(caller, connection, run.change, transaction_id=transaction_id, timeout=timeout)
    outcome = Outcome(ready.registration.name, ready.name)
    outcome.add(run.loaded)
    return found, outcome


# -- before anything is written --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ready:
    """Rows that fit their table, in the driver's form."""

    registration: Registration
    name: str
    statement: Statement
    load: Load
    loader: Loader
    rows: Sequence[Row]
    made: Sequence[Part]

    def parts(self, first: int, end: int) -> Sequence[Part]:
        """The rows from *first* to before *end*; slices never cross a batch unless it has another size."""
        found = [part for part in self.made if first <= part.first and part.first + part.count <= end]
        if sum(part.count for part in found) == min(end, len(self.rows)) - first:
            return found
        return [self.loader.part(self.rows[first:end], first)]


async def _prepare(
    gateway: Gateway,
    caller: Caller,
    connection: str | None,
    request: Request,
    transaction_id: str | None,
    timeout: float | None,  # noqa: ASYNC109
) -> _Ready:
    given, rows = request.spread()
    if len(rows) > gateway.settings.max_insert_rows:
        raise TooLarge(
            f"{len(rows):,} rows are more than one call may insert ({gateway.settings.max_insert_rows:,}, "
            "max_insert_rows); send them in several calls"
        )
    if not rows:
        raise BadParameter("there are no rows")
    # Where reads go, so that the table may be one that the open transaction made.
    async with gateway.on(caller, connection, transaction_id) as place:
        registration = place.registration
        quote = registration.dialect.quote
        registration.policy.require(statements.parse("INSERT INTO t VALUES (1)", registration.dialect.grammar))
        table = await _described(gateway, place, request.table)
        columns = _columns(table, given)
        load = Load(table, columns, request.on_conflict, _key(registration, request, table, columns))
        await _require_open(gateway, registration, table, columns)
        seconds = gateway.seconds(registration, timeout)
        loader: Loader = await place.run(lambda on: registration.dialect.loader(on, load), seconds)
    _require_distinct(load, rows)
    made = []
    for first in range(0, len(rows), _SLICE):
        made.append(loader.part(rows[first : first + _SLICE], first))
        await asyncio.sleep(0)  # a turn for the other callers
    name = names.spelled(await gateway.catalogs.overview(registration), table.address, quote)
    listed = ", ".join(map(quote, load.names))
    sql = f"INSERT INTO {name} ({listed}) VALUES ({', '.join(['NULL'] * len(columns))}) -- {len(rows)} rows"
    statement = statements.parse(sql, registration.dialect.grammar)
    return _Ready(registration, name, statement, load, loader, rows, made)


async def _described(gateway: Gateway, place: Place, name: str) -> Table:
    registration = place.registration
    if place.goes_on:
        overview = await gateway.catalogs.overview(registration)
        address = names.resolve(overview, name, registration.dialect.quote)
        (table,) = await place.run(
            lambda on: registration.dialect.catalog.describe(on, [address]), gateway.seconds(registration, None)
        )
    else:
        (table,) = await gateway.catalogs.describe(registration, [name])
    if table.kind not in _LOADABLE:
        raise Unsupported(f"{name} is a {table.kind.replace('_', ' ')}: rows go into tables")
    described: Table = table
    return described


def _columns(table: Table, given: Sequence[str]) -> tuple[Column, ...]:
    """The columns called *given*. Raises UnknownColumn and BadParameter."""
    exact = {column.name: column for column in table.columns}
    folded = {column.name.casefold(): column for column in table.columns}
    found = []
    for name in given:
        column = exact.get(name) or folded.get(name.casefold())
        if column is None:
            near = names.suggest_columns(exact, name)
            raise UnknownColumn(
                f"{table.name} has no column {name[:100]!r}; it has: {', '.join(exact)[:1000]}", suggestions=near
            )
        if column.generated:
            raise BadParameter(f"column {column.name} is generated by the database: leave it out")
        found.append(column)
    if len(set(found)) < len(found):
        raise BadParameter("a column is named twice")
    for column in table.columns:
        if column not in found and not (column.nullable or column.default or column.identity or column.generated):
            raise BadParameter(f"column {column.name} needs a value: it must not be null, and has no default")
    return tuple(found)


def _unique_keys(registration: Registration, table: Table) -> list[tuple[str, ...]]:
    """The columns of each unique key that a row can be told by; the primary key first."""
    spelled = {registration.dialect.quote(column.name): column.name for column in table.columns}
    spelled |= {column.name: column.name for column in table.columns}
    keys = [table.primary_key] if table.primary_key else []
    plain = (each for each in table.indexes if each.unique and not each.where and spelled.keys() >= set(each.columns))
    return [*keys, *(tuple(spelled[part] for part in index.columns) for index in plain)]


def _key(registration: Registration, request: Request, table: Table, columns: Sequence[Column]) -> tuple[str, ...]:
    if request.on_conflict == "error":
        return ()
    keys = _unique_keys(registration, table)
    given = {column.name for column in columns}
    told = ", ".join(f"({', '.join(key)})" for key in keys) or "none"
    usable = [key for key in keys if given.issuperset(key)]
    if request.key is not None:
        usable = [key for key in usable if set(key) == set(request.key)]
    if not usable:
        raise BadParameter(
            f"on_conflict needs a unique key all of whose columns are given; {table.name} has: {told}", key=request.key
        )
    others = [key for key in keys if key != usable[0] and given.issuperset(key)]
    if request.on_conflict == "update" and others and not registration.dialect.chooses_key:
        raise Unsupported(
            f"{registration.dialect.title} updates whatever row meets any unique key, and two are given: {told}; "
            "leave the columns of one out, or update those rows instead"
        )
    return usable[0]


async def _require_open(gateway: Gateway, registration: Registration, table: Table, columns: Sequence[Column]) -> None:
    """Raises Forbidden where inserting would tell what the connection hides: that a row meets a masked value."""
    if registration.policy.is_open:
        return
    grammar, quote = registration.dialect.grammar, registration.dialect.quote
    address = ".".join(map(quote, filter(None, table.address)))
    # What reading the table would conceal knows of parents and partitions too.
    verdict = await reads.judged(gateway, registration, statements.parse(f"SELECT * FROM {address}", grammar))
    masked = {table.columns[place].name for place in verdict.masked if place < len(table.columns)}
    masked |= registration.policy.masked(*table.address, [column.name for column in table.columns])
    telling = [*table.primary_key]
    for index in table.indexes:
        if index.unique:
            telling += [*index.columns, index.where]
    words = {word for part in telling for word in (part, *re.findall(r"\w+", part))}
    for column in columns:
        if column.name in masked and column.name in words:
            raise Forbidden(
                f"column {column.name} is masked and part of a unique key: what is refused would tell its values",
                suggestions=["use a connection without masks"],
            )


def _require_distinct(load: Load, rows: Sequence[Row]) -> None:
    """Two rows with one key would overwrite each other, and not every database allows it."""
    if not load.changed:
        return
    places = [load.names.index(name) for name in load.key]
    seen: dict[Any, int] = {}
    try:
        for number, row in enumerate(rows):
            values = tuple(row[place] for place in places)
            if None not in values and seen.setdefault(values, number) != number:
                raise BadParameter(
                    f"rows {seen[values]} and {number} have the same key ({', '.join(load.key)})", row=number
                )
    except TypeError:
        return  # of values that Python cannot compare the database will tell


# -- the write -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """One transaction's rows on their way; *loaded* is what came of it. *told_apart*: it can be confirmed."""

    ready: _Ready
    parts: Sequence[Part]
    told: Told
    told_apart: bool
    loaded: Loaded = field(default_factory=Loaded)

    async def change(self, registration: Registration) -> Change:
        load, rows = self.ready.load, self.ready.rows
        identity = ""
        if self.told_apart:  # reading all values once more takes as long as making them ready
            given = ("insert_rows", registration.name, self.ready.name, load.names, load.on_conflict, load.key, rows)
            identity = await asyncio.to_thread(writes.digest, *given)
        return Change(self.ready.statement, None, identity, self._send, names=statements.names(self.ready.statement))

    async def _send(self, on: AsyncConnection) -> QueryResult:
        try:
            self.loaded = await self.ready.loader.send(on, self.parts, self.told)
        except ManydbError as exc:
            self._explain(exc)
            raise
        # New rows destroy nothing, however many they are; rows that are overwritten do.
        overwritten = self.loaded.updated if self.loaded.written is None else self.loaded.written
        return QueryResult(self.ready.registration.name, [], [], [], more=False, elapsed_ms=0, affected=overwritten)

    def _explain(self, error: ManydbError) -> None:
        """Say which row it was, and keep the values out of what the database says."""
        row = error.details.get("row")
        if row is None:
            # Strings in what it quotes may be anybody's.
            error.message = re.sub(r"'[^']*'", "<value>", error.message) if error.__cause__ else error.message
        elif not error.message.startswith(f"row {row}"):
            error.message = f"row {row}: {redaction.without_values(error.message, list(self.ready.rows[row]))}"
