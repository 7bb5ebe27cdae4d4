"""What MySQL and MariaDB tell of tables that are named.

MariaDB opens a table's files for each row of information_schema unless schema and name are given as constants; hence
UNION branches for each table in place of a list of names.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.catalog import Quote, quoting
from manydb.dialects.execution import driver
from manydb.dialects.mysql import wire
from manydb.dialects.schema import Column, Index, Table, TableName, in_order

Row = dict[str, Any]
"""A row of information_schema; keys in lower case, as MySQL 8 writes them in upper case and MariaDB as in the query."""

# All of a table in one round trip: the part that a row tells of, schema, table, place, and what _PARTS names, as texts
# that are cast because a UNION needs one collation. {expression} stands for what only MySQL has.
_DESCRIBE = """
SELECT 'table', :schema, :name, 0, CAST(table_type AS CHAR), CAST(engine AS CHAR),
       CAST(table_comment AS CHAR), CAST(create_options AS CHAR), NULL, NULL, NULL
FROM information_schema.tables WHERE table_schema = :schema AND table_name = :name
UNION ALL
SELECT 'column', :schema, :name, ordinal_position, CAST(column_name AS CHAR), CAST(column_type AS CHAR),
       CAST(is_nullable AS CHAR), CAST(column_default AS CHAR), CAST(extra AS CHAR), CAST(column_comment AS CHAR),
       CAST(generation_expression AS CHAR)
FROM information_schema.columns WHERE table_schema = :schema AND table_name = :name
UNION ALL
SELECT 'index', :schema, :name, seq_in_index, CAST(index_name AS CHAR), CAST(non_unique AS CHAR),
       CAST(index_type AS CHAR), CAST(column_name AS CHAR), CAST(sub_part AS CHAR), CAST(collation AS CHAR),
       {expression}
FROM information_schema.statistics WHERE table_schema = :schema AND table_name = :name"""
_PARTS = {
    "table": ("table_type", "engine", "table_comment", "create_options"),
    "column": (
        "column_name",
        "column_type",
        "is_nullable",
        "column_default",
        "extra",
        "column_comment",
        "generation_expression",
    ),
    "index": ("index_name", "non_unique", "index_type", "column_name", "sub_part", "collation", "expression"),
    "check": ("constraint_name", "check_clause"),
}

# Only MariaDB tells here which table a check belongs to; its names are unique in a table, MySQL's in a schema.
_MARIADB_CHECKS = """
UNION ALL
SELECT 'check', :schema, :name, 0, CAST(constraint_name AS CHAR), CAST(check_clause AS CHAR),
       NULL, NULL, NULL, NULL, NULL
FROM information_schema.check_constraints WHERE constraint_schema = :schema AND table_name = :name"""
_MYSQL_CHECKS = """
UNION ALL
SELECT 'check', :schema, :name, 0, CAST(c.constraint_name AS CHAR), CAST(c.check_clause AS CHAR),
       NULL, NULL, NULL, NULL, NULL
FROM information_schema.table_constraints t
JOIN information_schema.check_constraints c USING (constraint_schema, constraint_name)
WHERE t.constraint_type = 'CHECK' AND t.table_schema = :schema AND t.table_name = :name"""
_VIEW = """SELECT :schema, :name, view_definition
FROM information_schema.views WHERE table_schema = :schema AND table_name = :name"""

_BATCH = 10
NO_LIMIT = 2**64 - 1
_PLACEHOLDER = re.compile(r":(?:schema|name)\b")

_FIRST_MYSQL_WITH_CHECKS = (8, 0, 16)
FIRST_MYSQL_WITH_EXPRESSIONS = (8, 0, 13)

_WIDTH = re.compile(r"^(tinyint(?!\(1\))|smallint|mediumint|int|bigint)\(\d+\)(?!.*zerofill)")
_QUOTED = re.compile(r"'((?:[^']|'')*)'")
_JSON_CHECK = re.compile(r"^json_valid\(`(.+)`\)$")
_NUMBER = re.compile(r"^(tinyint|smallint|mediumint|int|bigint|decimal|float|double|bit|year)")


async def tables(conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
    """The tables and views called *names*, in that order, without their references."""
    if not names:
        return []
    parts = await _parts(conn, names)
    definitions = await _definitions(conn, [address_of(row) for row in parts["table"] if row["table_type"] == "VIEW"])
    column_rows = _by_table(parts["column"], "place")
    index_rows = _by_table(parts["index"], "index_name", "place")
    check_rows = _by_table(parts["check"], "constraint_name")
    exact, quote = is_mariadb(conn), quoting(conn)
    found = (
        _table(
            row,
            columns=[_column(column, exact_default=exact) for column in column_rows.get(address_of(row), [])],
            indexes=indexes_of(index_rows.get(address_of(row), []), quote),
            checks=[check["check_clause"] for check in check_rows.get(address_of(row), [])],
            definition=definitions.get(address_of(row), ""),
        )
        for row in parts["table"]
    )
    return in_order(found, names)


def is_mariadb(conn: AsyncConnection) -> bool:
    return bool(getattr(conn.dialect, "is_mariadb", False))


def is_mysql_from(conn: AsyncConnection, version: tuple[int, ...]) -> bool:
    return not is_mariadb(conn) and (conn.dialect.server_version_info or ()) >= version


async def _parts(conn: AsyncConnection, names: Sequence[TableName]) -> dict[str, list[Row]]:
    """The rows that tell of *names*, by the part that they tell of."""
    has_expressions = is_mysql_from(conn, FIRST_MYSQL_WITH_EXPRESSIONS)
    query = _DESCRIBE.format(expression="CAST(expression AS CHAR)" if has_expressions else "NULL")
    if is_mariadb(conn):
        query += _MARIADB_CHECKS
    elif is_mysql_from(conn, _FIRST_MYSQL_WITH_CHECKS):
        query += _MYSQL_CHECKS
    found: dict[str, list[Row]] = {part: [] for part in _PARTS}
    for part, schema, name, place, *facts in await _read(conn, query, names):
        row = {"table_schema": schema, "table_name": name, "place": int(place)}
        found[part].append(row | dict(zip(_PARTS[part], facts, strict=False)))
    return found


async def _definitions(conn: AsyncConnection, views: Sequence[TableName]) -> dict[TableName, str]:
    return {TableName(schema, name): told for schema, name, told in await _read(conn, _VIEW, views)}


async def _read(conn: AsyncConnection, query: str, names: Sequence[TableName]) -> Sequence[Sequence[Any]]:
    """The rows of *query* for all *names*, as texts, in one round trip where they are few."""
    literal: Callable[[str], str] = driver(conn).escape
    found: list[Sequence[Any]] = []
    for first in range(0, len(names), _BATCH):
        branches = [_about(query, name, literal) for name in names[first : first + _BATCH]]
        # Without a limit of its own, it would have the one that the session was told for the last statement.
        async with wire.asked(conn, f"{' UNION ALL '.join(branches)} LIMIT {NO_LIMIT}") as answer:
            found += await answer.rows([bytes.decode] * len(answer.fields), NO_LIMIT)
    return found


def _about(query: str, name: TableName, literal: Callable[[str], str]) -> str:
    values = {":schema": literal(name.schema), ":name": literal(name.name)}
    return _PLACEHOLDER.sub(lambda match: values[match[0]], query)


def address_of(row: Row) -> TableName:
    return TableName(row["table_schema"], row["table_name"])


def _by_table(rows: Iterable[Row], *order: str) -> dict[TableName, list[Row]]:
    def place(row: Row) -> tuple[Any, ...]:
        return (address_of(row), *(row[key] for key in order))

    return {address: list(group) for address, group in groupby(sorted(rows, key=place), key=address_of)}


def _table(
    row: Row,
    *,
    columns: Iterable[Column],
    indexes: Sequence[Index],
    checks: Sequence[str],
    definition: str,
) -> Table:
    is_view, address = row["table_type"] == "VIEW", address_of(row)
    json_columns = {match[1] for check in checks if (match := _JSON_CHECK.match(check))}
    return Table(
        *address,
        "view" if is_view else "table",
        comment="" if is_view else row["table_comment"],
        columns=tuple(_as_json(column) if column.name in json_columns else column for column in columns),
        primary_key=next((index.columns for index in indexes if index.name == "PRIMARY"), ()),
        indexes=tuple(index for index in indexes if index.name != "PRIMARY"),
        checks=tuple(check for check in checks if not _JSON_CHECK.match(check)),
        definition=unqualified(definition, address.schema),
        notes=tuple(_notes(row)),
    )


def unqualified(definition: str, schema: str) -> str:
    """A view's query without its own *schema*, by which the server qualifies every name."""
    return definition.replace(f"`{schema}`.", "")


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
    generated = generated_by(extra, row["generation_expression"])
    return Column(
        row["column_name"],
        listed[1] if listed else plain_type(type_text),
        nullable=row["is_nullable"] == "YES",
        default=None if generated else _default(row, exact=exact_default),
        identity="auto_increment" if "auto_increment" in extra else "",
        generated=generated,
        values=tuple(value.replace("''", "'") for value in _QUOTED.findall(type_text)) if listed else (),
        comment=row["column_comment"],
    )


def generated_by(extra: str, expression: str | None) -> str | None:
    return (expression or None) if "generated" in extra.replace("default_generated", "") else None


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


def indexes_of(rows: Iterable[Row], quote: Quote) -> list[Index]:
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
