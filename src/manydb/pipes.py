"""Standard input and output as pipes of the event loop, and the signals that end serving.

Of the standard library alone: the first answers are given before anything larger is imported.
"""

import asyncio
import os
import shutil
import signal
import stat
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_LINE = 64 * 1024 * 1024

Send = Callable[[bytes], Awaitable[None]]
"""Sends a line; raises OSError where nobody reads."""


class Lines(Protocol):
    """What a client says, as `asyncio.StreamReader` has it."""

    async def readline(self) -> bytes:
        """The next line; nothing at the end. Raises ValueError for one that is too long, and ConnectionError."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who is at the other end. Set *stop*, and serving ends."""

    lines: Lines
    send: Send
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@contextmanager
def on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call *stop*, in the event loop, when the process is asked to end."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def standard() -> AsyncGenerator[Client]:
    """The process's input and output for us alone: what anybody else prints goes to stderr. A signal sets *stop*.

    FastMCP's own transport reads in a thread, which keeps a signal from ending it, and never leaves the lifespan on
    SIGTERM; pipes of the event loop do both, and cost half as much a message.
    """
    # An event, not a cancel scope: a signal that comes before there is something to cancel is not lost.
    stop = asyncio.Event()
    with on_signals(stop.set):
        source, sink = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        async with _reading(source) as reader, _writing(sink) as send:
            yield Client(reader, send, stop)


@asynccontextmanager
async def _reading(source: BinaryIO) -> AsyncGenerator[asyncio.StreamReader]:
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    pipe = source if _can_be_waited_for(source) else _filled_from(source)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        yield reader
    finally:
        transport.close()


@asynccontextmanager
async def _writing(sink: BinaryIO) -> AsyncGenerator[Send]:
    if not _can_be_waited_for(sink):
        in_turn = asyncio.Lock()

        async def write(line: bytes) -> None:
            async with in_turn:
                await asyncio.to_thread(_write_all, sink, line)

        with sink:
            yield write
        return
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)

    async def send(line: bytes) -> None:
        if transport.is_closing():  # which asyncio's own tells with the next drain, and uvloop by a RuntimeError
            raise BrokenPipeError
        writer.write(line)
        await writer.drain()

    try:
        yield send
    finally:
        writer.close()


def _can_be_waited_for(file: BinaryIO) -> bool:
    """Whether an event loop can wait for *file*: pipes, sockets and terminals, but neither files nor /dev/null."""
    mode = os.fstat(file.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or file.isatty()


def _filled_from(source: BinaryIO) -> BinaryIO:
    """A pipe that a thread fills from *source*."""
    read_end, write_end = os.pipe()

    def fill() -> None:
        with suppress(OSError), source, os.fdopen(write_end, "wb") as into:
            shutil.copyfileobj(source, into)

    # A daemon: a reader that stopped reading must not keep the process.
    threading.Thread(target=fill, daemon=True).start()
    return os.fdopen(read_end, "rb", 0)


def _write_all(sink: BinaryIO, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[sink.write(rest) :]
