"""Rows on their way into a table: what is asked for, what came of it, and how a column's values are made to fit.

Values are looked at a column at a time, which costs a tenth of looking at each; only where one does not fit is it
looked for.
"""

import datetime as dt
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

from sqlalchemy import column, insert, table
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import values
from manydb.dialects.schema import Column, Table
from manydb.errors import BadParameter, Unsupported

OnConflict = Literal["error", "skip", "update"]
Told = Callable[[int], None]
"""Hears how many rows more are on their way."""

_TRUE = {"t", "true", "y", "yes", "on", "1"}
_FALSE = {"f", "false", "n", "no", "off", "0"}


@dataclass(frozen=True, slots=True)
class Load:
    """The *columns* of *table* that rows bring, in their order; *key* is the unique key by which they meet others."""

    table: Table
    columns: tuple[Column, ...]
    on_conflict: OnConflict = "error"
    key: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.columns]

    @property
    def changed(self) -> list[str]:
        """The columns that an update gives new values: none where rows are left alone."""
        return [name for name in self.names if name not in self.key] if self.on_conflict == "update" else []


@dataclass(frozen=True, slots=True)
class Loaded:
    """Numbers of rows; None where the database does not tell. *written* were inserted or updated: it knows no more."""

    inserted: int | None = None
    updated: int | None = None
    skipped: int | None = None
    written: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows in the form that the driver takes; the *first* of them is that row of the call, from 0."""

    first: int
    count: int
    data: Any


class Loader(Protocol):
    """Makes rows fit the columns of one table, and sends them."""

    def part(self, rows: Sequence[Sequence[Any]], first: int) -> Part:
        """*rows*, at least one, as the driver takes them. BadParameter names the row and column that does not fit."""

    async def send(self, connection: AsyncConnection, parts: Sequence[Part], told: Told) -> Loaded:
        """Write *parts* in the open transaction. What it raises of a row has ``row`` among its details."""


@dataclass(frozen=True, slots=True)
class Fit:
    """*convert* makes values of a column, none of them null, what the driver takes; *what* that is, for errors.

    It raises ValueError, TypeError or ArithmeticError where one of them does not fit.
    """

    what: str
    convert: Callable[[Sequence[Any]], Sequence[Any]]

    def then(self, write: Callable[[Sequence[Any]], Sequence[Any]]) -> "Fit":
        return Fit(self.what, lambda found: write(self.convert(found)))


def fitted(
    load: Load, fits: Sequence[Fit], rows: Sequence[Sequence[Any]], first: int, null: Any = None
) -> list[Sequence[Any]]:
    """The columns of *rows*, converted, with *null* for nulls. Raises BadParameter, which names row and column."""
    columns = zip(*rows, strict=True)
    return [_fitted(*each, first, null) for each in zip(load.columns, fits, columns, strict=True)]


def _fitted(described: Column, fit: Fit, found: Sequence[Any], first: int, null: Any) -> Sequence[Any]:
    if None not in found:
        return _converted(described, fit, found, range(first, first + len(found)))
    if not described.nullable and not described.identity:
        raise misfit(first + found.index(None), described.name, "a value: it must not be null")
    places = [number for number, value in enumerate(found, first) if value is not None]
    converted = iter(_converted(described, fit, [value for value in found if value is not None], places))
    return [null if value is None else next(converted) for value in found]


def _converted(described: Column, fit: Fit, found: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
    try:
        return fit.convert(found) if found else found
    except (ValueError, TypeError, ArithmeticError):
        for place, value in zip(places, found, strict=True):
            try:
                fit.convert([value])
            except (ValueError, TypeError, ArithmeticError):
                raise misfit(place, described.name, fit.what) from None
        raise


def misfit(row: int, name: str, what: str) -> BadParameter:
    return BadParameter(f"row {row}, column {name}: takes {what}", row=row, column=name)


# -- what fits -------------------------------------------------------------------------------------------------------


def anything() -> Fit:
    return Fit("a value", lambda found: found)


def integers(low: int, high: int, *, booleans: bool = False) -> Fit:
    """Integers from *low* to *high*, also as 5.0 and "5"; with *booleans*, as true and false."""

    def convert(found: Sequence[Any]) -> Sequence[int]:
        if set(map(type, found)) != {int}:
            return [
                values.whole(int(each) if booleans and isinstance(each, bool) else each, low, high) for each in found
            ]
        if min(found) < low or max(found) > high:
            raise ValueError("out of range")
        return found

    return Fit(f"a whole number from {low} to {high}", convert)


def bits(count: int, *, unsigned: bool = False, booleans: bool = False) -> Fit:
    """Integers of so many bits."""
    return integers(
        *((0, 2**count - 1) if unsigned else (-(2 ** (count - 1)), 2 ** (count - 1) - 1)), booleans=booleans
    )


def decimals(*, finite: bool, booleans: bool = False) -> Fit:
    """Numbers as text, with all their digits."""

    def convert(found: Sequence[Any]) -> Sequence[str]:
        kinds = set(map(type, found))
        if bool in kinds and booleans:
            found = [int(each) if isinstance(each, bool) else each for each in found]
        elif not kinds <= {int, float, str}:
            raise TypeError("not a number")
        texts = list(map(str, found))
        numbers = map(Decimal, texts)
        if finite and not all(map(Decimal.is_finite, numbers)):
            raise ValueError("not finite")
        deque(numbers, maxlen=0)
        # Python reads numbers that no database does: digits of other scripts, 1_000, signalling NaN.
        joined = "".join(texts)
        if not joined.isascii() or "_" in joined or "s" in joined.lower():
            raise ValueError("not a number")
        return texts

    return Fit("a number", convert)


def reals(*, finite: bool) -> Fit:
    def convert(found: Sequence[Any]) -> Sequence[float]:
        if not set(map(type, found)) <= {int, float, str}:
            raise TypeError("not a number")
        numbers = list(map(float, found))
        if not math.isfinite(sum(numbers)):
            for number, given in zip(numbers, found, strict=True):
                if not math.isfinite(number) and (finite or "n" not in str(given).lower()):
                    raise ValueError("not finite, or beyond the largest double")
        return numbers

    return Fit("a number", convert)


def booleans() -> Fit:
    def convert(found: Sequence[Any]) -> Sequence[bool]:
        return found if set(map(type, found)) == {bool} else [_boolean(each) for each in found]

    return Fit("true or false", convert)


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if not isinstance(value, bool | int | str) or word not in _TRUE | _FALSE:
        raise ValueError("not a boolean")
    return word in _TRUE


def texts() -> Fit:
    """Text, and any other JSON value as JSON text."""

    def convert(found: Sequence[Any]) -> Sequence[str]:
        if set(map(type, found)) != {str}:
            found = [_text(each) for each in found]
        _require_unicode(found)
        return found

    return Fit("text", convert)


def _text(value: Any) -> str:
    if values.tagged_bytes(value) is not None:
        raise ValueError("bytes are not text")
    return values.scalar_text(value)


def _require_unicode(found: Sequence[str]) -> None:
    joined = "".join(found)
    if not joined.isascii():
        joined.encode()  # UnicodeEncodeError, a ValueError, for half a surrogate pair


def moments(zones: Callable[[str], str] | None = None, what: str = "a date or time as ISO text") -> Fit:
    """Dates and times as text; which of them there are is for the database to say.

    *zones* moves one with an offset to UTC, for types that have no offset.
    """

    def convert(found: Sequence[Any]) -> Sequence[str]:
        if set(map(type, found)) != {str}:
            raise TypeError("not text")
        joined = "".join(found)
        _require_unicode(found)
        # Two hyphens belong to a date; one more, a plus or a Z, and there is an offset somewhere.
        if zones and (joined.count("-") != 2 * len(found) or any(mark in joined for mark in "+Zz")):
            return [zones(each) for each in found]
        return found

    return Fit(what, convert)


def data(*, text: bool) -> Fit:
    """Bytes from {"$bytes": base64}; with *text*, a text is its own bytes."""

    def convert(found: Sequence[Any]) -> Sequence[bytes]:
        return [_bytes(each, text=text) for each in found]

    return Fit('bytes, as {"$bytes": base64}', convert)


def _bytes(value: Any, *, text: bool) -> bytes:
    if isinstance(value, str) and text:
        return value.encode()
    tagged = values.tagged_bytes(value)
    if tagged is None:
        raise TypeError("not bytes")
    return tagged


def iso(read: Callable[[str], Any], what: str) -> Fit:
    """Text that *read* reads, and numbers, for a database that would take any."""

    def convert(found: Sequence[Any]) -> Sequence[Any]:
        if not set(map(type, found)) <= {str, int, float}:
            raise TypeError("not a moment")
        deque(map(read, (each for each in found if isinstance(each, str))), maxlen=0)
        return found

    return Fit(what, convert)


DATES = iso(dt.datetime.fromisoformat, "a date as ISO text, or a number")
TIMES = iso(dt.time.fromisoformat, "a time as ISO text, or a number")


# -- any database ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlainLoader:
    """Rows as SQLAlchemy sends them, for databases without a loader of their own; nothing but nulls is checked."""

    load: Load

    def part(self, rows: Sequence[Sequence[Any]], first: int) -> Part:
        columns = fitted(self.load, [anything()] * len(self.load.columns), rows, first)
        names = self.load.names
        records = [dict(zip(names, map(_plain, record), strict=True)) for record in zip(*columns, strict=True)]
        return Part(first, len(rows), records)

    async def send(self, connection: AsyncConnection, parts: Sequence[Part], told: Told) -> Loaded:
        if self.load.on_conflict != "error":
            raise Unsupported("on_conflict is not known for this database; leave it out")
        address = self.load.table.address
        into = insert(table(address.name, *map(column, self.load.names), schema=address.schema or None))
        for part in parts:
            await connection.execute(into, part.data)
            told(part.count)
        return Loaded(inserted=sum(part.count for part in parts))


def _plain(value: Any) -> Any:
    tagged = values.tagged_bytes(value)
    if tagged is not None:
        return tagged
    return values.json_text(value) if isinstance(value, dict | list) else value
