"""What databases spell differently, as constructs that SQLAlchemy compiles for each.

A column or value of a known family, each in the form in which the two are compared. The defaults suit a database that
compares texts by code point and has a type for every family.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, bindparam, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

from manydb import values
from manydb.criteria.fields import Family, Field

_ESCAPE = "/"
"""Not a backslash, which some databases read as one in a string and some do not."""

EVERYTHING: ColumnElement[Any] = literal_column("(1 = 1)")
NOTHING: ColumnElement[Any] = literal_column("(1 = 0)")

Pattern = tuple[tuple[str | None, ...], ...]
"""What stands between the `%` of a pattern, character by character; None is any one."""


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
    """A column as it is compared; *ordered* where more than equality is asked for."""

    def __init__(self, field: Field, *, ordered: bool = False) -> None:
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
        super().__init__(field, Exact(field), *(Value(field, each) for each in several))
        self.several = several

    @property
    def test(self) -> ColumnElement[Any]:
        exact, *found = self.clauses
        return exact == found[0] if len(found) == 1 else exact.in_(found)


class Like(_Construct):
    """Whether a column of text fits a pattern; *folds*: in capitals or small letters."""

    def __init__(self, field: Field, pattern: Pattern, *, folds: bool) -> None:
        spelled = "%".join("".join(map(_spelled, piece)) for piece in pattern)
        super().__init__(field, Exact(field), Value(field, spelled))
        self.pattern, self.spelled, self.folds = pattern, spelled, folds


class Extreme(_Construct):
    """The least or greatest value of a column: *function* is min or max."""

    def __init__(self, field: Field, function: Literal["min", "max"]) -> None:
        super().__init__(field, Exact(field, ordered=True) if field.family == "text" else field.column)
        self.function = function


class Double(_Construct):
    """A number as a 64-bit float."""

    def __init__(self, field: Field) -> None:
        super().__init__(field, field.column)


class NullRank(FunctionElement[Any]):
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


@compiles(NullRank)
def _null_rank(element: NullRank, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CASE WHEN {compiler.process(element.clauses, **kw)} IS NULL THEN 1 ELSE 0 END"


# -- PostgreSQL: a text's order is that of its collation; parameters take the type that the statement expects.

_PADDED = frozenset({"char", "character", "bpchar"})
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

_DIGITS = re.compile(r"-?\d+(\.\d+)?\Z", re.ASCII)
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
    if element.field.family != "decimal":
        return _in_full(element.field, text)
    # A column of decimals may hold anything, and what is no number must not become one.
    return f"CAST({text} AS NUMERIC)" if isinstance(element.given, str) and _DIGITS.match(element.given) else text


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
