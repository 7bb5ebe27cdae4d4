"""A page of rows → the text that a client reads, in pieces that take no time each. FORMATS is the list."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson

from manydb.query import Page

_MOST_CLIPPED = 20
"""Clipped cells that a reply names one by one."""
_MOST_ROWS = 100
"""Of a piece in a format that takes its rows one by one."""


def _facts(page: Page) -> dict[str, Any]:
    """What a reply says about its rows; empty keys are dropped."""
    result = page.result
    facts = {
        "affected": result.affected,
        "generated": result.generated,
        "row_count": len(page.rows),
        "offset": page.offset or None,
        "truncated": page.truncated,
        "result_id": page.result_id,
        "next_offset": page.next_offset if page.result_id and page.offset else None,
        "masked": result.masked,
        "clipped": _clipped(page),
        "hint": _hint(page),
        "elapsed_ms": None if page.offset else result.elapsed_ms,
    }
    return {key: value for key, value in facts.items() if value not in (None, [])}


def _clipped(page: Page) -> list[str]:
    """The cells that were cut; rows are counted from 0 in this reply."""
    cells = [f"row {cell.row} {cell.column}: {cell.length} characters" for cell in page.clipped[:_MOST_CLIPPED]]
    rest = len(page.clipped) - len(cells)
    return [*cells, f"and {rest} more"] if rest else cells


def _hint(page: Page) -> str | None:
    hints = []
    if page.result_id and page.next_offset is not None:
        offset = f", offset={page.next_offset}" if page.offset else ""
        hints.append(f"fetch_rows(result_id{offset}) or narrow the query")
    elif page.truncated:
        remedy = "select fewer or shorter columns" if page.result.full else "use LIMIT and OFFSET"
        hints.append(f"the rest was not read: narrow the query, or {remedy}")
    if page.clipped:
        hints.append("select a part of the clipped cells, such as substr(column, 1, 1000)")
    return "; ".join(hints) or None


def _json(page: Page) -> Iterator[str]:
    """Columns once, rows as arrays: a third of the size of records."""
    result = page.result
    head = orjson.dumps({"connection": result.connection, "columns": result.columns, "types": result.types})
    facts = orjson.dumps(_facts(page))
    if len(page.parts) == 1:
        yield (head[:-1] + b',"rows":[' + page.parts[0] + b"]," + facts[1:]).decode()
        return
    yield head[:-1].decode() + ',"rows":['
    yield from _separated(part.decode() for part in page.parts)
    yield "]," + facts[1:].decode()


def _records(page: Page) -> Iterator[str]:
    names = unique(page.result.columns)
    yield orjson.dumps({"connection": page.result.connection})[:-1].decode() + ',"records":['
    yield from _separated(
        orjson.dumps([dict(zip(names, row, strict=True)) for row in rows])[1:-1].decode() for rows in _some_rows(page)
    )
    yield "]," + orjson.dumps(_facts(page))[1:].decode()


def _csv(page: Page) -> Iterator[str]:
    yield _lines([page.result.columns])
    for rows in _some_rows(page):
        yield _lines([plain(cell) for cell in row] for row in rows)
    yield _remark(page, "# ")


def _lines(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _markdown(page: Page) -> Iterator[str]:
    yield _table([page.result.columns, ["---"] * len(page.result.columns)])
    for rows in _some_rows(page):
        yield _table(rows)
    yield _remark(page, "\n")


def _table(lines: Iterable[Sequence[Any]]) -> str:
    return "".join(f"| {' | '.join(_escaped(cell) for cell in line)} |\n" for line in lines)


def _some_rows(page: Page) -> Iterator[list[Sequence[Any]]]:
    """The rows of *page*, as many at a time as there are in each of its parts."""
    step = max(1, min(_MOST_ROWS, len(page.rows) // max(1, len(page.parts))))
    return (page.rows[start : start + step] for start in range(0, len(page.rows), step))


def _separated(pieces: Iterable[str]) -> Iterator[str]:
    separator = ""
    for piece in pieces:
        yield separator + piece
        separator = ","


def row_extra(name: str, columns: list[str]) -> int:
    """What a row costs in the format called *name*, in bytes, beyond its JSON array."""
    return sum(len(column.encode()) + 4 for column in columns) if name == "records" else 0


FORMATS: dict[str, Callable[[Page], Iterator[str]]] = {
    "json": _json,
    "csv": _csv,
    "markdown": _markdown,
    "records": _records,
}


def text(name: str, page: Page) -> str:
    """The whole text of *page* in the format called *name*."""
    return "".join(FORMATS[name](page))


def _remark(page: Page, prefix: str) -> str:
    """Where rows or cells are missing, a last line says so: these formats have no other place for it."""
    if not (page.truncated or page.clipped):
        return ""
    facts = {key: value for key, value in _facts(page).items() if key != "elapsed_ms"}
    return prefix + "; ".join(f"{key}: {plain(value)}" for key, value in facts.items()) + "\n"


def unique(columns: list[str]) -> list[str]:
    """Column names for an object: the second ``id`` becomes ``id_2``."""
    seen: dict[str, int] = {}
    names = []
    for column in columns:
        seen[column] = seen.get(column, 0) + 1
        names.append(column if seen[column] == 1 else f"{column}_{seen[column]}")
    return names


def plain(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return orjson.dumps(cell).decode()


def _escaped(cell: Any) -> str:
    return plain(cell).replace("\\", "\\\\").replace("|", "\\|").replace("\r\n", "<br>").replace("\n", "<br>")
