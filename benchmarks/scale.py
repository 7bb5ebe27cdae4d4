"""Big numbers: 10,000 registrations, 1,000 engines, 5,000 idle clients, a million calls; what they weigh and delay."""

import asyncio
import json
import os
import resource
import sqlite3
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastmcp import Context
from mcp_types import JSONRPCRequest

from benchmarks.clients import HTTPClient
from benchmarks.lab import MANYDB, Lab, Listening, listening
from benchmarks.measuring import Memory, Sample, milliseconds
from benchmarks.reporting import Figure
from manydb import lane
from manydb.server import build_server
from manydb.settings import Settings
from manydb.tools import parameters

REGISTRATIONS, QUICK_REGISTRATIONS = 10_000, 1_000
ENGINES, QUICK_ENGINES = 1_000, 100
CLIENTS, QUICK_CLIENTS = 5_000, 500
CALLS, QUICK_CALLS = 1_000_000, 50_000
FIRST_CALLS = 1_000
MOST_GROWTH = 10.0  # MB from the first thousand calls to the last
_SQLITE = "sqlite"
_FILES = 30_000
_AT_ONCE = 16
_LOOKS = 400
_MB = 1_000_000
_VERSION = "2025-11-25"

Work = Callable[[], Awaitable[Any]]


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))  # servers that are started get it too
    with tempfile.TemporaryDirectory(prefix="manydb_bench_") as folder:
        for part in (_registrations, _engines, _clients, _calls):
            for figure in await part(Path(folder), is_quick=lab.is_quick):
                yield figure


# -- registrations ---------------------------------------------------------------------------------------------------


async def _registrations(folder: Path, *, is_quick: bool) -> list[Figure]:
    number = QUICK_REGISTRATIONS if is_quick else REGISTRATIONS
    (path,) = _databases(folder, "registered", 1)
    settings = {
        "connections": {"db": {"url": f"sqlite:///{path}"}},
        "tools": ["core", "connect"],
        "registration": "true",
        "registration_directories": [str(folder)],
        "max_all_registrations": 2 * number + 1,
    }
    names: list[str] = []

    async def register(client: HTTPClient, mine: Iterable[int]) -> None:
        for each in mine:
            told = await client.text("register_connection", name=f"own{each}", url=f"sqlite:///{path}")
            names.append(json.loads(told)["name"])

    async with listening(MANYDB, **settings) as server:
        clients = [HTTPClient(server.port) for _ in range(_AT_ONCE)]
        await register(clients[0], range(10))
        before = await _looks(_asking(clients[0], "db"))
        rest, started = server.memory.resident(), time.perf_counter()
        turns = iter(range(number - 10))
        await asyncio.gather(*(register(client, turns) for client in clients))
        took, weight = time.perf_counter() - started, server.memory.resident() - rest
        first, last = names[0], names[-1]
        figures = [
            _once(f"{number:,} registrations, memory of one", weight / (number - 10) / 1_000, "kB"),
            _once(f"{number:,} registrations, made", (number - 10) / took, "/s"),
            _told("SELECT 1, before", before),
            _told(f"SELECT 1 beside {number:,} registrations", await _looks(_asking(clients[0], "db"))),
            _told(f"SELECT 1 on the first of {number:,}", await _looks(_asking(clients[0], first))),
            _told(f"SELECT 1 on the last of {number:,}", await _looks(_asking(clients[0], last))),
            _told("list_connections beside them", await _looks(partial(clients[0].text, "list_connections"))),
        ]
        _close(clients)
    return figures


# -- engines ---------------------------------------------------------------------------------------------------------


async def _engines(folder: Path, *, is_quick: bool) -> list[Figure]:
    number = QUICK_ENGINES if is_quick else ENGINES
    paths = _databases(folder, "engine", number)
    # Swept and asked for their health every second, so that both are in the times.
    settings = {
        "connections": {f"db{each}": {"url": f"sqlite:///{path}"} for each, path in enumerate(paths)},
        "max_engines": number,
        "sweep_interval": 1,
        "health_check_interval": 1,
    }
    async with listening(MANYDB, **settings) as server:
        clients = [HTTPClient(server.port) for _ in range(_AT_ONCE)]
        before = await _looks(_asking(clients[0], "db0"))
        rest, turns = server.memory.resident(), iter(range(number))

        async def use(client: HTTPClient) -> None:
            for each in turns:
                await client.text("execute_query", connection=f"db{each}", sql="SELECT 1")

        started = time.perf_counter()
        await asyncio.gather(*(use(client) for client in clients))
        took, weight = time.perf_counter() - started, server.memory.resident() - rest
        figures = [
            _once(f"{number:,} engines, memory of one with its connection", weight / number / 1_000, "kB"),
            _once(f"{number:,} engines, opened", number / took, "/s"),
            _told("SELECT 1, one engine", before),
            _told(f"SELECT 1 beside {number:,} engines", await _looks(_asking(clients[0], "db0"), 4 * _LOOKS)),
            _told(f"list_connections of {number:,}", await _looks(partial(clients[0].text, "list_connections"), 5)),
        ]
        _close(clients)
    return figures


# -- clients ---------------------------------------------------------------------------------------------------------


async def _clients(folder: Path, *, is_quick: bool) -> list[Figure]:
    number = QUICK_CLIENTS if is_quick else CLIENTS
    (path,) = _databases(folder, "clients", 1)
    figures: list[Figure] = []
    for what, become in (("sessions with an event stream", _listen), ("connections", _connect)):
        async with listening(MANYDB, connections={"db": {"url": f"sqlite:///{path}"}}) as server:
            client = HTTPClient(server.port)
            before = await _looks(_asking(client, "db"))
            rest, turns = server.memory.resident(), iter(range(number))
            writers: list[asyncio.StreamWriter] = []
            await asyncio.gather(*(_become(become, server, turns, writers) for _ in range(_AT_ONCE)))
            weight = server.memory.resident() - rest
            beside = await _looks(_asking(client, "db"))
            figures += [
                _once(f"{number:,} {what}, memory of one", weight / number / 1_000, "kB"),
                _told(f"SELECT 1 before {what}", before),
                _told(f"SELECT 1 beside {number:,} {what}", beside),
            ]
            for writer in writers:
                writer.close()
            client.close()
    return figures


Become = Callable[[Listening], Awaitable[asyncio.StreamWriter]]


async def _become(become: Become, server: Listening, turns: Iterable[int], into: list[asyncio.StreamWriter]) -> None:
    into += [await become(server) for _ in turns]


async def _connect(server: Listening) -> asyncio.StreamWriter:
    """Somebody who has asked for nothing yet."""
    return (await asyncio.open_connection("127.0.0.1", server.port))[1]


async def _listen(server: Listening) -> asyncio.StreamWriter:
    """Somebody who has shaken hands, and waits for what the server may say."""
    hello = {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": {"name": "benchmarks", "version": "1"}}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = await _send(reader, writer, "POST", {"id": 1, "method": "initialize", "params": hello})
    session = next(line for line in head.split("\r\n") if line.lower().startswith("mcp-session-id:"))
    while (size := int(await reader.readline(), 16)) > 0:
        await reader.readexactly(size + 2)
    await reader.readexactly(2)
    said = await _send(reader, writer, "POST", {"method": "notifications/initialized"}, session)
    length = said.lower().partition("content-length:")[2].partition("\r\n")[0]
    await reader.readexactly(int(length or 0))
    await _send(reader, writer, "GET", None, session)
    return writer


async def _send(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, message: Any, session: str = ""
) -> str:
    """The head of the answer."""
    body = b"" if message is None else json.dumps({"jsonrpc": "2.0", **message}).encode()
    accept = "text/event-stream" if message is None else "application/json, text/event-stream"
    lines = [
        f"{method} /mcp HTTP/1.1",
        "Host: 127.0.0.1",
        f"Accept: {accept}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *([session, f"MCP-Protocol-Version: {_VERSION}"] if session else []),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    if not head.startswith("HTTP/1.1 20"):
        raise RuntimeError(head)
    return head


# -- calls -----------------------------------------------------------------------------------------------------------


async def _calls(folder: Path, *, is_quick: bool) -> list[Figure]:
    """In this process, by the lane: what is left of a call without the network, which has no memory of it."""
    number = QUICK_CALLS if is_quick else CALLS
    (path,) = _databases(folder, "calls", 1)
    settings = Settings.model_validate({"connections": {"db": {"url": f"sqlite:///{path}"}}})
    server = build_server(settings)
    memory = Memory(os.getpid())
    async with server._lifespan_manager():
        fast = await lane.beside(server, parameters.gateway(Context(server)).settings)
        assert fast is not None
        seen: list[tuple[int, int]] = []
        done = 0

        async def keep_calling() -> None:
            nonlocal done
            while done < number:
                done += 1
                params = {"name": "execute_query", "arguments": {"sql": "SELECT 1"}}
                call = fast.take(JSONRPCRequest(jsonrpc="2.0", id=done, method="tools/call", params=params), _VERSION)
                assert call is not None
                assert (await call()).status == 200
                if done == FIRST_CALLS or done % (number // 10) == 0:
                    seen.append((done, memory.resident()))

        started = time.perf_counter()
        await asyncio.gather(*(keep_calling() for _ in range(_AT_ONCE)))
        rate = number / (time.perf_counter() - started)
    growth = (seen[-1][1] - seen[0][1]) / _MB
    detail = tuple(f"after {calls:9,} calls {size / _MB:7.1f} MB" for calls, size in seen)
    what = f"{number:,} calls, memory's growth after the first {FIRST_CALLS:,}"
    return [
        Figure(_SQLITE, what, Sample((growth,)), "MB", within=MOST_GROWTH, detail=detail),
        _once(f"{number:,} calls, in one process without a network", rate, "/s"),
    ]


# -- all -------------------------------------------------------------------------------------------------------------


def _databases(folder: Path, name: str, number: int) -> list[Path]:
    paths = [folder / f"{name}{each}.db" for each in range(number)]
    for path in paths:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (n integer)")
        connection.close()
    return paths


def _asking(client: HTTPClient, connection: str) -> Work:
    return partial(client.text, "execute_query", connection=connection, sql="SELECT 1")


async def _looks(work: Work, times: int = _LOOKS) -> Sample:
    await work()
    return Sample(tuple([await milliseconds(work) for _ in range(times)]))


def _told(what: str, sample: Sample) -> Figure:
    detail = tuple(f"{percent} % wait no longer than {sample.percentile(percent):.1f} ms" for percent in (50, 99))
    return Figure(_SQLITE, what, sample, "ms", detail=detail)


def _once(what: str, value: float, unit: Any) -> Figure:
    return Figure(_SQLITE, what, Sample((value,)), unit)


def _close(clients: Sequence[HTTPClient]) -> None:
    for client in clients:
        client.close()
