"""Many callers at once, and for a while: 16 and 200 of them against the floors, then 16 whose server may not grow."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import URL

from benchmarks import items
from benchmarks.clients import Asking, HTTPClient
from benchmarks.drivers import DRIVERS, Driver
from benchmarks.lab import FLOOR, MANYDB, Lab, Listening, listening, piped, plain
from benchmarks.measuring import Sample, Timed, milliseconds, taking_turns
from benchmarks.reporting import Figure
from manydb.settings import Settings

CALLERS = (16, 200)
CALLS = 200
"""Of all callers together, each time."""
ROWS = 10_000
ROUNDS = 15
QUICK_ROUNDS = 10
POOL: int = Settings.model_fields["pool_size"].default

WHILE = 20.0  # s
SUSTAINING = 16
MOST_GROWTH = 10.0  # MB in the second half
_MB = 1_000_000

Call = Callable[[int], Awaitable[Any]]
"""The call of that number."""


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for backend in lab.servers:
        async with lab.database(backend) as url:
            await items.fill(url, ROWS)
            async with _rivals(backend, url) as rivals:
                for callers in CALLERS:
                    for figure in await _at_once(backend, rivals, callers, lab.rounds_of(ROUNDS, QUICK_ROUNDS)):
                        yield figure
            if not lab.is_quick:
                for figure in await _for_a_while(backend, url):
                    yield figure


# -- at once ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rivals:
    """Everything that is asked, side by side."""

    driver: Call
    pipe: Asking
    pipe_floor: Asking
    web: Listening
    workers: Listening
    """As many processes as there are cores to spare for them: two."""
    web_floor: Listening


@asynccontextmanager
async def _rivals(backend: str, url: URL) -> AsyncGenerator[Rivals]:
    settings = {"connections": {"db": {"url": plain(url)}}}
    async with AsyncExitStack() as stack:
        yield Rivals(
            driver=await _pooled(stack, DRIVERS[backend], url),
            pipe=(await stack.enter_async_context(piped(MANYDB, **settings))).client,
            pipe_floor=(await stack.enter_async_context(piped(FLOOR))).client,
            web=await stack.enter_async_context(listening(MANYDB, **settings)),
            workers=await stack.enter_async_context(listening(MANYDB, workers=2, **settings)),
            web_floor=await stack.enter_async_context(listening(FLOOR)),
        )


async def _at_once(backend: str, rivals: Rivals, callers: int, rounds: int) -> list[Figure]:
    waits: list[float] = []
    noop = {"size": len(await rivals.pipe.text("execute_query", **_lookup(1)))}
    with (
        _connected(rivals.web, callers) as ours,
        _connected(rivals.workers, callers) as shared,
        _connected(rivals.web_floor, callers) as floors,
    ):
        works = {
            "driver": [rivals.driver] * callers,
            "stdio": [_looking_up(rivals.pipe)] * callers,
            "stdio floor": [_asking(rivals.pipe_floor, noop)] * callers,
            "http": [_looking_up(client, waits) for client in ours],
            "http, 2 workers": [_looking_up(client) for client in shared],
            "http floor": [_asking(client, noop) for client in floors],
        }
        times = await taking_turns({who: Timed(partial(_spread, calls)) for who, calls in works.items()}, rounds)
    return [*_ratios(backend, callers, times), *_rates(backend, callers, times), _waits(backend, callers, waits)]


def _lookup(number: int) -> dict[str, Any]:
    sql = f"SELECT * FROM {items.ITEMS.name} WHERE id = :id"
    return {"sql": sql, "params": {"id": 1 + number * 7_919 % ROWS}}


def _looking_up(client: Asking, waits: list[float] | None = None) -> Call:
    async def call(number: int) -> None:
        took = await milliseconds(partial(client.text, "execute_query", **_lookup(number)))
        if waits is not None:
            waits.append(took)

    return call


def _asking(client: Asking, arguments: dict[str, Any]) -> Call:
    return lambda _: client.text("noop", **arguments)


async def _pooled(stack: AsyncExitStack, driver: Driver, url: URL) -> Call:
    """The driver's lookup, on as many connections as manydb has by default."""
    free: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(POOL):
        free.put_nowait(await stack.enter_async_context(driver.connect(url)))
    sql = f"SELECT * FROM {items.ITEMS.name} WHERE id = {driver.mark}"

    async def call(number: int) -> None:
        fetch = await free.get()
        try:
            await fetch(sql, 1 + number * 7_919 % ROWS)
        finally:
            free.put_nowait(fetch)

    return call


@contextmanager
def _connected(server: Listening, callers: int) -> Iterator[list[HTTPClient]]:
    """Clients with a connection each, which they open when they first call."""
    with ExitStack() as stack:
        clients = [HTTPClient(server.port) for _ in range(callers)]
        for client in clients:
            stack.callback(client.close)
        yield clients


async def _spread(calls: Sequence[Call]) -> None:
    """CALLS calls, by as many callers as there are *calls*: each goes on as soon as it has its answer."""
    numbers = iter(range(CALLS))

    async def keep_calling(call: Call) -> None:
        for number in numbers:
            await call(number)

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(keep_calling(call))


def _ratios(backend: str, callers: int, times: dict[str, Sample]) -> Iterator[Figure]:
    for transport in ("stdio", "http"):
        ours, protocol, driver = times[transport], times[f"{transport} floor"], times["driver"]
        what = f"{callers} callers, {transport} over driver + protocol"
        yield Figure(backend, what, ours.over(driver.plus(protocol)), "x")


def _rates(backend: str, callers: int, times: dict[str, Sample]) -> Iterator[Figure]:
    for who, sample in times.items():
        rates = Sample(tuple(CALLS * 1_000 / took for took in sample.each))
        yield Figure(backend, f"{callers} callers, {who}", rates, "/s")


def _waits(backend: str, callers: int, waits: list[float]) -> Figure:
    sample = Sample(tuple(waits))
    detail = tuple(f"{percent} % wait no longer than {sample.percentile(percent):.1f} ms" for percent in (50, 95, 99))
    return Figure(backend, f"{callers} callers, http, an answer's wait", sample, "ms", detail=detail)


# -- for a while -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Second:
    """What one second of load brought: *calls* that were answered, and *memory* in bytes at its end."""

    calls: int
    memory: int


async def _for_a_while(backend: str, url: URL) -> list[Figure]:
    settings = {"connections": {"db": {"url": plain(url)}}}
    async with listening(MANYDB, **settings) as server:
        with _connected(server, SUSTAINING) as clients:
            rest = server.memory.resident()
            seconds = await _sustain(clients, server)
    half, quarter = len(seconds) // 2, max(1, len(seconds) // 4)
    memory = Sample(tuple(second.memory / _MB for second in seconds))
    later = Sample(tuple(float(second.calls) for second in seconds[-quarter:]))
    sooner = Sample(tuple(float(second.calls) for second in seconds[:quarter]))
    growth = memory.each[-1] - memory.each[half]
    what = f"{WHILE:g} s of {SUSTAINING} callers"
    detail = tuple(
        f"{number:3} s {second.memory / _MB:7.1f} MB {second.calls:6} calls" for number, second in enumerate(seconds, 1)
    )
    return [
        Figure(backend, f"{what}, a call's time in the last quarter over the first", sooner.over(later), "x"),
        Figure(backend, f"{what}, memory's growth in the second half", Sample((growth,)), "MB", within=MOST_GROWTH),
        Figure(backend, f"{what}, memory before", Sample((rest / _MB,)), "MB"),
        Figure(backend, f"{what}, memory", memory, "MB", detail=detail),
        Figure(backend, f"{what}, calls", Sample(tuple(float(second.calls) for second in seconds)), "/s"),
    ]


async def _sustain(clients: Sequence[Asking], server: Listening) -> list[Second]:
    """Lookups, pages and schemas, as long as it lasts."""
    seconds: list[Second] = []
    answered = 0
    end = time.perf_counter() + WHILE

    async def keep_calling(client: Asking, number: int) -> None:
        nonlocal answered
        while time.perf_counter() < end:
            number += 1
            await _mixed(client, number)
            answered += 1

    async def watch() -> None:
        before = 0
        while time.perf_counter() < end:
            await asyncio.sleep(1)
            seconds.append(Second(answered - before, server.memory.resident()))
            before = answered

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for place, client in enumerate(clients):
            group.create_task(keep_calling(client, place))
    return seconds


async def _mixed(client: Asking, number: int) -> None:
    name = items.ITEMS.name
    match number % 8:
        case 0:
            await client.text("get_table_schema", table=name)
        case 1 | 2:
            sql = f"SELECT * FROM {name} WHERE id > :id ORDER BY id"  # more than is shown: the rest is kept
            await client.text("execute_query", sql=sql, params={"id": number % 1_000})
        case _:
            await client.text("execute_query", **_lookup(number))
