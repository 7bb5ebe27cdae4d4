"""What an error should teach: nearest names, the columns there are, the quoting a name needs, a note on the dialect."""

import difflib
import re
from collections.abc import Awaitable, Callable

from manydb import reflection
from manydb.dialects import Dialect
from manydb.dialects.schema import ColumnEntry, Snapshot
from manydb.errors import ManydbError, SqlSyntax, UnknownColumn, UnknownTable
from manydb.statements import Statement

_MAX_TABLES = 5
_MAX_COLUMNS = 60
_QUOTED = re.compile(r"""["'`]([^"'`]+)["'`]|(?:column:?|table:?) ([\w.$]+)""")


async def add(
    error: ManydbError, statement: Statement, dialect: Dialect, read_snapshot: Callable[[], Awaitable[Snapshot]]
) -> None:
    """Complete *error* in place."""
    if isinstance(error, SqlSyntax) and dialect.note:
        error.details.setdefault("note", f"{dialect.title}: {dialect.note}")
    snapshot = await read_snapshot()
    if isinstance(error, UnknownTable):
        error.suggestions = _nearest_tables(statement, snapshot, dialect)
    elif isinstance(error, UnknownColumn):
        columns = _columns_of(statement, snapshot)
        error.details["columns"] = {table: names[:_MAX_COLUMNS] for table, names in list(columns.items())[:_MAX_TABLES]}
        error.suggestions = _nearest_columns(error.message, columns, dialect)
    elif isinstance(error, SqlSyntax):
        error.suggestions = _names_to_quote(error.message, snapshot, dialect)


def _nearest_tables(statement: Statement, snapshot: Snapshot, dialect: Dialect) -> list[str]:
    near: list[str] = []
    for schema, name in statement.tables:
        if not _resolves(snapshot, schema, name):
            near += reflection.suggest(snapshot.overview, name, dialect.quote, schema)
    return list(dict.fromkeys(near))[:5]


def _resolves(snapshot: Snapshot, schema: str | None, name: str) -> bool:
    found = snapshot.overview.by_folded_name.get(name.casefold(), [])
    return any(each.name == name and (each.schema == schema or (schema is None and each.visible)) for each in found)


def _columns_of(statement: Statement, snapshot: Snapshot) -> dict[str, list[str]]:
    """The columns of every table that the statement names."""
    named = {(schema and schema.casefold(), name.casefold()) for schema, name in statement.tables}

    def is_named(column: ColumnEntry) -> bool:
        table = column.table.casefold()
        return (None, table) in named or (column.schema.casefold(), table) in named

    columns: dict[str, list[str]] = {}
    for column in snapshot.columns:
        if is_named(column):
            columns.setdefault(column.table, []).append(column.name)
    return columns


def _nearest_columns(message: str, columns: dict[str, list[str]], dialect: Dialect) -> list[str]:
    known = {name.casefold(): name for names in columns.values() for name in names}
    for match in _QUOTED.finditer(message):
        wanted = (match[1] or match[2]).rpartition(".")[2].casefold()
        if near := difflib.get_close_matches(wanted, known, n=3, cutoff=0.6):
            return [dialect.quote(known[name]) for name in near]
    return []


def _names_to_quote(message: str, snapshot: Snapshot, dialect: Dialect) -> list[str]:
    """A table or column called like a keyword, where the database stumbled over it."""
    words = {
        word.casefold() for match in _QUOTED.finditer(message) for word in re.findall(r"\w+", match[1] or match[2])
    }
    names = [relation.name for relation in snapshot.overview.relations] + [column.name for column in snapshot.columns]
    found = [dialect.quote(name) for name in dict.fromkeys(names) if name.casefold() in words]
    return [name for name in found if not name.isidentifier()][:3]
