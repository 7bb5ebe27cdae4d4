"""A million rows behind a small reply: the cap must do what a LIMIT does, in time and in memory."""

import json
from collections.abc import AsyncGenerator
from functools import partial

from tests.tools import Desk

from benchmarks import items
from benchmarks.lab import MANYDB, Lab, Process, plain, process
from benchmarks.measuring import Sample, Timed, taking_turns
from benchmarks.reporting import Figure
from manydb.settings import Settings

ROWS = 1_000_000
CAP = 100
ROUNDS = 40
WARM_UP = 10
# As many answers as a caller may have waiting for fetch_rows: from then on memory has no reason to grow.
KEPT_RESULTS: int = Settings.model_fields["max_results"].default

WHOLE = f"SELECT * FROM {items.ITEMS.name}"
LIMITED = f"{WHOLE} LIMIT {CAP + 1}"

MOST_TIME = 3.0  # x the query with a LIMIT
MOST_MEMORY = 20.0  # MB, more or less
_MB = 1_000_000


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for backend in lab.servers:
        async with lab.database(backend) as url:
            await items.fill(url, ROWS)
            async with process(MANYDB, connections={"db": {"url": plain(url)}}) as server:
                for figure in await _measure(backend, server, lab.rounds or ROUNDS):
                    yield figure


async def _measure(backend: str, server: Process, rounds: int) -> list[Figure]:
    for _ in range(WARM_UP):
        await _ask(server.desk, LIMITED)
    before = server.memory.resident()
    server.memory.forget_peak()
    works = {sql: Timed(partial(_ask, server.desk, sql)) for sql in (WHOLE, LIMITED)}
    times = await taking_turns(works, rounds)
    for _ in range(KEPT_RESULTS):
        await _ask(server.desk, WHOLE)
    grown = server.memory.resident() - before
    figures = [
        Figure(backend, f"cap {CAP} over LIMIT {CAP + 1}", times[WHOLE].over(times[LIMITED]), "x", at_most=MOST_TIME),
        Figure(backend, "memory, after less before", Sample((grown / _MB,)), "MB", within=MOST_MEMORY),
        Figure(backend, f"cap {CAP}", times[WHOLE], "ms"),
        Figure(backend, f"LIMIT {CAP + 1}", times[LIMITED], "ms"),
        Figure(backend, "memory before", Sample((before / _MB,)), "MB"),
    ]
    if (peak := server.memory.peak()) is not None:
        grown = peak - before
        figures.append(Figure(backend, "memory, peak less before", Sample((grown / _MB,)), "MB", within=MOST_MEMORY))
    return figures


async def _ask(desk: Desk, sql: str) -> None:
    reply = json.loads(await desk.text("execute_query", sql=sql, row_cap=CAP))
    if (len(reply["rows"]), reply.get("truncated")) != (CAP, "max_rows"):
        raise RuntimeError(f"not the first {CAP} rows of more: {len(reply['rows'])}, {reply.get('truncated')}")
