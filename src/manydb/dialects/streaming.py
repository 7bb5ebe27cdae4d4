"""A result of any size, read slice by slice from a transaction that stays open: never much of it is in memory."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.rows import Rows

_SLICE_BYTES = 2_000_000
_MOST = 2_000
_FIRST = 16
_ROW_BYTES, _CELL_BYTES = 64, 32
_SHORT = {type(None), bool, int, float}


@dataclass(slots=True)
class Pace:
    """How many rows to ask for next (*wants*), going by the sizes of those before: a few megabytes at a time.

    *long* are the columns (by index) whose cells may be large.
    """

    long: Sequence[int]
    wants: int = _FIRST

    def saw(self, records: Sequence[Sequence[Any]]) -> None:
        if not records:
            return
        size = len(records) * (_ROW_BYTES + _CELL_BYTES * len(records[0]))
        size += sum(weight(record[column]) for column in self.long for record in records)
        fitting = max(1, _SLICE_BYTES * len(records) // size)
        self.wants = min(_MOST, fitting, self.wants * 8)


def weight(cell: Any) -> int:
    """About the characters or bytes that *cell* holds beyond what every cell does."""
    kind = type(cell)
    if kind is str or kind is bytes:
        return len(cell)
    return 0 if kind in _SHORT else len(str(cell))


async def stream(connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
    """The rows of *sql* through any SQLAlchemy dialect; values go by their Python type."""
    result = await connection.run_sync(_open, sql, args)
    try:
        if not result.returns_rows:
            yield Rows([], [], [])
            return
        columns = list(result.keys())
        pace = Pace(range(len(columns)))
        unread = first = True
        while unread:
            wanted = pace.wants
            records = [tuple(record) for record in await connection.run_sync(_some, result, wanted)]
            pace.saw(records)
            unread = len(records) == wanted
            if records or first:
                kinds = [
                    type(next((row[each] for row in records if row[each] is not None), None))
                    for each in range(len(columns))
                ]
                yield Rows(columns, [kind.__name__ for kind in kinds], [values.mixed(row) for row in records])
            first = False
    finally:
        await connection.run_sync(_close, result)


def _open(connection: Connection, sql: str, args: tuple[Any, ...]) -> CursorResult[Any]:
    bound = tuple(values.tagged_bytes(value) or value for value in args) or None
    options = {"stream_results": True, "max_row_buffer": _MOST}
    return cast("CursorResult[Any]", connection.exec_driver_sql(sql, bound, execution_options=options))


def _some(_connection: Connection, result: CursorResult[Any], wanted: int) -> Sequence[Any]:
    return result.fetchmany(wanted)


def _close(_connection: Connection, result: CursorResult[Any]) -> None:
    result.close()
