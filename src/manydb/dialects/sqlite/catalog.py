"""SQLite's schema from sqlite_master, the pragma_* functions and, for what these leave out, the CREATE statements.

A view over a missing table, or a virtual table whose module is not loaded, makes a pragma fail for the whole query. So
ordinary tables, which cannot fail, are read apart from the rest, and the rest one by one when reading it at once fails.
"""

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import slices
from manydb.dialects.catalog import Catalog, Quote, action, quoting, read_rows
from manydb.dialects.execution import driver
from manydb.dialects.schema import (
    Column,
    ColumnEntry,
    ForeignKey,
    Index,
    IndexEntry,
    Kind,
    Overview,
    References,
    Relation,
    Table,
    TableName,
    in_order,
)
from manydb.dialects.sqlite import creation
from manydb.dialects.sqlite.opened import Opened, is_busy

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

# All of a relation in one statement: what kind of row it is, its place, and up to six facts. sqlite_master is looked
# through once. cid < 0 is the row id or an expression, which only the CREATE INDEX statement spells out.
_DESCRIBE = """SELECT 'statement', 0, m.type, m.name, m.sql, NULL, NULL, NULL
FROM main.sqlite_master m WHERE m.tbl_name = ?1 AND m.type IN ('table', 'view', 'index')
UNION ALL SELECT 'column', c.cid, NULL, c.name, c.type, c."notnull", c.dflt_value, c.pk || ' ' || c.hidden
FROM pragma_table_xinfo(?1, 'main') c WHERE c.hidden <> 1
UNION ALL SELECT 'index', x.seqno, l.origin, l.name, x.name, l."unique", NULL, NULL
FROM pragma_index_list(?1, 'main') l JOIN pragma_index_xinfo(l.name, 'main') x WHERE x.key AND l.origin <> 'pk'"""

# Explicit indexes and the unnamed ones of UNIQUE constraints; a search needs no columns of the latter.
_ALL_INDEXES = r"""SELECT tbl_name, name, sql FROM main.sqlite_master
WHERE type = 'index' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'"""

# The target is written as in the statement; names are found without regard to case.
_FOREIGN_KEYS = """SELECT m.name, f.id, f."from", f."to", f.on_delete, f.on_update, f."table"
FROM main.sqlite_master m JOIN pragma_foreign_key_list(m.name, 'main') f
WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq"""
_TABLES = "SELECT name FROM main.sqlite_master WHERE type = 'table'"

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
    describes_alone = True

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
            await slices.gathered(
                ColumnEntry(_MAIN, row[0], row[1], row[2], notes.get(row[0], {}).get(row[1], ""))
                for row in await _column_rows(conn, found)
            )
        )

    async def indexes(self, conn: AsyncConnection) -> tuple[IndexEntry, ...]:
        return tuple(
            await slices.gathered(
                IndexEntry(_MAIN, table, index.name, index.columns, index.unique)
                for table, name, sql in await read_rows(conn, _ALL_INDEXES)
                for index in [_created_index(name, sql)]
            )
        )

    async def describe(self, conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
        quote = quoting(conn)
        found = await _facts(conn, [name.name for name in dict.fromkeys(names) if name.schema == _MAIN])
        tables = (_described(name, facts, quote) for name, facts in found.items())
        return in_order((table for table in tables if table), names)

    async def references(self, conn: AsyncConnection) -> References:
        found = await read_rows(conn, _FOREIGN_KEYS)
        tables = {name.lower(): name for (name,) in await read_rows(conn, _TABLES)} if found else {}
        return References(tuple(_foreign_key(rows, tables) for rows in _groups(found, key=itemgetter(0, 1))))

    async def outlines(self, conn: AsyncConnection, overview: Overview) -> Iterable[Table]:  # noqa: ARG002
        found = await _relations(conn)
        columns = _by_first(await _column_rows(conn, found))
        return [_outline(name, sql, columns.get(name, [])) for name, sql in found.items()]


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


async def _read(conn: AsyncConnection, query: str, names: Sequence[str]) -> list[Sequence[Any]]:
    statement = text(query).bindparams(bindparam("names", expanding=True))
    found: list[Sequence[Any]] = []
    for start in range(0, len(names), _BATCH):
        found += (await conn.execute(statement, {"names": names[start : start + _BATCH]})).fetchall()
    return found


async def _facts(conn: AsyncConnection, names: Sequence[str]) -> dict[str, list[Sequence[Any]]]:
    """What is told of each name, in one visit to the connection's thread and a statement for each."""
    raw: Any = driver(conn)
    opened: Opened = raw._conn  # noqa: SLF001 - as in execution

    def read() -> dict[str, list[Sequence[Any]]]:
        return {name: _told(opened, name) for name in names}

    found: dict[str, list[Sequence[Any]]] = await raw._execute(opened.patiently, read)  # noqa: SLF001
    return found


def _told(opened: Opened, name: str) -> list[Sequence[Any]]:
    try:
        return opened.execute(_DESCRIBE, (name,)).fetchall()
    except sqlite3.OperationalError as error:
        if is_busy(error):
            raise
    # A broken view or an unknown module: only its statement can be told.
    return opened.execute(_DESCRIBE.partition("UNION")[0], (name,)).fetchall()


def _described(name: str, found: Sequence[Sequence[Any]], quote: Quote) -> Table | None:
    """The relation called *name*, if there is one."""
    statements = {(kind, own): sql or "" for part, _, kind, own, sql, *_ in found if part == "statement"}
    sql = statements.get(("table", name), statements.get(("view", name)))
    if sql is None:
        return None
    columns = [(name, *facts, *map(int, both.split())) for part, _, _, *facts, both in found if part == "column"]
    parts = sorted((row for row in found if row[0] == "index"), key=itemgetter(3, 1))
    return _table(name, sql, columns, [_index(rows, statements, quote) for rows in _groups(parts, key=itemgetter(3))])


async def _estimates(conn: AsyncConnection) -> dict[str, int]:
    """Rows a table, from the last ANALYZE; a partial index counts fewer, so the largest number is the table's."""
    if not await read_rows(conn, "SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_stat1'"):
        return {}
    found = await read_rows(conn, "SELECT tbl, max(CAST(stat AS integer)) FROM main.sqlite_stat1 GROUP BY tbl")
    return {name: estimate for name, estimate in found}  # noqa: C416 - dict() would hide the two names


def _by_first(found: Iterable[Sequence[Any]]) -> dict[str, list[Sequence[Any]]]:
    return {name: list(group) for name, group in groupby(found, key=itemgetter(0))}


def _groups(found: Iterable[Sequence[Any]], key: Callable[[Sequence[Any]], Any]) -> Iterator[list[Sequence[Any]]]:
    """Runs of rows that have the same *key*."""
    for _, group in groupby(found, key=key):
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


def _outline(name: str, sql: str, columns: Sequence[Sequence[Any]]) -> Table:
    # Reading the statements of a thousand tables would take longer than the query: few have generated columns.
    if _kind(sql) == "table" and not any(row[6] for row in columns):
        return Table(_MAIN, name, columns=tuple(map(_plain_column, columns)))
    return _table(name, sql, columns, ())


def _plain_column(row: Sequence[Any]) -> Column:
    return Column(row[1], row[2], nullable=not row[3], default=row[4])


def _column(row: Sequence[Any], key: tuple[str, ...], created: creation.Creation) -> Column:
    name, type_text = row[1], row[2]
    return Column(
        name,
        type_text,
        nullable=not row[3],
        default=row[4],
        identity=_identity(name, type_text, key, created),
        generated=created.generated.get(name) if row[6] else None,
        comment=created.comments.get(name, ""),
    )


def _identity(name: str, type_text: str, key: tuple[str, ...], created: creation.Creation) -> str:
    """An INTEGER primary key is the row id, which SQLite counts up by itself."""
    if key != (name,) or type_text.upper() != "INTEGER" or "without rowid" in created.options:
        return ""
    return "autoincrement" if created.autoincrement else "rowid"


def _index(parts: Sequence[Sequence[Any]], statements: Mapping[tuple[str, str], str], quote: Quote) -> Index:
    _, _, origin, name, _, unique, *_ = parts[0]
    if origin == "c" and (sql := statements.get(("index", name))):
        return _created_index(name, sql)
    return Index("", tuple(quote(row[4]) for row in parts), unique=bool(unique))


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


def _foreign_key(parts: Sequence[Sequence[Any]], tables: Mapping[str, str]) -> ForeignKey:
    """*tables* are the names that there are, by their lower case."""
    table, _, _, _, on_delete, on_update, target = parts[0]
    return ForeignKey(
        TableName(_MAIN, table),
        tuple(row[2] for row in parts),
        TableName(_MAIN, tables.get(target.lower(), target)),
        tuple(row[3] for row in parts if row[3] is not None),
        on_delete=action(on_delete),
        on_update=action(on_update),
    )
