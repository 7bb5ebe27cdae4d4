"""A call's price: small and large answers against the driver alone, and against a FastMCP tool that does nothing.

What manydb adds is its time over that of driver and protocol together: the driver's for the same rows, and that of a
FastMCP tool which sends a prepared text of the same size.
"""

import json
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastmcp import Client
from sqlalchemy import URL
from tests.tools import Desk, serving

from benchmarks import floor, items
from benchmarks.drivers import DRIVERS, Driver, Fetch
from benchmarks.lab import FLOOR, MANYDB, Lab, plain, process
from benchmarks.measuring import Sample, Timed, taking_turns
from benchmarks.reporting import Figure

ROWS = 10_000
ROUNDS = 30
STARTS = 5

# The whole answer in one reply, and nothing read beyond it: driver and tools are to do the same.
_SETTINGS = {"byte_budget": 64_000_000, "max_row_cap": ROWS, "kept_rows": 0}


@dataclass(frozen=True, slots=True)
class Item:
    """A query of *rows* rows; *sql* has a `{}` for the placeholder of its argument, if it takes one."""

    name: str
    sql: str
    rows: int = 1
    args: tuple[Any, ...] = ()

    def text(self, mark: str) -> str:
        return self.sql.format(mark)


ITEMS = (
    Item("SELECT 1", "SELECT 1"),
    Item("point lookup", f"SELECT * FROM {items.ITEMS.name} WHERE id = {{}}", args=(4_321,)),
    *(
        Item(f"{count:,} rows", f"SELECT * FROM {items.ITEMS.name} ORDER BY id LIMIT {count}", count)
        for count in (100, 1_000, ROWS)
    ),
)


@dataclass(frozen=True, slots=True)
class Rivals:
    """Everything that is asked, side by side."""

    raw: Fetch
    memory: Desk
    stdio: Desk
    memory_floor: Desk
    stdio_floor: Desk


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for backend in lab.servers:
        async with lab.database(backend) as url, AsyncExitStack() as stack:
            await items.fill(url, ROWS)
            rivals = await _rivals(stack, DRIVERS[backend], url)
            for item in ITEMS:
                for figure in await _measure(backend, rivals, item, lab.rounds or ROUNDS):
                    yield figure
    for figure in await _starts(lab.rounds or STARTS):
        yield figure


async def _rivals(stack: AsyncExitStack, driver: Driver, url: URL) -> Rivals:
    settings: dict[str, Any] = {"connections": {"db": {"url": plain(url)}}, **_SETTINGS}
    return Rivals(
        raw=await stack.enter_async_context(driver.connect(url)),
        memory=await stack.enter_async_context(serving(**settings)),
        stdio=(await stack.enter_async_context(process(MANYDB, **settings))).desk,
        memory_floor=Desk(await stack.enter_async_context(Client(floor.build()))),
        stdio_floor=(await stack.enter_async_context(process(FLOOR))).desk,
    )


async def _measure(backend: str, rivals: Rivals, item: Item, rounds: int) -> list[Figure]:
    arguments: dict[str, Any] = {"sql": item.text(":id"), "row_cap": item.rows}
    if item.args:
        arguments["params"] = {"id": item.args[0]}
    size = await _size(rivals.memory, arguments, item.rows)
    raw_sql = item.text(DRIVERS[backend].mark)
    times = await taking_turns(
        {
            "driver": Timed(lambda: rivals.raw(raw_sql, *item.args)),
            "memory": Timed(lambda: rivals.memory.text("execute_query", **arguments)),
            "stdio": Timed(lambda: rivals.stdio.text("execute_query", **arguments)),
            "memory floor": Timed(lambda: rivals.memory_floor.text("noop", size=size)),
            "stdio floor": Timed(lambda: rivals.stdio_floor.text("noop", size=size)),
        },
        rounds,
    )
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
        yield Figure(backend, f"{name}, {transport} over driver", ours.over(driver), "x")
        yield Figure(backend, f"{name}, {transport} over no-op tool", ours.over(protocol), "x")


def _times(backend: str, name: str, times: dict[str, Sample]) -> list[Figure]:
    return [Figure(backend, f"{name}, {who}", sample, "ms") for who, sample in times.items()]


def _tokens(backend: str, name: str, size: int) -> Figure:
    return Figure(backend, f"{name}, reply", Sample((size / 4,)), "tokens")


async def _starts(rounds: int) -> list[Figure]:
    """From starting a process to its first list of tools; the databases do not matter, none is opened yet."""
    ours: list[float] = []
    floors: list[float] = []
    for _ in range(rounds):
        ours.append(await _start(MANYDB, connections={"db": {"url": "sqlite:///unused.db"}}))
        floors.append(await _start(FLOOR))
    start, floor_start = Sample(tuple(ours)), Sample(tuple(floors))
    return [
        Figure("", "start to first tools/list over no-op server", start.over(floor_start), "x"),
        Figure("", "start to first tools/list", start, "ms"),
        Figure("", "start to first tools/list, no-op server", floor_start, "ms"),
    ]


async def _start(program: Sequence[str], **settings: Any) -> float:
    started = time.perf_counter()
    async with process(program, **settings) as server:
        await server.desk.client.list_tools()
        return (time.perf_counter() - started) * 1000
