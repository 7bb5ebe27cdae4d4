"""Proving grounds: throw-away databases with all rights, where statements run past every wall, and changes show.

Servers are private, since what is searched for are statements that do what they should not be able to do.
"""

import asyncio
import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import dialects
from manydb.dialects import Dialect
from tests.corpus_bench import entered, load, send
from tests.servers import BACKENDS, NetworkBackend, Server, find_account, folder_of, private_server

Snapshot = Mapping[str, str]
"""Part of what can be changed → what it is, as text or a digest."""

_GIVE_UP_SECONDS = 10.0  # the databases' own limits come long before

_POSTGRESQL_CATALOGS = (
    "pg_proc", "pg_type", "pg_constraint", "pg_trigger", "pg_rewrite", "pg_policy", "pg_description",
    "pg_extension", "pg_namespace", "pg_authid", "pg_auth_members", "pg_db_role_setting", "pg_tablespace",
    "pg_foreign_server", "pg_user_mapping", "pg_subscription", "pg_publication", "pg_prepared_xacts",
    "pg_largeobject", "pg_largeobject_metadata", "pg_default_acl", "pg_shdescription", "pg_seclabel",
    "pg_statistic_ext", "pg_cast", "pg_operator", "pg_collation", "pg_attribute", "pg_index", "pg_enum",
    "pg_event_trigger",
)  # fmt: skip
_MYSQL_TABLES = (
    "global_priv", "db", "tables_priv", "columns_priv", "procs_priv", "proxies_priv", "roles_mapping", "func",
    "plugin", "servers", "proc", "event", "table_stats", "column_stats", "index_stats", "innodb_table_stats",
)  # fmt: skip
_MYSQL_VIEWS = {  # of information_schema, and which column is the schema
    "columns": "table_schema", "statistics": "table_schema", "views": "table_schema", "triggers": "trigger_schema",
    "routines": "routine_schema", "events": "event_schema", "key_column_usage": "table_schema",
}  # fmt: skip
_MYSQL_SYSTEM = "('mysql', 'sys', 'information_schema', 'performance_schema')"
_SQLITE_PRAGMAS = (
    "foreign_keys", "query_only", "trusted_schema", "journal_mode", "synchronous", "temp_store", "cache_size",
    "user_version", "application_id", "busy_timeout", "hard_heap_limit", "soft_heap_limit", "recursive_triggers",
    "writable_schema", "legacy_alter_table", "automatic_index", "defer_foreign_keys", "ignore_check_constraints",
    "cell_size_check", "checkpoint_fullfsync", "auto_vacuum", "page_size", "max_page_count", "encoding", "threads",
    "reverse_unordered_selects", "secure_delete", "mmap_size", "locking_mode", "wal_autocheckpoint",
)  # fmt: skip


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """The parts that differ."""
    return sorted(part for part in before.keys() | after.keys() if before.get(part) != after.get(part))


class GoneError(Exception):
    """The server has ended, or takes no more connections."""


class Ground(ABC):
    """A loaded database, a *folder* that its server may write to, and a connection that statements are run on."""

    quiet: ClassVar[Sequence[str]] = ()
    """Told to the server first: nothing is to change by itself."""
    without: ClassVar[Sequence[str]] = ()
    """What is taken out of the corpus' database, since the text of a statement cannot tell what it does."""
    limit: ClassVar[str] = ""
    """What a connection is told before statements run on it, so that they end soon."""
    outside: ClassVar[Mapping[str, str]] = {}
    """Part → query, asked by an administrator."""
    inside: ClassVar[Mapping[str, str]] = {}
    """Part → query, asked on the statements' own connection: what it would leave to the next one that is lent it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.acting: frozenset[str] = frozenset()
        self._lifetime = AsyncExitStack()
        self._session = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def restore(self) -> None:
        """A new database in place of the one that was changed. What was changed outside of it stays changed."""
        await self._close()
        for file in self.folder.iterdir():
            file.unlink()
        await self._open()

    async def run(self, sql: str) -> bool:
        """Run *sql* as the driver would, several statements and commits included; False where it failed.

        Raises GoneError.
        """
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                await send(self.session, sql)
        except Exception:  # noqa: BLE001 - whatever a driver makes of a statement that nobody has ever written
            if await self._is_lost():
                await self._enter_again()
            return False
        return True

    async def snapshot(self) -> Snapshot:
        """Everything that a statement could have changed."""
        files = {file.name: str(file.stat().st_size) for file in sorted(self.folder.iterdir())}
        found = {"folder": str(files)}
        for part, query in {**await self.contents(), **self.outside}.items():
            found[part] = await _digest(self.admin, query)
        for part, query in self.inside.items():
            found[f"session: {part}"] = await _digest(self.session, query)
        return found

    @abstractmethod
    async def contents(self) -> dict[str, str]:
        """Table → a query of all that is in it."""

    async def _open(self) -> None:
        self.url: URL = await self.server.create()
        self._lifetime.push_async_callback(self.server.drop, self.url)
        self.dialect: Dialect = dialects.parse(self.url.render_as_string(hide_password=False))[0]
        self.admin: AsyncConnection = await self._lifetime.enter_async_context(entered(self.url))
        for statement in self.quiet:
            await send(self.admin, statement)
        await load(self.url)
        for statement in self.without:
            await send(self.admin, statement)
        self.acting = await self.dialect.catalog.acting_functions(self.admin)
        await self._enter()

    async def _enter(self) -> None:
        """A new connection for the statements."""
        await self._session.aclose()
        self.session: AsyncConnection = await self._session.enter_async_context(entered(self.url))
        if self.limit:
            await send(self.session, self.limit)

    async def _enter_again(self) -> None:
        try:
            await self._enter()
        except Exception as exc:
            self._lifetime.pop_all()  # there is nothing left to close or to drop
            raise GoneError from exc

    async def _is_lost(self) -> bool:
        try:
            await self.session.exec_driver_sql("SELECT 1")
        except Exception:  # noqa: BLE001 - of any kind: it answers no more, or not before a transaction ends
            return True
        return False

    async def _close(self) -> None:
        await self._session.aclose()
        await self._lifetime.aclose()


async def _digest(connection: AsyncConnection, query: str) -> str:
    rows = [tuple(row) for row in await connection.exec_driver_sql(query)]
    return hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()


class PostgreSQLGround(Ground):
    # A function declared STABLE may lie: that much is left to the engine.
    without = ("DROP FUNCTION app.lying_stable",)
    quiet = ("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
    limit = "SET statement_timeout = 200; SET lock_timeout = 100"
    outside: ClassVar[Mapping[str, str]] = {
        **{
            catalog: f"SELECT md5(string_agg(x::text, ',' ORDER BY x::text)) FROM {catalog} x"
            for catalog in _POSTGRESQL_CATALOGS
        },
        "pg_class": "SELECT oid, relname, relkind, relfilenode, relowner, relacl::text, reloptions::text FROM pg_class",
        "pg_statistic": "SELECT starelid, staattnum, xmin::text FROM pg_statistic",
        "pg_file_settings": "SELECT x::text FROM pg_file_settings x",
        "pg_database": "SELECT datname, datdba, datacl::text, datconnlimit FROM pg_database",
        "replication": "SELECT slot_name FROM pg_replication_slots UNION ALL SELECT roname FROM pg_replication_origin",
        "statistics": "SELECT stats_reset::text FROM pg_stat_database "
        "UNION ALL SELECT stats_reset::text FROM pg_stat_bgwriter",
    }  # fmt: skip
    inside: ClassVar[Mapping[str, str]] = {
        "settings": "SELECT name, setting FROM pg_settings",
        "role": "SELECT current_user::text, session_user::text",
        "statements": "SELECT name FROM pg_prepared_statements WHERE from_sql",
        "cursors": "SELECT name FROM pg_cursors WHERE name <> ''",
        "channels": "SELECT pg_listening_channels()",
        "locks": "SELECT locktype, mode, objid FROM pg_locks WHERE pid = pg_backend_pid() AND "
        "(locktype = 'advisory' OR mode LIKE '%%Exclusive%%') AND locktype <> 'virtualxid'",
    }

    async def contents(self) -> dict[str, str]:
        tables = await self.admin.exec_driver_sql(
            "SELECT oid::regclass::text, relkind::text FROM pg_class WHERE relkind IN ('r', 'm', 'S') "
            "AND relpersistence <> 't' AND relnamespace::regnamespace::text IN ('public', 'app')"
        )
        # Where a row is, and who wrote or locked it, tells of changes that leave its values as they were.
        what = {
            "r": "t::text, t.ctid::text, t.xmin::text, t.xmax::text",
            "m": "t::text",
            "S": "last_value, is_called",
        }
        return {f"table {name}": f"SELECT {what[kind]} FROM {name} t" for name, kind in map(tuple, tables)}

    async def _is_lost(self) -> bool:
        raw: Any = (await self.session.get_raw_connection()).driver_connection
        return bool(raw.is_closed())


class MySQLGround(Ground):
    # The catalog does not tell a function that writes from one that computes: that much is left to the engine.
    without = ("DROP FUNCTION f_hit", "DROP FUNCTION f_hit_myisam")
    quiet = ("SET GLOBAL innodb_stats_auto_recalc = OFF", "SET GLOBAL event_scheduler = OFF")
    limit = (
        "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', "
        "max_statement_time = 0.2, sql_select_limit = 50, lock_wait_timeout = 1, innodb_lock_wait_timeout = 1"
    )
    outside: ClassVar[Mapping[str, str]] = {
        **{
            view: f"SELECT * FROM information_schema.{view} WHERE {column} NOT IN {_MYSQL_SYSTEM}"
            for view, column in _MYSQL_VIEWS.items()
        },
        **{
            f"mysql.{name}": f"SELECT * FROM mysql.{name}"
            for name in _MYSQL_TABLES
        },
        "tables": "SELECT table_schema, table_name, table_type, engine, auto_increment, create_time, create_options, "
        f"table_comment FROM information_schema.tables WHERE table_schema NOT IN {_MYSQL_SYSTEM}",
        "schemata": "SELECT * FROM information_schema.schemata",
        "variables": "SELECT * FROM information_schema.global_variables WHERE variable_name NOT LIKE 'gtid%%' "
        "AND variable_name NOT IN ('timestamp', 'last_gtid', 'pseudo_thread_id')",
        "open tables": "SHOW OPEN TABLES WHERE in_use > 0 OR name_locked > 0",
    }  # fmt: skip
    inside: ClassVar[Mapping[str, str]] = {
        "variables": "SELECT * FROM information_schema.session_variables WHERE variable_name NOT LIKE 'gtid%%' "
        "AND variable_name NOT IN "
        "('timestamp', 'rand_seed1', 'rand_seed2', 'warning_count', 'error_count', 'last_gtid')",
        "user variables": "SELECT @evil, @x, @a, @b, DATABASE(), IS_USED_LOCK('evil'), @@last_insert_id",
    }

    async def contents(self) -> dict[str, str]:
        tables = await self.admin.exec_driver_sql(
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE() "
            "AND table_type IN ('BASE TABLE', 'SEQUENCE')"
        )
        queries = {"SEQUENCE": "SELECT * FROM `{}`", "BASE TABLE": "CHECKSUM TABLE `{}` EXTENDED"}
        return {f"table {name}": queries[kind].format(name) for name, kind in map(tuple, tables)}


class SQLiteGround(Ground):
    outside: ClassVar[Mapping[str, str]] = {"schema": "SELECT * FROM sqlite_schema"}
    inside: ClassVar[Mapping[str, str]] = {
        "temporary": "SELECT * FROM sqlite_temp_schema",
        "databases": "SELECT name, file FROM pragma_database_list",
        "like": "SELECT 'a' LIKE 'A'",
        **{
            pragma: f"PRAGMA {pragma}"
            for pragma in _SQLITE_PRAGMAS
        },
    }  # fmt: skip

    async def contents(self) -> dict[str, str]:
        return {}

    async def snapshot(self) -> Snapshot:
        raw: Any = (await self.session.get_raw_connection()).driver_connection
        file = await asyncio.to_thread(Path(str(self.url.database)).read_bytes)
        # A transaction left open would hide what was changed in it, and keep others waiting.
        own = {"file": hashlib.sha256(file).hexdigest(), "transaction": str(raw.in_transaction)}
        return {**await super().snapshot(), **own}

    async def _enter(self) -> None:
        await super()._enter()
        raw: Any = (await self.session.get_raw_connection()).driver_connection
        await raw.set_progress_handler(_Countdown().tick, 10_000)


class _Countdown:
    """Ends a statement after some hundred looks, each 10,000 steps after the last; begins anew with the next one."""

    def __init__(self) -> None:
        self.looks = 0

    def tick(self) -> bool:
        self.looks += 1
        return self.looks % 200 == 0


GROUNDS: Mapping[str, type[Ground]] = {
    "postgresql": PostgreSQLGround,
    "mysql": MySQLGround,
    "sqlite": SQLiteGround,
}


@asynccontextmanager
async def ground(backend: str) -> AsyncGenerator[Ground]:
    """A ground on a server of its own. Raises MissingServerError where there are no binaries to start one from."""
    async with AsyncExitStack() as stack:
        kind = BACKENDS[backend]
        if isinstance(kind, NetworkBackend):
            server: Server = await stack.enter_async_context(private_server(kind))
            folder = stack.enter_context(folder_of(find_account(kind.accounts)))
        else:
            server = await stack.enter_async_context(kind.open({}))
            folder = stack.enter_context(_folder())
        yield await stack.enter_async_context(GROUNDS[backend](server, folder))


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
