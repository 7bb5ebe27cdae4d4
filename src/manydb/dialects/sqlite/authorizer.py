"""What SQLite asks before it compiles any part of a statement, and our answers: everything not listed is denied."""

import sqlite3
from collections.abc import Callable

from manydb.settings import Access

Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]

_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
}
_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}
_NEVER = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"}
_PRAGMAS_WITH_ARGUMENT = {
    "table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list",
}  # fmt: skip
_PRAGMAS_WITHOUT_ARGUMENT = {
    "application_id", "collation_list", "compile_options", "data_version", "database_list", "encoding", "foreign_keys",
    "freelist_count", "function_list", "journal_mode", "module_list", "page_count", "page_size", "pragma_list",
    "query_only", "read_uncommitted", "schema_version", "table_list", "user_version",
}  # fmt: skip
_SCHEMA_TABLES = {"sqlite_master", "sqlite_schema"}
_SCHEMA_COLUMNS = {"type", "name", "tbl_name", "rootpage", "sql"}


def for_access(access: Access) -> Authorizer:
    """The authorizer of a connection with *access*: reads; DML too; or everything but other files and extensions."""

    def authorize(
        action: int, first: str | None, second: str | None, _database: str | None, trigger: str | None
    ) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            allowed = (second or "").lower() not in _FORBIDDEN_FUNCTIONS
        elif action == sqlite3.SQLITE_PRAGMA:
            allowed = access == "admin" or _pragma_reads((first or "").lower(), second)
        elif action in _READS:
            allowed = True
        elif action in _NEVER:
            allowed = False
        elif access == "admin":
            allowed = True
        elif action in _WRITES and (first or "").lower() not in _SCHEMA_TABLES:
            allowed = access == "read_write"
        else:
            allowed = _declares_virtual_table(action, first, second, trigger)
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize


def _pragma_reads(name: str, argument: str | None) -> bool:
    return name in (_PRAGMAS_WITHOUT_ARGUMENT if argument is None else _PRAGMAS_WITH_ARGUMENT)


def _declares_virtual_table(action: int, table: str | None, column: str | None, trigger: str | None) -> bool:
    """json_each, pragma_table_info() and FTS5 announce their columns as an update of the schema table; none happens."""
    return (
        action == sqlite3.SQLITE_UPDATE and table == "sqlite_master" and column in _SCHEMA_COLUMNS and trigger is None
    )
