"""Run one statement that reads, and cut its answer into pages that fit a model's context."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import statements
from manydb.dialects import Dialect
from manydb.errors import BadParameter
from manydb.slices import Sliced
from manydb.statements import Statement

Truncated = Literal["max_rows", "max_bytes"]

_COUNTED = re.compile(r"\bplaceholder \$?(\d+)")
_PART_ROWS = 1_000
_PART_BYTES = 128 * 1024
_LEAST_CELL_CHARS = 8
"""Of a row that is too large as a whole, cells are clipped down to this and no further."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What was read of a statement's rows; *more* tells that the database had further ones, *full* that only their size
    kept us from reading them. *size* is about what the rows hold in memory, in bytes.
    """

    connection: str
    columns: list[str]
    types: list[str]
    rows: list[Sequence[Any]]
    more: bool
    elapsed_ms: int
    full: bool = False
    size: int = 0
    masked: list[str] = field(default_factory=list)
    """Columns whose values were concealed."""
    affected: int | None = None
    generated: int | None = None
    """Rows that a write affected; the key that the database made for the one row that was inserted."""
    widest: int | None = None
    """Characters of the longest cell, or more; None where nobody looked."""


@dataclass(frozen=True, slots=True)
class Clipped:
    """A cell that was too long: its row in the reply (from 0), and its whole length in characters."""

    row: int
    column: str
    length: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a result that fits. *parts* are its rows as JSON, some arrays each, without the brackets around them.

    *next_offset* is None where no kept row is left.
    """

    result: QueryResult
    rows: list[Sequence[Any]]
    parts: list[bytes]
    offset: int
    truncated: Truncated | None = None
    next_offset: int | None = None
    clipped: list[Clipped] = field(default_factory=list)
    result_id: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the rows as one JSON array."""
        return _size(self.parts)

    def kept_as(self, result_id: str | None) -> "Page":
        return replace(self, result_id=result_id)


async def run(
    connection: AsyncConnection,
    dialect: Dialect,
    name: str,
    statement: Statement,
    params: Any,
    *,
    limit: int,
    goes_on: bool = False,
    writes: bool = False,
) -> QueryResult:
    """Run *statement* in the open transaction, reading at most *limit* rows. Driver errors pass through.

    The transaction ends with it unless it *goes_on*; a statement that *writes* runs to its end.
    """
    sql, args = statements.bind(statement, params, connection.dialect.paramstyle)
    started = time.perf_counter()
    try:
        if writes:
            found = await dialect.execute(connection, sql, args, limit)
        else:
            found = await dialect.fetch(connection, sql, args, limit, goes_on=goes_on)
    except BadParameter as exc:
        exc.message = _by_name(exc.message, statement, params, connection.dialect.paramstyle)
        raise
    elapsed = round((time.perf_counter() - started) * 1000)
    return QueryResult(
        name,
        found.columns,
        found.types,
        found.rows,
        found.more,
        elapsed,
        found.full,
        found.size,
        affected=found.affected,
        generated=found.generated,
        widest=found.widest,
    )


def _by_name(message: str, statement: Statement, params: Any, paramstyle: str) -> str:
    """*message*, which counts the driver's placeholders, with the name that the caller gave to the one it means."""
    if not isinstance(params, Mapping):
        return message
    names: list[str] = []
    for placeholder in statement.placeholders:
        if placeholder.style != "named" or (paramstyle == "numeric_dollar" and placeholder.name in names):
            continue
        value = params.get(placeholder.name)
        names += [placeholder.name] * (len(value) if placeholder.in_list and isinstance(value, list) else 1)

    def named(match: re.Match[str]) -> str:
        number = int(match[1])
        return f":{names[number - 1]}" if 1 <= number <= len(names) else match[0]

    return _COUNTED.sub(named, message, count=1)


def page(
    result: QueryResult, *, offset: int, row_cap: int, byte_budget: int, cell_chars: int, row_extra: int = 0
) -> Sliced[Page]:
    """The rows from *offset* on, as many as *row_cap* and *byte_budget* allow; cells clipped at *cell_chars*.

    *row_extra* is what a row costs, in bytes, beyond its JSON array. At least one row is returned where there is one,
    so that reading on always ends: if it is larger than the budget, its cells are clipped until it fits. Raises
    BadParameter for an offset past the last row.
    """
    if offset > len(result.rows):
        raise BadParameter(f"offset {offset} is past the end: {len(result.rows)} rows are kept")
    stop, step = min(offset + row_cap, len(result.rows)), _rows_at_once(result)
    clips = result.widest is None or result.widest > cell_chars
    rows, parts, clipped, room = list[Sequence[Any]](), list[bytes](), list[Clipped](), byte_budget - 1
    for start in range(offset, stop, step):
        some, cut = result.rows[start : min(start + step, stop)], list[Clipped]()
        if clips:
            some, cut = _clip(some, result.columns, cell_chars)
        part = orjson.dumps(some)[1:-1]
        if is_full := len(part) + 1 + row_extra * len(some) > room:
            some, part = _fit(some, room, row_extra)
        if not some and not rows:
            some, cut = _squeeze(result.rows[offset], result.columns, byte_budget - row_extra, cell_chars)
            part = orjson.dumps(some)[1:-1]
        if some:
            clipped += [Clipped(len(rows) + each.row, each.column, each.length) for each in cut if each.row < len(some)]
            rows += some
            parts.append(part)
        if is_full:
            break
        room -= len(part) + 1 + row_extra * len(some)
        yield
    end = offset + len(rows)
    truncated: Truncated | None = "max_bytes" if end < stop else None
    is_last_kept = end >= len(result.rows)
    if truncated is None and (not is_last_kept or result.more):
        truncated = "max_bytes" if is_last_kept and result.full else "max_rows"
    return Page(result, rows, parts, offset, truncated, None if is_last_kept else end, clipped)


def _rows_at_once(result: QueryResult) -> int:
    """How many rows are encoded in a tenth of a millisecond or so."""
    fitting = _PART_BYTES * len(result.rows) // result.size if result.size else _PART_ROWS
    return max(1, min(fitting, _PART_ROWS))


def _size(parts: list[bytes]) -> int:
    return sum(map(len, parts)) + max(0, len(parts) - 1) + 2


def _fit(rows: list[Sequence[Any]], room: int, row_extra: int) -> tuple[list[Sequence[Any]], bytes]:
    parts: list[bytes] = []
    for row in rows:
        part = orjson.dumps(row)
        room -= len(part) + 1 + row_extra
        if room < 0:
            break
        parts.append(part)
    return rows[: len(parts)], b",".join(parts)


def _squeeze(
    row: Sequence[Any], columns: list[str], byte_budget: int, cell_chars: int
) -> tuple[list[Sequence[Any]], list[Clipped]]:
    """*row* alone, its cells clipped ever harder until it fits or there is nothing left to clip."""
    rows, clipped = _clip([row], columns, cell_chars)
    while cell_chars > _LEAST_CELL_CHARS and len(orjson.dumps(rows)) > byte_budget:
        cell_chars //= 2
        rows, clipped = _clip([row], columns, cell_chars)
    return rows, clipped


def _clip(rows: list[Sequence[Any]], columns: list[str], cell_chars: int) -> tuple[list[Sequence[Any]], list[Clipped]]:
    """*rows* with cells of more than *cell_chars* characters cut, and which they were."""
    clipped: list[Clipped] = []
    kept: list[Sequence[Any]] = rows
    for index, name in enumerate(columns):
        for number in _long_cells(rows, index, cell_chars):
            if kept is rows:
                kept = list(rows)
            cell, length = _cut(rows[number][index], cell_chars)
            if cell is None:
                continue
            kept[number] = [*kept[number][:index], cell, *kept[number][index + 1 :]]
            clipped.append(Clipped(number, name, length))
    return kept, sorted(clipped, key=lambda cell: cell.row)


def _long_cells(rows: list[Sequence[Any]], index: int, cell_chars: int) -> list[int]:
    """Rows whose cell may be too long; numbers, booleans and nulls never are."""
    return [
        number
        for number, row in enumerate(rows)
        if (cell := row[index]).__class__ in _LONG and (cell.__class__ is not str or len(cell) > cell_chars)
    ]


_LONG: set[Callable[..., Any]] = {str, dict, list}


def _cut(cell: Any, cell_chars: int) -> tuple[str | None, int]:
    text = cell if isinstance(cell, str) else orjson.dumps(cell).decode()
    return (text[:cell_chars] + "…", len(text)) if len(text) > cell_chars else (None, len(text))
