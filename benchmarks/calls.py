"""A call's price: small and large answers against the driver, SQLAlchemy Core, and a FastMCP tool that does nothing.

What manydb adds is its time over that of driver and protocol together: the driver's for the same rows, and that of a
FastMCP tool which sends a prepared text of the same size.
"""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastmcp import Client
from sqlalchemy import URL
from tests.tools import Desk, serving

from benchmarks import floor, items
from benchmarks.clients import Asking
from benchmarks.drivers import DRIVERS, Driver, Fetch, core, ways
from benchmarks.lab import FLOOR, MANYDB, Lab, piped, plain
from benchmarks.measuring import Sample, Timed, Work, taking_turns
from benchmarks.reporting import Figure

ROWS = 10_000
ROUNDS = 20
QUICK_ROUNDS = 12

# The whole answer in one reply, and nothing read beyond it: driver and tools are to do the same.
_SETTINGS = {"byte_budget": 64_000_000, "max_row_cap": ROWS, "kept_rows": 0}


@dataclass(frozen=True, slots=True)
class Item:
    """A query of *rows* rows; *sql* has a `{}` for the placeholder of its argument, if it takes one.

    It is asked so many *times* in a row, see `Timed`.
    """

    name: str
    sql: str
    rows: int = 1
    args: tuple[Any, ...] = ()
    times: int = 1

    def text(self, mark: str) -> str:
        return self.sql.format(mark)

    @property
    def arguments(self) -> dict[str, Any]:
        """Of execute_query."""
        params = {"params": {"id": self.args[0]}} if self.args else {}
        return {"sql": self.text(":id"), "row_cap": self.rows, **params}


ITEMS = (
    Item("SELECT 1", "SELECT 1", times=10),
    Item("point lookup", f"SELECT * FROM {items.ITEMS.name} WHERE id = {{}}", args=(4_321,), times=10),
    *(
        Item(f"{count:,} rows", f"SELECT * FROM {items.ITEMS.name} ORDER BY id LIMIT {count}", count, times=times)
        for count, times in ((100, 5), (1_000, 2), (ROWS, 1))
    ),
)


@dataclass(frozen=True, slots=True)
class Rivals:
    """Everything that is asked, side by side."""

    raw: Fetch
    core: Fetch
    memory: Desk
    stdio: Asking
    memory_floor: Desk
    stdio_floor: Asking


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for backend in lab.servers:
        async with lab.database(backend) as database:
            await items.fill(database, ROWS)
            for way, url in ways(database):
                async with AsyncExitStack() as stack:
                    rivals = await _rivals(stack, DRIVERS[way], url)
                    for item in ITEMS:
                        for figure in await _measure(way, rivals, item, lab.rounds_of(ROUNDS, QUICK_ROUNDS)):
                            yield figure


async def _rivals(stack: AsyncExitStack, driver: Driver, url: URL) -> Rivals:
    settings: dict[str, Any] = {"connections": {"db": {"url": plain(url)}}, **_SETTINGS}
    return Rivals(
        raw=await stack.enter_async_context(driver.connect(url)),
        core=await stack.enter_async_context(core(url)),
        memory=await stack.enter_async_context(serving(**settings)),
        stdio=(await stack.enter_async_context(piped(MANYDB, **settings))).client,
        memory_floor=Desk(await stack.enter_async_context(Client(floor.build()))),
        stdio_floor=(await stack.enter_async_context(piped(FLOOR))).client,
    )


async def _measure(backend: str, rivals: Rivals, item: Item, rounds: int) -> list[Figure]:
    arguments = item.arguments
    size = await _size(rivals.memory, arguments, item.rows)
    raw_sql = item.text(DRIVERS[backend].mark)
    works: dict[str, Work] = {
        "driver": lambda: rivals.raw(raw_sql, *item.args),
        "SQLAlchemy Core": lambda: rivals.core(item.text(":id"), *item.args),
        "memory": lambda: rivals.memory.text("execute_query", **arguments),
        "stdio": lambda: rivals.stdio.text("execute_query", **arguments),
        "memory floor": lambda: rivals.memory_floor.text("noop", size=size),
        "stdio floor": lambda: rivals.stdio_floor.text("noop", size=size),
    }
    times = await taking_turns({who: Timed(work, times=item.times) for who, work in works.items()}, rounds)
    return [*_ratios(backend, item.name, times), *_times(backend, item.name, times), _tokens(backend, item.name, size)]


async def _size(desk: Desk, arguments: dict[str, Any], rows: int) -> int:
    """Characters of the reply, which has to be whole."""
    text = await desk.text("execute_query", **arguments)
    if (found := json.loads(text)["row_count"]) != rows:
        raise RuntimeError(f"{found} rows instead of {rows}: {arguments}")
    return len(text)


def _ratios(backend: str, name: str, times: dict[str, Sample]) -> Iterator[Figure]:
    for transport in ("memory", "stdio"):
        ours, protocol, driver = times[transport], times[f"{transport} floor"], times["driver"]
        yield Figure(backend, f"{name}, {transport} over driver + protocol", ours.over(driver.plus(protocol)), "x")
        yield Figure(backend, f"{name}, {transport} over no-op tool", ours.over(protocol), "x")
    for below in ("driver", "SQLAlchemy Core"):
        yield Figure(backend, f"{name}, stdio over {below}", times["stdio"].over(times[below]), "x")


def _times(backend: str, name: str, times: dict[str, Sample]) -> list[Figure]:
    return [Figure(backend, f"{name}, {who}", sample, "ms") for who, sample in times.items()]


def _tokens(backend: str, name: str, size: int) -> Figure:
    return Figure(backend, f"{name}, reply", Sample((size / 4,)), "tokens")
