"""What a caller leaves on a connection never reaches the next one, and a read-only engine refuses writes by itself.

Nothing here goes through the classification of statements: this is what holds when it is wrong.
"""

import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import transactions
from manydb.errors import ManydbError
from manydb.leases import Lease
from manydb.settings import Access
from tests.conftest import Databases
from tests.observers import Observer, leased
from tests.servers import WAYS

ACCESSES: tuple[Access, ...] = get_args(Access)
EXPLICIT = {"postgresql": "postgresql+psycopg", "mysql": "mysql+asyncmy"}


async def send(lease: Lease, *statements: str) -> list[Any]:
    """Run *statements* on one connection of the pool, in no transaction that we began; the last one's rows.

    What the access forbids is left undone: then there is nothing to leave behind.
    """
    rows: list[Any] = []
    async with lease.connect() as connection:
        for statement in statements:
            try:
                result = await connection.exec_driver_sql(statement)
                rows = [tuple(row) for row in result] if result.returns_rows else []
            except DBAPIError as refusal:
                if not refused(lease, refusal):
                    raise
    return rows


def refused(lease: Lease, exc: BaseException) -> bool:
    return lease.dialect.error(exc).code in {"READ_ONLY", "FORBIDDEN"}


# ---- what callers leave ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trace:
    """Something left behind (*leave*), and a question (*ask*) whose *answer* it would change.

    Where *is_gone*, the question names what is left itself, and fails once that is gone.
    """

    name: str
    leave: Sequence[str]
    ask: str
    answer: Sequence[tuple[Any, ...]] = ()
    is_gone: bool = False
    needs: frozenset[Access] = field(default=frozenset(ACCESSES))


POSTGRESQL = (
    Trace("SET", ["SET work_mem = '77MB'"], "SELECT current_setting('work_mem') = '77MB'", [(False,)]),
    Trace("search_path", ["SET search_path = pg_catalog"], "SHOW search_path", [('"$user", public',)]),
    Trace("set_config", ["SELECT set_config('a.b', 'left', false)"], "SELECT current_setting('a.b', true)", [("",)]),
    Trace("temporary table", ["CREATE TEMP TABLE leftover (n int)"], "SELECT to_regclass('leftover')", [(None,)]),
    Trace(
        "session lock", ["SELECT pg_advisory_lock(77)"],
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", [(0,)],
    ),
    Trace("transaction", ["BEGIN", "CREATE TABLE half_done (n int)"], "SELECT to_regclass('half_done')", [(None,)]),
    Trace("role", ["SET ROLE pg_monitor"], "SELECT current_user = session_user", [(True,)]),
    Trace("session user", ["SET SESSION AUTHORIZATION pg_monitor"], "SELECT session_user <> 'pg_monitor'", [(True,)]),
    Trace("LISTEN", ["LISTEN gossip"], "SELECT count(*) FROM pg_listening_channels()", [(0,)]),
    Trace(
        "prepared statement", ["PREPARE mine AS SELECT 1"],
        "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'", [(0,)],
    ),
    Trace(
        "cursor", ["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"],
        "SELECT count(*) FROM pg_cursors WHERE name = 'c'", [(0,)],
    ),
    Trace("last value", ["SELECT nextval('numbers')"], "SELECT lastval()", is_gone=True),
)  # fmt: skip
MYSQL = (
    Trace("SET", ["SET SESSION max_error_count = 77"], "SELECT @@max_error_count = 77", [(0,)]),
    Trace("sql_mode", ["SET SESSION sql_mode = 'ANSI_QUOTES'"], "SELECT locate('ANSI_QUOTES', @@sql_mode) > 0", [(0,)]),
    Trace("user variable", ["SET @left = 5"], "SELECT @left", [(None,)]),
    Trace("temporary table", ["CREATE TEMPORARY TABLE leftover (n int)"], "SELECT * FROM leftover", is_gone=True),
    Trace("GET_LOCK", ["SELECT GET_LOCK('{name}', 0)"], "SELECT IS_FREE_LOCK('{name}')", [(1,)]),
    Trace("transaction", ["START TRANSACTION", "INSERT INTO kept VALUES (1)"], "SELECT n FROM kept", []),
    Trace("LOCK TABLES", ["LOCK TABLES kept READ"], "SELECT count(*) FROM others", [(0,)]),
    Trace("prepared statement", ["PREPARE mine FROM 'SELECT 1'"], "EXECUTE mine", is_gone=True),
    Trace("database", ["USE information_schema"], "SELECT DATABASE() = '{name}'", [(1,)]),
    Trace("character set", ["SET NAMES latin1"], "SELECT @@character_set_client", [("utf8mb4",)]),
    Trace("autocommit", ["SET autocommit = 0"], "SELECT @@autocommit", [(1,)]),
    Trace("access mode", ["SET SESSION TRANSACTION READ WRITE"], "SELECT 1", [(1,)]),
    Trace("role", ["SET ROLE '{name}'"], "SELECT CURRENT_ROLE()", [(None,)]),
)  # fmt: skip
SQLITE = (
    Trace("transaction", ["BEGIN", "INSERT INTO kept VALUES (1)"], "SELECT n FROM kept", []),
    Trace("savepoint", ["SAVEPOINT s", "INSERT INTO kept VALUES (1)"], "SELECT n FROM kept", []),
    Trace("temporary table", ["CREATE TEMP TABLE kept (left_over text)"], "SELECT count(n) FROM kept", [(0,)]),
    Trace("temporary view", ["CREATE TEMP VIEW kept AS SELECT 5 AS n"], "SELECT n FROM kept", []),
    Trace("pragma", ["PRAGMA foreign_keys = OFF"], "PRAGMA foreign_keys", [(1,)]),
    Trace("guarding pragma", ["PRAGMA query_only = ON"], "PRAGMA query_only", [(0,)], needs=frozenset(ACCESSES[1:])),
)  # fmt: skip
TRACES = {"postgresql": POSTGRESQL, "mysql": MYSQL, "sqlite": SQLITE}
SEEDS = {
    "postgresql": ["CREATE SEQUENCE numbers"],
    "mysql": ["CREATE TABLE kept (n integer)", "CREATE TABLE others (n integer)"],
    "sqlite": ["CREATE TABLE kept (n integer)"],
}


@pytest.fixture(scope="module", params=WAYS)
async def seeded(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary(request.param) as url:
        observer = Observer.of(url)
        for statement in SEEDS[observer.backend]:
            await observer.run(statement)
        if observer.backend == "mysql":
            await observer.run(f"CREATE ROLE '{observer.url.database}'")
        try:
            yield url
        finally:
            if observer.backend == "mysql":
                await observer.run(f"DROP ROLE '{observer.url.database}'")


@pytest.mark.parametrize("access", ACCESSES)
async def test_what_a_caller_leaves_never_reaches_the_next(seeded: str, access: Access) -> None:
    observer = Observer.of(seeded)
    async with leased(seeded, access) as lease:
        for trace in TRACES[observer.backend]:
            if access not in trace.needs:
                continue
            leave = [statement.format(name=observer.url.database) for statement in trace.leave]
            ask = trace.ask.format(name=observer.url.database)
            await send(lease, *leave)
            if trace.is_gone:
                with pytest.raises(DBAPIError):
                    await send(lease, ask)
            else:
                assert await send(lease, ask) == list(trace.answer), trace.name


@pytest.mark.parametrize("access", ACCESSES)
async def test_the_next_caller_has_the_very_same_connection(seeded: str, access: Access) -> None:
    """Else the test above would prove nothing. Only what cannot be cleaned is dropped: an administrator's SQLite."""
    async with leased(seeded, access) as lease:
        first, second = await connected(lease), await connected(lease)
    assert (first is second) == (lease.dialect.name != "sqlite" or access != "admin")


async def connected(lease: Lease) -> Any:
    async with lease.connect() as connection:
        return (await connection.get_raw_connection()).driver_connection


async def test_a_caller_without_a_database_finds_none_after_use(mysql_url: str) -> None:
    server = Observer.of(mysql_url).url._replace(database=None).render_as_string(hide_password=False)
    async with leased(server) as lease:
        await send(lease, "USE information_schema")
        assert await send(lease, "SELECT DATABASE()") == [(None,)]


# ---- writes on a read-only engine -----------------------------------------------------------------------------------

WRITES = (
    "INSERT INTO kept VALUES (2)",
    "UPDATE kept SET n = 2",
    "DELETE FROM kept",
    "CREATE TABLE made (n integer)",
    "CREATE INDEX made ON kept (n)",
    "CREATE VIEW made AS SELECT 1 AS n",
    "DROP TABLE kept",
    "ALTER TABLE kept ADD COLUMN more integer",
    "SELECT 1; DROP TABLE kept",
    "SELECT 1; COMMIT; DELETE FROM kept",
)
OWN_WRITES = {
    "postgresql": (
        "TRUNCATE kept",
        "WITH gone AS (DELETE FROM kept RETURNING n) SELECT * FROM gone",
        "SELECT n INTO made FROM kept",
        "CREATE TABLE made AS SELECT * FROM kept",
        "EXPLAIN ANALYZE DELETE FROM kept",
        "SELECT * FROM kept FOR UPDATE",
        "SET TRANSACTION READ WRITE",
        "DO $$ BEGIN DELETE FROM kept; END $$",
    ),
    "mysql": (
        "TRUNCATE kept",
        "REPLACE INTO kept VALUES (2)",
        "CREATE TABLE made AS SELECT * FROM kept",
        "RENAME TABLE kept TO made",
        "/*! DELETE FROM kept */",
        "LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE kept",
    ),
    "sqlite": (
        "ATTACH '{file}' AS again",
        "ATTACH 'file:{file}?mode=rw' AS again",
        "VACUUM INTO '{file}.copy'",
        "VACUUM",
        "ANALYZE",
        "PRAGMA query_only = OFF",
        "PRAGMA user_version = 5",
        "PRAGMA journal_mode = WAL",
        "PRAGMA writable_schema = ON",
        "PRAGMA hard_heap_limit = 1",
        "CREATE TEMP TABLE kept (n)",
        "SELECT load_extension('{file}')",
    ),
}


@pytest.fixture(scope="module", params=WAYS)
async def holding(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    """A database with one row in one table."""
    async with databases.temporary(request.param) as url:
        observer = Observer.of(url)
        await observer.run("CREATE TABLE kept (n integer)")
        await observer.run("INSERT INTO kept VALUES (1)")
        yield url


def writes(backend: str) -> Sequence[str]:
    return (*WRITES, *OWN_WRITES[backend])


async def attempt(lease: Lease, sql: str) -> ManydbError | None:
    try:
        await transactions.read(lease, lambda connection: lease.dialect.fetch(connection, sql, (), 10), timeout=5)
    except ManydbError as refusal:
        return refusal
    return None


async def contents(observer: Observer) -> tuple[Any, ...]:
    """All there is: the rows of the one table, and the names of tables."""
    tables = {
        "postgresql": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
        "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
        "sqlite": "SELECT name FROM sqlite_master",
    }
    return await observer.run("SELECT n FROM kept"), await observer.run(tables[observer.backend])


async def test_a_read_only_engine_refuses_every_write_by_itself(holding: str) -> None:
    observer = Observer.of(holding)
    before = await contents(observer)
    async with leased(holding) as lease:
        for template in writes(observer.backend):
            sql = template.replace("{file}", str(observer.url.database))
            assert await attempt(lease, sql) is not None, f"passed: {sql}"
            assert await contents(observer) == before, sql
    if observer.backend == "sqlite":
        assert not Path(f"{observer.url.database}.copy").exists()  # noqa: ASYNC240 - one look


@pytest.mark.parametrize("driver", EXPLICIT.values())
async def test_the_drivers_named_explicitly_refuse_every_write_too(databases: Databases, driver: str) -> None:
    backend = driver.partition("+")[0]
    async with databases.temporary(backend) as url:
        observer = Observer.of(url)
        await observer.run("CREATE TABLE kept (n integer)")
        await observer.run("INSERT INTO kept VALUES (1)")
        before = await contents(observer)
        async with leased(url.replace(url.partition(":")[0], driver)) as lease:
            for sql in writes(backend):
                assert await attempt(lease, sql) is not None, f"passed: {sql}"
                assert await contents(observer) == before, sql


async def test_the_row_limit_of_a_read_is_not_that_of_what_comes_after(holding: str) -> None:
    some = "SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3"
    async with leased(holding) as lease:

        async def limited(connection: AsyncConnection) -> list[Any]:
            found = await lease.dialect.fetch(connection, some, (), 1, goes_on=True)
            rest = await connection.exec_driver_sql(some)
            return [len(found.rows), found.more, len(rest.all())]

        assert await transactions.read(lease, limited, timeout=5) == [1, True, 3]
        assert await attempt(lease, some) is None
        assert len(await send(lease, some)) == 3


async def test_a_plain_write_is_refused_as_read_only(holding: str) -> None:
    async with leased(holding) as lease:
        refusal = await attempt(lease, "INSERT INTO kept VALUES (2)")
        assert refusal is not None
        assert refusal.code == "READ_ONLY"


@pytest.mark.parametrize("access", ["read_write", "admin"])
async def test_reads_cannot_write_whatever_the_engine_permits(holding: str, access: Access) -> None:
    observer = Observer.of(holding)
    before = await contents(observer)
    async with leased(holding, access) as lease:
        for sql in ("INSERT INTO kept VALUES (2)", "DELETE FROM kept"):
            await attempt(lease, sql)
            assert await contents(observer) == before, sql


async def test_an_engine_that_may_write_still_takes_one_statement_at_a_time(holding: str) -> None:
    observer = Observer.of(holding)
    table = f"made_{secrets.token_hex(4)}"
    async with leased(holding, "admin") as lease:
        refusal = await attempt(lease, f"SELECT 1; CREATE TABLE {table} (n integer)")
    assert refusal is not None
    assert table not in str(await contents(observer))
