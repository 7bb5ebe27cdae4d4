"""SQLite files, through aiosqlite: one thread a connection, and an authorizer that no statement can talk to."""

import sqlite3
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from manydb import errors
from manydb.dialects import base
from manydb.dialects.execution import driver
from manydb.dialects.loading import Load, Loader
from manydb.dialects.powers import Powers
from manydb.dialects.rows import Rows
from manydb.dialects.sqlite import authorizer, catalog, execution, grammar, loading, powers
from manydb.dialects.sqlite import comparing as _comparing  # noqa: F401 - SQLAlchemy learns from it how to compile
from manydb.dialects.sqlite.opened import Opened, Reader
from manydb.settings import Access, Isolation

_LIMITS = {
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LENGTH: 50_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 500,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_BUSY_SECONDS = 2.0
_TAKE_SNAPSHOT = "SELECT 1 FROM sqlite_master LIMIT 1"
"""With it the file is locked for reading: no later statement of the transaction finds it busy."""
# SQLite's primary result codes; the extended ones have them in their low byte.
_CODES: dict[int, type[errors.ManydbError]] = {
    code: kind
    for kind, codes in {
        errors.Forbidden: (sqlite3.SQLITE_PERM,),
        errors.Conflict: (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        errors.ReadOnly: (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH),
        errors.StatementTimeout: (sqlite3.SQLITE_INTERRUPT,),
        errors.Unreachable: (
            *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL),
            *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB),
        ),
        errors.TooLarge: (sqlite3.SQLITE_TOOBIG,),
        errors.ConstraintViolated: (sqlite3.SQLITE_CONSTRAINT,),
        errors.BadParameter: (sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE),
    }.items()
    for code in codes
}


class SQLite(base.Dialect):
    name = "sqlite"
    title = "SQLite"
    default_driver = "aiosqlite"
    schemes = ("sqlite",)
    case_sensitive_names = False
    options = {"mode": "mode", "uri": "uri", "timeout": "timeout"}  # noqa: RUF012 - as the base declares it
    grammar = grammar.GRAMMAR
    catalog = catalog.SQLiteCatalog()
    explain_prefix = "EXPLAIN QUERY PLAN "
    note = (
        "dates are text: date('now', '-7 days'), strftime('%Y-%m', column); || joins strings; no ILIKE, "
        "LIKE ignores case"
    )

    def normalise(self, url: URL) -> URL:
        """An absolute path, or ``:memory:``; a ``file:`` name is its path."""
        if url.host or url.username or url.password or url.port:
            raise errors.BadParameter(
                "a SQLite URL has three slashes and a path: sqlite:///shop.db or sqlite:////data/shop.db"
            )
        name, _, inner = (url.database or ":memory:").partition("?")
        if name.startswith("file:"):
            pairs = dict(pair.split("=", 1) for pair in inner.split("&") if "=" in pair)
            return self.normalise(url.set(database=name.removeprefix("file:"), query={**url.query, **pairs}))
        plain = super().normalise(url)
        query = {key: value for key, value in plain.query.items() if key == "timeout"}
        if plain.query.get("mode", "rw") not in {"ro", "rw"}:
            raise errors.BadParameter("mode is ro or rw: a file that does not exist is never made")
        if name == ":memory:":
            return plain.set(database=name, query={})
        if name.startswith("~"):
            raise errors.BadParameter("write the path of a SQLite file in full, without '~'")
        return plain.set(database=str(Path(url.database or "").absolute()), query=query)

    def location(self, url: URL) -> str:
        return url.database or ":memory:"

    def is_shared(self, url: URL) -> bool:
        return url.database != ":memory:"

    def driver_url(self, url: URL, access: Access) -> URL:
        if url.database == ":memory:":
            return url.set(query={})
        mode = "ro" if access == "read_only" else "rw"
        return url.set(database=f"file:{quote(url.database or '')}", query={"mode": mode, "uri": "true"})

    def connect_args(self, url: URL, access: Access, connect_timeout: float) -> dict[str, Any]:  # noqa: ARG002
        path = url.database or ":memory:"
        if path != ":memory:" and not Path(path).is_file():
            raise errors.Unreachable(f"there is no database file {path}")
        return {
            "timeout": min(float(str(url.query.get("timeout", _BUSY_SECONDS))), 60),
            "cached_statements": 0,
            "factory": Reader if access == "read_only" else Opened,
        }

    def engine_options(self, url: URL, access: Access) -> dict[str, Any]:  # noqa: ARG002
        options: dict[str, Any] = {"poolclass": AsyncAdaptedQueuePool, "skip_autocommit_rollback": True}
        if url.database == ":memory:":
            # The data live as long as the one connection does.
            options |= {"pool_size": 1, "pool_recycle": -1}
        return options

    def on_connect(self, dbapi: Any, access: Access) -> None:
        dbapi.run_async(lambda raw: _set_up(raw, access))

    def is_clean(self, raw: Any, access: Access) -> bool:
        return access != "admin" and not raw.in_transaction

    async def scrub(self, raw: Any, record: ConnectionPoolEntry, access: Access) -> None:
        if raw.in_transaction:
            await raw.rollback()
        if access == "admin":
            # Its user may have made temporary tables or set pragmas, which nothing takes back.
            record.invalidate()

    async def begin(
        self,
        connection: AsyncConnection,
        *,
        read_only: bool,
        timeout: float,  # noqa: ASYNC109
        isolation: Isolation | None = None,  # noqa: ARG002 - transactions here are serializable, whatever is asked for
        alone: bool = False,
    ) -> None:
        raw: Any = driver(connection)
        opened = _opened(raw)
        opened.deadline.moment = time.monotonic() + timeout
        opened.reads_alone = read_only and alone
        if opened.reads_alone:
            return  # a statement without a transaction reads in one of its own

        def begin() -> None:
            if not opened.in_transaction:
                opened.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")
            if read_only:
                opened.execute(_TAKE_SNAPSHOT).close()

        await raw._execute(opened.patiently, begin)  # noqa: SLF001 - one visit to the connection's thread instead of two

    async def limit(self, connection: AsyncConnection, timeout: float) -> None:  # noqa: ASYNC109
        _opened(driver(connection)).deadline.moment = time.monotonic() + timeout

    async def is_open(self, connection: AsyncConnection) -> bool:
        # An interrupted write takes its whole transaction with it.
        raw: Any = driver(connection)
        return bool(raw.in_transaction)

    async def execute(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int) -> Rows:
        return await execution.execute(connection, sql, args, limit)

    async def fetch(
        self,
        connection: AsyncConnection,
        sql: str,
        args: tuple[Any, ...],
        limit: int,
        *,
        goes_on: bool = False,  # noqa: ARG002
    ) -> Rows:
        return await execution.fetch(connection, sql, args, limit)

    def stream(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
        return execution.stream(connection, sql, args)

    async def loader(self, connection: AsyncConnection, load: Load) -> Loader:  # noqa: ARG002
        return loading.Inserts.of(load, self.error)

    async def stop(self, raw: Any, side: Any) -> None:  # noqa: ARG002
        # An interrupt alone misses the statement that still waits for the connection's thread.
        _opened(raw).deadline.moment = 0
        await raw.interrupt()

    async def server_version(self, connection: AsyncConnection) -> str:
        return f"{self.title} {(await connection.exec_driver_sql('SELECT sqlite_version()')).scalar_one()}"

    async def powers(self, connection: AsyncConnection) -> Powers | None:
        return await powers.powers(connection)

    def error(self, exc: BaseException) -> errors.ManydbError:
        cause = base.original(exc)
        code = getattr(cause, "sqlite_errorcode", None)
        message = str(cause)
        if not isinstance(cause, sqlite3.Error):
            return super().error(exc)
        # SQLite has one code for everything a statement may get wrong; its sentences are fixed in its source.
        if "no such table" in message:
            return errors.UnknownTable(message)
        if "no such column" in message or "has no column named" in message:
            return errors.UnknownColumn(message)
        kind = _CODES.get(code & 0xFF) if isinstance(code, int) else None
        return (kind or errors.SqlSyntax)(message)


def _opened(raw: Any) -> Opened:
    return cast("Opened", raw._conn)  # noqa: SLF001 - aiosqlite has no public name for it


async def _set_up(raw: Any, access: Access) -> None:
    """Limits and pragmas first, the authorizer last: afterwards nothing can change them."""

    def run(connection: sqlite3.Connection) -> None:
        for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        if access == "read_only":
            connection.execute("PRAGMA query_only = ON")
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        connection.isolation_level = None
        connection.set_authorizer(authorizer.for_access(access))

    await raw._execute(run, raw._conn)  # noqa: SLF001 - one hop to the connection's thread instead of ten
