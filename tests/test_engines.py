"""Engines: made once, leased, swept, checked, and gone when they should be, on the server too."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb import dialects, transactions
from manydb.dialects import Dialect
from manydb.engines import EngineRegistry, Pool
from manydb.errors import PoolBusy, Unreachable
from manydb.leases import Lease, Target
from manydb.settings import Access
from tests.conftest import Databases
from tests.observers import Observer, eventually, settings, wired
from tests.servers import BACKENDS

POOL = Pool(size=2, recycle=1_000, idle_ttl=300)


@dataclass
class Clock:
    """Time that passes when a test says so."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class House:
    """An open registry and its clock."""

    engines: EngineRegistry
    clock: Clock

    @asynccontextmanager
    async def lease(self, url: str, access: Access = "read_only", pool: Pool = POOL) -> AsyncGenerator[Lease]:
        dialect, parsed = parse(url)
        async with self.engines.lease(Target(dialect, parsed), access, pool) as lease:
            yield lease

    async def use(self, url: str, access: Access = "read_only") -> Any:
        """Ask the smallest question; its connection stays in the pool."""
        async with self.lease(url, access) as lease:
            answer = await ask(lease)
            await asyncio.gather(*lease.returning)
            return answer

    def locations(self) -> list[str]:
        return [each.location for each in self.engines.stats()]


def parse(url: str) -> tuple[Dialect, URL]:
    return dialects.parse(url)


def location(url: str) -> str:
    dialect, parsed = parse(url)
    return dialect.location(parsed)


async def ask(lease: Lease) -> Any:
    answer = await transactions.read(lease, lambda on: lease.dialect.fetch(on, "SELECT 1", (), 1), timeout=5)
    return answer.rows[0][0]


@asynccontextmanager
async def opened(**given: Any) -> AsyncGenerator[House]:
    clock = Clock()
    async with EngineRegistry(settings(**given), clock) as engines:
        yield House(engines, clock)


@pytest.fixture(scope="module", params=[*BACKENDS])
async def database_url(request: pytest.FixtureRequest, databases: Databases) -> AsyncGenerator[str]:
    """Each backend's, one for this module: making a database takes longer than most of the tests."""
    async with databases.temporary(request.param) as url:
        yield url


@pytest.fixture(scope="module")
async def postgresql_url(databases: Databases) -> AsyncGenerator[str]:
    async with databases.temporary("postgresql") as url:
        yield url


@pytest.fixture
async def three(databases: Databases) -> AsyncGenerator[list[str]]:
    """The URLs of three SQLite files."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(databases.temporary("sqlite")) for _ in range(3)]


# ---- one engine -----------------------------------------------------------------------------------------------------


async def test_two_hundred_callers_at_once_make_one_engine(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with opened(pool_timeout=30) as house:
        answers = await asyncio.gather(*(house.use(database_url) for _ in range(200)))
        assert answers == [1] * 200
        (stats,) = house.engines.stats()
        assert (stats.leases, stats.in_use) == (0, 0)
        assert await observer.sessions() <= POOL.size


async def test_each_access_has_an_engine_of_its_own(sqlite_url: str) -> None:
    async with opened() as house:
        for access in ("read_only", "read_write", "read_only"):
            await house.use(sqlite_url, access)
        assert [each.access for each in house.engines.stats()] == ["read_only", "read_write"]


async def test_stats_count_connections_leases_and_age(database_url: str) -> None:
    async with opened() as house:
        await house.use(database_url)
        house.clock.now += 7
        async with house.lease(database_url) as lease, lease.connect():
            (busy,) = house.engines.stats()
        (idle,) = house.engines.stats()
        assert (busy.size, busy.idle, busy.in_use, busy.leases, busy.age) == (2, 0, 1, 1, 7)
        assert (idle.size, idle.idle, idle.in_use, idle.leases) == (2, 1, 0, 0)
        assert idle.location == location(database_url)


# ---- the end of an engine -------------------------------------------------------------------------------------------


async def test_an_idle_engine_is_disposed_after_its_ttl_and_not_before(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with opened() as house:
        await house.use(database_url)
        house.clock.now += POOL.idle_ttl - 1
        await house.engines.sweep()
        assert house.locations() == [location(database_url)]
        house.clock.now += 1
        await house.engines.sweep()
        assert house.locations() == []
        await eventually(observer.is_left_alone)
        assert await house.use(database_url) == 1


async def test_use_makes_an_engine_young_again(sqlite_url: str) -> None:
    async with opened() as house:
        for _ in range(3):
            await house.use(sqlite_url)
            house.clock.now += POOL.idle_ttl - 1
            await house.engines.sweep()
        assert house.locations() == [location(sqlite_url)]


async def test_a_leased_engine_is_never_idle(database_url: str) -> None:
    async with opened() as house, house.lease(database_url) as lease:
        house.clock.now += 10 * POOL.idle_ttl
        await house.engines.sweep()
        assert await ask(lease) == 1
        assert house.locations() == [location(database_url)]


async def test_an_engine_past_its_lifetime_is_replaced_and_lives_on_for_who_holds_it(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with opened(engine_max_lifetime=100) as house:
        async with house.lease(database_url) as old:
            assert await ask(old) == 1
            await asyncio.gather(*old.returning)
            house.clock.now += 100
            async with house.lease(database_url) as new:
                assert new.engine is not old.engine
                assert (await ask(old), await ask(new)) == (1, 1)
            assert await observer.sessions() == 2
        await eventually(lambda: count_is(observer, 1))
        async with house.lease(database_url) as again:
            assert again.engine is new.engine


async def count_is(observer: Observer, count: int) -> bool:
    return await observer.sessions() == count


async def test_the_sweep_retires_what_is_past_its_lifetime(sqlite_url: str) -> None:
    observer = Observer.of(sqlite_url)
    async with opened(engine_max_lifetime=100) as house:
        async with house.lease(sqlite_url) as lease:
            house.clock.now += 100
            await house.engines.sweep()
            assert house.locations() == []
            assert await ask(lease) == 1
        await eventually(observer.is_left_alone)


async def test_the_least_recently_used_engine_makes_room(three: list[str]) -> None:
    first, second, third = three
    async with opened(max_engines=2) as house:
        for url in (first, second, first, third):
            house.clock.now += 1
            await house.use(url)
        assert house.locations() == [location(first), location(third)]


async def test_an_engine_in_use_does_not_make_room(three: list[str]) -> None:
    first, second, third = three
    async with opened(max_engines=2) as house, house.lease(first):
        house.clock.now += 1
        await house.use(second)
        await house.use(third)
        assert house.locations() == [location(first), location(third)]


async def test_where_all_engines_are_in_use_pool_busy_tells_how_many_there_may_be(three: list[str]) -> None:
    first, second, third = three
    async with opened(max_engines=2) as house:
        async with house.lease(first), house.lease(second):
            with pytest.raises(PoolBusy, match=r"all 2 engines .*max_engines"):
                await house.use(third)
        assert await house.use(third) == 1


async def test_an_engine_that_cannot_be_made_takes_nobodys_room(three: list[str], tmp_path: Path) -> None:
    async with opened(max_engines=1) as house:
        await house.use(three[0])
        with pytest.raises(Unreachable, match="there is no database file"):
            await house.use(f"sqlite:///{tmp_path / 'none.db'}")
        assert house.locations() == [location(three[0])]


async def test_an_exhausted_pool_tells_how_many_connections_are_busy(database_url: str) -> None:
    async with opened(pool_timeout=0.05) as house, house.lease(database_url) as lease:
        async with lease.connect(), lease.connect():
            with pytest.raises(PoolBusy, match="all 2 connections"):
                await ask(lease)
        assert await ask(lease) == 1


async def test_who_asks_one_thing_right_after_the_other_gets_a_second_connection(postgresql_url: str) -> None:
    # The first is still being cleaned when the next question comes.
    async with opened() as house, house.lease(postgresql_url, pool=Pool(size=5, recycle=1_000, idle_ttl=300)) as lease:
        assert await ask(lease) == 1
        assert await Observer.of(postgresql_url).sessions() == 1
        for _ in range(10):
            assert await ask(lease) == 1
        while lease.returning:
            await asyncio.wait(lease.returning)
        assert house.engines.stats()[0].idle == 2
        assert await Observer.of(postgresql_url).sessions() == 2


# ---- closing --------------------------------------------------------------------------------------------------------


async def test_closing_leaves_no_connection_on_the_server(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with opened() as house:
        await asyncio.gather(*(house.use(database_url) for _ in range(4)))
        await house.use(database_url, "read_write")
        assert not await observer.is_left_alone()
    await eventually(observer.is_left_alone)


async def test_closing_waits_for_engines_that_are_just_being_disposed(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with opened() as house:
        await asyncio.gather(*(house.use(database_url) for _ in range(4)))
        house.clock.now += POOL.idle_ttl
        await house.engines.sweep()
    await eventually(observer.is_left_alone)


async def test_a_connection_that_is_out_while_the_registry_closes_is_dropped_when_it_comes_back(
    database_url: str,
) -> None:
    observer = Observer.of(database_url)
    async with AsyncExitStack() as holding:
        async with opened() as house:
            lease = await holding.enter_async_context(house.lease(database_url))
            await holding.enter_async_context(lease.connect())
        assert await observer.sessions() == 1
    await eventually(observer.is_left_alone)


async def test_closing_is_not_cut_short_by_cancellation(database_url: str) -> None:
    observer = Observer.of(database_url)
    ready = asyncio.Event()

    async def run() -> None:
        async with opened() as house:
            await house.use(database_url)
            ready.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await ready.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(observer.is_left_alone)


async def test_closing_does_not_wait_for_a_silent_network(postgresql_url: str) -> None:
    async with wired(postgresql_url) as (wire, url), asyncio.timeout(5):
        async with opened() as house:
            await house.use(url)
            wire.hold()
        wire.cut()


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="the system does not list open files")
async def test_opening_and_closing_often_leaves_no_file_and_no_thread(database_url: str) -> None:
    observer = Observer.of(database_url)

    async def once() -> None:
        async with opened() as house:
            await asyncio.gather(house.use(database_url), house.use(database_url))

    await once()
    await eventually(observer.is_left_alone)
    files, threads = len(os.listdir("/dev/fd")), threading.active_count()  # noqa: PTH208 - it changes while listed
    for _ in range(10):
        await once()
    await eventually(lambda: are_at_most(files, threads))


async def are_at_most(files: int, threads: int) -> bool:
    return len(os.listdir("/dev/fd")) <= files and threading.active_count() <= threads  # noqa: PTH208


# ---- health ---------------------------------------------------------------------------------------------------------


async def test_the_check_tells_down_and_up(postgresql_url: str) -> None:
    async with wired(postgresql_url) as (wire, url), opened(connect_timeout=0.3) as house:
        await house.use(url)
        assert await checked(house, url) is None
        wire.hold()
        assert isinstance(await checked(house, url), Unreachable)
        wire.cut()
        wire.release()
        assert await checked(house, url) is None


async def checked(house: House, url: str) -> Exception | None:
    """What a health check, made later than the one before, tells."""
    house.clock.now += 1
    await house.engines.check()
    health = house.engines.health(Target(*parse(url)), "read_only")
    assert health is not None
    assert health.checked_at == house.clock.now
    return health.error


async def test_the_check_sees_a_database_that_was_dropped_and_made_again(databases: Databases) -> None:
    async with databases.temporary("postgresql") as url, opened() as house:
        observer = Observer.of(url)
        elsewhere = Observer(observer.url.set(database="postgres"))
        await house.use(url)
        await elsewhere.run(f"DROP DATABASE {observer.url.database} WITH (FORCE)")
        assert isinstance(await checked(house, url), Unreachable)
        await elsewhere.run(f"CREATE DATABASE {observer.url.database}")
        assert await checked(house, url) is None
        assert await house.use(url) == 1


async def test_nothing_is_known_of_an_engine_nobody_made(sqlite_url: str) -> None:
    async with opened() as house:
        assert house.engines.health(Target(*parse(sqlite_url)), "read_only") is None


async def test_the_check_does_not_queue_behind_callers(database_url: str) -> None:
    async with opened() as house, house.lease(database_url) as lease:
        async with lease.connect(), lease.connect(), asyncio.timeout(1):
            await house.engines.check()
        assert house.engines.health(Target(*parse(database_url)), "read_only") is None


async def test_the_check_is_no_use_of_an_engine(sqlite_url: str) -> None:
    async with opened() as house:
        await house.use(sqlite_url)
        house.clock.now += POOL.idle_ttl
        await house.engines.check()
        await house.engines.sweep()
        assert house.locations() == []


async def test_an_engine_retired_during_its_check_leaves_no_connection(postgresql_url: str) -> None:
    observer = Observer.of(postgresql_url)
    async with wired(postgresql_url) as (wire, url), opened(connect_timeout=5) as house:
        await house.use(url)
        async with during_check(house, wire.hold):
            house.clock.now += POOL.idle_ttl
            await house.engines.sweep()
            assert house.locations() == []
            wire.release()
        await eventually(observer.is_left_alone)


async def test_an_engine_being_checked_makes_room_like_any_idle_one(postgresql_url: str, sqlite_url: str) -> None:
    async with wired(postgresql_url) as (wire, url), opened(max_engines=1) as house:
        await house.use(url)
        async with during_check(house, wire.hold):
            assert await house.use(sqlite_url) == 1
            wire.release()


@asynccontextmanager
async def during_check(house: House, hold: Callable[[], None]) -> AsyncGenerator[None]:
    """While a health check waits for its answer."""
    hold()
    check = asyncio.create_task(house.engines.check())
    await eventually(lambda: is_out(house))
    yield
    await check


async def is_out(house: House) -> bool:
    return sum(each.in_use for each in house.engines.stats()) > 0


# ---- the watches ----------------------------------------------------------------------------------------------------


async def test_the_sweep_and_the_check_run_by_themselves(sqlite_url: str) -> None:
    async with opened(sweep_interval=0.01, health_check_interval=0.01) as house:
        await house.use(sqlite_url)

        async def is_checked() -> bool:
            return house.engines.health(Target(*parse(sqlite_url)), "read_only") is not None

        async def is_gone() -> bool:
            return house.locations() == []

        await eventually(is_checked)
        house.clock.now += POOL.idle_ttl
        await eventually(is_gone)


async def test_a_failing_round_does_not_end_the_watch(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    failures = [OSError("no clock today")]

    def clock() -> float:
        if rounds and failures:
            raise failures.pop()
        return now[0]

    rounds: list[bool] = []
    now = [0.0]
    dialect, url = parse(sqlite_url)
    async with EngineRegistry(settings(sweep_interval=0.01), clock) as engines:
        async with engines.lease(Target(dialect, url), "read_only", POOL) as lease:
            await ask(lease)
        rounds.append(True)
        await eventually(lambda: settled(lambda: not failures))
        now[0] += POOL.idle_ttl
        await eventually(lambda: settled(lambda: engines.stats() == []))
    assert "it goes on" in caplog.text


async def settled(holds: Callable[[], bool]) -> bool:
    return holds()


async def test_nothing_runs_after_closing(sqlite_url: str) -> None:
    before = asyncio.all_tasks()
    async with opened(sweep_interval=0.01, health_check_interval=0.01) as house:
        await house.use(sqlite_url)
    await eventually(lambda: settled(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()}))


async def test_a_connection_that_a_large_answer_cost_is_replaced_before_anybody_asks(database_url: str) -> None:
    async with opened() as house, house.lease(database_url) as lease:
        assert await ask(lease) == 1
        await all_returned(lease)

        async def lose(on: AsyncConnection) -> None:
            await on.invalidate()

        await transactions.read(lease, lose, timeout=5)
        await all_returned(lease)
        lost: list[Any] = []
        event.listen(lease.engine.sync_engine, "connect", lambda *_: lost.append("a call had to connect"))
        assert await ask(lease) == 1
        assert lost == []


async def all_returned(lease: Lease) -> None:
    """Wait until every connection that came back is in the pool."""
    while lease.returning:
        await asyncio.gather(*lease.returning)
