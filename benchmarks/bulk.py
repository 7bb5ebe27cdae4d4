"""A million rows in through insert_rows and out through export_query: what it takes, and that memory stays flat."""

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
from mcp_types import TextContent
from sqlalchemy import URL, NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.items import ITEMS
from benchmarks.lab import MANYDB, Lab, Process, plain, process
from benchmarks.measuring import Sample, milliseconds
from benchmarks.reporting import Figure

ROWS = 1_000_000
CALL = 20_000
WARM_UP = 2
ROUNDS = 1
FORMATS = ("csv", "jsonl", "parquet")
SECONDS = 300

MOST_TIME = 2.0  # x raw COPY of the same rows in the same pieces
MOST_MEMORY = 50.0  # MB, more or less
_MB = 1_000_000
_BEGIN = datetime(2026, 1, 1)  # noqa: DTZ001 - the column knows no zones


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for backend in lab.servers:
        async with lab.database(backend) as url:
            await _make(url)
            connection = {"url": plain(url), "access": "read_write", "timeout_seconds": SECONDS}
            with tempfile.TemporaryDirectory(prefix="manydb_bench_") as folder:
                settings = {"connections": {"db": connection}, "tools": ["core", "write", "analysis"]}
                async with process(MANYDB, **settings, export_directories=[folder]) as server:
                    for figure in await _measure(backend, url, server, Path(folder), lab.rounds or ROUNDS):
                        yield figure


async def _measure(backend: str, url: URL, server: Process, folder: Path, rounds: int) -> list[Figure]:
    for rows in list(_pieces())[:WARM_UP]:
        await _insert(server, rows)
    for name in FORMATS:
        await _export(server, folder, name)
    before = server.memory.resident()
    server.memory.forget_peak()
    inside, trips, raw = [], [], []
    for _ in range(rounds):
        await _empty(url)
        own = trip = copied = 0.0
        # Piece by piece in turn: what slows the machine down for a while is in both.
        for number, rows in enumerate(_pieces()):
            if backend == "postgresql":
                copied += await _copy(url, rows, is_first=number == 0)
            took: list[float] = []

            async def insert(rows: list[list[Any]] = rows, took: list[float] = took) -> None:
                took.append(await _insert(server, rows))

            trip += await milliseconds(insert)
            own += took[0]
        inside.append(own)
        trips.append(trip)
        raw.append(copied)
    figures = []
    if backend == "postgresql":
        ratio = Sample(tuple(inside)).over(Sample(tuple(raw)))
        figures += [
            Figure(backend, "insert_rows over raw COPY", ratio, "x", at_most=MOST_TIME),
            Figure(backend, "with the protocol over raw COPY", Sample(tuple(trips)).over(Sample(tuple(raw))), "x"),
            Figure(backend, "raw COPY", Sample(tuple(raw)), "ms"),
        ]
    figures += [
        Figure(backend, "insert_rows, 1,000,000 rows", Sample(tuple(inside)), "ms"),
        Figure(backend, "insert_rows with the protocol", Sample(tuple(trips)), "ms"),
        *_memory(backend, "in", server, before),
    ]
    for name in FORMATS:
        before = server.memory.resident()
        server.memory.forget_peak()
        times = [await _export(server, folder, name, ROWS) for _ in range(rounds)]
        figures += [
            Figure(backend, f"export_query, {name}", Sample(tuple(times)), "ms"),
            *_memory(backend, name, server, before),
        ]
    return figures


def _memory(backend: str, what: str, server: Process, before: int) -> Iterator[Figure]:
    grown = (server.memory.resident() - before) / _MB
    yield Figure(backend, f"memory, {what}: after less before", Sample((grown,)), "MB", within=MOST_MEMORY)
    if (peak := server.memory.peak()) is not None:
        grown = (peak - before) / _MB
        yield Figure(backend, f"memory, {what}: peak less before", Sample((grown,)), "MB", within=MOST_MEMORY)


def _pieces() -> Iterator[list[list[Any]]]:
    """The rows as a client sends them, call by call."""
    for first in range(1, ROWS + 1, CALL):
        yield [
            [
                number,
                f"article {number} of the spring catalogue",
                f"{number * 37 % 100_000 // 100}.{number * 37 % 100:02d}",
                (_BEGIN + timedelta(minutes=number * 7 % 5_000_000)).isoformat(),
            ]
            for number in range(first, first + CALL)
        ]


async def _insert(server: Process, rows: list[list[Any]]) -> float:
    """Milliseconds that the tool itself took."""
    columns = [column.name for column in ITEMS.c]
    reply = await server.desk.ask("insert_rows", table=ITEMS.name, columns=columns, rows=rows)
    if reply["inserted"] != len(rows):
        raise RuntimeError(f"not all rows went in: {reply}")
    return float(reply["elapsed_ms"])


async def _export(server: Process, folder: Path, name: str, rows: int | None = None) -> float:
    """Milliseconds of a whole export; the file is gone afterwards."""
    path = folder / f"items.{name}"
    arguments = {"sql": f"SELECT * FROM {ITEMS.name}", "format": name, "path": str(path), "timeout_seconds": SECONDS}
    result = await server.desk.client.call_tool("export_query", arguments)
    block = result.content[0]
    reply = json.loads(block.text) if isinstance(block, TextContent) else {}
    if rows is not None and reply.get("row_count") != rows:
        raise RuntimeError(f"not all rows came out: {reply}")
    await asyncio.to_thread(path.unlink)
    return float(reply["elapsed_ms"])


async def _make(url: URL) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(ITEMS.metadata.create_all)


async def _empty(url: URL) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"DELETE FROM {ITEMS.name}")


async def _copy(url: URL, rows: list[list[Any]], *, is_first: bool) -> float:
    """Milliseconds in which asyncpg itself copies *rows* into a table like ours."""
    records = [
        (number, label, Decimal(amount), datetime.fromisoformat(moment)) for number, label, amount, moment in rows
    ]
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        if is_first:
            await connection.execute("DROP TABLE IF EXISTS raw_items")
            await connection.execute(f"CREATE TABLE raw_items (LIKE {ITEMS.name} INCLUDING ALL)")
        return await milliseconds(lambda: connection.copy_records_to_table("raw_items", records=records))
    finally:
        await connection.close()
