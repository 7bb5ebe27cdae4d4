"""A table's columns, and what values they take: what a caller gives → what is bound."""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, Self
from uuid import UUID

from sqlalchemy import ColumnClause, TableClause, column
from sqlalchemy import table as source_of
from sqlalchemy.sql.elements import quoted_name

from manydb import names, values
from manydb.dialects.comparing import Family
from manydb.dialects.schema import Column, Table
from manydb.errors import BadParameter, Forbidden, UnknownColumn

_TYPES: dict[Family, str] = {
    "integer": "int integer tinyint smallint mediumint bigint int2 int4 int8 serial bigserial smallserial year oid",
    "decimal": "numeric decimal dec number fixed",
    "real": "real double float float4 float8 double_precision",
    "boolean": "boolean bool",
    "text": "text varchar char character bpchar nchar nvarchar clob string citext name tinytext mediumtext longtext"
    " enum set character_varying varying_character native_character",
    "uuid": "uuid",
    "date": "date",
    "time": "time time_without_time_zone",
    "timestamp": "timestamp timestamptz datetime timestamp_without_time_zone timestamp_with_time_zone",
    "bytes": "bytea blob tinyblob mediumblob longblob binary varbinary binary_varying",
}
_FAMILIES: dict[str, Family] = {
    name.replace("_", " "): family for family, listed in _TYPES.items() for name in listed.split()
}
_SINGLE = frozenset({"real", "float", "float4"})
_IN_BRACKETS = re.compile(r"\s*\([^)]*\)")
_REST_OF_TYPE = re.compile(r" (unsigned|signed|zerofill|check|not null|collate)\b.*")


@dataclass(frozen=True, slots=True)
class Field:
    """A column, as conditions know it. *type* is its type's bare name, without length or precision."""

    described: Column
    column: ColumnClause[Any]
    family: Family
    type: str

    @classmethod
    def of(cls, described: Column, source: TableClause) -> Self:
        text = (described.base or described.type).lower()
        name = _REST_OF_TYPE.sub("", _IN_BRACKETS.sub("", text)).strip()
        family: Family = _FAMILIES.get(name, "other" if name else "any")
        if described.values and not name.endswith("[]"):
            family = "text"
        return cls(described, source.c[described.name], family, name)

    @property
    def name(self) -> str:
        return self.described.name

    @property
    def is_single(self) -> bool:
        """Whether it may hold 32-bit floats: not every database means that by the word."""
        return self.family == "real" and self.type in _SINGLE

    def checked(self, given: Any) -> Any:
        """*given* as it is bound. Raises BadParameter, which names the column, where it is of another type."""
        read, what = _READERS[self.family]
        if given is None or read is None:
            raise self.misfit(what)
        try:
            return read(self, given)
        except (ValueError, TypeError, ArithmeticError):
            raise self.misfit(what) from None

    def misfit(self, what: str) -> BadParameter:
        return BadParameter(f"column {self.name} ({self.described.type or 'no type'}): takes {what}", column=self.name)


@dataclass(frozen=True)
class Subject:
    """The table that a call is about; of its *masked* columns nothing may be asked."""

    table: Table
    masked: frozenset[str] = frozenset()

    @cached_property
    def source(self) -> TableClause:
        """The table in statements. Every name is quoted, so that none is ever read as anything else."""
        schema, name = self.table.address
        columns: list[ColumnClause[Any]] = [column(quoted_name(each.name, True)) for each in self.table.columns]  # noqa: FBT003
        return source_of(quoted_name(name, True), *columns, schema=quoted_name(schema, True) if schema else None)  # noqa: FBT003

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        return {each.name: Field.of(self._never_null(each), self.source) for each in self.table.columns}

    def _never_null(self, described: Column) -> Column:
        # SQLite declares its row numbers as columns that may be null; every other key's columns say what they are.
        is_number = self.table.primary_key == (described.name,) and described.type.lower() == "integer"
        return replace(described, nullable=False) if is_number else described

    def find(self, name: Any) -> Field:
        """The column called *name*; upper and lower case are the same where that leaves one. Raises UnknownColumn."""
        if isinstance(name, str):
            if name in self.fields:
                return self.fields[name]
            folded = [each for each in self.fields if each.casefold() == name.casefold()]
            if len(folded) == 1:
                return self.fields[folded[0]]
        known = [*self.fields]
        raise UnknownColumn(
            f"{self.table.name} has no column {str(name)[:100]!r}",
            suggestions=names.suggest_columns(known, str(name)),
            columns=known[:60],
        )

    def usable(self, name: Any) -> Field:
        """The column called *name*, whose values may be asked about. Raises Forbidden for a masked one."""
        field = self.find(name)
        if field.name in self.masked:
            raise Forbidden(
                f"column {field.name} is masked: it cannot be used in filters, order, groups, aggregates or changes",
                suggestions=["leave it out"],
            )
        return field


# ---- values of a family: what is given → what is bound --------------------------------------------------------------

_LARGEST = Decimal(10) ** 35
_FINEST = -30
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?", re.ASCII)
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?) ?(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII | re.IGNORECASE
)


def _number(given: Any) -> Decimal:
    if isinstance(given, bool) or not isinstance(given, int | float | str) or not _NUMBER.fullmatch(str(given).strip()):
        raise ValueError("not a number")
    return Decimal(str(given).strip())


def _integer(field: Field, given: Any) -> int:
    if isinstance(given, bool) and field.described.type == "tinyint(1)":
        return int(given)
    unsigned = "unsigned" in field.described.type
    return values.whole(given, 0 if unsigned else -(2**63), 2**64 - 1 if unsigned else 2**63 - 1)


def _decimal(field: Field, given: Any) -> str:  # noqa: ARG001 - the signature of a reader
    number = _number(given)
    if abs(number) >= _LARGEST or (number and int(number.normalize().as_tuple().exponent) < _FINEST):
        raise ValueError("more digits than every database holds")
    return f"{number:f}"


def _real(field: Field, given: Any) -> float:  # noqa: ARG001
    return float(_finite(float(_number(given))))


def _finite(number: float) -> float:
    if number in (float("inf"), float("-inf")):
        raise ValueError("beyond the largest double")
    return number


def _boolean(field: Field, given: Any) -> bool:  # noqa: ARG001
    if not isinstance(given, bool | int) or given not in (0, 1):
        raise ValueError("not a boolean")
    return bool(given)


def _text(field: Field, given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError("not text")
    if field.described.values and field.type != "set" and given not in field.described.values:
        raise field.misfit(f"one of {', '.join(field.described.values)[:1000]}")
    return values.scalar_text(given)


def _uuid(field: Field, given: Any) -> str:  # noqa: ARG001
    if not isinstance(given, str):
        raise TypeError("not text")
    return str(UUID(given))


def _date(field: Field, given: Any) -> str:  # noqa: ARG001
    if not _DATE.fullmatch(given):
        raise ValueError("not a date")
    return dt.date.fromisoformat(given).isoformat()


def _time(field: Field, given: Any) -> str:  # noqa: ARG001
    if not _TIME.fullmatch(given):
        raise ValueError("not a time")
    return dt.time.fromisoformat(given).isoformat()


def _timestamp(field: Field, given: Any) -> str:  # noqa: ARG001
    """Without an offset: sessions are in UTC, and what has no offset is taken as it stands."""
    match = _TIMESTAMP.fullmatch(given)
    if match is None:
        raise ValueError("not a timestamp")
    day, clock, offset = match.groups()
    moment = dt.datetime.fromisoformat(f"{day}T{clock or '00:00'}{(offset or '').upper()}")
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return moment.isoformat(" ")


def _bytes(field: Field, given: Any) -> Any:  # noqa: ARG001
    if values.tagged_bytes(given) is None:
        raise ValueError("not bytes")
    return given


def _any(field: Field, given: Any) -> Any:  # noqa: ARG001
    if isinstance(given, dict | list) and values.tagged_bytes(given) is None:
        raise ValueError("not a single value")
    return given


_READERS: dict[Family, tuple[Callable[[Field, Any], Any] | None, str]] = {
    "integer": (_integer, "a whole number of 64 bits"),
    "decimal": (_decimal, "a number, of at most 35 digits before the point and 30 behind it"),
    "real": (_real, "a number"),
    "boolean": (_boolean, "true or false"),
    "text": (_text, "text"),
    "uuid": (_uuid, "a UUID as text"),
    "date": (_date, "a date as YYYY-MM-DD"),
    "time": (_time, "a time as HH:MM:SS"),
    "timestamp": (_timestamp, "a timestamp as YYYY-MM-DDTHH:MM:SS, with Z or an offset where it is not UTC"),
    "bytes": (_bytes, 'bytes, as {"$bytes": base64}'),
    "any": (_any, "a single value"),
    "other": (None, "no other test than is_null; use SQL to compare it"),
}
