"""MySQL and MariaDB, through asyncmy or aiomysql."""

import asyncio
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any, cast

from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from manydb import errors
from manydb.dialects import base, drivers, tls
from manydb.dialects.loading import Load, Loader
from manydb.dialects.mysql import catalog, execution, grammar, loading, powers, wire
from manydb.dialects.mysql import comparing as _comparing  # noqa: F401 - SQLAlchemy learns from it how to compile
from manydb.dialects.powers import Powers
from manydb.dialects.rows import Rows
from manydb.settings import Access, Isolation

_COM_SET_OPTION, _COM_RESET_CONNECTION = 0x1B, 0x1F
_CLIENT_SSL, _CLIENT_MULTI_STATEMENTS = 0x800, 0x10000
_NO_SUCH_FUNCTION = 1305
_STANDING = "mysql standing"  # key in a pool entry's info, which lives as long as the driver's connection
_TIME_LIMIT = "mysql time limit"  # likewise: what the session was told
_LOCK_SECONDS = 2
_MULTI_STATEMENTS_OFF = struct.pack("<H", 1)
# Pinned for each check-out: the text was read under these rules, and values are written under them.
_SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
# By error number; the names are those of the servers' manuals.
_ERRORS: dict[int, type[errors.ManydbError]] = {
    number: kind
    for kind, numbers in {
        errors.Unreachable: (1040, 1049, 1053, 1203, 1226, 1927, 2002, 2003, 2005, 2006, 2013),
        errors.AuthFailed: (1045, 1698),
        errors.TlsFailed: (2026, 3159),
        errors.Forbidden: (1044, 1142, 1143, 1227, 1370),
        errors.ReadOnly: (1290, 1792, 1836),
        errors.SqlSyntax: (1064, 1065),
        errors.UnknownTable: (1051, 1109, 1146),
        errors.UnknownColumn: (1054,),
        errors.BadParameter: (1264, 1265, 1292, 1366, 1411),
        errors.ConstraintViolated: (1048, 1062, 1169, 1216, 1217, 1364, 1369, 1406, 1451, 1452, 1586, 3819, 4025),
        errors.StatementTimeout: (1969, 3024),
        errors.Conflict: (1020, 1205, 1213),
        errors.Cancelled: (1317,),
        errors.TooLarge: (1153,),
        errors.Unsupported: (1235,),
    }.items()
    for number in numbers
}


class MySQL(base.Dialect):
    name = "mysql"
    title = "MySQL"
    # As the extra "fast" has it.
    default_driver = (
        "asyncmy" if drivers.is_known("asyncmy", "asyncmy", since=(0, 2, 18), before=(0, 3)) else "aiomysql"
    )
    other_drivers = ("aiomysql",)
    schemes = ("mysql", "mariadb")
    default_port = 3306
    commits_ddl = True
    chooses_key = False
    options = tls.OPTIONS | {
        "charset": "charset", "default-character-set": "charset",
        "connect_timeout": "connect_timeout", "connect-timeout": "connect_timeout",
        "application_name": "application_name", "program_name": "application_name",
        "unix_socket": "unix_socket", "socket": "unix_socket",
    }  # fmt: skip
    grammar = grammar.GRAMMAR
    catalog = catalog.MySQLCatalog()
    analyze_prefix = "ANALYZE "
    note = "names in `backticks`, strings in quotes; CONCAT() instead of ||; LIMIT n OFFSET m; no FULL JOIN, no ILIKE"

    def normalise(self, url: URL) -> URL:
        plain = super().normalise(url)
        query = dict(plain.query)
        if "sslmode" in query:
            query["sslmode"] = tls.mode(str(query["sslmode"]))
        if query.pop("charset", "utf8mb4") not in {"utf8mb4", "utf8"}:
            raise errors.BadParameter("charset is utf8mb4")
        if "connect_timeout" in query:
            if not str(query["connect_timeout"]).isdigit():
                raise errors.BadParameter("connect_timeout is a whole number")
            query["connect_timeout"] = str(int(str(query["connect_timeout"])))
        return plain.set(drivername=plain.drivername.replace("mariadb", "mysql"), query=query)

    def connect_args(self, url: URL, access: Access, connect_timeout: float) -> dict[str, Any]:  # noqa: ARG002
        query = {key: str(value) for key, value in url.query.items()}
        driver = url.get_driver_name()
        seconds = float(query.get("connect_timeout", 0)) or connect_timeout
        arguments: dict[str, Any] = {
            "connect_timeout": seconds,
            "charset": "utf8mb4",
            **({"unix_socket": query["unix_socket"]} if "unix_socket" in query else {}),
        }
        local = "unix_socket" in query or url.host in {None, "localhost", "127.0.0.1", "::1"}
        # As the mysql client does, TLS is tried where the server has it; a loopback is private without.
        chosen = query.get("sslmode", "disable" if local else "prefer")
        if chosen not in {"disable", "allow"}:
            arguments["ssl"] = tls.context(chosen, query.get("sslrootcert"), query.get("sslcert"), query.get("sslkey"))
        if opener := _OPENERS.get(driver):
            arguments["program_name"] = query.get("application_name", "manydb")
            module = getattr(url.get_dialect().import_dbapi(), driver)
            arguments["async_creator_fn"] = opener(
                module, must_encrypt=chosen not in {"disable", "allow", "prefer"}, seconds=seconds
            )
        return arguments

    def engine_options(self, url: URL, access: Access) -> dict[str, Any]:  # noqa: ARG002
        return {"skip_autocommit_rollback": True}

    def prepare(self, engine: AsyncEngine, access: Access) -> None:
        super().prepare(engine, access)

        def remember(dbapi: Any, record: ConnectionPoolEntry) -> None:
            record.info[_STANDING] = dbapi.run_async(_standing)

        def compare(dbapi: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
            if not state.terminate_only and dbapi.run_async(_standing) != record.info[_STANDING]:
                record.invalidate()

        event.listen(engine.sync_engine, "connect", remember)
        event.listen(engine.sync_engine, "reset", compare)
        # The limit that `execution` left is for the statements that it reads.
        event.listen(engine.sync_engine, "before_cursor_execute", _lift_limit)

    def on_connect(self, dbapi: Any, access: Access) -> None:
        # Drivers switch multi-statements on for everybody; with them "SELECT 1; DROP TABLE t" is one text.
        dbapi.run_async(lambda raw: _command(raw, _COM_SET_OPTION, _MULTI_STATEMENTS_OFF))
        dbapi.run_async(lambda raw: wire.rows(raw, _session(raw, access)))

    async def scrub(self, raw: Any, record: ConnectionPoolEntry, access: Access) -> None:
        # Rolls back; drops temporary tables, locks, user variables and session settings.
        await _command(raw, _COM_RESET_CONNECTION, b"")
        # Again what every transaction needs, and the limits of the last one: most have the same.
        limits = [record.info[_TIME_LIMIT]] if _TIME_LIMIT in record.info else []
        if rows := record.info.get(execution.SELECT_LIMIT):
            limits.append(f"{execution.SELECT_LIMIT} = {rows}")
        await wire.rows(raw, _session(raw, access, limits))

    async def begin(
        self,
        connection: AsyncConnection,
        *,
        read_only: bool,
        timeout: float,  # noqa: ASYNC109
        isolation: Isolation | None = None,
        alone: bool = False,  # noqa: ARG002
    ) -> None:
        await self.limit(connection, timeout)
        if isolation is not None:
            await _do(connection, f"SET TRANSACTION ISOLATION LEVEL {isolation.upper()}")
        await _do(connection, "START TRANSACTION READ ONLY" if read_only else "START TRANSACTION")

    async def limit(self, connection: AsyncConnection, timeout: float) -> None:  # noqa: ASYNC109
        wanted = _time_limit(connection, timeout)
        if connection.info.get(_TIME_LIMIT) != wanted:
            await _do(connection, f"SET SESSION {wanted}")
            connection.info[_TIME_LIMIT] = wanted

    async def execute(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int) -> Rows:
        return await execution.fetch(connection, sql, args, limit, to_end=True)

    async def lasting(self, connection: AsyncConnection, names: Collection[str]) -> str:
        return await catalog.lasting(connection, names)

    async def fetch(
        self,
        connection: AsyncConnection,
        sql: str,
        args: tuple[Any, ...],
        limit: int,
        *,
        goes_on: bool = False,
    ) -> Rows:
        return await execution.fetch(connection, sql, args, limit, to_end=goes_on)

    def stream(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
        return execution.stream(connection, sql, args)

    async def loader(self, connection: AsyncConnection, load: Load) -> Loader:  # noqa: ARG002
        return loading.Inserts.of(load, self.error)

    def explained(self, connection: AsyncConnection, sql: str, *, analyze: bool) -> str:
        if analyze and not getattr(connection.dialect, "is_mariadb", False):
            return f"EXPLAIN ANALYZE {sql}"
        return super().explained(connection, sql, analyze=analyze)

    async def stop(self, raw: Any, side: Callable[[], AsyncEngine]) -> None:
        """End the session, over a connection of its own: cancelling the task only makes the driver stop listening.

        KILL QUERY does nothing between two commands: the statement after it would run on.
        """
        engine = side()
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(f"KILL {int(raw.thread_id())}")
        finally:
            await engine.dispose()

    async def server_version(self, connection: AsyncConnection) -> str:
        version = str((await connection.exec_driver_sql("SELECT version()")).scalar_one())
        return f"{'MariaDB' if 'MariaDB' in version else self.title} {version.split('-', maxsplit=1)[0]}"

    async def powers(self, connection: AsyncConnection) -> Powers | None:
        return await powers.powers(connection)

    def error(self, exc: BaseException) -> errors.ManydbError:
        cause = base.original(exc)
        number = cause.args[0] if cause.args and isinstance(cause.args[0], int) else None
        if not number:
            if type(cause).__name__ == "InterfaceError":  # all that the drivers say of a connection that was closed
                return errors.Unreachable("the connection to the database was lost")
            return super().error(exc)
        message = str(cause.args[1]) if len(cause.args) > 1 else type(cause).__name__
        return _ERRORS.get(number, errors.SqlSyntax)(message, errno=number)


def _time_limit(connection: AsyncConnection, timeout: float) -> str:
    if getattr(connection.dialect, "is_mariadb", False):
        return f"max_statement_time = {timeout:.3f}"
    return f"max_execution_time = {max(1, round(timeout * 1000))}"


async def _do(connection: AsyncConnection, sql: str) -> None:
    """Run *sql*, which returns no rows, without what SQLAlchemy spends on a statement."""
    checkout = cast("Connection", connection.sync_connection)
    if not checkout.in_transaction():
        # Sends nothing in AUTOCOMMIT. Without it, SQLAlchemy would replace a lost connection in mid-transaction.
        checkout.begin()
    await wire.run(connection, sql)


def _lift_limit(connection: Connection, cursor: Any, *_: Any) -> None:
    if connection.info.pop(execution.SELECT_LIMIT, None):
        cursor.execute(f"SET SESSION {execution.SELECT_LIMIT} = DEFAULT")


async def _command(raw: Any, command: int, payload: bytes) -> None:
    """Send a protocol command that answers OK or ERR; the drivers have no public way."""
    await raw._execute_command(command, payload)  # noqa: SLF001
    await (raw._read_packet() if hasattr(raw, "_read_packet") else raw.read_packet())  # noqa: SLF001


def _session(raw: Any, access: Access, limits: Sequence[str] = ()) -> str:
    """The statement that sets a session up: how text is read and values are written, and whether it may write at all.

    START TRANSACTION READ ONLY alone lets DDL commit it; the session's own mode does not.
    """
    read_only = "tx_read_only" if "MariaDB" in raw.get_server_info() else "transaction_read_only"
    settings = [
        f"sql_mode = '{_SQL_MODE}'",
        "time_zone = '+00:00'",
        f"lock_wait_timeout = {_LOCK_SECONDS}",
        f"innodb_lock_wait_timeout = {_LOCK_SECONDS}",
        f"{read_only} = {int(access == 'read_only')}",
        *limits,
    ]
    return f"SET SESSION {', SESSION '.join(settings)}, NAMES utf8mb4"


async def _standing(raw: Any) -> tuple[Any, ...]:
    """What resetting a connection does not take back: the database that USE chose, in MariaDB the role of SET ROLE."""
    try:
        (found,) = await wire.rows(raw, "SELECT DATABASE(), CURRENT_ROLE()")
    except Exception as exc:  # the driver's error class cannot be named here; its number can
        if exc.args[:1] != (_NO_SUCH_FUNCTION,):
            raise
        (found,) = await wire.rows(raw, "SELECT DATABASE()")  # MySQL 5.7 has no roles
    return tuple(found)


def _open_aiomysql(module: Any, *, must_encrypt: bool, seconds: float) -> Callable[..., Awaitable[Any]]:
    """``connect`` of aiomysql, limited in time, that goes no further where TLS is demanded and the server has none.

    The driver itself would go on in plain text, and has no moment between the server's greeting and our credentials.
    """

    async def connect(**arguments: Any) -> Any:
        raw = module.Connection(**arguments)
        raw.client_flag &= ~_CLIENT_MULTI_STATEMENTS
        read_greeting = raw._get_server_information  # noqa: SLF001

        async def greeted() -> None:
            await read_greeting()
            if must_encrypt and not raw.server_capabilities & _CLIENT_SSL:
                raise errors.TlsFailed(f"{raw.host}:{raw.port} offers no TLS, which its sslmode demands")

        raw._get_server_information = greeted  # noqa: SLF001
        try:
            async with asyncio.timeout(seconds):
                await raw._connect()  # noqa: SLF001 - what its own connect() awaits
        except BaseException:
            raw.close()  # which the driver does not do for a caller who is cancelled
            raise
        return raw

    return connect


def _open_asyncmy(module: Any, *, must_encrypt: bool, seconds: float) -> Callable[..., Awaitable[Any]]:
    """``connect`` of asyncmy, limited in time; it begins TLS whether the server has it or not."""

    async def opened(arguments: dict[str, Any]) -> Any:
        raw = module.connection.Connection(**arguments)
        raw._client_flag &= ~_CLIENT_MULTI_STATEMENTS  # noqa: SLF001
        await raw.connect()
        return raw

    async def connect(**arguments: Any) -> Any:
        async with asyncio.timeout(seconds):
            try:
                return await opened(arguments)
            except module.errors.OperationalError as exc:
                if must_encrypt or not any(isinstance(cause, ssl.SSLError) for cause in base.causes(exc)):
                    raise
            return await opened(arguments | {"ssl": None})

    return connect


_OPENERS: dict[str, Callable[..., Callable[..., Awaitable[Any]]]] = {
    "aiomysql": _open_aiomysql,
    "asyncmy": _open_asyncmy,
}
