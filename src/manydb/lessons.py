"""What an error should teach: nearest names, the columns there are, the quoting a name needs, a note on the dialect."""

import re
from collections.abc import Awaitable, Callable

from manydb import names
from manydb.dialects import Dialect
from manydb.dialects.schema import Snapshot, TableName
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
        columns = _columns_of(statement, snapshot, dialect)
        error.details["columns"] = {table: names[:_MAX_COLUMNS] for table, names in list(columns.items())[:_MAX_TABLES]}
        error.suggestions = _nearest_columns(error.message, columns, dialect)
        if dialect.note and _is_quoted_text(error.message, statement):
            error.details["note"] = f"{dialect.title}: {dialect.note}"
    elif isinstance(error, SqlSyntax):
        error.suggestions = _names_to_quote(error.message, snapshot, dialect)


def _nearest_tables(statement: Statement, snapshot: Snapshot, dialect: Dialect) -> list[str]:
    near: list[str] = []
    for schema, name in statement.tables:
        if not _resolves(snapshot, schema, name):
            near += names.suggest(snapshot.overview, name, dialect.quote, schema)
    return list(dict.fromkeys(near))[:5]


def _resolves(snapshot: Snapshot, schema: str | None, name: str) -> bool:
    found = snapshot.overview.by_folded_name.get(name.casefold(), [])
    return any(each.name == name and (each.schema == schema or (schema is None and each.visible)) for each in found)


def _columns_of(statement: Statement, snapshot: Snapshot, dialect: Dialect) -> dict[str, list[str]]:
    """The columns of every table that the statement names, by the table's name as SQL needs it."""
    addresses = {address for schema, name in statement.tables for address in _meant(snapshot, schema, name)}
    columns: dict[str, list[str]] = {}
    for column in snapshot.columns:
        address = TableName(column.schema, column.table)
        if address in addresses:
            columns.setdefault(names.spelled(snapshot.overview, address, dialect.quote), []).append(column.name)
    return columns


def _meant(snapshot: Snapshot, schema: str | None, name: str) -> list[TableName]:
    """The relations that a statement calls *name*: without a schema those on the search path, if any is."""
    found = snapshot.overview.by_folded_name.get(name.casefold(), [])
    fitting = [each for each in found if schema is None or each.schema.casefold() == schema.casefold()]
    visible = [each for each in fitting if each.visible] if schema is None else []
    return [each.address for each in visible or fitting]


def _unknown_names(message: str) -> list[str]:
    """What the database says it does not know, without the table before it."""
    return [(match[1] or match[2]).rpartition(".")[2] for match in _QUOTED.finditer(message)]


def _nearest_columns(message: str, columns: dict[str, list[str]], dialect: Dialect) -> list[str]:
    known = [name for names in columns.values() for name in names]
    for wanted in _unknown_names(message):
        if near := names.suggest_columns(known, wanted):
            # A name of one or two letters is a part of nearly everything.
            return [dialect.quote(name) for name in near if len(name) > 2 or len(wanted) <= 3]
    return []


def _is_quoted_text(message: str, statement: Statement) -> bool:
    """Whether the unknown column stands in the statement as "text": other databases take that for a string."""
    quoted = (match[1] for match in _QUOTED.finditer(message) if match[1])
    return any(f'"{name}"' in statement.sql for name in quoted)


def _names_to_quote(message: str, snapshot: Snapshot, dialect: Dialect) -> list[str]:
    """Names like a keyword, where the database stumbled over one; from elsewhere only if there is none right here."""
    words = {
        word.casefold() for match in _QUOTED.finditer(message) for word in re.findall(r"\w+", match[1] or match[2])
    }
    relations = [each for word in words for each in snapshot.overview.by_folded_name.get(word, [])]
    spelled = [
        names.spelled(snapshot.overview, each.address, dialect.quote)
        for each in [each for each in relations if each.visible] or relations
        if dialect.quote(each.name) != each.name
    ]
    columns = dict.fromkeys(column.name for column in snapshot.columns if column.name.casefold() in words)
    spelled += [quoted for name in columns if (quoted := dialect.quote(name)) != name]
    return list(dict.fromkeys(spelled))[:3]
