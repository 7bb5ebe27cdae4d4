"""Rows into a SQLite table by a prepared INSERT. SQLite takes any value for any column, so types are checked here."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import errors, values
from manydb.dialects import loading
from manydb.dialects.execution import driver
from manydb.dialects.loading import Fit, Load, Loaded, Part, Told


@dataclass(slots=True)
class _Counted:
    """Rows on their way to sqlite3, which tells of none at which one it stopped."""

    rows: Sequence[Any]
    taken: int = 0

    def __iter__(self) -> Iterator[Any]:
        for row in self.rows:
            self.taken += 1
            yield row


@dataclass(frozen=True, slots=True)
class Inserts:
    load: Load
    fits: Sequence[Fit]
    error: Callable[[BaseException], errors.ManydbError]

    @classmethod
    def of(cls, load: Load, error: Callable[[BaseException], errors.ManydbError]) -> "Inserts":
        return cls(load, [_fit(column.type) for column in load.columns], error)

    def part(self, rows: Sequence[Sequence[Any]], first: int) -> Part:
        return Part(first, len(rows), list(zip(*loading.fitted(self.load, self.fits, rows, first), strict=True)))

    async def send(self, connection: AsyncConnection, parts: Sequence[Part], told: Told) -> Loaded:
        raw: Any = driver(connection)
        sql = self._sql(connection.dialect.identifier_preparer.quote_identifier)
        written = 0
        for part in parts:
            counted = _Counted(part.data)
            try:
                written += await raw._execute(_run, raw._conn, sql, counted)  # noqa: SLF001 - one visit to its thread
            except sqlite3.Error as exc:
                error = self.error(exc)
                if isinstance(error, errors.ConstraintViolated | errors.BadParameter | errors.TooLarge):
                    error.details["row"] = part.first + max(0, counted.taken - 1)
                raise error from exc
            told(part.count)
        total = sum(part.count for part in parts)
        if self.load.on_conflict == "error":
            return Loaded(inserted=total)
        return Loaded(written=written) if self.load.changed else Loaded(inserted=written, skipped=total - written)

    def _sql(self, quote: Callable[[str], str]) -> str:
        names = ", ".join(map(quote, self.load.names))
        marks = ", ".join("?" * len(self.load.names))
        sql = f"INSERT INTO main.{quote(self.load.table.name)} ({names}) VALUES ({marks})"
        if self.load.on_conflict == "error":
            return sql
        if not self.load.changed:
            return f"{sql} ON CONFLICT DO NOTHING"
        key = ", ".join(map(quote, self.load.key))
        news = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in self.load.changed)
        return f"{sql} ON CONFLICT ({key}) DO UPDATE SET {news}"


def _run(connection: sqlite3.Connection, sql: str, rows: _Counted) -> int:
    cursor = connection.cursor()
    try:
        return cursor.executemany(sql, rows).rowcount
    finally:
        cursor.close()


# -- what a declared type means --------------------------------------------------------------------------------------

# Words in the order that matters: those of SQLite's affinities (https://sqlite.org/datatype3.html, 3.1) after those
# that people declare and SQLite has no affinity for.
_KINDS: tuple[tuple[str, Fit], ...] = (
    ("BOOL", loading.booleans()),
    ("DATE", loading.DATES),
    ("TIMESTAMP", loading.DATES),
    ("TIME", loading.TIMES),
    ("JSON", loading.texts()),
    ("UUID", loading.texts()),
    ("INT", loading.bits(64, booleans=True)),
    ("CHAR|CLOB|TEXT", loading.texts()),
    ("BLOB", Fit("a value", lambda found: list(map(_any, found)))),
    ("REAL|FLOA|DOUB", loading.reals(finite=False)),
    ("DEC|NUM", loading.decimals(finite=True, booleans=True)),
)


def _fit(kind: str) -> Fit:
    for words, fit in _KINDS:
        if re.search(words, kind, re.IGNORECASE):
            return fit
    return Fit("null, text, bytes, a 64-bit integer or a real", lambda found: list(map(_any, found)))


def _any(value: Any) -> Any:
    match value:
        case bool() | int():
            return values.whole(int(value), -(2**63), 2**63 - 1)
        case float() | bytes():
            return value
        case dict() if (tagged := values.tagged_bytes(value)) is not None:
            return tagged
        case _:
            return values.scalar_text(value)
