"""Databases of our own, dropped afterwards; manydb in front of them, in this process and as one of its own."""

import asyncio
import json
import os
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from sqlalchemy import URL
from tests.servers import BACKENDS, MissingServerError, Server
from tests.tools import Desk

from benchmarks.clients import MOST_BYTES, PipeClient
from benchmarks.measuring import Memory

ROOT = Path(__file__).parent.parent
MANYDB = ("-m", "manydb", "serve")
FLOOR = ("-m", "benchmarks.floor")


@dataclass(frozen=True)
class Lab:
    """The servers there are, by backend, and why others are *missing*. Use `Lab.open`."""

    servers: Mapping[str, Server]
    missing: Mapping[str, str]
    rounds: int | None = None
    """How often everything is measured; each benchmark has a number of its own where this is None."""
    is_quick: bool = False
    """Whether what takes long for one figure is left out."""

    def rounds_of(self, whole: int, quick: int) -> int:
        """How often a benchmark measures, which would do so *whole* times by itself."""
        return self.rounds or (quick if self.is_quick else whole)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, environ: Mapping[str, str], rounds: int | None = None, *, is_quick: bool = False
    ) -> AsyncGenerator["Lab"]:
        servers: dict[str, Server] = {}
        missing: dict[str, str] = {}
        async with AsyncExitStack() as stack:
            for name, backend in BACKENDS.items():
                try:
                    servers[name] = await stack.enter_async_context(backend.open(environ))
                except MissingServerError as exc:
                    missing[name] = f"no {backend.title}: {exc}; {backend.advice}"
            yield cls(servers, missing, rounds, is_quick)

    @asynccontextmanager
    async def database(self, backend: str) -> AsyncGenerator[URL]:
        """A new, empty database that lasts as long as the context."""
        server = self.servers[backend]
        url = await server.create()
        try:
            yield url
        finally:
            await server.drop(url)


def plain(url: URL) -> str:
    """*url* as a setting takes it, password and all."""
    return url.render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Process:
    """A server over stdio, and the client in front of it."""

    desk: Desk
    memory: Memory


@asynccontextmanager
async def process(program: Sequence[str], **settings: Any) -> AsyncGenerator[Process]:
    """*program*, one of MANYDB and FLOOR, started with *settings*, and connected to."""
    with tempfile.TemporaryDirectory(prefix="manydb_bench_") as folder:
        # The shell becomes the server: FastMCP's transport keeps to itself which process it started.
        shell = ["-c", f'echo $$ > {_NOTE} && exec "$0" "$@"', sys.executable, *program]
        transport = StdioTransport("sh", shell, env=environment(settings), cwd=folder, keep_alive=False)
        async with Client(transport) as client:
            yield Process(Desk(client), Memory(_noted(folder)))


_NOTE = "pid"


def _noted(folder: str) -> int:
    return int(Path(folder, _NOTE).read_text())


@dataclass(frozen=True, slots=True)
class Piped:
    """A server over stdio, and a client in front of it that costs next to nothing."""

    client: PipeClient
    memory: Memory


@asynccontextmanager
async def piped(program: Sequence[str], **settings: Any) -> AsyncGenerator[Piped]:
    """As `process`, for times: FastMCP's client costs as much as many a call."""
    async with _started(program, settings) as server:
        client = PipeClient(server)
        listening = asyncio.create_task(client.listen())
        try:
            yield Piped(client, Memory(server.pid))
        finally:
            listening.cancel()


@dataclass(frozen=True, slots=True)
class Listening:
    """A server over HTTP, on a *port* of this machine."""

    port: int
    memory: Memory


@asynccontextmanager
async def listening(program: Sequence[str], **settings: Any) -> AsyncGenerator[Listening]:
    """*program*, one of MANYDB and FLOOR, started with *settings* on a free port; it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with _started([*program, "--transport", "http", "--port", str(port)], settings) as server:
        async with asyncio.timeout(_START_SECONDS):
            while not await _accepts(port):
                if server.returncode is not None:
                    raise RuntimeError(f"the server has ended with {server.returncode}: {program}")
                await asyncio.sleep(0.05)
        yield Listening(port, Memory(server.pid))


_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def _started(program: Sequence[str], settings: Mapping[str, Any]) -> AsyncGenerator[asyncio.subprocess.Process]:
    with tempfile.TemporaryDirectory(prefix="manydb_bench_") as folder:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, *program),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment(settings),
            cwd=folder,
            limit=MOST_BYTES,
        )
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                server.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await server.wait()
            except TimeoutError:
                server.kill()
                await server.wait()


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Variables for a server of this checkout that has *settings* and none of ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MANYDB_", "FASTMCP_"))}
    inherited.pop("DATABASE_URL", None)
    return inherited | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "FASTMCP_CHECK_FOR_UPDATES": "off",
        **dict(_variables(settings)),
    }


def _variables(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        yield f"MANYDB_{name.upper()}", value if isinstance(value, str) else json.dumps(value)
