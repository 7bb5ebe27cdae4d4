"""The data types of one PostgreSQL connection: what the wire calls by number, with all that is needed to read a value.

Built-in types are known here; all others are read from the catalog when a statement first returns or takes one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["scalar", "array", "composite", "domain", "enum", "range"]

# A description of each of $1 and of everything it is made of. Only built-in types that every driver knows are in the
# result's own columns.
_CATALOG_QUERY = """
WITH RECURSIVE wanted (oid) AS (
    SELECT pg_catalog.unnest($1::pg_catalog.oid[])
  UNION
    SELECT part.oid
    FROM wanted
    JOIN pg_catalog.pg_type AS t ON t.oid = wanted.oid
    CROSS JOIN LATERAL (
        SELECT t.typelem
      UNION ALL
        SELECT t.typbasetype
      UNION ALL
        SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS part (oid)
    WHERE part.oid <> 0
)
SELECT t.oid, t.typname::text AS name, pg_catalog.format_type(t.oid, NULL) AS title, t.typtype::text AS kind,
       CASE WHEN t.typlen = -1 THEN t.typelem ELSE 0 END AS element, t.typbasetype AS base,
       coalesce(e.typdelim, ',')::text AS delimiter,
       coalesce(part.names, '{}') AS names, coalesce(part.types, '{}') AS types
FROM wanted
JOIN pg_catalog.pg_type AS t ON t.oid = wanted.oid
LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem
LEFT JOIN LATERAL (
    SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) AS names,
           pg_catalog.array_agg(a.atttypid ORDER BY a.attnum) AS types
    FROM pg_catalog.pg_attribute AS a
    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
) AS part ON true
"""


@dataclass(frozen=True, slots=True)
class Type:
    """One data type. *title* is its name as people write it; *parts* are a composite's (name, type oid) in order."""

    oid: int
    name: str
    title: str
    kind: Kind = "scalar"
    element: int = 0
    base: int = 0
    delimiter: str = ","
    parts: tuple[tuple[str, int], ...] = ()


# The names that people write, where they differ from those in pg_type.
_TITLES = {
    "bool": "boolean",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bpchar": "char",
    "char": '"char"',
}
_FIRST_USER_OID = 16384


# Arrays that asyncpg reads without being told of them, so that nobody asks the catalog.
WELL_KNOWN = {1009: Type(1009, "_text", "text[]", "array", 25), 1028: Type(1028, "_oid", "oid[]", "array", 26)}


def title(name: str) -> str:
    """How people write a built-in type that pg_type calls *name*; every other name as it is."""
    return _TITLES.get(name, name)


class Driver(Protocol):
    """asyncpg.Connection, as far as it is used here."""

    async def fetch(self, query: str, *args: Any) -> list[Mapping[str, Any]]: ...


async def read(raw: Driver, oids: Iterable[int]) -> dict[int, Type]:
    """The types with these *oids* and all that they are made of: elements, base types, attributes. One round trip."""
    return {row["oid"]: _type(row) for row in await raw.fetch(_CATALOG_QUERY, list(oids))}


def _builtin_title(name: str, kind: Kind) -> str:
    return f"{title(name[1:])}[]" if kind == "array" and name.startswith("_") else title(name)


def _type(row: Mapping[str, Any]) -> Type:
    kinds: dict[str, Kind] = {"c": "composite", "d": "domain", "e": "enum", "r": "range", "m": "range"}
    kind: Kind = "array" if row["element"] and row["kind"] != "d" else kinds.get(row["kind"], "scalar")
    return Type(
        row["oid"],
        row["name"],
        row["title"] if row["oid"] >= _FIRST_USER_OID else _builtin_title(row["name"], kind),
        kind,
        row["element"],
        row["base"],
        row["delimiter"],
        tuple(zip(row["names"], row["types"], strict=True)),
    )
