"""One statement on a connection of any SQLAlchemy async dialect, for backends that have no module of their own."""

from dataclasses import replace
from typing import Any, cast

from sqlalchemy import Connection, CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.rows import MAX_BYTES, Reading, Rows

_DRAINED = 1_000
"""Rows of a write that are read and dropped at a time."""


def driver(connection: AsyncConnection) -> Any:
    """The driver's own connection. As `get_raw_connection`, which spends a greenlet on looking it up."""
    return cast("Connection", connection.sync_connection).connection.driver_connection


async def fetch(
    connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int = MAX_BYTES
) -> Rows:
    """Run *sql*, with placeholders in the driver's own style, in the open transaction; values go by their Python type.

    Streams where the dialect can, so that rows past the limit stay in the server. Errors are SQLAlchemy's.
    """
    return await connection.run_sync(_read, sql, args, limit, max_bytes)


async def execute(
    connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int = MAX_BYTES
) -> Rows:
    """As `fetch`, for a statement that may write: it runs to its end, and its rows are counted."""
    return await connection.run_sync(_execute, sql, args, limit, max_bytes)


def _execute(connection: Connection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int) -> Rows:
    bound = _bound(args)
    with connection.exec_driver_sql(sql, bound) as result:
        if result.returns_rows:
            rows, count = _rows(result, limit, max_bytes), result.rowcount
            while result.fetchmany(_DRAINED):
                pass
            return replace(rows, affected=count if count >= 0 else None)
        key = getattr(result, "lastrowid", None)
        affected = result.rowcount if result.rowcount >= 0 else None
        return Rows([], [], [], affected=affected, generated=key if affected == 1 and key else None)


def _bound(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return tuple(values.tagged_bytes(value) or value for value in args) or None


def _read(connection: Connection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int) -> Rows:
    options = {"stream_results": True, "max_row_buffer": limit + 1}
    with connection.exec_driver_sql(sql, _bound(args), execution_options=options) as result:
        return _rows(result, limit, max_bytes) if result.returns_rows else Rows([], [], [])


def _rows(result: CursorResult[Any], limit: int, max_bytes: int) -> Rows:
    columns = list(result.keys())
    reading = Reading(limit, max_bytes, range(len(columns)))
    unread = True
    while unread and (wanted := reading.wants):
        records = [tuple(record) for record in result.fetchmany(wanted)]
        reading.add(records)
        unread = len(records) == wanted
    kept, more, full = reading.kept(unread=unread)
    # What a DBAPI says about types is a number or an object of its own: the values' own classes are plainer.
    types = [
        type(next((row[index] for row in kept if row[index] is not None), None)).__name__
        for index in range(len(columns))
    ]
    return Rows(columns, types, [values.mixed(row) for row in kept], more=more, full=full, size=reading.size)
