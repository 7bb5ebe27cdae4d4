"""Run one statement that reads, and cut its answer into pages that fit a model's context."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import statements
from manydb.dialects import Dialect
from manydb.errors import BadParameter
from manydb.statements import Statement

Truncated = Literal["max_rows", "max_bytes"]

_MAX_CLIPPED = 20
"""Clipped cells that a reply names one by one."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What was read of a statement's rows; *more* tells that the database had further ones."""

    connection: str
    columns: list[str]
    types: list[str]
    rows: list[Sequence[Any]]
    more: bool
    elapsed_ms: int


@dataclass(frozen=True, slots=True)
class Clipped:
    """A cell that was too long: its row in the reply (from 0), and its whole length in characters."""

    row: int
    column: str
    length: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a result that fits: *encoded* are its rows as JSON. *next_offset* is None where no kept row is left."""

    result: QueryResult
    rows: list[Sequence[Any]]
    encoded: bytes
    offset: int
    truncated: Truncated | None = None
    next_offset: int | None = None
    clipped: list[Clipped] = field(default_factory=list)
    result_id: str | None = None

    def kept_as(self, result_id: str | None) -> "Page":
        return replace(self, result_id=result_id)


async def run(
    connection: AsyncConnection, dialect: Dialect, name: str, statement: Statement, params: Any, *, limit: int
) -> QueryResult:
    """Run *statement* in the transaction open on *connection*, reading at most *limit* rows. Driver errors pass through."""
    sql, args = statements.bind(statement, params, connection.dialect.paramstyle)
    started = time.perf_counter()
    found = await dialect.fetch(connection, sql, args, limit)
    elapsed = round((time.perf_counter() - started) * 1000)
    return QueryResult(name, found.columns, found.types, found.rows, found.more, elapsed)


def page(result: QueryResult, *, offset: int, row_cap: int, byte_budget: int, cell_chars: int) -> Page:
    """The rows from *offset* on, as many as *row_cap* and *byte_budget* allow; cells clipped at *cell_chars*.

    At least one row is returned where there is one, so that reading on always ends. Raises BadParameter for an offset
    past the last row.
    """
    if offset > len(result.rows):
        raise BadParameter(f"offset {offset} is past the end: {len(result.rows)} rows are kept")
    rows = result.rows[offset : offset + row_cap]
    rows, clipped = _clip(rows, result.columns, cell_chars)
    encoded = orjson.dumps(rows)
    truncated: Truncated | None = None
    if len(encoded) > byte_budget and len(rows) > 1:
        rows, encoded = _fit(rows, byte_budget)
        truncated = "max_bytes"
        clipped = [cell for cell in clipped if cell.row < len(rows)]
    end = offset + len(rows)
    is_last_kept = end >= len(result.rows)
    if truncated is None and (not is_last_kept or result.more):
        truncated = "max_rows"
    return Page(result, rows, encoded, offset, truncated, None if is_last_kept else end, clipped[:_MAX_CLIPPED])


def _fit(rows: list[Sequence[Any]], byte_budget: int) -> tuple[list[Sequence[Any]], bytes]:
    used = 2
    parts: list[bytes] = []
    for row in rows:
        part = orjson.dumps(row)
        used += len(part) + 1
        if parts and used > byte_budget:
            break
        parts.append(part)
    return rows[: len(parts)], b"[" + b",".join(parts) + b"]"


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
