"""A read ends when it should, in the database too: time-outs, every kind of cancellation, a network that dies."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest
from fastmcp import Client
from mcp import MCPError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import AsyncAdaptedQueuePool

from manydb import transactions
from manydb.dialects.rows import Rows
from manydb.errors import Conflict, StatementTimeout, UnknownTable, Unreachable
from manydb.leases import Lease
from manydb.server import build_server
from tests.conftest import Databases
from tests.observers import ENDLESS, Observer, eventually, leased, settings, wired
from tests.servers import WAYS
from tests.tools import MODES, serving

NETWORKED = [way for way in WAYS if way != "sqlite"]
STOPS_WITHIN = 1.0

Work = Callable[[], Coroutine[Any, Any, Any]]
Condition = Callable[[], Awaitable[bool]]
Cancel = Callable[[Work, Condition], Awaitable[None]]


def fetching(lease: Lease, sql: str) -> Callable[[AsyncConnection], Awaitable[Rows]]:
    return lambda connection: lease.dialect.fetch(connection, sql, (), 10)


async def one(lease: Lease) -> Any:
    """What the database answers to the smallest question."""
    return (await transactions.read(lease, fetching(lease, "SELECT 1"), timeout=5)).rows[0][0]


async def several(lease: Lease, number: int) -> list[Any]:
    """As many answers at once, each over a connection of its own."""
    return list(await asyncio.gather(*(one(lease) for _ in range(number))))


@pytest.fixture(scope="module", params=WAYS)
async def database_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    """Each way's, one for this module: making a database takes longer than most of the tests."""
    async with databases.temporary(request.param) as url:
        yield url


@pytest.fixture(scope="module", params=NETWORKED)
async def networked_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary(request.param) as url:
        yield url


# ---- time-outs ------------------------------------------------------------------------------------------------------


async def test_the_database_itself_ends_a_statement_at_its_time(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with leased(database_url) as lease:
        assert await one(lease) == 1
        sessions = await observer.sessions()
        started = time.monotonic()
        with pytest.raises(StatementTimeout):
            await transactions.read(lease, fetching(lease, ENDLESS), timeout=0.3)
        assert 0.25 < time.monotonic() - started < 0.3 + STOPS_WITHIN
        # By itself: nobody had to give up the connection.
        assert await observer.sessions() == sessions
        assert await one(lease) == 1


async def test_a_short_time_of_one_call_does_not_cut_the_next(database_url: str) -> None:
    async with leased(database_url) as lease:
        with pytest.raises(StatementTimeout):
            await transactions.read(lease, fetching(lease, ENDLESS), timeout=0.2)
        started = time.monotonic()
        with pytest.raises(StatementTimeout):
            await transactions.read(lease, fetching(lease, ENDLESS), timeout=0.6)
        assert time.monotonic() - started > 0.5


async def test_what_the_work_raises_of_our_own_passes_unchanged(database_url: str) -> None:
    mistake = UnknownTable("as it was")

    async def work(connection: AsyncConnection) -> None:
        raise mistake

    async with leased(database_url) as lease:
        with pytest.raises(UnknownTable) as caught:
            await transactions.read(lease, work, timeout=5)
        assert caught.value is mistake
        assert await one(lease) == 1


async def test_what_a_read_did_is_never_committed(database_url: str) -> None:
    await Observer.of(database_url).run("CREATE TABLE kept (n integer)")

    # As if nothing refused writes: on an engine that may write, in a transaction that may.
    async with leased(database_url, "read_write") as lease, lease.connect() as connection:
        await lease.dialect.begin(connection, read_only=False, timeout=5)
        await lease.dialect.fetch(connection, "INSERT INTO kept VALUES (1)", (), 10)
    assert await Observer.of(database_url).run("SELECT n FROM kept") == []


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("postgresql")])
async def test_what_the_server_rolled_back_instead_is_never_told_as_committed(databases: Databases, way: str) -> None:
    async def fails(connection: AsyncConnection) -> None:
        with suppress(Exception):  # the driver's own; the transaction is aborted by it
            await lease.dialect.execute(connection, "SELECT 1 / 0", (), 1)

    async with databases.temporary(way) as url, leased(url, "read_write") as lease:
        with pytest.raises(Conflict):
            await transactions.write(lease, fails, timeout=5)


# ---- cancellation ---------------------------------------------------------------------------------------------------


async def cancel_task(work: Work, is_busy: Condition) -> None:
    task = asyncio.ensure_future(work())
    await eventually(is_busy)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_scope(work: Work, is_busy: Condition) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await eventually(is_busy)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("cancel", [cancel_task, cancel_scope])
async def test_cancelling_stops_the_statement_in_the_database(database_url: str, cancel: Cancel) -> None:
    observer = Observer.of(database_url)
    async with leased(database_url) as lease:
        await cancel(lambda: transactions.read(lease, fetching(lease, ENDLESS), timeout=30), observer.is_busy)
        await eventually(observer.is_quiet, STOPS_WITHIN)
        await eventually(lambda: nothing_is_out(lease))
        assert await one(lease) == 1


async def test_a_call_cancelled_at_any_moment_leaves_nothing_behind(database_url: str) -> None:
    """While it connects, begins, is about to run, or runs: the moments are turns of the event loop."""
    observer = Observer.of(database_url)
    async with leased(database_url) as lease:
        for turns in range(0, 120, 4):
            task = asyncio.create_task(transactions.read(lease, fetching(lease, ENDLESS), timeout=30))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            await eventually(observer.is_quiet, STOPS_WITHIN)
        await eventually(lambda: nothing_is_out(lease))
        assert await one(lease) == 1
    await eventually(observer.is_left_alone)


async def nothing_is_out(lease: Lease) -> bool:
    pool = lease.engine.pool
    assert isinstance(pool, AsyncAdaptedQueuePool)
    return pool.checkedout() == 0


async def test_many_cancelled_calls_leave_the_pool_whole(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with leased(database_url, size=3, pool_timeout=30) as lease:
        calls = [asyncio.create_task(transactions.read(lease, fetching(lease, ENDLESS), timeout=30)) for _ in range(12)]
        await eventually(observer.is_busy)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await eventually(observer.is_quiet, STOPS_WITHIN)
        await eventually(lambda: nothing_is_out(lease))
        # All three at once: each place in the pool is there.
        assert await several(lease, 3) == [1, 1, 1]


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_stops_waiting_stops_the_statement(database_url: str, mode: str) -> None:
    observer = Observer.of(database_url)
    async with Client(build_server(settings(connections={"db": {"url": database_url}})), mode=mode) as client:
        with pytest.raises(MCPError, match=r"[Tt]imed out"):
            await client.call_tool("execute_query", {"sql": ENDLESS}, timeout=0.5)
        await eventually(observer.is_quiet, STOPS_WITHIN)
        answer = await client.call_tool("execute_query", {"sql": "SELECT 1 AS one"})
        assert not answer.is_error


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_cancels_stops_the_statement(database_url: str, mode: str) -> None:
    observer = Observer.of(database_url)
    async with Client(build_server(settings(connections={"db": {"url": database_url}})), mode=mode) as client:
        await cancel_task(lambda: client.call_tool("execute_query", {"sql": ENDLESS}), observer.is_busy)
        await eventually(observer.is_quiet, STOPS_WITHIN)
        answer = await client.call_tool("execute_query", {"sql": "SELECT 1 AS one"})
        assert not answer.is_error


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+asyncmy"])
async def test_cancelling_works_with_the_drivers_named_explicitly(databases: Databases, driver: str) -> None:
    backend = driver.partition("+")[0]
    async with databases.temporary(backend) as url:
        observer = Observer.of(url)
        async with leased(url.replace(url.partition(":")[0], driver)) as lease:
            work = fetching(lease, ENDLESS)
            await cancel_scope(lambda: transactions.read(lease, work, timeout=30), observer.is_busy)
            await eventually(observer.is_quiet, STOPS_WITHIN)
            assert await one(lease) == 1


# ---- a network that dies --------------------------------------------------------------------------------------------


async def test_a_silent_network_ends_at_the_deadline_and_later_calls_work(networked_url: str) -> None:
    async with wired(networked_url) as (wire, url), leased(url, size=2) as lease:
        assert await several(lease, 2) == [1, 1]
        wire.hold()
        started = time.monotonic()
        with pytest.raises(StatementTimeout):
            await transactions.read(lease, fetching(lease, "SELECT 1"), timeout=0.5)
        assert time.monotonic() - started < 5
        wire.cut()
        wire.release()
        assert await several(lease, 2) == [1, 1]


async def test_connections_that_fell_silent_in_the_pool_are_replaced(networked_url: str) -> None:
    async with wired(networked_url) as (old, url), leased(url) as lease:
        assert await one(lease) == 1
        accepted = old.accepted
        # What is connected stays connected, and silent; whoever connects anew gets through.
        old.mute()
        assert (await transactions.read(lease, fetching(lease, "SELECT 1"), timeout=5)).rows == [(1,)]
        assert old.accepted > accepted


async def test_connections_that_the_server_killed_are_replaced(networked_url: str) -> None:
    observer = Observer.of(networked_url)
    async with leased(networked_url, size=3) as lease:
        assert await several(lease, 3) == [1, 1, 1]
        assert await observer.sessions() == 3
        await observer.kill_sessions()
        await eventually(observer.is_left_alone)
        assert await several(lease, 3) == [1, 1, 1]


async def test_a_connection_that_dies_under_its_statement_is_no_news_to_the_log(
    networked_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Observer.of(networked_url)
    async with leased(networked_url) as lease:
        running = asyncio.create_task(transactions.read(lease, fetching(lease, ENDLESS), timeout=30))
        await eventually(lambda: is_running(observer))
        await observer.kill_sessions()
        with pytest.raises(Unreachable):
            await running
        assert await one(lease) == 1
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def is_running(observer: Observer) -> bool:
    return await observer.running() == 1


# ---- unreachable ----------------------------------------------------------------------------------------------------


async def test_an_unreachable_database_is_listed_with_its_reason_and_works_once_it_is_back(
    databases: Databases, sqlite_url: str
) -> None:
    async with databases.temporary("postgresql") as real:
        observer = Observer.of(real)
        name = str(observer.url.database)
        gone = Observer(observer.url.set(database="postgres"))
        await gone.run(f"ALTER DATABASE {name} RENAME TO {name}_away")
        async with serving(connections={"shop": {"url": real}, "file": {"url": sqlite_url}}) as desk:
            shop, file = (await desk.ask("list_connections"))["connections"]
            assert (shop["status"], file["status"]) == ("unreachable", "ok")
            assert name in shop["reason"]
            assert (await desk.refusal("execute_query", connection="shop", sql="SELECT 1"))["code"] == "UNREACHABLE"
            assert await desk.rows("SELECT 1", connection="file") == [[1]]
            await gone.run(f"ALTER DATABASE {name}_away RENAME TO {name}")
            assert await desk.rows("SELECT 1", connection="shop") == [[1]]
            shop, file = (await desk.ask("list_connections"))["connections"]
            assert (shop["status"], "reason" in shop) == ("ok", False)
