"""One statement on an aiosqlite connection: at most *limit* rows, in the JSON form of docs/values.md."""

import math
import operator
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.execution import driver
from manydb.dialects.rows import MAX_BYTES, Reading, Rows
from manydb.dialects.sqlite.opened import Opened
from manydb.dialects.streaming import Pace
from manydb.errors import BadParameter

_INT64 = 2**63
_DROPPED = 1_000
"""Rows of a write that are read and dropped at a time."""
_STORAGE_CLASSES = {int: "integer", float: "real", str: "text", bytes: "blob", dict: "text", type(None): "null"}


class _Driver(Protocol):
    """aiosqlite.Connection, as far as it is used here."""

    _conn: Opened

    async def _execute(self, function: Callable[[], Rows]) -> Rows: ...


async def fetch(
    connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int = MAX_BYTES
) -> Rows:
    """Run *sql* (placeholders: ?) in the open transaction; types are storage classes, of each column's first value.

    A statement that is sure to end at once does so here; a visit to the connection's thread costs more than it does.
    BadParameter: a value that SQLite cannot hold, or a wrong number of them. Other errors are sqlite3's own.
    """
    raw = cast("_Driver", driver(connection))
    opened = raw._conn  # noqa: SLF001 - no public call does this
    bound = tuple(_bind(value, position) for position, value in enumerate(args, 1))

    def run() -> Rows:
        return _run(opened, sql, bound, limit, max_bytes)

    if not opened.reads_alone:
        return await raw._execute(run)  # noqa: SLF001
    if opened.ends_at_once(sql, bound) and (rows := opened.at_once(run)) is not None:
        return rows

    def wait_and_run() -> Rows:
        rows = opened.patiently(run)
        opened.learn()
        return rows

    # One visit to the thread instead of three (execute, fetchmany, close), and the rows are converted there as well.
    return await raw._execute(wait_and_run)  # noqa: SLF001


async def execute(
    connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int = MAX_BYTES
) -> Rows:
    """As `fetch`, for a statement that may write: it runs to its end, and what it changed is counted."""
    raw = cast("_Driver", driver(connection))
    bound = tuple(_bind(value, position) for position, value in enumerate(args, 1))

    def run() -> Rows:
        before = raw._conn.total_changes  # noqa: SLF001
        rows = _run(raw._conn, sql, bound, limit, max_bytes, to_end=True)  # noqa: SLF001
        # The cursor does not count statements that begin with WITH, nor those that return rows.
        changed = raw._conn.total_changes != before  # noqa: SLF001
        affected, key = raw._conn.execute("SELECT changes(), last_insert_rowid()").fetchone() if changed else (0, None)  # noqa: SLF001
        return replace(rows, affected=affected, generated=key if affected == 1 else None)

    return await raw._execute(run)  # noqa: SLF001


async def stream(connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
    """As `fetch`, all rows, from a cursor that is closed at the end."""
    raw: Any = driver(connection)
    bound = tuple(_bind(value, position) for position, value in enumerate(args, 1))
    plain = raw._conn.text_factory  # noqa: SLF001 - as in fetch
    # Whether some string is not UTF-8 is not known beforehand, and rows that were handed on cannot be read again.
    raw._conn.text_factory = values.text  # noqa: SLF001
    try:
        cursor = await raw._execute(_begin, raw._conn, sql, bound)  # noqa: SLF001
        try:
            columns = [column[0] for column in cursor.description or ()]
            pace, unread = Pace(range(len(columns))), True
            while unread:
                rows, unread = await raw._execute(_slice, cursor, columns, pace)  # noqa: SLF001
                yield rows
        finally:
            await raw._execute(cursor.close)  # noqa: SLF001 - an open cursor would keep the transaction alive
    finally:
        raw._conn.text_factory = plain  # noqa: SLF001


def _begin(connection: sqlite3.Connection, sql: str, args: tuple[Any, ...]) -> sqlite3.Cursor:
    cursor = connection.cursor()
    try:
        return cursor.execute(sql, args)
    except sqlite3.Error as error:
        cursor.close()
        if isinstance(error, sqlite3.ProgrammingError) and "number of bindings" in str(error):
            raise BadParameter(f"{len(args)} values do not fit the number of placeholders in the statement") from error
        raise


def _slice(cursor: sqlite3.Cursor, columns: list[str], pace: Pace) -> tuple[Rows, bool]:
    """The next rows, and whether there may be more."""
    wanted = pace.wants
    records = cursor.fetchmany(wanted)
    pace.saw(records)
    found = list(zip(*records, strict=True))
    types = [_storage_class(column) for column in found or [()] * len(columns)]
    return Rows(columns, types, _converted(records, found)), len(records) == wanted


def _run(
    connection: sqlite3.Connection,
    sql: str,
    args: tuple[Any, ...],
    limit: int,
    max_bytes: int,
    *,
    to_end: bool = False,
) -> Rows:
    changes = connection.total_changes
    try:
        return _read(connection, sql, args, Reading(limit, max_bytes, ()), to_end=to_end)
    except sqlite3.OperationalError as error:
        # Reading strings with a function of ours costs a third more, so that waits until one is not UTF-8.
        # What has changed data must not run twice.
        if not str(error).startswith("Could not decode to UTF-8") or connection.total_changes != changes:
            raise
    before, connection.text_factory = connection.text_factory, values.text
    try:
        return _read(connection, sql, args, Reading(limit, max_bytes, ()), to_end=to_end)
    finally:
        connection.text_factory = before


def _read(connection: sqlite3.Connection, sql: str, args: tuple[Any, ...], reading: Reading, *, to_end: bool) -> Rows:
    cursor = connection.cursor()
    rows: list[Sequence[Any]] = []
    try:
        cursor.execute(sql, args)
        columns = [column[0] for column in cursor.description or ()]
        reading.long = range(len(columns))  # any row may hold any type
        unread = True
        while unread and (wanted := reading.wants):
            records = cursor.fetchmany(wanted)
            found = list(zip(*records, strict=True))
            reading.add(records, found)
            rows += _converted(records, found)
            unread = len(records) == wanted
        while to_end and cursor.fetchmany(_DROPPED):
            pass
    except sqlite3.ProgrammingError as error:
        if "number of bindings" in str(error):
            raise BadParameter(f"{len(args)} values do not fit the number of placeholders in the statement") from error
        raise
    finally:
        cursor.close()  # an open cursor would keep the read transaction alive past ROLLBACK
    kept, more, full = reading.kept(unread=unread)
    types = [_storage_class(row[index] for row in kept) for index in range(len(columns))]
    return Rows(columns, types, rows[: len(kept)], more=more, full=full, size=reading.size, widest=reading.widest)


def _converted(records: list[Sequence[Any]], columns: list[tuple[Any, ...]]) -> list[Sequence[Any]]:
    """*records*, whose *columns* are given, in JSON form; they themselves where they have it."""
    converted = list(map(_column, columns))
    return records if all(map(operator.is_, converted, columns)) else list(zip(*converted, strict=True))


def _storage_class(column: Iterable[Any]) -> str:
    return _STORAGE_CLASSES[type(next((value for value in column if value is not None), None))]


def _column(column: Sequence[Any]) -> Sequence[Any]:
    """Any row may hold any type, so the values decide, and not a declaration."""
    kinds = set(map(type, column)) - {type(None)}
    if kinds <= {str}:
        return column
    if kinds == {int}:
        return values.integers(column)
    if kinds == {float}:
        return values.reals(column)
    return values.numbers(column) if kinds == {int, float} else values.mixed(column)


def _bind(value: Any, position: int) -> Any:
    """What sqlite3 takes for a JSON value: lists and objects as JSON text, booleans as 1 and 0."""
    try:
        match value:
            case None | bytes():
                return value
            case bool() | int():
                return values.whole(int(value), -_INT64, _INT64 - 1)
            case float() if not math.isnan(value):  # which would be stored as NULL
                return value
            case dict() if (data := values.tagged_bytes(value)) is not None:
                return data
            case _:
                return values.scalar_text(value)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"placeholder {position} takes null, text, bytes, a 64-bit integer or a real") from error
