"""What tests see from outside: who is connected to a database, what runs there; and a wire that can be cut."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Self

from sqlalchemy import URL, NullPool, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from manydb import dialects
from manydb.engines import EngineRegistry, Pool
from manydb.leases import Lease, Target
from manydb.settings import Access, Settings

ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
    "SELECT count(*) FROM n a, n b, n c, n d"
)
"""A statement that every database understands and none finishes: it counts to 10¹²."""
POLL_SECONDS = 0.02
SAMPLE_SECONDS = 0.05
SQLITE_WORKER = "_connection_worker_thread"
_SESSIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = :name AND id <> connection_id()",
}
_RUNNING = {"postgresql": " AND state = 'active'", "mysql": " AND command = 'Query'"}
_KILL = {
    "postgresql": (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
    ),
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = :name AND id <> connection_id()",
}


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 3.0) -> None:
    """Return once *holds*; fail when it does not within *seconds*."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - nothing outside tells us
            await asyncio.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Observer:
    """Looks at the database of *url* over connections of its own, which it does not count.

    For SQLite, which has no list of them, it counts the connections that this process made after the observer.
    """

    url: URL
    _before: int = field(default_factory=lambda: sqlite_connections())  # noqa: PLW0108 - defined below

    @classmethod
    def of(cls, url: str) -> Self:
        return cls(make_url(url))

    @property
    def backend(self) -> str:
        return self.url.get_backend_name()

    async def run(self, sql: str, **params: Any) -> list[Any]:
        """The rows of *sql*, as the database's owner and outside a transaction."""
        engine = create_async_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            result = await connection.execute(text(sql), params)
            return list(result.all()) if result.returns_rows else []

    async def sessions(self) -> int:
        """Connections to the database."""
        if self.backend == "sqlite":
            return max(0, sqlite_connections() - self._before)
        return await self._count(_SESSIONS[self.backend])

    async def running(self) -> int:
        """Statements that run now; for SQLite, which runs in this process, whether a thread keeps a processor busy."""
        if self.backend == "sqlite":
            before = time.process_time()
            await asyncio.sleep(SAMPLE_SECONDS)
            return int(time.process_time() - before > SAMPLE_SECONDS / 3)
        return await self._count(_SESSIONS[self.backend] + _RUNNING[self.backend])

    async def kill_sessions(self) -> None:
        """As an administrator or a restart of the server would."""
        for (found,) in await self.run(_KILL[self.backend], name=self.url.database):
            if self.backend == "mysql":
                await self.run(f"KILL {found}")

    async def is_left_alone(self) -> bool:
        return await self.sessions() == 0

    async def is_quiet(self) -> bool:
        return await self.running() == 0

    async def is_busy(self) -> bool:
        return await self.running() > 0

    async def _count(self, sql: str) -> int:
        ((count,),) = await self.run(sql, name=self.url.database)
        return int(count)


def sqlite_connections() -> int:
    """Connections of this process to all SQLite files: each has a thread."""
    return sum(SQLITE_WORKER in thread.name for thread in threading.enumerate())


def settings(**given: Any) -> Settings:
    """Settings as their sources give them: connections, say, as plain dictionaries."""
    return Settings(**given)


@asynccontextmanager
async def leased(url: str, access: Access = "read_only", *, size: int = 1, **given: Any) -> AsyncGenerator[Lease]:
    """A lease of an engine of its own, with a pool of *size* connections."""
    dialect, parsed = dialects.parse(url)
    async with (
        EngineRegistry(settings(**given)) as registry,
        registry.lease(Target(dialect, parsed), access, Pool(size, recycle=1_000, idle_ttl=1_000)) as lease,
    ):
        yield lease


@dataclass(eq=False, slots=True)
class Wire:
    """A port of this machine that leads to *target*; see `wired`."""

    target: tuple[str, int]
    tls: SSLContext | None = None
    port: int = 0
    accepted: int = 0
    sent: bytearray = field(default_factory=bytearray)
    """What came from our end, as far as it was not encrypted by the wire itself."""
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _ends: set[asyncio.StreamWriter] = field(default_factory=set)
    _muted: set[asyncio.StreamWriter] = field(default_factory=set)

    def mute(self) -> None:
        """What is connected now carries nothing more; new connections do."""
        self._muted |= self._ends

    def hold(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._ends.add(writer)
        with suppress(OSError, asyncio.CancelledError):
            if self.tls is not None:
                await reader.readexactly(8)  # PostgreSQL's request for TLS
                writer.write(b"S")
                await writer.start_tls(self.tls)
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            self._ends.add(far_writer)
            await asyncio.gather(
                self._carry(reader, far_writer, self.sent), self._carry(far_reader, writer, bytearray())
            )

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                record += data
                await self._open.wait()
                if writer not in self._muted:
                    writer.write(data)
                    await writer.drain()
            await self._open.wait()
        writer.close()

    def cut(self) -> None:
        for end in self._ends:
            end.close()


@asynccontextmanager
async def wired(url: str, tls: SSLContext | None = None) -> AsyncGenerator[tuple[Wire, str]]:
    """A wire to the database of *url*, its URL over that wire; with *tls*, our end speaks TLS as PostgreSQL does."""
    target = make_url(url)
    assert target.host is not None
    wire = Wire((target.host, target.port or dialects.parse(url)[1].port or 0), tls)
    wire.release()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(wire.serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire, target.set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        wire.cut()
