"""One statement on a connection of any SQLAlchemy async dialect, for backends that have no module of their own."""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.rows import MAX_BYTES, Reading, Rows


async def fetch(
    connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int = MAX_BYTES
) -> Rows:
    """Run *sql*, with placeholders in the driver's own style, in the open transaction; values go by their Python type.

    Streams where the dialect can, so that rows past the limit stay in the server. Errors are SQLAlchemy's.
    """
    return await connection.run_sync(_read, sql, args, limit, max_bytes)


def _read(connection: Connection, sql: str, args: tuple[Any, ...], limit: int, max_bytes: int) -> Rows:
    options = {"stream_results": True, "max_row_buffer": limit + 1}
    bound = tuple(values.tagged_bytes(value) or value for value in args) or None
    with connection.exec_driver_sql(sql, bound, execution_options=options) as result:
        if not result.returns_rows:
            return Rows([], [], [])
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
