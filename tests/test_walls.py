"""Each wall alone, the others switched off: the text, the engine, the login. One of them has to be enough.

What is sent are the plain writes of the corpus: statements that say themselves that they change data, a schema or
rights, however dressed up. Not among them, because no single wall is meant to stop them, are statements whose effect
is not in their text (functions and operators of the users' own: category code), what reaches past the database (file,
network, sql_in_text, admin, function), and what changes the session alone (session, txn, lock, pragma).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import dialects, statements, transactions
from manydb.dialects.grammar import Grammar
from manydb.dialects.mysql.grammar import GRAMMAR as MYSQL
from manydb.dialects.postgresql.grammar import GRAMMAR as POSTGRESQL
from manydb.dialects.rows import Rows
from manydb.engines import EngineRegistry, Pool
from manydb.errors import Forbidden, ManydbError, ReadOnly, SqlSyntax
from manydb.leases import Lease, Target
from manydb.settings import Settings
from tests.conftest import Databases
from tests.corpus_bench import BACKENDS, Bench, entered, lines, loaded, send, text_of
from tests.servers import WAYS

PLAIN = {"dml", "ddl", "dcl", "cte", "explain", "multi", "comment", "obfuscation", "maintenance"}
NOT_PLAIN = {
    "my-r-071": "a single harmless statement, under the sql_mode that is pinned",
    "pg-r-053": "the write is in a user's function",
}
BEYOND_THE_LOGIN = {"my-r-039": "a login's own password, which it may always change"}
_SECONDS = 2.0

Benches = Callable[[str], Awaitable[Bench]]


def plain_writes(*backends: str) -> list[Any]:
    return [
        pytest.param(backend, line, id=line["id"])
        for backend in backends
        for line in lines("must_reject", backend)
        if line["category"] in PLAIN and line["id"] not in NOT_PLAIN
    ]


def others(*backends: str) -> list[Any]:
    """What is left of the corpus; statements that only take long are tested elsewhere."""
    return [
        pytest.param(backend, line, id=line["id"])
        for backend in backends
        for line in lines("must_reject", backend)
        if line["category"] not in PLAIN | {"dos"} or line["id"] in NOT_PLAIN
    ]


@pytest.fixture(scope="module")
async def benches(databases: Databases) -> AsyncIterator[Benches]:
    async with AsyncExitStack() as stack:
        made: dict[str, Bench] = {}

        async def get(backend: str) -> Bench:
            if backend not in made:
                made[backend] = await stack.enter_async_context(loaded(databases, backend))
            return made[backend]

        yield get


@pytest.fixture(scope="module")
async def registry() -> AsyncGenerator[EngineRegistry]:
    async with EngineRegistry(Settings.load(connections={})) as registry:
        yield registry


async def state(bench: Bench, line: dict[str, Any]) -> object:
    """What the line's own check sees, and everything where a database is one file."""
    check = line["proof"].get("check") if line["proof"]["kind"] == "unchanged" else None
    rows = await bench.proof(check) if check else []
    return rows, sha256(Path(str(bench.url.database)).read_bytes()).digest() if bench.backend == "sqlite" else None  # noqa: ASYNC240


@asynccontextmanager
async def reading(registry: EngineRegistry, bench: Bench, way: str = "") -> AsyncGenerator[Lease]:
    """The engine that reads run on, with one connection, so that each call is lent the one that the last gave back."""
    named = bench.url.set(drivername=way) if "+" in way else bench.url
    dialect, url = dialects.parse(named.render_as_string(hide_password=False))
    async with registry.lease(Target(dialect, url), "read_only", Pool(size=1, recycle=3600, idle_ttl=3600)) as lease:
        yield lease


async def run(lease: Lease, sql: str) -> Rows:
    """*sql* on a reading connection, as a read is run, without a look at its text."""
    return await transactions.read(lease, lambda on: lease.dialect.fetch(on, sql, (), 100), timeout=_SECONDS)


# ---- the text -------------------------------------------------------------------------------------------------------


async def read_by_text(bench: Bench, sql: str) -> str:
    """*sql* as it would be sent, if its text and the catalog's word on functions let it pass. Raises ManydbError."""
    dialect, _ = dialects.parse(bench.url.render_as_string(hide_password=False))
    statement = statements.parse(sql, dialect.grammar)
    statements.require_read(statement)
    statements.check_functions(statement, await dialect.catalog.acting_functions(bench.admin))
    return statement.sql


@pytest.mark.parametrize(("backend", "line"), plain_writes(*BACKENDS))
async def test_the_text_alone_refuses_every_plain_write(benches: Benches, backend: str, line: dict[str, Any]) -> None:
    bench = await benches(backend)
    with pytest.raises(ManydbError):
        await read_by_text(bench, bench.named(text_of(line)))


@pytest.mark.parametrize(("backend", "line"), others(*BACKENDS))
async def test_what_the_text_lets_pass_changes_nothing_although_nothing_else_stops_it(
    benches: Benches, backend: str, line: dict[str, Any]
) -> None:
    bench = await benches(backend)
    with suppress(ManydbError):
        sql = await read_by_text(bench, bench.named(text_of(line)))
        before = await state(bench, line)
        async with entered(bench.url) as connection:
            await send(connection, sql)
        assert await state(bench, line) == before


@pytest.mark.parametrize(
    ("grammar", "sql"),
    [
        # x is what the function in FROM returned, and x.f is f(x): the engine has nothing against a file being read.
        (POSTGRESQL, "SELECT x.pg_read_file FROM concat('PG_VERSION') AS x"),
        (POSTGRESQL, 'SELECT concat . "pg_ls_dir" FROM concat($$/$$)'),
        (POSTGRESQL, "SELECT 1 FROM oidlarger(1, 2) x WHERE x.lo_unlink = 1"),
        (MYSQL, "SHOW COLUMNS FROM accounts WHERE (last_insert_id(7))"),
        (MYSQL, "SELECT `last_insert_id`(7)"),
        (MYSQL, "SHOW COLUMNS FROM accounts WHERE (WITH RECURSIVE t AS (SELECT 1 AS n) SELECT sum(n) FROM t)"),
        (MYSQL, "SHOW TABLES WHERE (SELECT NEXT VALUE FOR hit_seq)"),
        (MYSQL, "SHOW TABLES WHERE 1 IN (SELECT 1 FROM accounts LOCK IN SHARE MODE)"),
    ],
)
def test_what_the_fuzzing_found_is_refused_by_the_text(grammar: Grammar, sql: str) -> None:
    with pytest.raises((Forbidden, ReadOnly)):
        statements.require_read(statements.parse(sql, grammar))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT x.touch FROM concat('a') AS x",
        "SELECT x.touch FROM concat('a') WITH ORDINALITY AS x",
        'SELECT "concat".touch FROM concat($$a$$)',
        "SELECT x.touch FROM ROWS FROM (concat('a')) x",
        "SELECT (x.a).b.touch, (t).touch FROM t",
    ],
)
def test_a_field_of_a_value_may_be_a_function(sql: str) -> None:
    statement = statements.parse(sql, POSTGRESQL)
    with pytest.raises(Forbidden, match="touch"):
        statements.check_functions(statement, frozenset({"touch"}))


def test_a_column_may_be_called_like_a_function_of_the_users_own() -> None:
    sql = "SELECT o.total, q.total FROM orders o, (SELECT 1 AS total) q WHERE o.id IN (1, 2) AND shop.orders.total > 1"
    statement = statements.parse(sql, POSTGRESQL)
    statements.require_read(statement)
    statements.check_functions(statement, frozenset({"total", "orders"}))


@pytest.mark.parametrize("sql", ["SELECT (1]) AS (2)", "WITH [a) AS (SELECT 1) SELECT 1", "SELECT {1)"])
def test_brackets_that_do_not_match_are_a_syntax_error(sql: str) -> None:
    with pytest.raises(SqlSyntax, match="has no"):
        statements.parse(sql, POSTGRESQL)


# ---- the engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "line"),
    [
        pytest.param(way, line, id=f"{way}-{line['id']}")
        for way in WAYS
        for _, line in (case.values for case in plain_writes(way.partition("+")[0]))
    ],
)
async def test_the_engine_alone_stops_every_plain_write(
    benches: Benches, registry: EngineRegistry, way: str, line: dict[str, Any]
) -> None:
    backend, _, driver = way.partition("+")
    if driver:
        pytest.importorskip(driver)
    bench = await benches(backend)
    before = await state(bench, line)
    async with reading(registry, bench, way) as lease:
        with suppress(ManydbError):  # some are harmless here: what counts is what they leave
            await run(lease, bench.named(text_of(line)))
        assert await state(bench, line) == before
        if line["proof"]["kind"] == "session_unchanged":
            await session_is_as_before(bench, lease, line["proof"])
        with pytest.raises(ManydbError):
            await run(lease, "DELETE FROM accounts")
        assert (await run(lease, "SELECT count(*) FROM accounts")).rows == [(3,)]


async def session_is_as_before(bench: Bench, lease: Lease, proof: dict[str, Any]) -> None:
    """What the line wanted to leave on the connection is not there for the next caller."""
    check = bench.named(proof["check"])
    if proof.get("check_must_fail"):
        with pytest.raises(ManydbError):
            await run(lease, check)
    else:
        async with entered(bench.url) as fresh:
            expected = [tuple(row) for row in await fresh.exec_driver_sql(check)]
        assert (await run(lease, check)).rows == expected


# ---- the login ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "line"),
    [case for case in plain_writes("postgresql", "mysql") if case.id not in BEYOND_THE_LOGIN],  # a file knows no logins
)
async def test_the_login_alone_stops_every_plain_write(benches: Benches, backend: str, line: dict[str, Any]) -> None:
    bench = await benches(backend)
    before = await state(bench, line)
    async with entered(bench.url_of("reader")) as connection:
        with suppress(Exception):  # the drivers' own errors; what counts is what the statement leaves
            await send(connection, bench.named(text_of(line)))
        with suppress(Exception):
            await drop_temporary_tables(connection)
    assert await state(bench, line) == before


async def drop_temporary_tables(connection: AsyncConnection) -> None:
    """They are the session's own, and go with it; but nobody knows how soon after."""
    if connection.dialect.name == "postgresql":
        await send(connection, "ROLLBACK")
        await send(connection, "DISCARD TEMP")
