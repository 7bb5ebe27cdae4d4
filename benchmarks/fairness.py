"""Whether anybody waits for others: the time of `SELECT 1` beside callers who ask for what takes long, or is large.

Those callers are processes of their own, so that what is timed is the server and not their reading.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import schema
from benchmarks.clients import CallFailedError, HTTPClient
from benchmarks.lab import MANYDB, ROOT, Lab, Listening, environment, listening, plain
from benchmarks.measuring import Sample, milliseconds
from benchmarks.reporting import Figure

MOST_WAIT = 20.0  # ms
SECONDS, QUICK_SECONDS = 12.0, 4.0
ROWS = 10_000
CELL = 5_000
"""Characters: so many rows of one cell are 50 MB."""

_SETTINGS: Mapping[str, Any] = {
    "tools": ["core", "analysis"],
    "cell_chars": CELL,
    "kept_rows": 0,
    "max_exports": 1_000_000,
    "byte_budget": 2 * ROWS * CELL,
}
_TALL = f"SELECT body FROM tall LIMIT {ROWS}"
_LONG = "SELECT 1 /* " + "x" * 199_000 + " */"
_LIST = f"SELECT count(*) FROM tall WHERE id IN ({', '.join(str(number) for number in range(14_000))})"
DISTURBANCES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "a slow statement": ("execute_query", {"sql": f"SELECT count(*) FROM {', '.join(f'few f{n}' for n in range(7))}"}),
    "the largest answer, 16 MB of 50": ("execute_query", {"sql": _TALL, "row_cap": ROWS}),
    "an export of 50 MB": ("export_query", {"sql": _TALL}),
    # What is looked for in vain is looked for in the database once more.
    "a cold schema of 1,000 tables": ("search_schema", {"pattern": "there is no such name"}),
    "statements of 200 kB, refused": ("execute_query", {"sql": _LONG}),
    "a statement of 14,000 values": ("execute_query", {"sql": _LIST}),
}


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    seconds = QUICK_SECONDS if lab.is_quick else SECONDS
    for backend in lab.servers:
        async with lab.database(backend) as url:
            await schema._create(url)
            await _fill(url)
            async with listening(MANYDB, connections={"db": {"url": plain(url)}}, **_SETTINGS) as server:
                async for figure in _beside_all(backend, server, seconds):
                    yield figure


async def _fill(url: URL) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE few (n integer)"))
        await connection.execute(text("INSERT INTO few VALUES (:n)"), [{"n": number} for number in range(10)])
        await connection.execute(text("CREATE TABLE tall (id integer, body text)"))
        some = [{"id": number, "body": f"{number:08}" * (CELL // 8)} for number in range(1_000)]
        for _ in range(ROWS // len(some)):
            await connection.execute(text("INSERT INTO tall VALUES (:id, :body)"), some)
    await engine.dispose()


async def _beside_all(backend: str, server: Listening, seconds: float) -> AsyncGenerator[Figure]:
    client = HTTPClient(server.port)
    try:
        await _waits(client, 1.0)
        alone = await _waits(client, seconds)
        yield _told(backend, "SELECT 1, alone", alone)
        for what, call in DISTURBANCES.items():
            async with _disturbing(server, call) as answered:
                waits = await _waits(client, seconds)
                times = answered()
            yield _told(backend, f"SELECT 1 beside {what}", waits)
            rise = Sample((waits.percentile(99) - alone.percentile(99),))
            detail = (f"{times} of them, worst wait {waits.most:.1f} ms",)
            yield Figure(backend, f"99 % wait longer, beside {what}", rise, "ms", at_most=MOST_WAIT, detail=detail)
    finally:
        client.close()


async def _waits(client: HTTPClient, seconds: float) -> Sample:
    waits: list[float] = []

    async def ask() -> None:
        await client.text("execute_query", sql="SELECT 1")

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        waits.append(await milliseconds(ask))
        await asyncio.sleep(0.002)
    return Sample(tuple(waits))


def _told(backend: str, what: str, waits: Sample) -> Figure:
    detail = tuple(f"{percent} % wait no longer than {waits.percentile(percent):.1f} ms" for percent in (50, 95, 99))
    return Figure(backend, what, waits, "ms", detail=detail)


@asynccontextmanager
async def _disturbing(server: Listening, call: tuple[str, Mapping[str, Any]]) -> AsyncGenerator[Any]:
    """Somebody who makes *call* again and again; what is entered tells how often it was answered."""
    count = 0
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.fairness", str(server.port)),
        cwd=ROOT,
        env=environment({}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    told = other.stdout
    other.stdin.write(json.dumps(call).encode() + b"\n")
    await other.stdin.drain()
    if await told.readline() != b"begins\n":
        raise RuntimeError("whoever disturbs has ended")

    async def listen() -> None:
        nonlocal count
        while await told.readline():
            count += 1

    heard = asyncio.create_task(listen())
    try:
        yield lambda: count
    finally:
        other.kill()
        await other.wait()
        await heard


async def _disturb(port: int, tool: str, arguments: Mapping[str, Any]) -> None:
    client = HTTPClient(port)
    print("begins", flush=True)
    while True:
        with suppress(CallFailedError):  # a refusal costs its time too
            await client.raw(tool, **arguments)
        print("answered", flush=True)


if __name__ == "__main__":
    asyncio.run(_disturb(int(sys.argv[1]), *json.loads(sys.stdin.readline())))
