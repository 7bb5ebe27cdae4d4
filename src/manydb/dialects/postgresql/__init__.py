"""PostgreSQL, through asyncpg (and, named explicitly, any other async driver that SQLAlchemy has for it)."""

import re
from typing import Any

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import ConnectionPoolEntry

from manydb import errors
from manydb.dialects import base, tls
from manydb.dialects.postgresql import catalog, execution, grammar
from manydb.dialects.rows import Rows
from manydb.settings import Access

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
# Left behind by a caller: cursors, settings, role, notifications, locks, temporary tables, sequences' last values.
# DISCARD ALL would say the same, but not in one message with ROLLBACK.
_SCRUB = (
    "ROLLBACK; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); RESET SESSION AUTHORIZATION; RESET ALL; "
    "DISCARD TEMP; DISCARD SEQUENCES"
)
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_.]+)=((?:\\.|\S)*)")
_OWN_SETTINGS = {"default_transaction_read_only", "statement_timeout", "lock_timeout", "session_authorization", "role"}


class PostgreSQL(base.Dialect):
    name = "postgresql"
    title = "PostgreSQL"
    default_driver = "asyncpg"
    schemes = ("postgresql", "postgres")
    default_port = 5432
    options = tls.OPTIONS | {
        "host": "host", "application_name": "application_name", "connect_timeout": "connect_timeout", "timeout": "connect_timeout",
        "options": "options", "search_path": "search_path", "prepared_statement_cache_size": "prepared_statement_cache_size",
        "statement_cache_size": "prepared_statement_cache_size", "target_session_attrs": "target_session_attrs",
    }  # fmt: skip
    grammar = grammar.GRAMMAR
    catalog = catalog.PostgreSQLCatalog()
    note = "names with capitals in \"double quotes\", strings in single quotes; LIMIT n OFFSET m; interval '7 days'; a::type"
    analyze_prefix = "EXPLAIN (ANALYZE, BUFFERS) "

    def normalise(self, url: URL) -> URL:
        plain = super().normalise(url)
        query = dict(plain.query)
        if "sslmode" in query:
            query["sslmode"] = tls.mode(str(query["sslmode"]))
        for option in ("connect_timeout", "prepared_statement_cache_size"):
            if option in query and not str(query[option]).isdigit():
                raise errors.BadParameter(f"{option} is a whole number")
        for setting, _ in _OPTION.findall(str(query.get("options", ""))):
            if setting.lower() in _OWN_SETTINGS:
                raise errors.BadParameter(f"{setting} is the gateway's own to set")
        return plain.set(query=query)

    def driver_url(self, url: URL, access: Access) -> URL:
        hosts = str(url.query.get("host", ""))
        return super().driver_url(url, access).set(query={"host": hosts.split(",")} if hosts else {})

    def connect_args(self, url: URL, access: Access, connect_timeout: float) -> dict[str, Any]:
        query = {key: str(value) for key, value in url.query.items()}
        settings = {
            "application_name": query.get("application_name", "manydb"),
            "timezone": "UTC", "datestyle": "ISO", "intervalstyle": "iso_8601", "standard_conforming_strings": "on",
            "lock_timeout": "2000", "idle_in_transaction_session_timeout": "60000",
        }  # fmt: skip
        if access == "read_only":
            settings["default_transaction_read_only"] = "on"
        settings |= {name: value.replace("\\ ", " ") for name, value in _OPTION.findall(query.get("options", ""))}
        if "search_path" in query:
            settings["search_path"] = query["search_path"]
        seconds = float(query.get("connect_timeout", 0)) or connect_timeout
        if url.get_driver_name() != self.default_driver:
            return {"connect_timeout": round(seconds)} if url.get_driver_name() == "psycopg" else {}
        return {
            "timeout": seconds,
            "server_settings": settings,
            # Nothing of the gateway's own environment or home stands in for what the URL leaves out.
            "password": url.password or "",
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            **({"target_session_attrs": query["target_session_attrs"]} if "target_session_attrs" in query else {}),
            **_ssl(query, local=url.host in {None, "localhost", "127.0.0.1", "::1"}),
        }

    def engine_options(self, url: URL, access: Access) -> dict[str, Any]:  # noqa: ARG002
        return {"skip_autocommit_rollback": True}

    def scrub(self, dbapi: Any, record: ConnectionPoolEntry, access: Access) -> None:
        if _is_asyncpg(dbapi.driver_connection):
            dbapi.run_async(lambda raw: raw.execute(_SCRUB))
        else:
            super().scrub(dbapi, record, access)

    async def begin(self, connection: AsyncConnection, *, read_only: bool, timeout: float) -> None:  # noqa: ASYNC109
        milliseconds = max(1, round(timeout * 1000))
        steps = [
            f"BEGIN {'READ ONLY' if read_only else 'READ WRITE'}",
            # A transaction that has taken its snapshot can no longer be switched to READ WRITE (25001).
            "SELECT 1",
            f"SET LOCAL statement_timeout = {milliseconds}",
        ]
        raw = (await connection.get_raw_connection()).driver_connection
        if raw is not None and _is_asyncpg(raw):
            await raw.execute("; ".join(steps))
        else:
            for step in steps:
                await connection.exec_driver_sql(step)

    async def fetch(self, connection: AsyncConnection, sql: str, args: tuple[Any, ...], limit: int) -> Rows:
        raw = (await connection.get_raw_connection()).driver_connection
        return await (execution.fetch if _is_asyncpg(raw) else super().fetch)(connection, sql, args, limit)

    async def server_version(self, connection: AsyncConnection) -> str:
        version = (await connection.exec_driver_sql("SHOW server_version")).scalar_one()
        return f"{self.title} {str(version).split()[0]}"

    def error(self, exc: BaseException) -> errors.ManydbError:
        cause = base.original(exc)
        state: str = getattr(cause, "sqlstate", None) or ""
        for length in (5, 2):
            if kind := _STATES.get(state[:length]):
                return kind(_message(cause), sqlstate=state, hint=getattr(cause, "hint", None) or None)
        return super().error(exc) if not state else errors.SqlSyntax(_message(cause), sqlstate=state)


def _is_asyncpg(raw: Any) -> bool:
    return type(raw).__module__.startswith("asyncpg")


def _ssl(query: dict[str, str], *, local: bool) -> dict[str, Any]:
    """asyncpg's ``ssl``: libpq's default is "prefer"; a plain loopback saves the extra round trip."""
    chosen = query.get("sslmode", "disable" if local else "prefer")
    if chosen in {"disable", "allow", "prefer"} and "sslcert" not in query:
        return {"ssl": chosen}
    return {"ssl": tls.context(chosen, query.get("sslrootcert"), query.get("sslcert"), query.get("sslkey"))}


def _message(exc: BaseException) -> str:
    """The server's sentence alone: details and contexts quote rows and values."""
    return str(getattr(exc, "message", None) or (exc.args[0] if exc.args else type(exc).__name__)).split("\n")[0]
