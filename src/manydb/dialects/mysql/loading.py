"""Rows into a MySQL table by INSERTs of many rows. LOAD DATA LOCAL would let the server ask for any file of ours."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import errors, values
from manydb.dialects import loading
from manydb.dialects.execution import driver
from manydb.dialects.loading import Fit, Load, Loaded, Part, Told

_STATEMENT_CHARACTERS = 1_000_000
"""Of one INSERT, about: the smallest packet that servers are configured for in earnest has four million."""
_DUPLICATE = 1062
_ESCAPES = str.maketrans({"\\": "\\\\", "'": "''", "\0": "\\0", "\n": "\\n", "\r": "\\r", "\x1a": "\\Z"})
_NUMBERS = re.compile(r"\d+")
_AT_ROW = re.compile(r"\d+(?=\D*\Z)")
_KEY = re.compile(r"'([^']*)'\Z")

# By the type's first word, as SHOW COLUMNS writes it.
_BITS = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64, "year": 16}
_REALS = {"float", "double", "real"}
_BYTES = {
    "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "geometry", "point", "linestring", "polygon",
    "multipoint", "multilinestring", "multipolygon", "geometrycollection",
}  # fmt: skip
_LOCAL = {"datetime", "timestamp"}
_MOMENTS = {"date", "time"}
# The server names row and column of a value that it cannot store; its sentence quotes the value.
_MISFITS = {1264, 1265, 1292, 1366, 1367, 1406, 1411, 3140, 4025}


@dataclass(frozen=True, slots=True)
class Inserts:
    load: Load
    fits: Sequence[Fit]
    error: Callable[[BaseException], errors.ManydbError]

    @classmethod
    def of(cls, load: Load, error: Callable[[BaseException], errors.ManydbError]) -> "Inserts":
        return cls(load, [_fit(column.type) for column in load.columns], error)

    def part(self, rows: Sequence[Sequence[Any]], first: int) -> Part:
        columns = loading.fitted(self.load, self.fits, rows, first, "NULL")
        records = [f"({','.join(record)})" for record in zip(*columns, strict=True)]
        return Part(first, len(rows), [(number, ",".join(some)) for number, some in _statements(records)])

    async def send(self, connection: AsyncConnection, parts: Sequence[Part], told: Told) -> Loaded:
        quote = connection.dialect.identifier_preparer.quote_identifier
        names = ",".join(map(quote, self.load.names))
        into = f"INSERT INTO {'.'.join(map(quote, self.load.table.address))} ({names}) VALUES "
        resolution = self._resolution(quote)
        raw: Any = driver(connection)
        met = 0
        for part in parts:
            first = part.first
            for count, rows in part.data:
                try:
                    met += await _insert(raw, into + rows, resolution, count)
                except Exception as exc:
                    raise self._failure(exc, first, count) from exc
                first += count
                told(count)
        total = sum(part.count for part in parts)
        if not resolution:
            return Loaded(inserted=total)
        return (
            Loaded(inserted=total - met, updated=met)
            if self.load.changed
            else Loaded(inserted=total - met, skipped=met)
        )

    def _resolution(self, quote: Callable[[str], str]) -> str:
        """INSERT IGNORE would let values pass that do not fit; this lets no row pass but those that meet another."""
        if self.load.on_conflict == "error":
            return ""
        changed = self.load.changed
        first = quote(self.load.names[0])
        news = ",".join(f"{quote(name)}=VALUES({quote(name)})" for name in changed) if changed else f"{first}={first}"
        return f" ON DUPLICATE KEY UPDATE {news}"

    def _failure(self, exc: Exception, first: int, count: int) -> errors.ManydbError:
        error = self.error(exc)
        number = error.details.get("errno")
        told = re.sub(r"'[^']*'", "", error.message) if number in _MISFITS else ""
        at = _AT_ROW.search(told)
        row = first + int(at[0]) - 1 if at and 1 <= int(at[0]) <= count else first if count == 1 else None
        if number == _DUPLICATE:
            key = _KEY.search(error.message)
            error.message = f"a row has a key that another row has too{f' (key {key[1]})' if key else ''}"
        elif number in _MISFITS and row is not None:
            # `database`.`table`.`column`, or 'column': by far the likeliest to be the last of our names in it.
            named = [each for each in self.load.names if re.search(rf"[`']{re.escape(each)}[`']", error.message)]
            if len(named) == 1:
                kind = next(column.type for column in self.load.columns if column.name == named[0])
                return loading.misfit(row, named[0], f"a value of type {kind}")
        if row is not None:
            error.details["row"] = row
        return error


async def _insert(raw: Any, sql: str, resolution: str, count: int) -> int:
    """Run the statement; how many of its *count* rows met one that was there."""
    if resolution and count == 1:
        # Of one row the server does not tell whether it was new; of several, it does.
        try:
            await raw.query(sql)
        except Exception as exc:  # the driver's error class cannot be named here; its number can
            if exc.args[:1] != (_DUPLICATE,):
                raise
        else:
            return 0
        await raw.query(sql + resolution)
        return 1
    await raw.query(sql + resolution)
    # "Records: 3  Duplicates: 1  Warnings: 0", in the server's language.
    found = _NUMBERS.findall(_said(raw._result)) if resolution else []  # noqa: SLF001 - the drivers' cursors keep it to themselves
    return int(found[1]) if len(found) == 3 else 0


def _said(result: Any) -> str:
    message = result.message
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)


def _statements(records: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """*records* in pieces of about the size of a statement."""
    start = size = 0
    for number, record in enumerate(records):
        if size and size + len(record) > _STATEMENT_CHARACTERS:
            yield number - start, records[start:number]
            start, size = number, 0
        size += len(record) + 1
    yield len(records) - start, records[start:]


# -- values as literals ----------------------------------------------------------------------------------------------


def _fit(kind: str) -> Fit:  # noqa: PLR0911 - one line a kind of type
    words = re.split(r"\W+", kind.lower())
    first = words[0]
    if first in _BITS:
        return loading.bits(_BITS[first], unsigned="unsigned" in words, booleans=True).then(_digits)
    if first in {"decimal", "numeric"}:
        return loading.decimals(finite=True, booleans=True).then(_quoted)
    if first in _REALS:
        return loading.reals(finite=True).then(_digits)
    if first == "bit":
        return Fit("a whole number, or its binary digits as text", _bit_values)
    if first in _BYTES:
        return loading.data(text=True).then(_hexadecimal)
    if first == "json":
        return loading.texts().then(_quoted)
    if first in _LOCAL:
        return loading.moments(lambda text: values.utc_moment(text) or text, f"a {first} as ISO text").then(_quoted)
    if first in _MOMENTS:
        return loading.moments(what=f"a {first} as ISO text").then(_quoted)
    return loading.texts().then(_quoted)


def _digits(found: Sequence[Any]) -> Sequence[str]:
    return list(map(repr, found))


def _quoted(found: Sequence[str]) -> Sequence[str]:
    """Our sessions' sql_mode knows backslashes, and their character set has none inside a character."""
    joined = "".join(found)
    if any(special in joined for special in "\\'\0\n\r\x1a"):
        found = [text.translate(_ESCAPES) for text in found]
    return [f"'{text}'" for text in found]


def _hexadecimal(found: Iterable[bytes]) -> Sequence[str]:
    return [f"x'{each.hex()}'" for each in found]


def _bit_values(found: Sequence[Any]) -> Sequence[str]:
    return [
        f"b'{each}'"
        if _is_binary(each)
        else str(values.whole(int(each) if isinstance(each, bool) else each, 0, 2**64 - 1))
        for each in found
    ]


def _is_binary(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and set(value) <= {"0", "1"}
