"""Comparisons that databases spell differently, as constructs that SQLAlchemy compiles for each.

A column or value of a known family, each in the form in which the two are compared. The defaults suit a database that
compares texts by code point and has a type for every family; a backend's own stand in the `comparing` of its folder.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from sqlalchemy import ColumnElement, bindparam, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

Family = Literal[
    "integer", "decimal", "real", "boolean", "text", "uuid", "date", "time", "timestamp", "bytes", "any", "other"
]
"""What the values of a type have in common: "any" where a column has no type, "other" where only NULL can be told."""


class Field(Protocol):
    """A column: *type* is its type's bare name, and *is_single* tells that it may hold 32-bit floats."""

    @property
    def name(self) -> str: ...
    @property
    def column(self) -> ColumnElement[Any]: ...
    @property
    def family(self) -> Family: ...
    @property
    def type(self) -> str: ...
    @property
    def is_single(self) -> bool: ...


ESCAPE = "/"
"""Not a backslash, which some databases read as one in a string and some do not."""

EVERYTHING: ColumnElement[Any] = literal_column("(1 = 1)")
NOTHING: ColumnElement[Any] = literal_column("(1 = 0)")

Pattern = tuple[tuple[str | None, ...], ...]
"""What stands between the `%` of a pattern, character by character; None is any one."""


def bound(field: Field, value: Any) -> ColumnElement[Any]:
    """A placeholder that is called like the column; without a type, so that SQLAlchemy adds no cast of its own."""
    name = re.sub(r"\W", "_", field.name, flags=re.ASCII)
    return bindparam(name if name[:1].isalpha() else f"p{name}", value, type_=NullType(), unique=True)


class Construct(FunctionElement[Any]):
    inherit_cache = False
    type = NullType()

    def __init__(self, field: Field, *operands: ColumnElement[Any]) -> None:
        super().__init__(*operands)
        self.field = field

    @property
    def first(self) -> ColumnElement[Any]:
        return next(iter(self.clauses))


class Exact(Construct):
    """A column as it is compared; *ordered* where more than equality is asked for."""

    def __init__(self, field: Field, *, ordered: bool = False) -> None:
        super().__init__(field, field.column)
        self.ordered = ordered


class Value(Construct):
    """A value that a column is compared with."""

    def __init__(self, field: Field, given: Any) -> None:
        super().__init__(field, bound(field, given))
        self.given = given


class Given(Construct):
    """A new value for a column; any JSON where the family is "other"."""

    def __init__(self, field: Field, given: Any) -> None:
        super().__init__(field, bound(field, given))
        self.given = given


class Among(Construct):
    """Whether a column has one of *several* values."""

    def __init__(self, field: Field, several: Sequence[Any]) -> None:
        super().__init__(field, Exact(field), *(Value(field, each) for each in several))
        self.several = several

    @property
    def test(self) -> ColumnElement[Any]:
        exact, *found = self.clauses
        return exact == found[0] if len(found) == 1 else exact.in_(found)


class Like(Construct):
    """Whether a column of text fits a pattern; *folds*: in capitals or small letters."""

    def __init__(self, field: Field, pattern: Pattern, *, folds: bool) -> None:
        spelled = "%".join("".join(map(_spelled, piece)) for piece in pattern)
        super().__init__(field, Exact(field), Value(field, spelled))
        self.pattern, self.spelled, self.folds = pattern, spelled, folds


class Extreme(Construct):
    """The least or greatest value of a column: *function* is min or max."""

    def __init__(self, field: Field, function: Literal["min", "max"]) -> None:
        super().__init__(field, Exact(field, ordered=True) if field.family == "text" else field.column)
        self.function = function


class Double(Construct):
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
    return ESCAPE + letter if letter in ("%", "_", ESCAPE) else letter


@compiles(Exact)
@compiles(Value)
@compiles(Given)
def _as_it_is(element: Construct, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.first, **kw)


@compiles(Among)
def _among(element: Among, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.test, **kw)})"


@compiles(Like)
def like(element: Like, compiler: SQLCompiler, **kw: Any) -> str:
    text, pattern = (compiler.process(each, **kw) for each in element.clauses)
    if element.folds:
        text, pattern = f"lower({text})", f"lower({pattern})"
    return f"({text} LIKE {pattern} ESCAPE '{ESCAPE}')"


@compiles(Extreme)
def _extreme(element: Extreme, compiler: SQLCompiler, **kw: Any) -> str:
    return f"{element.function}({compiler.process(element.first, **kw)})"


@compiles(Double)
def _double(element: Double, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST({compiler.process(element.first, **kw)} AS DOUBLE PRECISION)"


@compiles(NullRank)
def _null_rank(element: NullRank, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CASE WHEN {compiler.process(element.clauses, **kw)} IS NULL THEN 1 ELSE 0 END"
