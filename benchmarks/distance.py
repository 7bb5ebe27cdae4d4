"""A database 10 ms away: how many round trips a caller waits for, which they are, and what they come to.

Counted by a proxy between manydb and the database. Trips of which nobody waits, such as cleaning a connection after
the answer, are listed, but not counted.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL

from benchmarks import items, proxy
from benchmarks.clients import Asking
from benchmarks.drivers import DRIVERS, Fetch, core, ways
from benchmarks.lab import MANYDB, Lab, piped, plain
from benchmarks.measuring import Sample, Timed, taking_turns
from benchmarks.proxy import PROTOCOLS, Proxy, Turn
from benchmarks.reporting import Figure

AWAY = 0.010  # s, there and back
ROWS = 1_000
ROUNDS = 15
QUICK_ROUNDS = 6
MOST_TRIPS = 3


@dataclass(frozen=True, slots=True)
class Call:
    """A call of manydb's, and what a driver would be asked; *sql* has a `{}` for the placeholder of its argument."""

    name: str
    tool: str = "execute_query"
    sql: str = ""
    args: tuple[Any, ...] = ()
    row_cap: int = 100

    @property
    def arguments(self) -> Mapping[str, Any]:
        if not self.sql:
            return {}
        params = {"params": {"id": self.args[0]}} if self.args else {}
        return {"sql": self.sql.format(":id"), "row_cap": self.row_cap, **params}


CALLS = (
    Call("SELECT 1", sql="SELECT 1"),
    Call("point lookup", sql=f"SELECT * FROM {items.ITEMS.name} WHERE id = {{}}", args=(321,)),
    Call("100 rows", sql=f"SELECT * FROM {items.ITEMS.name} ORDER BY id LIMIT 100"),
    Call("list_tables", "list_tables"),
)


@dataclass(frozen=True, slots=True)
class Floors:
    """The same queries without us, over the same distance."""

    driver: Fetch
    core: Fetch


@dataclass(frozen=True, slots=True)
class Answered:
    """Of one call: the *turns* that it waited for, and those that came *after* its answer."""

    waited: list[Turn]
    after: list[Turn]


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for backend in lab.servers:
        if backend not in PROTOCOLS:
            continue  # a file is not away
        async with lab.database(backend) as database:
            await items.fill(database, ROWS)
            for way, url in ways(database):
                async for figure in _away(lab, way, url):
                    yield figure


async def _away(lab: Lab, way: str, url: URL) -> AsyncGenerator[Figure]:
    rounds = lab.rounds_of(ROUNDS, QUICK_ROUNDS)
    async with AsyncExitStack() as stack:
        line, far = await stack.enter_async_context(proxy.between(url, AWAY))
        settings = {"connections": {"db": {"url": plain(far)}}}
        async with piped(MANYDB, **settings) as server:
            for figure in await _trips(way, server.client, line, rounds):
                yield figure
            # Floors of their own connections, made beforehand: what manydb does when it is asked first is above.
            driver = await stack.enter_async_context(DRIVERS[way].connect(far))
            floors = Floors(driver, await stack.enter_async_context(core(far)))
            for call in CALLS:
                for figure in await _times(way, server.client, floors, line, call, rounds):
                    yield figure


async def _trips(backend: str, client: Asking, line: Proxy, rounds: int) -> list[Figure]:
    """What each call sends: the very first one of a server, and the same calls again."""
    first, *_ = CALLS
    figures = [_figure(backend, f"{first.name}, first call of a server", [await _ask(client, line, first)], None)]
    for call in CALLS:
        await _ask(client, line, call)  # what is remembered of a schema is so from here on
        figures.append(_figure(backend, call.name, [await _ask(client, line, call) for _ in range(rounds)], MOST_TRIPS))
    return figures


async def _ask(client: Asking, line: Proxy, call: Call) -> Answered:
    await line.settle()
    line.take()
    await client.text(call.tool, **call.arguments)
    ended = asyncio.get_running_loop().time()
    await line.settle()
    turns = line.take()
    waited = [turn for turn in turns if turn.answered is not None and turn.answered <= ended]
    return Answered(waited, [turn for turn in turns if turn not in waited])


def _figure(backend: str, name: str, answers: list[Answered], at_most: int | None) -> Figure:
    sample = Sample(tuple(float(proxy.trips(answer.waited)) for answer in answers))
    return Figure(backend, f"{name}, waited for", sample, "trips", at_most, detail=(*_lines(answers[-1]),))


def _lines(answer: Answered) -> Iterator[str]:
    for number, turn in enumerate(answer.waited, 1):
        yield f"{number}. {turn}"
    for turn in answer.after:
        yield f"afterwards: {turn}"


async def _times(backend: str, client: Asking, floors: Floors, line: Proxy, call: Call, rounds: int) -> list[Figure]:
    async def ask() -> None:
        await client.text(call.tool, **call.arguments)

    works = {"manydb": Timed(ask, before=line.settle), "manydb, at once": Timed(ask, before=ask)}
    if call.sql:
        raw_sql, core_sql = call.sql.format(DRIVERS[backend].mark), call.sql.format(":id")
        works["driver"] = Timed(lambda: floors.driver(raw_sql, *call.args), before=line.settle)
        works["SQLAlchemy Core"] = Timed(lambda: floors.core(core_sql, *call.args), before=line.settle)
    times = await taking_turns(works, rounds)
    away = Sample((AWAY * 1000,) * rounds)
    name, unit = call.name, f"over {AWAY * 1000:g} ms"
    return [
        Figure(backend, f"{name}, {unit}", times["manydb"].over(away), "x"),
        Figure(backend, f"{name}, straight after another, {unit}", times["manydb, at once"].over(away), "x"),
        *(
            Figure(backend, f"{name}, over {floor}", times["manydb"].over(times[floor]), "x")
            for floor in ("driver", "SQLAlchemy Core")
            if floor in times
        ),
        *(Figure(backend, f"{name}, {who}", sample, "ms") for who, sample in times.items()),
    ]
