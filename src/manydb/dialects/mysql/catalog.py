"""MySQL's and MariaDB's schema from information_schema."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, TypeVar

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import slices
from manydb.dialects.catalog import Catalog, action, quoting
from manydb.dialects.mysql import describing, wire
from manydb.dialects.mysql.describing import NO_LIMIT, Row, plain_type
from manydb.dialects.schema import (
    Column,
    ColumnEntry,
    ForeignKey,
    IndexEntry,
    Overview,
    References,
    Relation,
    Table,
    TableName,
)

T = TypeVar("T")

_PART = 200
"""Rows that are taken at a time."""
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

_INDEX_FACTS = (
    *("table_schema", "table_name", "index_name", "non_unique", "index_type"),
    *("column_name", "sub_part", "collation", "expression"),
)
# Only MySQL has indexes on expressions. All columns of this view would take three times as long to read.
_INDEXES = f"""
SELECT {", ".join(_INDEX_FACTS[:-1])}, {{expression}}
FROM information_schema.statistics WHERE table_schema {_USER_SCHEMA} AND index_name <> 'PRIMARY'
ORDER BY table_schema, table_name, index_name, seq_in_index"""
_OUTLINED_COLUMNS = f"""
SELECT table_schema, table_name,
       JSON_ARRAYAGG(JSON_ARRAY(ordinal_position, column_name, extra, generation_expression))
FROM information_schema.columns WHERE table_schema {_USER_SCHEMA}
GROUP BY table_schema, table_name"""
_OUTLINED_VIEWS = f"""
SELECT table_schema, table_name, view_definition FROM information_schema.views WHERE table_schema {_USER_SCHEMA}"""
# Columns and rules are read apart: MariaDB would read one view again for each row of the other.
_KEY_FACTS = (
    *("table_schema", "table_name", "constraint_name", "ordinal_position", "column_name"),
    *("referenced_table_schema", "referenced_table_name", "referenced_column_name"),
)
_KEYS = f"""
SELECT {", ".join(_KEY_FACTS)}
FROM information_schema.key_column_usage WHERE referenced_table_name IS NOT NULL"""
_RULE_FACTS = ("table_schema", "table_name", "constraint_name", "delete_rule", "update_rule")
_RULES = """
SELECT constraint_schema, table_name, constraint_name, delete_rule, update_rule
FROM information_schema.referential_constraints"""

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
        ((default,),) = await _rows(conn, "SELECT database()", _whole)
        return Overview(tuple(await _rows(conn, _OVERVIEW, partial(_relation, default))), default)

    async def columns(self, conn: AsyncConnection) -> tuple[ColumnEntry, ...]:
        found = await _columns(conn)
        # Asking for sequences takes as long as all the rest, so only where something looks like one.
        if not any(entry.name == _SEQUENCE_COLUMN for entry in found):
            return tuple(found)
        sequences = {*await _rows(conn, _SEQUENCES, _whole)}
        return tuple(entry for entry in found if (entry.schema, entry.table) not in sequences)

    async def indexes(self, conn: AsyncConnection) -> tuple[IndexEntry, ...]:
        has_expressions = describing.is_mysql_from(conn, describing.FIRST_MYSQL_WITH_EXPRESSIONS)
        query = _INDEXES.format(expression="expression" if has_expressions else "NULL")
        found, quote = await _rows(conn, query, _dicts(*_INDEX_FACTS)), quoting(conn)
        return tuple(
            await slices.gathered(
                IndexEntry(address.schema, address.name, index.name, index.columns, index.unique)
                for address, rows in groupby(found, key=describing.address_of)
                for index in describing.indexes_of(rows, quote)
            )
        )

    async def routines(self, conn: AsyncConnection) -> Sequence[tuple[str, str, str]]:
        return await _rows(conn, _ROUTINES, lambda name, source: (name, source, ""))

    async def acting_functions(self, conn: AsyncConnection) -> frozenset[str]:
        return frozenset(await _rows(conn, _ACTING, str))

    async def describe(self, conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
        return await describing.tables(conn, names)

    async def references(self, conn: AsyncConnection) -> References:
        rules = await _rows(conn, _RULES, _dicts(*_RULE_FACTS))
        rule_of = {_constraint(rule): rule for rule in rules}
        columns = await _rows(conn, _KEYS, _dicts(*_KEY_FACTS))
        parts = sorted(columns, key=lambda row: (_constraint(row), int(row["ordinal_position"])))
        keys = (_foreign_key(list(rows), rule_of.get(place, {})) for place, rows in groupby(parts, key=_constraint))
        return References(tuple(await slices.gathered(keys)))

    async def outlines(self, conn: AsyncConnection, overview: Overview) -> Iterable[Table]:
        try:
            packed = await _rows(conn, _OUTLINED_COLUMNS, _whole)
            columns_of = dict(await slices.made_of(packed, lambda row: (TableName(*row[:2]), orjson.loads(row[2]))))
        except Exception as exc:  # as in _columns
            if not _is_unpacked(exc):
                raise
            return await super().outlines(conn, overview)
        definitions = {TableName(*view): told for *view, told in await _rows(conn, _OUTLINED_VIEWS, _whole)}
        return await slices.gathered(
            Table(
                *address,
                relation.kind,
                columns=tuple(_outlined(facts) for facts in sorted(columns_of.get(address, []), key=itemgetter(0))),
                definition=describing.unqualified(definitions.get(address, ""), address.schema),
            )
            for address, relation in overview.by_address.items()
        )


async def _rows(conn: AsyncConnection, query: str, make: Callable[..., T]) -> list[T]:
    """The rows of *query*, each as *make* makes it of its cells, which are texts or None; in slices."""
    found = list[T]()
    # Without a limit of its own, it would have the one that the session was told for the last statement.
    async with wire.asked(conn, f"{query} LIMIT {NO_LIMIT}") as answer:
        converters = [bytes.decode] * len(answer.fields)
        while answer.is_open:
            found += [make(*row) for row in await answer.rows(converters, _PART)]
            await answer.turns.give()
    return found


def _whole(*row: Any) -> tuple[Any, ...]:
    return row


def _dicts(*names: str) -> Callable[..., Row]:
    return lambda *row: dict(zip(names, row, strict=True))


def _relation(
    default: str | None, schema: str, name: str, table_type: str, comment: str, rows: str | None, columns: str | None
) -> Relation:
    is_view = table_type == "VIEW"
    return Relation(
        schema,
        name,
        "view" if is_view else "table",
        visible=schema == default,
        comment="" if is_view else comment,  # a view's says "VIEW"
        rows=None if is_view or rows is None else int(rows),
        columns=None if columns is None else int(columns),
    )


def _outlined(facts: Sequence[Any]) -> Column:
    _, name, extra, expression = facts
    return Column(name, "", generated=describing.generated_by(extra.lower(), expression))


async def _columns(conn: AsyncConnection) -> list[ColumnEntry]:
    """Every column, in order."""
    same: dict[str, str] = {}
    # Most texts are those of other columns, too: a schema is let go of in a fifth of the time.
    one = same.setdefault

    def entry(schema: str, table: str, name: str, type_text: str, comment: str) -> ColumnEntry:
        kind = plain_type(type_text)
        return ColumnEntry(one(schema, schema), one(table, table), one(name, name), kind, one(comment, comment))

    try:
        packed = await _rows(conn, _PACKED_COLUMNS, _whole)
        tables = await slices.made_of(
            packed, lambda row: [entry(*row[:2], *facts) for _, *facts in sorted(orjson.loads(row[2]))]
        )
    except Exception as exc:  # the drivers' error classes cannot be named here; their numbers can
        if not _is_unpacked(exc):
            raise
        return await _rows(conn, _COLUMNS, entry)
    return await slices.gathered(chain.from_iterable(tables))


def _is_unpacked(exc: Exception) -> bool:
    """Whether a server has no JSON_ARRAYAGG, or its group_concat_max_len cut a very wide table."""
    return isinstance(exc, orjson.JSONDecodeError) or exc.args[:1] in {(1064,), (1305,), (1630,)}


def _constraint(row: Row) -> tuple[TableName, str]:
    return describing.address_of(row), row["constraint_name"]


def _foreign_key(parts: Sequence[Row], rule: Row) -> ForeignKey:
    first = parts[0]
    return ForeignKey(
        describing.address_of(first),
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
