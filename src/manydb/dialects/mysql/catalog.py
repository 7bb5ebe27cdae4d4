"""MySQL's and MariaDB's schema from information_schema.

MariaDB opens a table's files for each row of these views unless schema and name are given as constants; hence one
UNION branch per table in place of a list of names.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import orjson
from sqlalchemy import BindParameter, bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.catalog import Catalog, Quote, action, quoting, read_rows
from manydb.dialects.schema import (
    Column,
    ColumnEntry,
    ForeignKey,
    Index,
    IndexEntry,
    Overview,
    Relation,
    Table,
    TableName,
    in_order,
)

Row = dict[str, Any]
"""A row of information_schema; keys in lower case, as MySQL 8 writes them in upper case and MariaDB as in the query."""

_USER_SCHEMA = "NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')"

# Base tables, views and MariaDB's versioned tables; its sequences are listed there too, but hold no data.
_OVERVIEW = f"""
SELECT t.table_schema, t.table_name, t.table_type, t.table_comment, t.table_rows, c.columns
FROM information_schema.tables t
LEFT JOIN (SELECT table_schema, table_name, count(*) AS columns FROM information_schema.columns
           WHERE table_schema {_USER_SCHEMA} GROUP BY table_schema, table_name) c
       ON c.table_schema = t.table_schema AND c.table_name = t.table_name
WHERE t.table_schema {_USER_SCHEMA} AND t.table_type IN ('BASE TABLE', 'VIEW', 'SYSTEM VERSIONED')"""

_COLUMNS = f"""
SELECT table_schema, table_name, column_name, column_type, column_comment
FROM information_schema.columns WHERE table_schema {_USER_SCHEMA}
ORDER BY table_schema, table_name, ordinal_position"""

# A row a table: the driver takes twice as long for a row a column.
_PACKED_COLUMNS = f"""
SELECT table_schema, table_name,
       JSON_ARRAYAGG(JSON_ARRAY(ordinal_position, column_name, column_type, column_comment))
FROM information_schema.columns WHERE table_schema {_USER_SCHEMA}
GROUP BY table_schema, table_name ORDER BY table_schema, table_name"""

# MariaDB tells a sequence's state as columns, this one first.
_SEQUENCE_COLUMN = "next_not_cached_value"
_SEQUENCES = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'SEQUENCE'"

# Only MySQL has indexes on expressions. All columns of this view would take three times as long to read.
_INDEXES = f"""
SELECT table_schema, table_name, index_name, non_unique, index_type, column_name, sub_part, collation, {{expression}}
FROM information_schema.statistics WHERE table_schema {_USER_SCHEMA} AND index_name <> 'PRIMARY'
ORDER BY table_schema, table_name, index_name, seq_in_index"""
_FIRST_MYSQL_WITH_EXPRESSIONS = (8, 0, 13)

_TABLES_BY_NAME = "SELECT * FROM information_schema.tables WHERE table_schema = :schema AND table_name = :name"

_VIEWS_BY_NAME = "SELECT * FROM information_schema.views WHERE table_schema = :schema AND table_name = :name"

_COLUMNS_BY_NAME = "SELECT * FROM information_schema.columns WHERE table_schema = :schema AND table_name = :name"

_INDEXES_BY_NAME = "SELECT * FROM information_schema.statistics WHERE table_schema = :schema AND table_name = :name"

# Only MariaDB tells here which table a check belongs to; its names are unique in a table, MySQL's in a schema.
_MARIADB_CHECKS_BY_NAME = """
SELECT constraint_schema AS table_schema, table_name, constraint_name, check_clause
FROM information_schema.check_constraints WHERE constraint_schema = :schema AND table_name = :name"""
_MYSQL_CHECKS_BY_NAME = """
SELECT t.table_schema, t.table_name, c.constraint_name, c.check_clause
FROM information_schema.table_constraints t
JOIN information_schema.check_constraints c USING (constraint_schema, constraint_name)
WHERE t.constraint_type = 'CHECK' AND t.table_schema = :schema AND t.table_name = :name"""
_FIRST_MYSQL_WITH_CHECKS = (8, 0, 16)

# Who refers to a table is found only by looking at all of them, so once for all names and both directions. Columns and
# rules are read apart: MariaDB would read one view again for each row of the other.
_KEYS = """
SELECT table_schema, table_name, constraint_name, ordinal_position, column_name,
       referenced_table_schema, referenced_table_name, referenced_column_name
FROM information_schema.key_column_usage
WHERE referenced_table_name IS NOT NULL
  AND ((table_schema, table_name) IN :names OR (referenced_table_schema, referenced_table_name) IN :names)"""
_RULES = """
SELECT constraint_schema AS table_schema, table_name, constraint_name, delete_rule, update_rule
FROM information_schema.referential_constraints
WHERE (constraint_schema, table_name) IN :names OR (unique_constraint_schema, referenced_table_name) IN :names"""

_WIDTH = re.compile(r"^(tinyint(?!\(1\))|smallint|mediumint|int|bigint)\(\d+\)(?!.*zerofill)")
_QUOTED = re.compile(r"'((?:[^']|'')*)'")
_JSON_CHECK = re.compile(r"^json_valid\(`(.+)`\)$")
_NUMBER = re.compile(r"^(tinyint|smallint|mediumint|int|bigint|decimal|float|double|bit|year)")

_ROUTINES = """
SELECT routine_name, coalesce(routine_definition, '') FROM information_schema.routines
WHERE routine_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
"""
# Folded, as the server compares names of functions.
_ACTING = """
SELECT DISTINCT lower(routine_name) FROM information_schema.routines
WHERE routine_type = 'FUNCTION' AND sql_data_access = 'MODIFIES SQL DATA'
"""


class MySQLCatalog(Catalog):
    async def overview(self, conn: AsyncConnection) -> Overview:
        ((default,),) = await read_rows(conn, "SELECT database()")
        return Overview(tuple(_relation(row, default) for row in await read_rows(conn, _OVERVIEW)), default)

    async def columns(self, conn: AsyncConnection) -> tuple[ColumnEntry, ...]:
        found = await _column_rows(conn)
        # Asking for sequences takes as long as all the rest, so only where something looks like one.
        seen = any(row[2] == _SEQUENCE_COLUMN for row in found)
        sequences = {(schema, name) for schema, name in await read_rows(conn, _SEQUENCES)} if seen else set()
        return tuple(
            ColumnEntry(schema, table, name, plain_type(type_text), comment)
            for schema, table, name, type_text, comment in found
            if (schema, table) not in sequences
        )

    async def indexes(self, conn: AsyncConnection) -> tuple[IndexEntry, ...]:
        has_expressions = _is_mysql_from(conn, _FIRST_MYSQL_WITH_EXPRESSIONS)
        query = _INDEXES.format(expression="expression" if has_expressions else "NULL AS expression")
        found, quote = _dicts(await conn.exec_driver_sql(query)), quoting(conn)
        return tuple(
            IndexEntry(address.schema, address.name, index.name, index.columns, index.unique)
            for address, rows in groupby(found, key=_address)
            for index in _indexes(rows, quote)
        )

    async def routines(self, conn: AsyncConnection) -> Sequence[tuple[str, str, str]]:
        return [(name, source, "") for name, source in await read_rows(conn, _ROUTINES)]

    async def acting_functions(self, conn: AsyncConnection) -> frozenset[str]:
        return frozenset(name for (name,) in await read_rows(conn, _ACTING))

    async def describe(self, conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
        if not names:
            return []
        tables = await _read(conn, _TABLES_BY_NAME, names)
        views = [_address(row) for row in tables if row["table_type"] == "VIEW"]
        definitions = _by_table(await _read(conn, _VIEWS_BY_NAME, views))
        columns = _by_table(await _read(conn, _COLUMNS_BY_NAME, names), "ordinal_position")
        indexes = _by_table(await _read(conn, _INDEXES_BY_NAME, names), "index_name", "seq_in_index")
        checks = _by_table(await _read(conn, _checks_query(conn), names), "constraint_name")
        keys = await _foreign_keys(conn, names)
        exact, quote = _is_mariadb(conn), quoting(conn)
        found = (
            _table(
                row,
                columns=[_column(column, exact_default=exact) for column in columns.get(_address(row), [])],
                indexes=_indexes(indexes.get(_address(row), []), quote),
                checks=[check["check_clause"] for check in checks.get(_address(row), [])],
                keys=keys,
                definition="".join(view["view_definition"] for view in definitions.get(_address(row), [])),
            )
            for row in tables
        )
        return in_order(found, names)


def _is_mariadb(conn: AsyncConnection) -> bool:
    return bool(getattr(conn.dialect, "is_mariadb", False))


def _is_mysql_from(conn: AsyncConnection, version: tuple[int, ...]) -> bool:
    return not _is_mariadb(conn) and (conn.dialect.server_version_info or ()) >= version


def _checks_query(conn: AsyncConnection) -> str:
    if _is_mariadb(conn):
        return _MARIADB_CHECKS_BY_NAME
    return _MYSQL_CHECKS_BY_NAME if _is_mysql_from(conn, _FIRST_MYSQL_WITH_CHECKS) else ""


async def _read(conn: AsyncConnection, query: str, names: Sequence[TableName]) -> list[Row]:
    """The rows of *query* for all *names* in one round trip; an empty query has none."""
    if not query or not names:
        return []
    numbered = (query.replace(":schema", f":schema_{i}").replace(":name", f":name_{i}") for i in range(len(names)))
    values = {f"schema_{i}": name.schema for i, name in enumerate(names)}
    values |= {f"name_{i}": name.name for i, name in enumerate(names)}
    return _dicts(await conn.execute(text(" UNION ALL ".join(numbered)), values))


def _dicts(result: Any) -> list[Row]:
    keys = list(map(str.lower, result.keys()))
    return [dict(zip(keys, row, strict=True)) for row in result]


def _address(row: Row) -> TableName:
    return TableName(row["table_schema"], row["table_name"])


def _by_table(rows: Iterable[Row], *order: str) -> dict[TableName, list[Row]]:
    def place(row: Row) -> tuple[Any, ...]:
        return (_address(row), *(row[key] for key in order))

    return {address: list(group) for address, group in groupby(sorted(rows, key=place), key=_address)}


def _relation(row: Sequence[Any], default: str | None) -> Relation:
    schema, name, table_type, comment, rows, columns = row
    is_view = table_type == "VIEW"
    return Relation(
        schema,
        name,
        "view" if is_view else "table",
        visible=schema == default,
        comment="" if is_view else comment,  # a view's says "VIEW"
        rows=None if is_view else rows,
        columns=columns,
    )


def _table(
    row: Row,
    *,
    columns: Iterable[Column],
    indexes: Sequence[Index],
    checks: Sequence[str],
    keys: Sequence[ForeignKey],
    definition: str,
) -> Table:
    """*keys* are all that begin or end at one of the tables asked for."""
    is_view, address = row["table_type"] == "VIEW", _address(row)
    json_columns = {match[1] for check in checks if (match := _JSON_CHECK.match(check))}
    return Table(
        *address,
        "view" if is_view else "table",
        comment="" if is_view else row["table_comment"],
        columns=tuple(_as_json(column) if column.name in json_columns else column for column in columns),
        primary_key=next((index.columns for index in indexes if index.name == "PRIMARY"), ()),
        indexes=tuple(index for index in indexes if index.name != "PRIMARY"),
        checks=tuple(check for check in checks if not _JSON_CHECK.match(check)),
        foreign_keys=tuple(key for key in keys if key.table == address),
        referenced_by=tuple(key for key in keys if key.target == address),
        # The server qualifies every name; the view's own schema tells nothing.
        definition=definition.replace(f"`{address.schema}`.", ""),
        notes=tuple(_notes(row)),
    )


def _as_json(column: Column) -> Column:
    """MariaDB keeps JSON as longtext with a check; its users write JSON."""
    return Column(column.name, "json", column.nullable, column.default, comment=column.comment)


def _notes(row: Row) -> Iterable[str]:
    if row["table_type"] == "SYSTEM VERSIONED":
        yield "system versioned"
    if row["engine"] not in {None, "InnoDB"}:
        yield f"engine {row['engine']}"
    if "partitioned" in (row["create_options"] or ""):
        yield "partitioned"


def _column(row: Row, *, exact_default: bool) -> Column:
    type_text, extra = row["column_type"], row["extra"].lower()
    listed = re.match(r"(enum|set)\(", type_text)
    generated = row["generation_expression"] if "generated" in extra.replace("default_generated", "") else None
    return Column(
        row["column_name"],
        listed[1] if listed else plain_type(type_text),
        nullable=row["is_nullable"] == "YES",
        default=None if generated else _default(row, exact=exact_default),
        identity="auto_increment" if "auto_increment" in extra else "",
        generated=generated or None,
        values=tuple(value.replace("''", "'") for value in _QUOTED.findall(type_text)) if listed else (),
        comment=row["column_comment"],
    )


async def _column_rows(conn: AsyncConnection) -> Sequence[Sequence[Any]]:
    """(schema, table, column, type, comment) of every column, in order."""
    try:
        packed = [(*table, orjson.loads(columns)) for *table, columns in await read_rows(conn, _PACKED_COLUMNS)]
    except (DBAPIError, orjson.JSONDecodeError):
        # A server without JSON_ARRAYAGG, or one whose group_concat_max_len cut a very wide table.
        return await read_rows(conn, _COLUMNS)
    return [(schema, table, *facts) for schema, table, columns in packed for _, *facts in sorted(columns)]


@lru_cache(maxsize=1000)  # a schema has thousands of columns and a few dozen types
def plain_type(type_text: str) -> str:
    """A type without the display width of integers, which says nothing about the values; `tinyint(1)` keeps it."""
    return _WIDTH.sub(r"\1", type_text)


def _default(row: Row, *, exact: bool) -> str | None:
    """The default as SQL. MariaDB gives it *exact*ly; MySQL leaves the quotes of literals away."""
    value, extra = row["column_default"], row["extra"].lower()
    if value is None or (exact and value == "NULL"):
        return None
    is_sql = exact or "default_generated" in extra or value.upper().startswith("CURRENT_TIMESTAMP")
    if not is_sql and not _NUMBER.match(row["column_type"]):
        value = "'" + value.replace("'", "''") + "'"
    on_update = re.search(r"on update \S+", extra)
    return f"{value} {on_update[0]}" if on_update else str(value)


def _indexes(rows: Iterable[Row], quote: Quote) -> list[Index]:
    """Indexes from one table's rows, ordered by index name and position; the primary key is called PRIMARY."""
    return [_index(name, list(parts), quote) for name, parts in groupby(rows, key=lambda row: str(row["index_name"]))]


def _index(name: str, parts: Sequence[Row], quote: Quote) -> Index:
    method = parts[0]["index_type"].lower()
    return Index(
        name,
        tuple(row["column_name"] if name == "PRIMARY" else _index_part(row, quote) for row in parts),
        unique=not int(parts[0]["non_unique"]),
        method="" if method == "btree" else method,
    )


def _index_part(row: Row, quote: Quote) -> str:
    column = quote(row["column_name"]) if row["column_name"] else f"({row['expression']})"  # only MySQL has expressions
    prefix = f"({row['sub_part']})" if row["sub_part"] and row["index_type"] == "BTREE" else ""
    return f"{column}{prefix}{' desc' if row['collation'] == 'D' else ''}"


async def _foreign_keys(conn: AsyncConnection, names: Sequence[TableName]) -> list[ForeignKey]:
    """References that begin or end at one of *names*, by table and constraint."""
    by_names: BindParameter[Any] = bindparam("names", [tuple(name) for name in names], expanding=True)
    rules = _dicts(await conn.execute(text(_RULES).bindparams(by_names)))
    rule_of = {_constraint(rule): rule for rule in rules}
    parts = sorted(
        _dicts(await conn.execute(text(_KEYS).bindparams(by_names))),
        key=lambda row: (_constraint(row), row["ordinal_position"]),
    )
    return [_foreign_key(list(rows), rule_of.get(place, {})) for place, rows in groupby(parts, key=_constraint)]


def _constraint(row: Row) -> tuple[TableName, str]:
    return _address(row), row["constraint_name"]


def _foreign_key(parts: Sequence[Row], rule: Row) -> ForeignKey:
    first = parts[0]
    return ForeignKey(
        _address(first),
        tuple(row["column_name"] for row in parts),
        TableName(first["referenced_table_schema"], first["referenced_table_name"]),
        tuple(row["referenced_column_name"] for row in parts),
        on_delete=_action(rule.get("delete_rule")),
        on_update=_action(rule.get("update_rule")),
    )


def _action(rule: str | None) -> str:
    """InnoDB checks at once either way, so its RESTRICT is the default, as NO ACTION is."""
    return "" if rule == "RESTRICT" else action(rule)


async def lasting(connection: AsyncConnection, names: Collection[str]) -> str:
    """Why what a statement with these *names* does would outlast a rollback; "" where nothing without transactions is
    within its reach.
    """
    careless = {str(name).lower(): engine for name, engine in await connection.execute(text(_CARELESS))}
    if not careless:
        return ""
    if found := sorted(careless.keys() & set(names)):
        return f"{found[0]} is kept by {careless[found[0]]}, which has no transactions: nothing can be taken back"
    leading = {str(name).lower() for (name,) in await connection.execute(text(_LEADING))}
    if found := sorted(leading & set(names)):
        return f"{found[0]} (a view, or a table with triggers) may lead to tables without transactions"
    return ""


_CARELESS = """
SELECT t.table_name, t.engine
FROM information_schema.tables t JOIN information_schema.engines e ON e.engine = t.engine
WHERE t.table_type = 'BASE TABLE' AND COALESCE(e.transactions, 'NO') <> 'YES'
  AND t.table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
"""
_LEADING = """
SELECT table_name FROM information_schema.views WHERE table_schema NOT IN ('mysql', 'sys')
UNION SELECT event_object_table FROM information_schema.triggers
"""
