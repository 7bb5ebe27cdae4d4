"""PostgreSQL, through psycopg or asyncpg (and, named explicitly, any other async driver of SQLAlchemy's)."""

import getpass
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from manydb import errors
from manydb.dialects import base, drivers, tls
from manydb.dialects.execution import driver
from manydb.dialects.loading import Load, Loader
from manydb.dialects.postgresql import catalog, execution, grammar, loading, powers
from manydb.dialects.postgresql import comparing as _comparing  # noqa: F401 - SQLAlchemy learns from it how to compile
from manydb.dialects.postgresql.libpq import connecting, transactions
from manydb.dialects.postgresql.libpq import execution as libpq
from manydb.dialects.postgresql.libpq.pipeline import LostError
from manydb.dialects.powers import Powers
from manydb.dialects.rows import Rows
from manydb.settings import Access, Isolation

# By SQLSTATE, the longest prefix first; the names are PostgreSQL's, appendix A of its manual.
_STATES: dict[str, type[errors.ManydbError]] = {
    state: kind
    for kind, states in {
        errors.Unreachable: ("08", "3D000", "53", "57"),
        errors.AuthFailed: ("28",),
        errors.Forbidden: ("42501",),
        errors.ReadOnly: ("25006",),
        errors.SqlSyntax: ("34", "42"),
        errors.UnknownTable: ("3F000", "42P01"),
        errors.UnknownColumn: ("42703",),
        errors.BadParameter: ("22", "42P02", "42P18"),
        errors.ConstraintViolated: ("23",),
        errors.StatementTimeout: ("57014",),
        errors.Conflict: ("40", "55P03"),
        errors.TooLarge: ("54",),
        errors.Unsupported: ("0A",),
    }.items()
    for state in states
}
# Left behind by a caller: cursors, settings, role, notifications, locks, prepared statements, temporary tables,
# sequences' last values. DISCARD ALL would say the same, but not in one message with ROLLBACK.
_SCRUB = (
    "ROLLBACK; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); RESET SESSION AUTHORIZATION; RESET ALL; "
    "DEALLOCATE ALL; DISCARD TEMP; DISCARD SEQUENCES"
)
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_.-]+)=((?:\\.|\S)*)")
_SOCKETS = ["/run/postgresql", "/var/run/postgresql", "/tmp", "localhost"]  # noqa: S108 - where servers put theirs
_LOCK_MILLISECONDS = 2_000
_UNWELCOME = ("authentication failed", "pg_hba.conf", 'role "')
_UNREACHABLE = "{place} cannot be reached"
_UNREACHED = {
    "resolve host": "the host name of {place} is not known",
    "translate host": "the host name of {place} is not known",
    "refused": "nobody listens at {place}",
    "timeout": "{place} does not answer",
    "no such file": "nobody listens at {place}",
}
_OWN_SETTINGS = {"default_transaction_read_only", "statement_timeout", "lock_timeout", "session_authorization", "role"}


class PostgreSQL(base.Dialect):
    name = "postgresql"
    title = "PostgreSQL"
    # As the extra "fast" has it. Without its libpq, psycopg would look for one on this machine.
    default_driver = (
        "psycopg"
        if find_spec("psycopg") and drivers.is_known("psycopg-binary", "psycopg_binary", since=(3, 3), before=(3, 4))
        else "asyncpg"
    )
    other_drivers = ("asyncpg",)
    schemes = ("postgresql", "postgres")
    default_port = 5432
    aborts_on_error = True
    options = tls.OPTIONS | {
        "host": "host", "application_name": "application_name", "options": "options", "search_path": "search_path",
        "connect_timeout": "connect_timeout", "timeout": "connect_timeout",
        "target_session_attrs": "target_session_attrs",
        "prepared_statement_cache_size": "prepared_statement_cache_size",
        "statement_cache_size": "prepared_statement_cache_size",
    }  # fmt: skip
    grammar = grammar.GRAMMAR
    catalog = catalog.PostgreSQLCatalog()
    note = (
        'names with capitals in "double quotes", strings in single quotes; LIMIT n OFFSET m; '
        "interval '7 days'; a::type"
    )
    analyze_prefix = "EXPLAIN (ANALYZE, BUFFERS) "

    def normalise(self, url: URL) -> URL:
        plain = super().normalise(url)
        query = dict(plain.query)
        if "sslmode" in query:
            query["sslmode"] = tls.mode(str(query["sslmode"]))
        for option in ("connect_timeout", "prepared_statement_cache_size"):
            if option in query and not str(query[option]).isdigit():
                raise errors.BadParameter(f"{option} is a whole number")
            if option in query:
                query[option] = str(int(str(query[option])))
        _require_known(str(query.get("options", "")))
        # SQLAlchemy has two names for its async psycopg.
        return plain.set(drivername=plain.drivername.replace("psycopg_async", "psycopg"), query=query)

    def driver_url(self, url: URL, access: Access) -> URL:
        hosts = str(url.query.get("host", ""))
        return super().driver_url(url, access).set(query={"host": hosts.split(",")} if hosts else {})

    def connect_args(self, url: URL, access: Access, connect_timeout: float) -> dict[str, Any]:
        query = {key: str(value) for key, value in url.query.items()}
        settings = {
            "application_name": query.get("application_name", "manydb"),
            "timezone": "UTC", "datestyle": "ISO", "intervalstyle": "iso_8601", "standard_conforming_strings": "on",
            "lock_timeout": "2000", "idle_in_transaction_session_timeout": "60000",
            # Queries are planned for all of their rows, as EXPLAIN tells: most cursors here are read to their end.
            "cursor_tuple_fraction": "1.0",
        }  # fmt: skip
        if access == "read_only":
            settings["default_transaction_read_only"] = "on"
        settings |= {
            name.replace("-", "_"): value.replace("\\ ", " ")
            for name, value in _OPTION.findall(query.get("options", ""))
        }
        if "search_path" in query:
            settings["search_path"] = query["search_path"]
        # libpq's default is "prefer"; on a loopback, which is private, the round trip that asks for TLS is saved.
        query.setdefault("sslmode", "allow" if url.host in {None, "localhost", "127.0.0.1", "::1"} else "prefer")
        seconds = float(query.get("connect_timeout", 0)) or connect_timeout
        if url.get_driver_name() == "psycopg":
            connect = url.get_dialect(_is_async=True).import_dbapi().AsyncConnection.connect
            return _complete(url, "dbname") | connecting.arguments(connect, query, settings, seconds)
        if url.get_driver_name() != "asyncpg":
            return {}
        return {
            **_complete(url, "database"),
            **({} if url.host or "host" in query else {"host": _SOCKETS}),
            "timeout": seconds,
            "server_settings": settings,
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "target_session_attrs": query.get("target_session_attrs", "any"),
            "direct_tls": False,
            "krbsrvname": "postgres",
            "gsslib": "gssapi",
            **_ssl(url, query),
        }

    def engine_options(self, url: URL, access: Access) -> dict[str, Any]:  # noqa: ARG002
        # For psycopg's raw cursors.
        style = {"paramstyle": "numeric_dollar", "use_native_hstore": False}
        return {"skip_autocommit_rollback": True} | (style if url.get_driver_name() == "psycopg" else {})

    def prepare(self, engine: AsyncEngine, access: Access) -> None:
        if engine.dialect.driver == "psycopg":
            engine.sync_engine.dialect.do_ping = lambda dbapi: await_only(transactions.ping(dbapi.driver_connection))  # type: ignore[method-assign, assignment]
        super().prepare(engine, access)

    def on_connect(self, dbapi: Any, access: Access) -> None:  # noqa: ARG002
        if _is_psycopg(dbapi.driver_connection):
            # They leave a statement as it is.
            dbapi.driver_connection.cursor_factory = dbapi.dbapi.AsyncRawCursor

    def is_gone(self, raw: Any) -> bool:
        return bool(raw.closed if _is_psycopg(raw) else _is_asyncpg(raw) and raw.is_closed())

    async def scrub(self, raw: Any, record: ConnectionPoolEntry, access: Access) -> None:  # noqa: ARG002
        # In one message, which both drivers send where no arguments are given.
        await (transactions.scrub(raw, record.info, _SCRUB) if _is_psycopg(raw) else raw.execute(_SCRUB))

    async def begin(
        self,
        connection: AsyncConnection,
        *,
        read_only: bool,
        timeout: float,  # noqa: ASYNC109
        isolation: Isolation | None = None,
        alone: bool = False,
    ) -> None:
        level = f" ISOLATION LEVEL {isolation.upper()}" if isolation else ""
        if read_only:
            # Set by a query, which takes the snapshot: after that nothing switches to READ WRITE (25001).
            limit = f"SELECT pg_catalog.set_config('statement_timeout', '{_milliseconds(timeout)}', true)"
            steps = [f"BEGIN{level} READ ONLY", limit]
        else:
            # For locks less than a statement's time, so that who waits in a queue of writers is told so.
            locks = f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}"
            steps = [f"BEGIN{level} READ WRITE", _time_limit(timeout), locks]
        raw = driver(connection)
        if _is_psycopg(raw):
            await transactions.begin(connection, steps, alone=read_only and alone)
        elif _is_asyncpg(raw):
            await raw.execute("; ".join(steps))
        else:
            for step in steps:
                await connection.exec_driver_sql(step)

    async def limit(self, connection: AsyncConnection, timeout: float) -> None:  # noqa: ASYNC109
        await connection.exec_driver_sql(_time_limit(timeout))

    async def commit(self, connection: AsyncConnection) -> None:
        raw: Any = driver(connection)
        if await (transactions.commit(connection) if _is_psycopg(raw) else raw.execute("COMMIT")) == "ROLLBACK":
            raise errors.Conflict("the transaction was rolled back: a statement in it had failed")

    async def execute(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int) -> Rows:
        raw = driver(connection)
        if _is_asyncpg(raw):
            return await execution.fetch(connection, sql, args, limit, to_end=True)
        return await (libpq.execute if _is_psycopg(raw) else super().execute)(connection, sql, args, limit)

    async def fetch(
        self,
        connection: AsyncConnection,
        sql: str,
        args: tuple[Any, ...],
        limit: int,
        *,
        goes_on: bool = False,  # noqa: ARG002
    ) -> Rows:
        raw = driver(connection)
        if _is_asyncpg(raw):
            return await execution.fetch(connection, sql, args, limit)
        return await (libpq.fetch if _is_psycopg(raw) else super().fetch)(connection, sql, args, limit)

    async def stream(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...]) -> AsyncGenerator[Rows]:
        raw = driver(connection)
        own = execution.stream if _is_asyncpg(raw) else libpq.stream if _is_psycopg(raw) else super().stream
        slices = own(connection, sql, args)
        async with aclosing(slices):
            async for each in slices:
                yield each

    async def loader(self, connection: AsyncConnection, load: Load) -> Loader:
        return await loading.loader(connection, load, self.error)

    async def stop(self, raw: Any, side: Callable[[], AsyncEngine]) -> None:
        """End the backend, over a connection of its own.

        A cancel, which is what drivers send, does nothing between two messages: the statement after it would run on.
        """
        backend = raw.info.backend_pid if _is_psycopg(raw) else raw.get_server_pid()
        engine = side()
        try:
            async with engine.connect() as connection:
                await connection.exec_driver_sql(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = {int(backend)} "
                    "AND usename = current_user AND datname = current_database()"
                )
        finally:
            await engine.dispose()

    async def server_version(self, connection: AsyncConnection) -> str:
        version = (await connection.exec_driver_sql("SHOW server_version")).scalar_one()
        return f"{self.title} {str(version).split()[0]}"

    def connect_error(self, exc: BaseException, url: URL) -> errors.ManydbError:
        place = self.location(url)
        for cause in base.causes(exc):
            said = str(cause) if type(cause).__module__.startswith("psycopg") else ""
            # libpq has codes for nothing that happens while connecting, but its sentences are fixed in its source;
            # FATAL begins the server's own.
            if "FATAL" in said:
                if any(mark in said for mark in _UNWELCOME):
                    return errors.AuthFailed(f"{place} does not let this user in")
                sentence = said.rpartition("FATAL:")[2].strip().split("\n")[0]
                return errors.Unreachable(sentence, sqlstate="3D000" if 'database "' in sentence else "08004")
            has_tls = "SSL connection has been closed" in said
            if not has_tls and ("SSL" in said or "certificate" in said or type(cause) is ConnectionError):  # asyncpg's
                return errors.TlsFailed(f"no TLS with {place} as its sslmode demands")
            if said:
                found = next((sentence for mark, sentence in _UNREACHED.items() if mark in said.lower()), _UNREACHABLE)
                return errors.Unreachable(found.format(place=place))
        return super().connect_error(exc, url)

    async def powers(self, connection: AsyncConnection) -> Powers | None:
        return await powers.powers(connection)

    def error(self, exc: BaseException) -> errors.ManydbError:
        cause = base.original(exc)
        state: str = getattr(cause, "sqlstate", None) or ""
        for length in (5, 2):
            if kind := _STATES.get(state[:length]):
                return kind(_message(cause), sqlstate=state, hint=getattr(cause, "hint", None) or None)
        if not state and any(map(_is_lost, base.causes(exc))):
            return errors.Unreachable("the connection to the database was lost")
        return super().error(exc) if not state else errors.SqlSyntax(_message(cause), sqlstate=state)


def _is_lost(exc: BaseException) -> bool:
    """A connection that is closed, by whomever; asyncpg's sentences on that are fixed in its source."""
    said = str(exc)
    if isinstance(exc, LostError) or (_is_psycopg(exc) and type(exc).__name__ == "OperationalError"):
        return True
    return type(exc).__module__.startswith("asyncpg") and (
        "connection is closed" in said or "cannot switch to state" in said or "connection was closed" in said
    )


def _is_asyncpg(raw: Any) -> bool:
    return type(raw).__module__.startswith("asyncpg")


def _is_psycopg(raw: Any) -> bool:
    return type(raw).__module__.startswith("psycopg")


def _require_known(options: str) -> None:
    """Check the settings of libpq's ``options``; raises BadParameter."""
    if _OPTION.sub("", options).strip():
        raise errors.BadParameter("options is a list of settings: -c name=value -c name=value")
    for setting, _ in _OPTION.findall(options):
        if setting.lower().replace("-", "_") in _OWN_SETTINGS:
            raise errors.BadParameter(f"{setting} is the gateway's own to set")


def _complete(url: URL, database: str) -> dict[str, Any]:
    """What *url* leaves out, as psql has it: nothing of the gateway's environment or home stands in for it."""
    user = url.username or getpass.getuser()
    return {"user": user, "password": url.password or "", database: url.database or user}


def _ssl(url: URL, query: dict[str, str]) -> dict[str, Any]:
    """The ``ssl`` of asyncpg, whose own "allow" and "prefer" would take certificates from the gateway's home."""
    chosen = query["sslmode"]
    if chosen == "disable":
        return {"ssl": False}
    context = tls.context(chosen, query.get("sslrootcert"), query.get("sslcert"), query.get("sslkey"))
    if chosen not in {"allow", "prefer"}:
        return {"ssl": context}
    connect: Callable[..., Awaitable[Any]] = url.get_dialect().import_dbapi().asyncpg.connect
    # As for the other modes, "ssl" has the context: who dials an address in the host's place must find it there.
    return {"ssl": context, "async_creator_fn": _either(connect, plain_first=chosen == "allow")}


def _either(connect: Callable[..., Awaitable[Any]], *, plain_first: bool) -> Callable[..., Awaitable[Any]]:
    """*connect*, with TLS and where the server objects to that without, or the other way round."""

    async def connected(*args: Any, **kwargs: Any) -> Any:
        context = kwargs.pop("ssl")
        first, second = (False, context) if plain_first else (context, False)
        try:
            return await connect(*args, **kwargs, ssl=first)
        except (
            Exception
        ) as refusal:  # of several kinds: what counts is whether the server objects to TLS or to its lack
            if not _objects(refusal):
                raise
            try:
                return await connect(*args, **kwargs, ssl=second)
            except (ConnectionError, ssl.SSLError):  # what the server said first is what matters
                raise refusal from None

    return connected


def _objects(exc: Exception) -> bool:
    """No TLS in the server, none that works, or no entry for this kind of connection in its pg_hba.conf."""
    return type(exc) is ConnectionError or isinstance(exc, ssl.SSLError) or getattr(exc, "sqlstate", None) == "28000"


def _time_limit(timeout: float) -> str:
    return f"SET LOCAL statement_timeout = {_milliseconds(timeout)}"


def _milliseconds(timeout: float) -> int:
    return max(1, round(timeout * 1000))


def _message(exc: BaseException) -> str:
    """The server's sentence alone: details and contexts quote rows and values."""
    return str(getattr(exc, "message", None) or (exc.args[0] if exc.args else type(exc).__name__)).split("\n")[0]
