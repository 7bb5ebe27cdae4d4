"""Conditions and sort keys of rows, as SQLAlchemy Core expressions that mean the same on every database.

Texts are compared by code point, whatever collation a column has; times by the moment that they mean, however a
database without a type for them spells it. A comparison with NULL is neither true nor false, and neither is its
opposite: only `is_null` finds rows without a value.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, Self, get_args
from uuid import UUID

from sqlalchemy import ColumnClause, ColumnElement, TableClause, and_, bindparam, column, literal_column, not_, or_
from sqlalchemy import table as source_of
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import quoted_name
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

from manydb import names, values
from manydb.dialects.schema import Column, Table
from manydb.errors import BadParameter, Forbidden, UnknownColumn

Family = Literal[
    "integer", "decimal", "real", "boolean", "text", "uuid", "date", "time", "timestamp", "bytes", "any", "other"
]
"""What the values of a type have in common: "any" where a column has no type, "other" where only NULL can be told."""

Op = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "between", "like", "ilike", "contains", "is_null"]
OPS: tuple[Op, ...] = get_args(Op)

_DEEPEST = 20
_MOST_CONDITIONS = 200
_MOST_VALUES = 1_000
_LONGEST_PATTERN = 500
_ESCAPE = "/"
"""Not a backslash, which some databases read as one in a string and some do not."""

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
_PADDED = frozenset({"char", "character", "bpchar"})
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

    def exact(self, *, ordered: bool = False) -> "Exact":
        """The column in the form in which it is compared; *ordered* where more than equality is asked for."""
        return Exact(self, ordered=ordered)

    def value(self, given: Any) -> "Value":
        """A value that was checked, in the form in which it is compared."""
        return Value(self, given)

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
        return {each.name: Field.of(each, self.source) for each in self.table.columns}

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


# ---- filters --------------------------------------------------------------------------------------------------------

_EVERY: ColumnElement[Any] = literal_column("(1 = 1)")
_NONE: ColumnElement[Any] = literal_column("(1 = 0)")


@dataclass(frozen=True, slots=True)
class Criterion:
    """A condition. *certain* is True where it holds for every row whatever that holds, False for none, else None."""

    expression: ColumnElement[Any]
    certain: bool | None = None


ALWAYS = Criterion(_EVERY, certain=True)
NEVER = Criterion(_NONE, certain=False)


def read(subject: Subject, given: Any) -> Criterion:
    """The condition that a filter describes; nothing, `{}` and `[]` hold for every row.

    Raises BadParameter, UnknownColumn and Forbidden, which name the column and never the value.
    """
    return _Reader(subject).read(given, 0) if given else ALWAYS


@dataclass(slots=True)
class _Reader:
    """Reads one filter, and counts."""

    subject: Subject
    conditions: int = 0
    values: int = 0

    def read(self, given: Any, depth: int) -> Criterion:
        if depth > _DEEPEST:
            raise BadParameter(f"filter: nested more than {_DEEPEST} deep")
        if isinstance(given, list):
            return self._all(given, depth)
        if not isinstance(given, dict):
            raise _malformed()
        match given:
            case {"and": list(several), **rest} if not rest:
                return self._all(several, depth)
            case {"or": list(several), **rest} if not rest:
                return _some([self.read(each, depth + 1) for each in several])
            case {"not": dict() | list() as single, **rest} if not rest:
                return opposite(self.read(single, depth + 1))
            case {"column": name, **rest} if rest.keys() <= {"op", "value"}:
                return self._condition(self.subject.usable(name), rest)
        raise _malformed()

    def _all(self, several: Sequence[Any], depth: int) -> Criterion:
        return _all([self.read(each, depth + 1) for each in several])

    def _condition(self, field: Field, rest: Mapping[str, Any]) -> Criterion:
        self.conditions += 1
        op = rest.get("op", "eq")
        if op not in OPS:
            raise BadParameter(f"column {field.name}: op is one of {', '.join(OPS)}", column=field.name)
        if op == "is_null":
            return _is_null(field, rest.get("value", True))
        if "value" not in rest:
            raise BadParameter(f"column {field.name}: {op} needs a value", column=field.name)
        value = rest["value"]
        self.values += len(value) if isinstance(value, list) else 1
        if self.conditions > _MOST_CONDITIONS or self.values > _MOST_VALUES:
            raise BadParameter(f"filter: at most {_MOST_CONDITIONS} conditions with {_MOST_VALUES:,} values in all")
        return _compared(field, op, value)


def _malformed() -> BadParameter:
    return BadParameter(
        'filter: takes {"column", "op", "value"}, {"and": [...]}, {"or": [...]} or {"not": {...}}, nothing else beside'
    )


def _all(several: Sequence[Criterion]) -> Criterion:
    if any(each.certain is False for each in several):
        return NEVER
    open_ones = [each.expression for each in several if each.certain is None]
    return Criterion(and_(*open_ones)) if open_ones else ALWAYS


def _some(several: Sequence[Criterion]) -> Criterion:
    if any(each.certain for each in several):
        return ALWAYS
    open_ones = [each.expression for each in several if each.certain is None]
    return Criterion(or_(*open_ones)) if open_ones else NEVER


def opposite(of: Criterion) -> Criterion:
    if of.certain is not None:
        return NEVER if of.certain else ALWAYS
    return Criterion(not_(of.expression))


def _is_null(field: Field, wanted: Any) -> Criterion:
    if not isinstance(wanted, bool):
        raise BadParameter(f"column {field.name}: is_null takes true or false", column=field.name)
    found = Criterion(field.column.is_(None)) if field.described.nullable else NEVER
    return found if wanted else opposite(found)


def _compared(field: Field, op: str, value: Any) -> Criterion:
    if value is None or (isinstance(value, list) and None in value):
        raise BadParameter(f"column {field.name}: no value equals null; test for it with is_null", column=field.name)
    match op:
        case "eq":
            return Criterion(Among(field, [field.checked(value)]))
        case "ne":
            return Criterion(not_(Among(field, [field.checked(value)])))
        case "in":
            if not isinstance(value, list):
                raise BadParameter(f"column {field.name}: in takes a list", column=field.name)
            checked = [field.checked(each) for each in value]
            return Criterion(Among(field, checked)) if checked else NEVER
        case "between":
            if not isinstance(value, list) or len(value) != 2:
                raise BadParameter(f"column {field.name}: between takes [lowest, highest]", column=field.name)
            low, high = (field.value(field.checked(each)) for each in value)
            exact = field.exact(ordered=True)
            return Criterion(and_(exact >= low, exact <= high))
        case "like" | "ilike" | "contains":
            return Criterion(Like(field, _pattern(field, op, value), folds=op == "ilike"))
    compare = _COMPARISONS[op]
    return Criterion(compare(field.exact(ordered=True), field.value(field.checked(value))))


_COMPARISONS: dict[str, Callable[[Any, Any], ColumnElement[Any]]] = {
    "lt": operators.lt,
    "le": operators.le,
    "gt": operators.gt,
    "ge": operators.ge,
}

Pattern = tuple[tuple[str | None, ...], ...]
"""What stands between the `%` of a pattern, character by character; None is any one."""


def _pattern(field: Field, op: str, given: Any) -> Pattern:
    if field.family != "text":
        raise BadParameter(
            f"column {field.name} ({field.described.type}): {op} takes a column of text", column=field.name
        )
    if not isinstance(given, str) or len(given) > _LONGEST_PATTERN:
        raise field.misfit(f"text of at most {_LONGEST_PATTERN} characters")
    text = values.scalar_text(given)
    if op == "contains":
        return ((), tuple(text), ())
    pieces: list[list[str | None]] = [[]]
    letters = iter(text)
    for letter in letters:
        if letter == "%":
            pieces.append([])
        elif letter == "\\":
            escaped = next(letters, None)
            if escaped is None:
                raise field.misfit("a pattern that does not end with a backslash, which escapes what follows")
            pieces[-1].append(escaped)
        else:
            pieces[-1].append(None if letter == "_" else letter)
    return tuple(tuple(piece) for piece in pieces)


# ---- order ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """A column that rows are sorted by; those without a value come last, whichever the direction."""

    field: Field
    descending: bool = False


def place(key: Key, *, grouped: bool = False) -> Iterable[ColumnElement[Any]]:
    """The terms of ORDER BY for *key*; in a *grouped* query, of what is grouped by."""
    exact = key.field.exact(ordered=True)
    if key.field.described.nullable:
        yield last_if_null(key.field.exact() if grouped else key.field.column)
    yield exact.desc() if key.descending else exact.asc()


def last_if_null(of: ColumnElement[Any]) -> ColumnElement[Any]:
    """A term of ORDER BY that puts NULL behind everything else."""
    return _NullRank(of)


def beyond(keys: Sequence[tuple[Key, Any]]) -> ColumnElement[Any]:
    """Rows that come after the one with these values, in the order of *keys*; no two rows have all of them in common.

    Rows that were inserted in the meantime are before or behind it like any other.
    """
    first, first_value = keys[0]
    alternatives = []
    for number, (key, value) in enumerate(keys):
        equal = [same(each.field, known) for each, known in keys[:number]]
        alternatives.append(and_(*equal, _behind(key, value)))
    found = or_(*alternatives)
    if first_value is None:
        return found
    # Says nothing new, but a database finds its way in an index by it.
    return and_(or_(_behind(first, first_value), same(first.field, first_value)), found)


def same(field: Field, value: Any) -> ColumnElement[Any]:
    """Rows with *value*, which came out of the database, NULL among them."""
    return field.column.is_(None) if value is None else field.exact(ordered=True) == field.value(_again(field, value))


def _behind(key: Key, value: Any) -> ColumnElement[Any]:
    if value is None:
        return _NONE
    field = key.field
    compare = operators.lt if key.descending else operators.gt
    found: ColumnElement[Any] = compare(field.exact(ordered=True), field.value(_again(field, value)))
    return or_(found, field.column.is_(None)) if field.described.nullable else found


def _again(field: Field, value: Any) -> Any:
    """A value that came out of the database, as it is bound; what no caller may send ("infinity", NaN) stays text."""
    try:
        return field.checked(value)
    except BadParameter:
        return value


# ---- what databases spell differently -------------------------------------------------------------------------------
#
# A column or value of a known family, each in the form in which the two can be compared. The default suits a database
# that compares texts by code point and has a type for every family.


def _bound(field: Field, value: Any) -> ColumnElement[Any]:
    """A placeholder that is called like the column; without a type, so that SQLAlchemy adds no cast of its own."""
    name = re.sub(r"\W", "_", field.name, flags=re.ASCII)
    return bindparam(name if name[:1].isalpha() else f"p{name}", value, type_=NullType(), unique=True)


class _Construct(FunctionElement[Any]):
    inherit_cache = False
    type = NullType()

    def __init__(self, field: Field, *operands: ColumnElement[Any]) -> None:
        super().__init__(*operands)
        self.field = field

    @property
    def first(self) -> ColumnElement[Any]:
        return next(iter(self.clauses))


class Exact(_Construct):
    """A column as it is compared."""

    def __init__(self, field: Field, *, ordered: bool) -> None:
        super().__init__(field, field.column)
        self.ordered = ordered


class Value(_Construct):
    """A value that a column is compared with."""

    def __init__(self, field: Field, given: Any) -> None:
        super().__init__(field, _bound(field, given))
        self.given = given


class Given(_Construct):
    """A new value for a column; any JSON where the family is "other"."""

    def __init__(self, field: Field, given: Any) -> None:
        super().__init__(field, _bound(field, given))
        self.given = given


class Among(_Construct):
    """Whether a column has one of *several* values."""

    def __init__(self, field: Field, several: Sequence[Any]) -> None:
        super().__init__(field, field.exact(), *(field.value(each) for each in several))
        self.several = several

    @property
    def test(self) -> ColumnElement[Any]:
        exact, *found = self.clauses
        return exact == found[0] if len(found) == 1 else exact.in_(found)


class Like(_Construct):
    """Whether a column of text fits a pattern; *folds*: in capitals or small letters."""

    def __init__(self, field: Field, pattern: Pattern, *, folds: bool) -> None:
        spelled = "%".join("".join(map(_spelled, piece)) for piece in pattern)
        super().__init__(field, field.exact(), field.value(spelled))
        self.pattern, self.spelled, self.folds = pattern, spelled, folds


class Extreme(_Construct):
    """The least or greatest value of a column: *function* is min or max."""

    def __init__(self, field: Field, function: Literal["min", "max"]) -> None:
        super().__init__(field, field.exact(ordered=True) if field.family == "text" else field.column)
        self.function = function


class Double(_Construct):
    """A number as a 64-bit float."""

    def __init__(self, field: Field) -> None:
        super().__init__(field, field.column)


class _NullRank(FunctionElement[Any]):
    """1 for NULL, 0 for anything else."""

    inherit_cache = False
    type = NullType()


def _spelled(letter: str | None) -> str:
    if letter is None:
        return "_"
    return _ESCAPE + letter if letter in ("%", "_", _ESCAPE) else letter


@compiles(Exact)
@compiles(Value)
@compiles(Given)
def _as_it_is(element: _Construct, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.first, **kw)


@compiles(Among)
def _among(element: Among, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.test, **kw)})"


@compiles(Like)
def _like(element: Like, compiler: SQLCompiler, **kw: Any) -> str:
    text, pattern = (compiler.process(each, **kw) for each in element.clauses)
    if element.folds:
        text, pattern = f"lower({text})", f"lower({pattern})"
    return f"({text} LIKE {pattern} ESCAPE '{_ESCAPE}')"


@compiles(Extreme)
def _extreme(element: Extreme, compiler: SQLCompiler, **kw: Any) -> str:
    return f"{element.function}({compiler.process(element.first, **kw)})"


@compiles(Double)
def _double(element: Double, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST({compiler.process(element.first, **kw)} AS DOUBLE PRECISION)"


@compiles(_NullRank)
def _null_rank(element: _NullRank, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CASE WHEN {compiler.process(element.clauses, **kw)} IS NULL THEN 1 ELSE 0 END"


# -- PostgreSQL: a text's order is that of its collation; parameters take the type that the statement expects.

_POSTGRESQL_TYPES: dict[Family, str] = {
    "integer": "BIGINT",
    "decimal": "NUMERIC",
    "real": "DOUBLE PRECISION",
    "boolean": "BOOLEAN",
    "text": "TEXT",
    "uuid": "UUID",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "bytes": "BYTEA",
}


@compiles(Exact, "postgresql")
def _exact_postgresql(element: Exact, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.first, **kw)
    if element.field.family != "text":
        return text
    # Equality alone is the same under every collation, and finds its rows by the column's own index.
    return f'CAST({text} AS TEXT) COLLATE "C"' if element.ordered else f"CAST({text} AS TEXT)"


@compiles(Value, "postgresql")
def _value_postgresql(element: Value, compiler: SQLCompiler, **kw: Any) -> str:
    text, field = compiler.process(element.first, **kw), element.field
    if field.is_single:
        return f"CAST({text} AS REAL)"
    if field.type in _PADDED:  # blanks at its end mean nothing, but are shown
        return f"CAST(CAST({text} AS BPCHAR) AS TEXT)"
    if field.type in ("timestamptz", "timestamp with time zone"):
        return f"CAST({text} AS TIMESTAMPTZ)"
    known = _POSTGRESQL_TYPES.get(field.family)
    return f"CAST({text} AS {known})" if known else text


# -- MySQL, MariaDB: equal texts need not be the same; a float is shown with fewer digits than it has; decimals are
#    compared as floats with whatever is not one.

_MYSQL_TYPES: dict[Family, str] = {
    "decimal": "DECIMAL(65, 30)",
    "date": "DATE",
    "time": "TIME(6)",
    "timestamp": "DATETIME(6)",
}


@compiles(Exact, "mysql", "mariadb")
def _exact_mysql(element: Exact, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.first, **kw)
    if element.field.family in ("text", "uuid"):
        return f"CAST(CONVERT({text} USING utf8mb4) AS BINARY)"
    return f"({text} + 0e0)" if element.field.type == "float" else text


@compiles(Value, "mysql", "mariadb")
def _value_mysql(element: Value, compiler: SQLCompiler, **kw: Any) -> str:
    if element.field.family in ("text", "uuid"):
        return _utf8(element, compiler, element.given, **kw)
    text = compiler.process(element.first, **kw)
    if element.field.type == "float":
        return f"(CAST({text} AS FLOAT) + 0e0)"
    known = _MYSQL_TYPES.get(element.field.family)
    return f"CAST({text} AS {known})" if known else text


@compiles(Given, "mysql", "mariadb")
def _given_mysql(element: Given, compiler: SQLCompiler, **kw: Any) -> str:
    if element.field.family == "text" and element.given is not None:
        return f"CONVERT({_utf8(element, compiler, element.given, **kw)} USING utf8mb4)"
    return compiler.process(element.first, **kw)


@compiles(Among, "mysql", "mariadb")
def _among_mysql(element: Among, compiler: SQLCompiler, **kw: Any) -> str:
    test, field = compiler.process(element.test, **kw), element.field
    if field.family not in ("text", "uuid") or not all(map(_is_plain, element.several)):
        return f"({test})"
    # Finds a few more than are meant, but by the column's index.
    near = field.column.in_([_bound(field, each) for each in element.several])
    return f"({compiler.process(near, **kw)} AND {test})"


@compiles(Like, "mysql", "mariadb")
def _like_mysql(element: Like, compiler: SQLCompiler, **kw: Any) -> str:
    text = f"CONVERT({compiler.process(element.field.column, **kw)} USING utf8mb4)"
    pattern = f"CONVERT({_utf8(element, compiler, element.spelled, **kw)} USING utf8mb4)"
    if element.folds:
        text, pattern = f"lower({text})", f"lower({pattern})"
    return f"({text} COLLATE utf8mb4_bin LIKE {pattern} COLLATE utf8mb4_bin ESCAPE '{_ESCAPE}')"


@compiles(Extreme, "mysql", "mariadb")
def _extreme_mysql(element: Extreme, compiler: SQLCompiler, **kw: Any) -> str:
    found = f"{element.function}({compiler.process(element.first, **kw)})"
    return f"CONVERT({found} USING utf8mb4)" if element.field.family == "text" else found


@compiles(Double, "mysql", "mariadb")
def _double_mysql(element: Double, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.first, **kw)} + 0e0)"


def _utf8(element: _Construct, compiler: SQLCompiler, text: Any, **kw: Any) -> str:
    """A text as its bytes: as a text, it would be moved to UTC where it looks like a time."""
    return compiler.process(_bound(element.field, str(text).encode()), **kw)


def _is_plain(value: Any) -> bool:
    """Whether a column of any character set can be compared with it, and it is sent as it is."""
    return isinstance(value, str) and value.isascii() and values.utc_moment(value) is None


# -- SQLite: moments are texts, with or without a fraction, with a T or a blank; LIKE ignores the case of ASCII letters.

_SQLITE_FORMS: dict[Family, str] = {"timestamp": "0000-00-00 00:00:00.000000", "time": "00:00:00.000000"}


@compiles(Exact, "sqlite")
def _exact_sqlite(element: Exact, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.first, **kw)
    if element.field.family in ("text", "uuid"):
        return f"({text} COLLATE BINARY)"
    return _in_full(element.field, text)


@compiles(Value, "sqlite")
def _value_sqlite(element: Value, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.first, **kw)
    return f"CAST({text} AS NUMERIC)" if element.field.family == "decimal" else _in_full(element.field, text)


def _in_full(field: Field, text: str) -> str:
    form = _SQLITE_FORMS.get(field.family)
    return f"(replace({text}, 'T', ' ') || substr('{form}', length({text}) + 1))" if form else text


@compiles(Like, "sqlite")
def _like_sqlite(element: Like, compiler: SQLCompiler, **kw: Any) -> str:
    found = _like(element, compiler, **kw)
    if element.folds:
        return found
    text = compiler.process(element.field.column, **kw)
    tests = [found]
    for place, run, is_there in _runs(element.pattern, text):
        if run.lower() != run.upper():
            mark = compiler.process(_bound(element.field, run), **kw)
            tests.append(f"{place} = {mark}" if is_there else f"instr({place}, {mark}) > 0")
    return f"({' AND '.join(tests)})"


def _runs(pattern: Pattern, text: str) -> Iterable[tuple[str, str, bool]]:
    """Each run of letters in *pattern*: the part of *text* that is it, the run, and True; or that has it, and False.

    At both ends of the text the place of a run is known. In between it is only known to be somewhere: a pattern with
    several runs between its first and last `%` may find a text that has one of them elsewhere in its own case.
    """
    head, tail = pattern[0], pattern[-1] if len(pattern) > 1 else ()
    for start, run in _together(head):
        yield f"substr({text}, {start + 1}, {len(run)})", run, True
    for start, run in _together(tail):
        yield f"substr({text}, {start - len(tail)}, {len(run)})", run, True
    inner = f"substr({text}, {len(head) + 1}, length({text}) - {len(head) + len(tail)})"
    for piece in pattern[1:-1]:
        for _, run in _together(piece):
            yield inner, run, False


def _together(piece: Sequence[str | None]) -> Iterable[tuple[int, str]]:
    """The runs of letters in a piece of a pattern, with where they begin."""
    start = 0
    for run in "".join("\0" if letter is None else letter for letter in piece).split("\0"):
        if run:
            yield start, run
        start += len(run) + 1


@compiles(Double, "sqlite")
def _double_sqlite(element: Double, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST({compiler.process(element.first, **kw)} AS REAL)"
