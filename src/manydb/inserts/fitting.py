"""Rows that fit their table, made ready for its driver before anything is written."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from manydb import names, statements
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.dialects.loading import Load, Loader, Part
from manydb.dialects.schema import Column, Table
from manydb.errors import BadParameter, TooLarge, UnknownColumn, Unsupported
from manydb.gateway import Gateway, Place
from manydb.inserts import keys
from manydb.inserts.request import Request, Row
from manydb.statements import Statement

_SLICE = 1_000
"""Rows that are made ready at once: a few milliseconds in which nobody else gets a turn."""
_LOADABLE = {"table", "partitioned_table", "partition", "foreign_table", "virtual_table"}


@dataclass(frozen=True, slots=True)
class Ready:
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


async def prepare(
    gateway: Gateway,
    caller: Caller,
    connection: str | None,
    request: Request,
    transaction_id: str | None,
    timeout: float | None,  # noqa: ASYNC109
) -> Ready:
    """What *request* gave, ready to be sent. Raises ManydbError for what does not fit; nothing is written yet."""
    given, rows = request.spread()
    _require_some(rows, gateway.settings.max_insert_rows)
    # Where reads go, so that the table may be one that the open transaction made.
    async with gateway.on(caller, connection, transaction_id) as place:
        registration = place.registration
        registration.policy.require(statements.parse("INSERT INTO t VALUES (1)", registration.dialect.grammar))
        table = await _described(gateway, place, request.table)
        columns = _columns(table, given)
        load = Load(table, columns, request.on_conflict, keys.chosen(registration, request, table, columns))
        await keys.require_discreet(gateway, registration, table, columns)
        seconds = gateway.seconds(registration, timeout)
        loader: Loader = await place.run(lambda on: registration.dialect.loader(on, load), seconds)
    keys.require_distinct(load, rows)
    made = await _made(loader, rows)
    name = names.spelled(await gateway.catalogs.overview(registration), table.address, registration.dialect.quote)
    return Ready(registration, name, _statement(registration, name, load, len(rows)), load, loader, rows, made)


def _require_some(rows: Sequence[Row], most: int) -> None:
    if len(rows) > most:
        raise TooLarge(
            f"{len(rows):,} rows are more than one call may insert ({most:,}, max_insert_rows); "
            "send them in several calls"
        )
    if not rows:
        raise BadParameter("there are no rows")


async def _made(loader: Loader, rows: Sequence[Row]) -> list[Part]:
    made = []
    for first in range(0, len(rows), _SLICE):
        made.append(loader.part(rows[first : first + _SLICE], first))
        await asyncio.sleep(0)  # a turn for the other callers
    return made


def _statement(registration: Registration, name: str, load: Load, count: int) -> Statement:
    """What is judged and recorded in the place of what drivers send: the same table and columns, and no values."""
    listed = ", ".join(map(registration.dialect.quote, load.names))
    nothing = ", ".join(["NULL"] * len(load.columns))
    sql = f"INSERT INTO {name} ({listed}) VALUES ({nothing}) -- {count} rows"
    return statements.parse(sql, registration.dialect.grammar)


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
