"""Reading a schema through SQLAlchemy's Inspector: right for any dialect, several queries a table.

A database with its own catalog queries subclasses `Catalog` and answers in one query what is asked for in bulk.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.engine import Inspector
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import CompileError, NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncConnection

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
from manydb.slices import Turns

# What the databases reachable through SQLAlchemy call their own schemas.
SYSTEM_SCHEMAS = frozenset(
    {"information_schema", "pg_catalog", "pg_toast", "mysql", "performance_schema", "sys", "system", "temp"}
)


_AT_ONCE = 500
Quote = Callable[[str], str]
"""Writes a name as SQL needs it: with quotes only where they are needed."""


def quoting(conn: AsyncConnection) -> Quote:
    """How names are quoted in the database of *conn*."""
    return conn.dialect.identifier_preparer.quote


async def read_rows(conn: AsyncConnection, query: str) -> Sequence[Sequence[Any]]:
    """The rows of a catalog query of our own."""
    found = await conn.exec_driver_sql(query)
    turns, rows = Turns(), list[Sequence[Any]]()
    while some := found.fetchmany(_AT_ONCE):
        rows += some
        await turns.give()
    return rows


OPERATOR = "operator "
"""What stands before an operator among the functions that may act; no function's name holds a blank by chance."""


class Catalog:
    """How one database tells its schema. Only reads, so it works inside a read-only transaction."""

    operators_may_act: bool = False
    """Whether users define operators, which call functions without naming them."""
    describes_alone: bool = False
    """Whether `describe` and `acting_functions`, each a statement, may be sent together with what opens their
    transaction, as a `Dialect.fetch` may.
    """

    async def overview(self, conn: AsyncConnection) -> Overview:
        """Every table and view outside the system schemas."""
        return await conn.run_sync(_overview)

    async def columns(self, conn: AsyncConnection) -> tuple[ColumnEntry, ...]:
        """Every column of those tables and views, for a search."""
        return await conn.run_sync(_columns)

    async def indexes(self, conn: AsyncConnection) -> tuple[IndexEntry, ...]:
        """Every index of those tables, for a search; primary keys are left out."""
        return await conn.run_sync(_indexes)

    async def routines(self, conn: AsyncConnection) -> Sequence[tuple[str, str, str]]:  # noqa: ARG002
        """(name, text, operators that call it, separated by blanks) of each function and procedure of the users'.

        A text that cannot be read is empty.
        """
        return ()

    async def parents(self, conn: AsyncConnection) -> Mapping[TableName, TableName]:  # noqa: ARG002
        """Partitions and inheriting tables, and what they belong to."""
        return {}

    async def acting_functions(self, conn: AsyncConnection) -> frozenset[str]:  # noqa: ARG002 - for those who can tell
        """Names of functions that the database itself says may act and not only compute, in any schema.

        Operators of such functions are among them as `operator @+`, and as `operator LIKE` where a word calls one.
        """
        return frozenset()

    async def describe(self, conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
        """The tables called *names*, in that order; a name that does not exist (any more) is left out.

        What they refer to, and what refers to them, is not told: `references` are those of all tables.
        """
        return await conn.run_sync(_describe, names)

    async def references(self, conn: AsyncConnection) -> References:
        """Every foreign key. Few databases can tell who refers to one table without a look at all of them."""
        return References(tuple(await conn.run_sync(lambda connection: _foreign_keys(inspect(connection)))))

    async def outlines(self, conn: AsyncConnection, overview: Overview) -> Iterable[Table]:
        """What lineage needs to know of all tables and views of *overview*, and maybe no more.

        That is: names of columns, in order, what generated ones are made of, queries of views, notes of virtual tables.
        """
        return await self.describe(conn, list(overview.by_address))


def _schemas(inspector: Inspector) -> Iterator[tuple[str, str | None]]:
    """(name, argument for the Inspector) of each schema; a database without schemas has one called ""."""
    default = inspector.default_schema_name
    names = [name for name in inspector.get_schema_names() if name.casefold() not in SYSTEM_SCHEMAS]
    for name in names or [default or ""]:
        yield name, name or None


def _relation_names(inspector: Inspector, schema: str | None) -> Iterator[tuple[str, Kind]]:
    for name in inspector.get_table_names(schema):
        yield name, "table"
    for name in inspector.get_view_names(schema):
        yield name, "view"
    try:
        for name in inspector.get_materialized_view_names(schema):
            yield name, "materialized_view"
    except NotImplementedError:
        return


def _comments(inspector: Inspector, schema: str | None) -> Mapping[str, str]:
    try:
        found = inspector.get_multi_table_comment(schema, kind=ObjectKind.ANY)
    except NotImplementedError:
        return {}
    return {name: comment["text"] or "" for (_, name), comment in found.items()}


def _overview(connection: Connection) -> Overview:
    inspector = inspect(connection)
    default = inspector.default_schema_name
    relations = []
    for schema, argument in _schemas(inspector):
        comments = _comments(inspector, argument)
        relations += [
            Relation(schema, name, kind, visible=schema == (default or schema), comment=comments.get(name, ""))
            for name, kind in _relation_names(inspector, argument)
        ]
    return Overview(tuple(relations), default)


def _columns(connection: Connection) -> tuple[ColumnEntry, ...]:
    inspector = inspect(connection)
    return tuple(
        ColumnEntry(schema, table, column["name"], _type_text(inspector, column["type"]), column.get("comment") or "")
        for schema, argument in _schemas(inspector)
        for (_, table), columns in inspector.get_multi_columns(argument, kind=ObjectKind.ANY).items()
        for column in columns
    )


def _indexes(connection: Connection) -> tuple[IndexEntry, ...]:
    inspector = inspect(connection)
    return tuple(
        IndexEntry(schema, table, index["name"] or "", _index_columns(inspector, index), bool(index["unique"]))
        for schema, argument in _schemas(inspector)
        for (_, table), indexes in inspector.get_multi_indexes(argument).items()
        for index in indexes
    )


def _index_columns(inspector: Inspector, index: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns as SQL text; *expressions*, where there are any, repeats the plain names in their places."""
    quote = inspector.dialect.identifier_preparer.quote
    texts = index.get("expressions") or index["column_names"]
    return tuple(
        text or "" if name is None else quote(name) for name, text in zip(index["column_names"], texts, strict=True)
    )


def _type_text(inspector: Inspector, column_type: Any) -> str:
    try:
        return str(column_type.compile(dialect=inspector.dialect)).lower()
    except CompileError:  # a type that SQLAlchemy does not know: it says no more than that
        return ""


def _describe(connection: Connection, names: Sequence[TableName]) -> list[Table]:
    inspector = inspect(connection)
    found = []
    for schema in dict.fromkeys(name.schema for name in names):
        kinds = dict(_relation_names(inspector, schema or None))
        asked = [name for name in names if name.schema == schema and name.name in kinds]
        found += [_table(inspector, name, kinds[name.name]) for name in asked]
    return in_order(found, names)


def _table(inspector: Inspector, address: TableName, kind: Kind) -> Table:
    schema, name = address.schema or None, address.name
    columns = tuple(_column(inspector, column) for column in inspector.get_columns(name, schema))
    if kind in {"view", "materialized_view"}:
        definition = inspector.get_view_definition(name, schema)
        return Table(*address, kind, _comment(inspector, address), columns, definition=definition)
    return Table(
        *address,
        kind,
        _comment(inspector, address),
        columns,
        primary_key=tuple(inspector.get_pk_constraint(name, schema)["constrained_columns"]),
        indexes=tuple(_all_indexes(inspector, address)),
        checks=_checks(inspector, address),
    )


def _comment(inspector: Inspector, address: TableName) -> str:
    try:
        return inspector.get_table_comment(address.name, address.schema or None)["text"] or ""
    except (NotImplementedError, NoSuchTableError):  # some dialects know comments of tables, but not of views
        return ""


def _column(inspector: Inspector, column: Mapping[str, Any]) -> Column:
    identity = "identity" if column.get("identity") else ""
    return Column(
        column["name"],
        _type_text(inspector, column["type"]),
        nullable=bool(column["nullable"]),
        default=None if identity else column["default"],
        identity=identity,
        generated=(column.get("computed") or {}).get("sqltext"),
        comment=column.get("comment") or "",
    )


def _all_indexes(inspector: Inspector, address: TableName) -> Iterator[Index]:
    schema, name = address.schema or None, address.name
    quote = inspector.dialect.identifier_preparer.quote
    seen = set()
    for index in inspector.get_indexes(name, schema):
        seen.add(index["name"])
        yield Index(index["name"] or "", _index_columns(inspector, index), unique=bool(index["unique"]))
    for unique in inspector.get_unique_constraints(name, schema):
        if unique["name"] not in seen or not unique["name"]:
            yield Index(unique["name"] or "", tuple(map(quote, unique["column_names"])), unique=True)


def _checks(inspector: Inspector, address: TableName) -> tuple[str, ...]:
    try:
        found = inspector.get_check_constraints(address.name, address.schema or None)
    except NotImplementedError:
        return ()
    return tuple(check["sqltext"] for check in found)


def _foreign_keys(inspector: Inspector) -> list[ForeignKey]:
    """Every reference of the database. A target without a schema is one on the search path."""
    default = inspector.default_schema_name
    return [
        ForeignKey(
            TableName(schema, table),
            tuple(key["constrained_columns"]),
            TableName(key["referred_schema"] or default or schema, key["referred_table"]),
            tuple(key["referred_columns"]),
            on_delete=action(key["options"].get("ondelete")),
            on_update=action(key["options"].get("onupdate")),
        )
        for schema, argument in _schemas(inspector)
        for (_, table), keys in inspector.get_multi_foreign_keys(argument).items()
        for key in keys
    ]


def action(rule: str | None) -> str:
    """A referential action in lower case; empty for the standard's default."""
    text = (rule or "").lower()
    return "" if text == "no action" else text
