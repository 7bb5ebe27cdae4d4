"""How PostgreSQL compares: a text's order is its collation's; parameters take the type that the statement expects."""

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from manydb.dialects.comparing import Exact, Family, Value

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
