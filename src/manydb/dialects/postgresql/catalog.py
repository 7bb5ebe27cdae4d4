"""PostgreSQL's schema from pg_catalog: one query for everything that is asked for together.

Each value is cast to text, int, bool or text[]: a session may have codecs of its own for the other types, JSON among
them, which is why JSON travels as text here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import slices
from manydb.dialects.catalog import OPERATOR, Catalog, read_rows
from manydb.dialects.postgresql import describing, execution
from manydb.dialects.postgresql.libpq import asking
from manydb.dialects.schema import (
    Column,
    ColumnEntry,
    ForeignKey,
    IndexEntry,
    Kind,
    Overview,
    References,
    Relation,
    Table,
    TableName,
)

T = TypeVar("T")

# PostgreSQL keeps the prefix pg_ for itself: catalogs, TOAST and the temporary schemas of sessions.
_USER_SCHEMA = "n.nspname <> 'information_schema' AND NOT starts_with(n.nspname::text, 'pg_')"

_KIND = """CASE WHEN c.relispartition THEN 'partition' ELSE CASE c.relkind WHEN 'p' THEN 'partitioned_table'
    WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized_view' WHEN 'f' THEN 'foreign_table' ELSE 'table' END END"""

# obj_description says the same, but as a function in SQL it is planned anew in every statement.
_COMMENT = """coalesce((SELECT o.description FROM pg_description o
    WHERE o.objoid = c.oid AND o.objsubid = 0 AND o.classoid = 'pg_class'::regclass), '')"""

_OVERVIEW = f"""
SELECT n.nspname::text, c.relname::text, {_KIND}, pg_table_is_visible(c.oid),
       {_COMMENT},
       CASE WHEN c.relkind IN ('r', 'm') AND c.reltuples >= 0 THEN c.reltuples::bigint END,
       (SELECT count(*)::int FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_USER_SCHEMA}"""

_COLUMNS = f"""
SELECT n.nspname::text, c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
       coalesce(d.description, '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = a.attnum
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_USER_SCHEMA}
ORDER BY c.oid, a.attnum"""

_INDEXES = f"""
SELECT n.nspname::text, c.relname::text, i.relname::text, x.indisunique,
       ARRAY(SELECT pg_get_indexdef(x.indexrelid, k, true) FROM generate_series(1, x.indnkeyatts) k)
FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT x.indisprimary AND c.relkind IN ('r', 'p', 'm') AND {_USER_SCHEMA}"""

# A row a column. Partitions have copies of their table's keys, and who refers to a partitioned table has copies of its
# own key that refer to the partitions; conparentid leads to what was declared, and the latter say nothing more.
_REFERENCES = """
SELECT sn.nspname::text, s.relname::text, f.conname::text, tn.nspname::text, t.relname::text,
       f.confdeltype::text, f.confupdtype::text, f.conparentid <> 0, a.attname::text, b.attname::text
FROM pg_constraint f CROSS JOIN LATERAL unnest(f.conkey, f.confkey) WITH ORDINALITY k(number, target, position)
JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.number
JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = k.target
JOIN pg_class s ON s.oid = f.conrelid JOIN pg_namespace sn ON sn.oid = s.relnamespace
JOIN pg_class t ON t.oid = f.confrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
LEFT JOIN pg_constraint p ON p.oid = f.conparentid
WHERE f.contype = 'f' AND p.conrelid IS DISTINCT FROM f.conrelid
ORDER BY sn.nspname, s.relname, f.conname, k.position"""

_OUTLINES = f"""
SELECT n.nspname::text, c.relname::text, {_KIND},
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
       (SELECT json_object_agg(a.attname, pg_get_expr(d.adbin, d.adrelid, true))
        FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE d.adrelid = c.oid AND a.attgenerated <> '')::text,
       CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid, true) ELSE '' END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_USER_SCHEMA}"""

_ACTIONS = {"r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}
_ROUTINES = """
SELECT p.proname::text, coalesce(nullif(p.prosrc, ''), pg_get_function_sqlbody(p.oid), ''),
    coalesce((SELECT string_agg(o.oprname, ' ') FROM pg_operator o WHERE o.oprcode = p.oid), '')
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE l.lanname NOT IN ('internal', 'c')
    AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""
_PARENTS = """
SELECT cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
"""
# One volatile overload makes the name one that may act; handlers and trigger functions cannot be called by a query.
# None of PostgreSQL's own operators is: what is found here was made by users or extensions.
_VOLATILE = f"""
SELECT DISTINCT proname::text FROM pg_catalog.pg_proc
WHERE provolatile = 'v' AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype,
    'language_handler'::regtype, 'fdw_handler'::regtype, 'index_am_handler'::regtype, 'table_am_handler'::regtype)
UNION ALL
SELECT DISTINCT '{OPERATOR}' || o.oprname FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
WHERE p.provolatile = 'v'
"""
# The parser looks these operators up by name, on the search path, as if they stood there.
_WORDS_FOR = {
    "=": ("IN", "CASE", "NULLIF", "DISTINCT", "USING", "NATURAL"),
    "<>": ("IN",),
    "<": ("BETWEEN",),
    "<=": ("BETWEEN",),
    ">": ("BETWEEN",),
    ">=": ("BETWEEN",),
    "~~": ("LIKE",),
    "!~~": ("LIKE",),
    "~~*": ("ILIKE",),
    "!~~*": ("ILIKE",),
    "~": ("SIMILAR",),
    "!~": ("SIMILAR",),
}


class PostgreSQLCatalog(Catalog):
    operators_may_act = True
    describes_alone = True

    async def overview(self, conn: AsyncConnection) -> Overview:
        ((default,),) = await _rows(conn, "SELECT current_schema()::text", _whole)
        return Overview(tuple(await _rows(conn, _OVERVIEW, Relation)), default)

    async def columns(self, conn: AsyncConnection) -> tuple[ColumnEntry, ...]:
        same: dict[str, str] = {}
        # Most texts are those of other columns, too: a schema is let go of in a fifth of the time.
        one = same.setdefault

        def entry(schema: str, table: str, name: str, type_text: str, comment: str) -> ColumnEntry:
            kind = describing.short_type(type_text)
            return ColumnEntry(one(schema, schema), one(table, table), one(name, name), kind, one(comment, comment))

        return tuple(await _rows(conn, _COLUMNS, entry))

    async def indexes(self, conn: AsyncConnection) -> tuple[IndexEntry, ...]:
        def entry(schema: str, table: str, name: str, unique: bool, columns: Sequence[str]) -> IndexEntry:  # noqa: FBT001
            return IndexEntry(schema, table, name, tuple(columns), unique)

        return tuple(await _rows(conn, _INDEXES, entry))

    async def routines(self, conn: AsyncConnection) -> Sequence[tuple[str, str, str]]:
        return await _rows(conn, _ROUTINES, _whole)

    async def parents(self, conn: AsyncConnection) -> Mapping[TableName, TableName]:
        found = await _rows(conn, _PARENTS, _whole)
        return {TableName(schema, name): TableName(*parent) for schema, name, *parent in found}

    async def acting_functions(self, conn: AsyncConnection) -> frozenset[str]:
        names = await _rows(conn, _VOLATILE, str)
        operators = [name.removeprefix(OPERATOR) for name in names if name.startswith(OPERATOR)]
        words = {word for name in operators for word in _WORDS_FOR.get(name, ())}
        return frozenset(names) | {OPERATOR + word for word in words}

    async def describe(self, conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
        return await describing.tables(conn, names)

    async def references(self, conn: AsyncConnection) -> References:
        parts = groupby(await _rows(conn, _REFERENCES, _whole), key=itemgetter(slice(8)))
        found: dict[bool, list[ForeignKey]] = {False: [], True: []}
        for is_repeated, key in await slices.gathered(
            (is_repeated, _foreign_key(place, list(rows))) for (*place, is_repeated), rows in parts
        ):
            found[is_repeated].append(key)
        return References(tuple(found[False]), tuple(found[True]))

    async def outlines(self, conn: AsyncConnection, overview: Overview) -> Iterable[Table]:  # noqa: ARG002
        return await _rows(conn, _OUTLINES, _outline)


async def _rows(conn: AsyncConnection, query: str, make: Callable[..., T]) -> list[T]:
    """The rows of *query*, each as *make* makes it of its cells, in slices."""
    if conn.dialect.driver == "psycopg":
        return await asking.rows(conn, query, make)
    found = await (execution.read if conn.dialect.driver == "asyncpg" else read_rows)(conn, query)
    return await slices.made_of([*found], lambda row: make(*row))


def _whole(*row: Any) -> tuple[Any, ...]:
    return row


def _outline(
    schema: str, name: str, kind: Kind, columns: Sequence[str], generated: str | None, definition: str
) -> Table:
    made = orjson.loads(generated) if generated else {}
    return Table(
        schema,
        name,
        kind,
        columns=tuple(Column(column, "", generated=made.get(column)) for column in columns),
        definition=describing.plain_query(definition),
    )


def _foreign_key(place: Sequence[Any], parts: Sequence[Sequence[Any]]) -> ForeignKey:
    schema, table, _, target_schema, target, on_delete, on_update = place
    return ForeignKey(
        TableName(schema, table),
        tuple(part[-2] for part in parts),
        TableName(target_schema, target),
        tuple(part[-1] for part in parts),
        on_delete=_ACTIONS.get(on_delete, ""),
        on_update=_ACTIONS.get(on_update, ""),
    )
