"""One statement over psycopg: at most *limit* rows, in the JSON form of docs/values.md, in few round trips.

A read that stands alone takes one: what opens its transaction goes with it. A query is read through a cursor, so that
rows past the limit stay in the server, unless its text says that it has few.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.execution import driver
from manydb.dialects.postgresql.libpq import arguments, asking, transactions
from manydb.dialects.postgresql.libpq.columns import NUMERIC, RECORD, RECORDS, Columns, Reader
from manydb.dialects.postgresql.libpq.pipeline import Pipeline, pipeline
from manydb.dialects.rows import MAX_BYTES, Reading, Rows
from manydb.dialects.streaming import Pace

_CURSOR = "manydb_rows"
_CLOSE = f"CLOSE {_CURSOR}"
_CHUNK = 16
"""Rows that are taken from the network at a time: they may be long."""
_FIRST_SLICE, _SECOND_SLICE = 16, 112
"""Rows asked for of a cursor before anything is known of their size; the second lot can be left where it is."""
_FEW = 1_000
"""Rows of a query that is run as it is: more may be larger than what is read, which costs the connection."""
# What the text forms depend on; the server reports each when it changes, so looking costs nothing.
_SESSION = {"client_encoding": "UTF8", "TimeZone": "UTC", "DateStyle": "ISO", "IntervalStyle": "iso_8601"}
_CHANGED = re.compile(rb"(?:INSERT \d+|UPDATE|DELETE|MERGE) (\d+)")
_QUERY = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE | re.DOTALL)
# Only a guess, which costs the connection where it is wrong.
_FROM = re.compile(r"\bFROM\b", re.IGNORECASE)
_LIMIT = re.compile(r"\bLIMIT\s+(\d{1,9})(?:\s+OFFSET\s+\d+)?[\s;]*\Z", re.IGNORECASE)


# -- statements ------------------------------------------------------------------------------------------------------


async def fetch(
    connection: AsyncConnection,
    sql: str,
    args: tuple[Any, ...],
    limit: int,
    max_bytes: int = MAX_BYTES,
) -> Rows:
    """Run *sql* (placeholders: $1) in the open transaction, and read at most *limit* rows.

    If it was begun for this *alone*, that may cost the connection. A statement without result columns gives no columns
    and no rows. BadParameter: a value that does not fit the type which its placeholder has in the statement, or a wrong
    number of values. Other errors: ServerError, LostError.
    """
    call = await _Call.of(connection, sql, args)
    reading = Reading(limit, max_bytes, ())
    is_query = bool(_QUERY.match(sql))
    if is_query and not (call.is_alone and _is_short(sql, limit)):
        await call.scroll(reading)
    else:
        await call.run(reading, is_drained=not call.is_alone)
        if is_query and call.columns.have_records:
            reading = Reading(limit, max_bytes, ())
            await call.scroll(reading, with_records=True)
    return await call.rows(reading)


async def execute(
    connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int = MAX_BYTES
) -> Rows:
    """As `fetch`, for a statement that may write: it runs to its end, and the rows that are not kept are dropped."""
    call = await _Call.of(connection, sql, args, described=True)
    reading = Reading(limit, max_bytes, ())
    binary = call.columns.have_records
    await call.run(reading, is_drained=True, binary=binary)
    return await call.rows(reading, binary=binary)


async def stream(connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
    """As `fetch`, all rows: slice by slice from a cursor, which keeps the server's place."""
    call = await _Call.of(connection, sql, args)
    if not _QUERY.match(sql):
        reading = Reading(2**31, 2**63, ())
        await call.run(reading, is_drained=True)
        yield await call.rows(reading)
        return
    pace = Pace(())
    reading = Reading(pace.wants - 1, 2**63, ())
    await call.scroll(reading, goes_on=True)
    while True:
        pace.long = call.columns.long
        pace.saw(reading.records)
        is_last = len(reading.records) <= reading.limit
        yield await call.rows(Reading(len(reading.records), 2**63, (), reading.records))
        if is_last:
            await call.close()
            return
        reading = Reading(pace.wants - 1, 2**63, ())
        await call.more(reading, pace.wants)


def _is_short(sql: str, limit: int) -> bool:
    """Whether the text of a query says that it has few rows, and no more than *limit* and one."""
    if found := _LIMIT.search(sql):
        return int(found[1]) <= min(limit + 1, _FEW)
    return not _FROM.search(sql)


@dataclass(eq=False, slots=True)
class _Call:
    """A statement under way on *connection*."""

    connection: AsyncConnection
    sql: str
    reader: Reader
    opening: Sequence[str]
    """What is still to be sent in front of it."""
    is_alone: bool
    """Nothing follows it in its transaction."""
    args: Sequence[bytes | None] = ()
    types: Sequence[int] = ()
    columns: Columns = field(default_factory=Columns)
    affected: int | None = None
    has_ended: bool = True
    """All rows have been read."""
    place: int = 0
    """Rows that the cursor has passed."""

    @classmethod
    async def of(
        cls, connection: AsyncConnection, sql: str, args: tuple[Any, ...], *, described: bool = False
    ) -> "_Call":
        """With arguments, or where its columns must be *described* first, in a round trip of its own."""
        reader = asking.reader(connection)
        reader.forget_composites()
        begin = transactions.taken(connection)
        call = cls(connection, sql, reader, [*begin, *_pins(driver(connection))], is_alone=bool(begin))
        if args or described:
            await call._describe(args)
        return call

    async def _describe(self, args: tuple[Any, ...]) -> None:
        async with pipeline(driver(self.connection)) as line:
            self._open(line)
            line.describe(self.sql)
            await line.send()
            await self._opened(line)
            await line.skip(1)
            found = await line.one()
            self.columns = Columns.of(found)
            self.types = [found.param_type(each) for each in range(found.nparams)]
        await self._learn([*self.types, *self.columns.oids])
        self.args = arguments.written(args, self.types, self.reader.known)

    def _open(self, line: Pipeline) -> None:
        transactions.put(line, self.opening)

    async def _opened(self, line: Pipeline) -> None:
        await transactions.opened(line, self.opening)
        self.opening = ()

    # -- rows

    async def run(self, reading: Reading, *, is_drained: bool, binary: bool = False) -> None:
        """Run the statement as it is; the rows that *reading* does not want are dropped, or else the connection is."""
        with arguments.blamed(self.types, self.reader.known):
            async with pipeline(driver(self.connection)) as line:
                self._open(line)
                line.query(self.sql, self.args, self.types, binary=binary)
                await line.send()
                await self._opened(line)
                await self._take(line, reading, is_drained=is_drained)
        if line.is_abandoned:
            await self.connection.invalidate()

    async def scroll(self, reading: Reading, *, with_records: bool = False, goes_on: bool = False) -> None:
        """Read what *reading* wants of the query through a cursor, which stays open where reading *goes_on*.

        Once without, then *with_records*, whose fields' types only the binary form tells: that is read beside the text.
        """
        wanted = [min(reading.limit + 1, _FIRST_SLICE)]
        if self.is_alone and not (with_records or goes_on) and reading.limit + 1 > _FIRST_SLICE:
            wanted.append(min(reading.limit + 1 - _FIRST_SLICE, _SECOND_SLICE))
        is_all = sum(wanted) > reading.limit
        direction = "SCROLL" if with_records else "NO SCROLL"
        # The end of the transaction closes it, too.
        closes = not (self.is_alone or goes_on)
        with arguments.blamed(self.types, self.reader.known):
            async with pipeline(driver(self.connection)) as line:
                self._open(line)
                line.query(f"DECLARE {_CURSOR} {direction} CURSOR FOR {self.sql}", self.args, self.types)
                for each in wanted:
                    self._ask(line, each, with_records=with_records)
                if closes and is_all:
                    line.query(_CLOSE)
                await line.send()
                await self._opened(line)
                await line.skip(1)
                await self._slices(line, reading, wanted, with_records=with_records)
        if line.is_abandoned:
            await self.connection.invalidate()
            return
        if self.columns.have_records and not with_records:
            if not (closes and is_all):
                await self.close()
            reading.records, reading.size, self.place = [], 0, 0
            await self.scroll(reading, with_records=True, goes_on=goes_on)
            return
        if is_all or goes_on:
            return
        while not self.has_ended and (more := reading.wants):
            await self.more(reading, more)
        if closes:
            await self.close()

    async def more(self, reading: Reading, wanted: int) -> None:
        """Read *wanted* further rows from the cursor."""
        async with pipeline(driver(self.connection)) as line:
            self._ask(line, wanted, with_records=self.columns.have_records)
            await line.send()
            await self._slice(line, reading, wanted, with_records=self.columns.have_records)

    async def close(self) -> None:
        """Let go of the query's tables."""
        async with pipeline(driver(self.connection)) as line:
            line.query(_CLOSE)
            await line.send()
            await line.skip(1)

    def _ask(self, line: Pipeline, wanted: int, *, with_records: bool) -> None:
        line.query(f"FETCH FORWARD {wanted} FROM {_CURSOR}")
        if with_records:
            line.query(f"MOVE ABSOLUTE {self.place} FROM {_CURSOR}")
            line.query(f"FETCH FORWARD {wanted} FROM {_CURSOR}", binary=True)

    async def _slices(self, line: Pipeline, reading: Reading, wanted: Sequence[int], *, with_records: bool) -> None:
        for each in wanted:
            if reading.is_full and self._needs_nothing:
                self.has_ended, line.is_abandoned = False, True
                return
            await self._slice(line, reading, each, with_records=with_records)

    async def _slice(self, line: Pipeline, reading: Reading, wanted: int, *, with_records: bool) -> None:
        before = len(reading.records)
        await self._take(line, reading, is_drained=True)
        self.place += wanted
        self.has_ended = self.has_ended and len(reading.records) - before < wanted
        if with_records:
            await line.skip(1)
            await self._replace_records(line, reading, before)

    async def _replace_records(self, line: Pipeline, reading: Reading, row: int) -> None:
        """Put what the next command says of records into *reading*, from *row* on."""
        places = [index for index, oid in enumerate(self.columns.oids) if oid in {RECORD, RECORDS}]
        result = await line.next(_CHUNK)
        while result is not None:
            wanted = min(result.ntuples, len(reading.records) - row)
            for found in self.reader.load_binary(result, places, wanted):
                record = list(reading.records[row])
                for index, value in zip(places, found, strict=True):
                    record[index] = value
                reading.records[row] = record
                row += 1
            result = await line.next()

    async def _take(self, line: Pipeline, reading: Reading, *, is_drained: bool) -> None:
        """The rows of a command, until *reading* has what it wants; then the rest is dropped, or the line abandoned."""
        self.has_ended = True
        result = await line.next(_CHUNK)
        if result is None:
            return
        self.columns = Columns.of(result)
        reading.long = self.columns.long
        while result is not None:
            if result.ntuples and (reading.is_full or len(reading.records) > reading.limit):
                self.has_ended = False
                if not is_drained and self._needs_nothing:
                    line.is_abandoned = True
                    return
            elif result.ntuples:
                _add(reading, self.reader.load(result))
            if tag := _CHANGED.fullmatch(result.command_status or b""):
                self.affected = int(tag[1])
            result = await line.next()

    @property
    def _needs_nothing(self) -> bool:
        """Whether the connection may go: it need not be asked about records, nor types that are not known."""
        return not (self.columns.have_records or self.reader.missing(self.columns.oids))

    async def rows(self, reading: Reading, *, binary: bool = False) -> Rows:
        """What *reading* has read, in the form that JSON needs; what was *binary* has it already."""
        await self._learn(self.columns.oids)
        kept, more, full = reading.kept(unread=not self.has_ended)
        known = self.reader.known
        wide = [index for index, oid in enumerate(self.columns.oids) if oid == NUMERIC]
        rows = await reading.converted(kept, {} if binary else self.columns.converters(known), wide)
        names, titles = self.columns.names, self.columns.types(known)
        size, widest = reading.size, reading.widest
        return Rows(names, titles, rows, more=more, full=full, size=size, affected=self.affected, widest=widest)

    async def _learn(self, oids: Sequence[int]) -> None:
        """Ask the catalog for what is not known; in the transaction, which must be open and unharmed."""
        if missing := self.reader.missing(oids):
            self.reader.learn(await asking.types_of(self.connection, missing))


def _add(reading: Reading, found: Sequence[Sequence[Any]]) -> None:
    """Let *reading* have *found*; of rows so long that it is full by them, those that it wants."""
    count, size = len(reading.records), reading.size
    reading.add(found)
    if not reading.is_full:
        return
    del reading.records[count:]
    reading.size = size
    for row in found:
        reading.add([row])
        if reading.wants == 0:
            return


def _pins(raw: Any) -> list[str]:
    """What makes the session write dates, times and intervals as ISO 8601; nothing where it does so already."""
    status = raw.pgconn.parameter_status
    return [
        f"SET {name} TO '{value}'"
        for name, value in _SESSION.items()
        if not (status(name.encode()) or b"").startswith(value.encode())
    ]
