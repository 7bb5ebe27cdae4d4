"""How MySQL and MariaDB compare: equal texts need not be the same, and a float is shown with fewer digits than it has.

Decimals are compared as floats with whatever is not one.
"""

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from manydb import values
from manydb.dialects.comparing import (
    ESCAPE,
    Among,
    Construct,
    Double,
    Exact,
    Extreme,
    Family,
    Given,
    Like,
    Value,
    bound,
)

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
    near = field.column.in_([bound(field, each) for each in element.several])
    return f"({compiler.process(near, **kw)} AND {test})"


@compiles(Like, "mysql", "mariadb")
def _like_mysql(element: Like, compiler: SQLCompiler, **kw: Any) -> str:
    text = f"CONVERT({compiler.process(element.field.column, **kw)} USING utf8mb4)"
    pattern = f"CONVERT({_utf8(element, compiler, element.spelled, **kw)} USING utf8mb4)"
    if element.folds:
        text, pattern = f"lower({text})", f"lower({pattern})"
    return f"({text} COLLATE utf8mb4_bin LIKE {pattern} COLLATE utf8mb4_bin ESCAPE '{ESCAPE}')"


@compiles(Extreme, "mysql", "mariadb")
def _extreme_mysql(element: Extreme, compiler: SQLCompiler, **kw: Any) -> str:
    found = f"{element.function}({compiler.process(element.first, **kw)})"
    return f"CONVERT({found} USING utf8mb4)" if element.field.family == "text" else found


@compiles(Double, "mysql", "mariadb")
def _double_mysql(element: Double, compiler: SQLCompiler, **kw: Any) -> str:
    return f"({compiler.process(element.first, **kw)} + 0e0)"


def _utf8(element: Construct, compiler: SQLCompiler, text: Any, **kw: Any) -> str:
    """A text as its bytes: as a text, it would be moved to UTC where it looks like a time."""
    return compiler.process(bound(element.field, str(text).encode()), **kw)


def _is_plain(value: Any) -> bool:
    """Whether a column of any character set can be compared with it, and it is sent as it is."""
    return isinstance(value, str) and value.isascii() and values.utc_moment(value) is None
