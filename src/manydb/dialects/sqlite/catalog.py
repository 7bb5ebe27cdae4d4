"""SQLite's schema from sqlite_master, the pragma_* functions and, for what these leave out, the CREATE statements.

A view over a missing table, or a virtual table whose module is not loaded, makes a pragma fail for the whole query. So
ordinary tables, which cannot fail, are read apart from the rest, and the rest one by one when reading it at once fails.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.catalog import Catalog, Quote, action, quoting, read_rows
from manydb.dialects.schema import (
    Column,
    ColumnEntry,
    ForeignKey,
    Index,
    IndexEntry,
    Kind,
    Overview,
    Relation,
    Table,
    TableName,
    in_order,
)
from manydb.dialects.sqlite import creation

_MAIN = "main"
_RELATIONS = r"""SELECT name, sql FROM main.sqlite_master
WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\_%' ESCAPE '\'"""

# hidden = 1 are the hidden columns of virtual tables; 2 and 3 are generated columns.
_COLUMNS = """SELECT m.name, c.name, c.type, c."notnull", c.dflt_value, c.pk, c.hidden
FROM main.sqlite_master m JOIN pragma_table_xinfo(m.name, 'main') c
WHERE m.type IN ('table', 'view') AND c.hidden <> 1 AND m.name IN :names
ORDER BY m.name, c.cid"""

_COLUMN_COUNTS = """SELECT m.name, count(*)
FROM main.sqlite_master m JOIN pragma_table_xinfo(m.name, 'main') c
WHERE m.type IN ('table', 'view') AND c.hidden <> 1 GROUP BY m.name"""

# cid < 0 is the row id or an expression, which only the CREATE INDEX statement spells out.
_INDEXES = """SELECT m.name, l.name, l."unique", l.origin, s.sql, x.name
FROM main.sqlite_master m JOIN pragma_index_list(m.name, 'main') l JOIN pragma_index_xinfo(l.name, 'main') x
LEFT JOIN main.sqlite_master s ON l.origin = 'c' AND s.type = 'index' AND s.name = l.name
WHERE m.type = 'table' AND x.key AND l.origin <> 'pk' AND m.name IN :names
ORDER BY m.name, l.name, x.seqno"""

# Explicit indexes and the unnamed ones of UNIQUE constraints; a search needs no columns of the latter.
_ALL_INDEXES = r"""SELECT tbl_name, name, sql FROM main.sqlite_master
WHERE type = 'index' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'"""

_FOREIGN_KEYS = """SELECT m.name, f.id, f."from", f."to", f.on_delete, f.on_update, coalesce(
    (SELECT p.name FROM main.sqlite_master p WHERE p.type = 'table' AND p.name = f."table" COLLATE NOCASE), f."table")
FROM main.sqlite_master m JOIN pragma_foreign_key_list(m.name, 'main') f
WHERE m.type = 'table' AND (m.name IN :names OR lower(f."table") IN :lower_names)
ORDER BY m.name, f.id, f.seq"""

# Most indexes are on columns alone, and reading any other takes five times as long.
_PLAIN_INDEX = re.compile(r"create\s+(unique\s+)?index\s+\w+\s+on\s+\w+\s*\(([\w\s,]+)\)\s*\Z", re.IGNORECASE)
_VIRTUAL = re.compile(r"create\s+virtual\s+table\b.*?\busing\s+(\w+)", re.IGNORECASE | re.DOTALL)
_VIEW_QUERY = re.compile(r"\bas\b\s*(.*)", re.IGNORECASE | re.DOTALL)
# Where the full-text and R-tree modules keep their data: tables that belong to one virtual table.
_SHADOWS = {
    "fts5": ("data", "idx", "content", "docsize", "config"),
    "fts4": ("content", "segments", "segdir", "docsize", "stat"),
    "fts3": ("content", "segments", "segdir"),
    "rtree": ("node", "rowid", "parent"),
    "geopoly": ("node", "rowid", "parent"),
}
# Bind variables a statement may have in the oldest versions in use.
_BATCH = 900


class SQLiteCatalog(Catalog):
    async def overview(self, conn: AsyncConnection) -> Overview:
        found = await _relations(conn)
        counts = await _column_counts(conn, found)
        estimates = await _estimates(conn)
        return Overview(
            tuple(
                Relation(_MAIN, name, _kind(sql), rows=estimates.get(name), columns=counts.get(name))
                for name, sql in found.items()
            ),
            _MAIN,
        )

    async def columns(self, conn: AsyncConnection) -> tuple[ColumnEntry, ...]:
        found = await _relations(conn)
        # Few statements have comments, and reading a thousand of them would take longer than the query.
        notes = {name: creation.read(sql).comments for name, sql in found.items() if "--" in sql}
        return tuple(
            ColumnEntry(_MAIN, row[0], row[1], row[2], notes.get(row[0], {}).get(row[1], ""))
            for row in await _column_rows(conn, found)
        )

    async def indexes(self, conn: AsyncConnection) -> tuple[IndexEntry, ...]:
        return tuple(
            IndexEntry(_MAIN, table, index.name, index.columns, index.unique)
            for table, name, sql in await read_rows(conn, _ALL_INDEXES)
            for index in [_created_index(name, sql)]
        )

    async def describe(self, conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
        asked = {name.name for name in names if name.schema == _MAIN}
        found = {name: sql for name, sql in (await _relations(conn)).items() if name in asked}
        columns = _by_first(await _column_rows(conn, found))
        indexes = _by_first(await _read(conn, _INDEXES, found))
        keys = [_foreign_key(rows) for rows in _groups(await _read(conn, _FOREIGN_KEYS, found), 2)]
        quote = quoting(conn)
        tables = (
            _table(
                name, sql, columns.get(name, []), [_index(rows, quote) for rows in _groups(indexes.get(name, []), 2)]
            )
            for name, sql in found.items()
        )
        return in_order((_with_keys(table, keys) for table in tables), names)


async def _relations(conn: AsyncConnection) -> dict[str, str]:
    """Name → CREATE statement of each table and view; shadow tables are left out."""
    found = {name: sql or "" for name, sql in await read_rows(conn, _RELATIONS)}
    shadows = {
        f"{name}_{suffix}"
        for name, sql in found.items()
        if (match := _VIRTUAL.match(sql))
        for suffix in _SHADOWS.get(match[1].lower(), ())
    }
    return {name: sql for name, sql in found.items() if name not in shadows}


async def _column_counts(conn: AsyncConnection, relations: dict[str, str]) -> dict[str, int]:
    try:
        return {name: count for name, count in await read_rows(conn, _COLUMN_COUNTS)}  # noqa: C416 - as in _estimates
    except OperationalError:  # one broken view is enough
        rows = await _column_rows(conn, relations)
        return {name: len(group) for name, group in _by_first(rows).items()}


async def _column_rows(conn: AsyncConnection, relations: dict[str, str]) -> list[Sequence[Any]]:
    tables = [name for name, sql in relations.items() if _kind(sql) == "table"]
    others = [name for name, sql in relations.items() if _kind(sql) != "table"]
    found = await _read(conn, _COLUMNS, tables)
    try:
        return found + await _read(conn, _COLUMNS, others)
    except OperationalError:
        for name in others:
            found += await _readable_columns(conn, name)
        return found


async def _readable_columns(conn: AsyncConnection, name: str) -> list[Sequence[Any]]:
    try:
        return await _read(conn, _COLUMNS, [name])
    except OperationalError:  # a broken view or an unknown module: it exists, but has no columns to tell
        return []


async def _read(conn: AsyncConnection, query: str, names: Iterable[str]) -> list[Sequence[Any]]:
    every = list(names)
    statement = text(query).bindparams(bindparam("names", expanding=True))
    if ":lower_names" in query:
        statement = statement.bindparams(bindparam("lower_names", expanding=True))
    found: list[Sequence[Any]] = []
    for start in range(0, len(every), _BATCH):
        batch = every[start : start + _BATCH]
        values = {"names": batch}
        if ":lower_names" in query:
            values["lower_names"] = [name.lower() for name in batch]
        found += (await conn.execute(statement, values)).fetchall()
    return found


async def _estimates(conn: AsyncConnection) -> dict[str, int]:
    """Rows a table, from the last ANALYZE; a partial index counts fewer, so the largest number is the table's."""
    if not await read_rows(conn, "SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_stat1'"):
        return {}
    found = await read_rows(conn, "SELECT tbl, max(CAST(stat AS integer)) FROM main.sqlite_stat1 GROUP BY tbl")
    return {name: estimate for name, estimate in found}  # noqa: C416 - dict() would hide the two names


def _by_first(found: Iterable[Sequence[Any]]) -> dict[str, list[Sequence[Any]]]:
    return {name: list(group) for name, group in groupby(found, key=itemgetter(0))}


def _groups(found: Iterable[Sequence[Any]], width: int) -> Iterator[list[Sequence[Any]]]:
    """Runs of rows that share their first *width* values."""
    for _, group in groupby(found, key=lambda row: tuple(row[:width])):
        yield list(group)


def _kind(sql: str) -> Kind:
    if _VIRTUAL.match(sql):
        return "virtual_table"
    return "view" if re.match(r"create\s+(temp\s+|temporary\s+)?view\b", sql, re.IGNORECASE) else "table"


def _table(name: str, sql: str, columns: Sequence[Sequence[Any]], indexes: Sequence[Index]) -> Table:
    kind = _kind(sql)
    if kind == "view":
        query = _VIEW_QUERY.search(sql)
        return Table(
            _MAIN, name, kind, columns=tuple(map(_plain_column, columns)), definition=query[1] if query else sql
        )
    if kind == "virtual_table":
        notes = (sql[sql.lower().index("using") :],)
        return Table(_MAIN, name, kind, columns=tuple(map(_plain_column, columns)), notes=notes)
    created = creation.read(sql)
    key = tuple(row[1] for row in sorted((row for row in columns if row[5]), key=itemgetter(5)))
    return Table(
        _MAIN,
        name,
        columns=tuple(_column(row, key, created) for row in columns),
        primary_key=key,
        indexes=tuple(indexes),
        checks=created.checks,
        notes=created.options,
    )


def _with_keys(table: Table, keys: Iterable[ForeignKey]) -> Table:
    known = list(keys)
    return replace(
        table,
        foreign_keys=tuple(key for key in known if key.table == table.address),
        referenced_by=tuple(key for key in known if key.target == table.address),
    )


def _plain_column(row: Sequence[Any]) -> Column:
    return Column(row[1], row[2], nullable=not row[3], default=row[4])


def _column(row: Sequence[Any], key: tuple[str, ...], created: creation.Creation) -> Column:
    name, type_text = row[1], row[2]
    return replace(
        _plain_column(row),
        identity=_identity(name, type_text, key, created),
        generated=created.generated.get(name) if row[6] else None,
        comment=created.comments.get(name, ""),
    )


def _identity(name: str, type_text: str, key: tuple[str, ...], created: creation.Creation) -> str:
    """An INTEGER primary key is the row id, which SQLite counts up by itself."""
    if key != (name,) or type_text.upper() != "INTEGER" or "without rowid" in created.options:
        return ""
    return "autoincrement" if created.autoincrement else "rowid"


def _index(parts: Sequence[Sequence[Any]], quote: Quote) -> Index:
    _, name, unique, _, sql, _ = parts[0]
    if sql:
        return _created_index(name, sql)
    return Index("", tuple(quote(row[5]) for row in parts), unique=bool(unique))


def _created_index(name: str, sql: str) -> Index:
    if plain := _PLAIN_INDEX.match(sql):
        return Index(name, tuple(column.strip() for column in plain[2].split(",")), unique=plain[1] is not None)
    parts, tail = creation.parts(sql)
    where = re.match(r"where\s+(.*)", tail, re.IGNORECASE | re.DOTALL)
    return Index(
        name,
        tuple(part.text for part in parts),
        unique=re.match(r"create\s+unique\b", sql, re.IGNORECASE) is not None,
        where=where[1] if where else "",
    )


def _foreign_key(parts: Sequence[Sequence[Any]]) -> ForeignKey:
    table, _, _, _, on_delete, on_update, target = parts[0]
    return ForeignKey(
        TableName(_MAIN, table),
        tuple(row[2] for row in parts),
        TableName(_MAIN, target),
        tuple(row[3] for row in parts if row[3] is not None),
        on_delete=action(on_delete),
        on_update=action(on_update),
    )
