"""A database further away: a port of this machine that leads to it, counts its round trips, and delays each.

A turn is what is sent before anything comes back: drivers that send two messages at once need one turn for both.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from sqlalchemy import URL

Messages = Callable[[bytearray], Iterator[str]]
"""Takes whole messages of a client off the front of what it has sent; their names, with the SQL that they carry."""

_SHOWN = 70


@dataclass(eq=False, slots=True)
class Turn:
    """What was *asked*, and when; *answered* is when the last of the answer passed; seconds of the loop's clock."""

    messages: list[str]
    asked: float
    answered: float | None = None

    def __str__(self) -> str:
        return "; ".join(self.messages)


def trips(turns: Iterable[Turn]) -> int:
    """How many of the answered *turns* had to follow each other: those on two connections at once are one trip."""
    count, free = 0, float("-inf")
    for answered, asked in sorted((turn.answered, turn.asked) for turn in turns if turn.answered is not None):
        if asked >= free:
            count, free = count + 1, answered
    return count


@dataclass(eq=False, slots=True)
class Proxy:
    """Leads to *target*; each round trip takes *seconds* longer. See `between`."""

    target: tuple[str, int]
    messages: Messages
    seconds: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    """In the order in which they began, of all connections."""
    last: float = 0.0
    """When something passed last."""

    def take(self) -> list[Turn]:
        """The turns since the last call of this."""
        taken, self.turns = self.turns, []
        return taken

    async def settle(self) -> None:
        """Wait until nobody has sent anything for a while."""
        quiet = max(0.02, 4 * self.seconds)
        while (left := self.last + quiet - _now()) > 0:  # noqa: ASYNC110 - what is waited for is that nothing happens
            await asyncio.sleep(left)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self)
        try:
            connection.begin("(connects)")
            far_reader, far_writer = await asyncio.open_connection(*self.target)
            try:
                await asyncio.sleep(self.seconds)
                connection.answered()
                connection.turn = None  # what comes next unasked is a greeting
                async with asyncio.TaskGroup() as group:
                    group.create_task(connection.deliver(far_writer))
                    group.create_task(connection.ask(reader))
                    group.create_task(connection.answer(far_reader, writer))
            finally:
                far_writer.close()
        except* OSError:
            pass  # either end has gone, which the other learns next
        finally:
            writer.close()


@dataclass(eq=False, slots=True)
class _Connection:
    """One of the proxy's connections; *turn* is the latest."""

    proxy: Proxy
    turn: Turn | None = None
    sent: bytearray = field(default_factory=bytearray)
    """What belongs to a message of which the rest has not come."""
    underway: asyncio.Queue[tuple[float, bytes]] = field(default_factory=asyncio.Queue)

    def begin(self, *messages: str) -> Turn:
        self.turn = Turn([*messages], _now())
        self.proxy.turns.append(self.turn)
        self.proxy.last = self.turn.asked
        return self.turn

    def answered(self) -> None:
        assert self.turn is not None
        self.turn.answered = self.proxy.last = _now()

    async def ask(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65_536):
            self.proxy.last = _now()
            turn = self.turn
            if turn is None or turn.answered is not None:
                turn = self.begin()
            self.sent += data
            turn.messages += self.proxy.messages(self.sent)
            # The whole delay is on the way there: the time of the whole trip is the same.
            self.underway.put_nowait((_now() + self.proxy.seconds, data))
        self.underway.put_nowait((_now() + self.proxy.seconds, b""))

    async def deliver(self, writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await self.underway.get()
            await asyncio.sleep(max(0.0, due - _now()))
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.turn is None:
                self.begin("(waits for the greeting)")
                await asyncio.sleep(self.proxy.seconds)
            self.answered()
            writer.write(data)
            await writer.drain()
        writer.close()


def _now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def between(url: URL, seconds: float = 0.0) -> AsyncGenerator[tuple[Proxy, URL]]:
    """A proxy to the server of *url*, and its URL by way of the proxy; for the backends in PROTOCOLS."""
    protocol = PROTOCOLS[url.get_backend_name()]
    assert url.host is not None
    proxy = Proxy((url.host, url.port or protocol.port), protocol.messages, seconds)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield proxy, url.set(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


# -- protocols -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Speech:
    """How a database's clients speak; *port* is the usual one."""

    port: int
    messages: Messages


_POSTGRESQL = {
    "B": "Bind", "C": "Close", "D": "Describe", "E": "Execute", "F": "FunctionCall", "H": "Flush", "P": "Parse",
    "Q": "Query", "S": "Sync", "X": "Terminate", "c": "CopyDone", "d": "CopyData", "f": "CopyFail", "p": "Password",
}  # fmt: skip
_UNTYPED = {196_608: "Startup", 80_877_102: "CancelRequest", 80_877_103: "SSLRequest"}


def _postgresql(sent: bytearray) -> Iterator[str]:
    while len(sent) >= 5:
        # What opens a connection has no type: its length, which begins with a zero, comes first.
        start = 0 if sent[0] == 0 else 1
        end = start + int.from_bytes(sent[start : start + 4])
        if len(sent) < end:
            return
        body = bytes(sent[start + 4 : end])
        kind = chr(sent[0])
        del sent[:end]
        if start == 0:
            yield _UNTYPED.get(int.from_bytes(body[:4]), "(unknown)")
        elif kind == "P":
            yield _named("Parse", body.split(b"\0")[1])
        elif kind == "Q":
            yield _named("Query", body.rstrip(b"\0"))
        else:
            yield _POSTGRESQL.get(kind, "(unknown)")


_MYSQL = {
    0x01: "Quit", 0x02: "InitDB", 0x03: "Query", 0x0E: "Ping", 0x16: "Prepare", 0x17: "Execute", 0x19: "CloseStatement",
    0x1A: "ResetStatement", 0x1B: "SetOption", 0x1C: "Fetch", 0x1F: "ResetConnection",
}  # fmt: skip
_WITH_SQL = (0x03, 0x16)


def _mysql(sent: bytearray) -> Iterator[str]:
    while len(sent) >= 4:
        end = 4 + int.from_bytes(sent[:3], "little")
        if len(sent) < end:
            return
        number, body = sent[3], bytes(sent[4:end])
        del sent[:end]
        if number or not body:
            yield "Login"  # numbers go on only where the server has spoken first
        elif body[0] in _WITH_SQL:
            yield _named(_MYSQL[body[0]], body[1:])
        else:
            yield _MYSQL.get(body[0], "(unknown)")


def _named(name: str, sql: bytes) -> str:
    text = " ".join(sql.decode(errors="replace").split())
    return f"{name} {text[:_SHOWN]}…" if len(text) > _SHOWN else f"{name} {text}"


PROTOCOLS = {"postgresql": Speech(5432, _postgresql), "mysql": Speech(3306, _mysql)}
