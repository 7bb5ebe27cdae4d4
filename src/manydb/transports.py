"""How the server is reached: stdio and streamable HTTP, ended cleanly by SIGTERM, SIGINT and end of input."""

import asyncio
import errno
import ipaddress
import logging
import os
import shutil
import signal
import socket
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import anyio
import mcp_types
import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.server.context import set_transport
from mcp.shared._context_streams import ContextReceiveStream, ContextSendStream, create_context_streams
from mcp.shared.message import SessionMessage
from pydantic_core import from_json
from starlette.applications import Starlette

from manydb import lane
from manydb.errors import SettingsError
from manydb.lane import Lane, Talk
from manydb.settings import Settings
from manydb.tools import parameters

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_LINE = 64 * 1024 * 1024
_SLICE_SECONDS = 0.05
_LAST_ANSWERS_SLICES = 15
"""How long calls may go on after input ended: the client may have piped its requests in, and read the answers."""
_GRACE_SECONDS = 0.25
"""How long HTTP calls may go on after a signal; stopping their queries comes after it, and all of it within 2 s."""
_BACKLOG = 2_048


@contextmanager
def _on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call *stop*, in the event loop, when the process is asked to end."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


# -- stdio -----------------------------------------------------------------------------------------------------------


async def serve_stdio(server: FastMCP[Any]) -> None:
    """Serve one client over standard input and output, until input ends or a signal comes."""
    if sys.platform == "win32":
        # Event loops cannot wait for the standard handles of Windows.
        await server.run_stdio_async(show_banner=False)
    elif sys.stdin is not None and sys.stdout is not None:  # None where they were closed: there is no client then
        await _serve_pipes(server)


async def _serve_pipes(server: FastMCP[Any]) -> None:
    """Serve over pipes of the event loop.

    FastMCP's own transport reads in a thread, which keeps a signal from ending it, and never leaves the lifespan on
    SIGTERM; pipes of the event loop do both, and cost half as much a message.
    """
    # An event, not a cancel scope: a signal that comes before there is something to cancel is not lost.
    stop = asyncio.Event()
    with _on_signals(stop.set):
        async with _standard_pipes() as (reader, send):
            await _serve_stream(server, reader, send, stop)


async def _serve_stream(
    server: FastMCP[Any],
    reader: asyncio.StreamReader,
    send: Callable[[bytes], Awaitable[None]],
    stop: asyncio.Event,
) -> None:
    async with server._lifespan_manager():  # noqa: SLF001 - see pyproject on fastmcp's version
        set_transport("stdio")
        settings = parameters.gateway(Context(server)).settings
        await _serve_client(server, _Wire(reader, send, stop, await lane.beside(server, settings)))


async def _serve_client(server: FastMCP[Any], wire: "_Wire") -> None:
    to_server, incoming = create_context_streams[SessionMessage | Exception](0)
    to_client, outgoing = create_context_streams[SessionMessage](0)
    low = server._mcp_server  # noqa: SLF001

    async def until_stopped() -> None:
        await wire.stop.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_stopped)
        tasks.start_soon(wire.read, to_server)
        tasks.start_soon(wire.write, outgoing)
        await low.run(incoming, to_client, low.create_initialization_options())
        tasks.cancel_scope.cancel()


@dataclass(eq=False)
class _Wire:
    """Messages as lines; knows which requests wait for an answer."""

    reader: asyncio.StreamReader
    send: Callable[[bytes], Awaitable[None]]
    stop: asyncio.Event
    """Set it, and serving ends."""
    lane: Lane | None
    _talk: Talk | None = None
    _waiting: set[mcp_types.RequestId] = field(default_factory=set)
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, to_server: ContextSendStream[SessionMessage | Exception]) -> None:
        """Hand on every line that the lane does not take, until input ends and what was asked is answered."""
        async with anyio.create_task_group() as calls:
            self._talk = Talk(self.lane, self._say, calls) if self.lane else None
            async with to_server:
                await self._read(to_server)
            calls.cancel_scope.cancel()

    async def _read(self, to_server: ContextSendStream[SessionMessage | Exception]) -> None:
        while message := await self._next():
            if isinstance(message, Exception) or not (self._talk and self._talk.takes(message.message)):
                await to_server.send(message)
        # In slices, so that a loop that was blocked, by importing a driver, is not counted as time for answers.
        for _ in range(_LAST_ANSWERS_SLICES):
            with anyio.move_on_after(_SLICE_SECONDS):
                await self._all_answered()
                return

    async def _next(self) -> SessionMessage | Exception | None:
        try:
            if not (line := await self.reader.readline()):
                return None
            # Parsed once: validate_json would build the arguments anew for each kind of message that it tries.
            message = mcp_types.jsonrpc_message_adapter.validate_python(from_json(line), by_name=False)
        except ValueError as exc:  # not a message, or longer than the limit
            return exc
        except ConnectionError:
            return None
        if isinstance(message, mcp_types.JSONRPCRequest):
            self._waiting.add(message.id)
        return SessionMessage(message)

    async def write(self, outgoing: ContextReceiveStream[SessionMessage]) -> None:
        """Send every message, until there are no more."""
        async with outgoing:
            async for each in outgoing:
                if self._talk:
                    self._talk.answered(each.message)
                await self._say(each.message)

    async def _say(self, message: mcp_types.JSONRPCMessage) -> None:
        try:
            await self.send(message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
        except OSError:
            self.stop.set()  # nobody reads any more
        if isinstance(message, mcp_types.JSONRPCResponse | mcp_types.JSONRPCError) and message.id is not None:
            self._waiting.discard(message.id)
            self._answered.set()

    async def _all_answered(self) -> None:
        while self._waiting:
            self._answered.clear()
            await self._answered.wait()


@asynccontextmanager
async def _standard_pipes() -> AsyncGenerator[tuple[asyncio.StreamReader, Callable[[bytes], Awaitable[None]]]]:
    """The process's input and output for us alone: what anybody else prints goes to stderr."""
    source, sink = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    async with _reading(source) as reader, _writing(sink) as send:
        yield reader, send


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
async def _writing(sink: BinaryIO) -> AsyncGenerator[Callable[[bytes], Awaitable[None]]]:
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


# -- HTTP ------------------------------------------------------------------------------------------------------------


async def serve_http(server: FastMCP[Any], settings: Settings) -> None:
    """Serve any number of clients over streamable HTTP, until a signal comes. Raises SettingsError."""
    require_private_address(settings)
    listening = _listen(settings.host, settings.port)
    config = uvicorn.Config(
        await _http_app(server, settings),
        host=settings.host,
        port=listening[0].getsockname()[1],
        lifespan="on",
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,  # type: ignore[arg-type]  # asyncio.wait_for takes fractions
    )
    await _HTTPServer(config, settings.path).serve(listening)


async def _http_app(server: FastMCP[Any], settings: Settings) -> Starlette:
    app = server.http_app(
        path=settings.path, host_origin_protection="auto", session_idle_timeout=settings.caller_idle_ttl
    )
    if fast := await lane.beside(server, settings):
        lane.lead_through(fast, app)
    return app


def require_private_address(settings: Settings) -> None:
    """Raise SettingsError where others on the network could ask our databases without saying who they are."""
    if settings.allow_unauthenticated_network or _is_loopback(settings.host):
        return
    raise SettingsError(
        f"{settings.place('host')}: {settings.host} is open to the network, and manydb asks nobody who they are. "
        "Listen on 127.0.0.1, or set allow_unauthenticated_network = true (MANYDB_ALLOW_UNAUTHENTICATED_NETWORK) "
        "where something else in front of it keeps strangers out"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address that *host* has, all on one port. Raises SettingsError where one is taken."""
    listening: list[socket.socket] = []
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            chosen = port or (listening[0].getsockname()[1] if listening else 0)
            made = socket.create_server((str(address[0]), chosen), family=family, backlog=_BACKLOG)
            listening.append(made)
            # Connections inherit it. Without it an answer's body waits 40 ms for the client to acknowledge its head;
            # asyncio sets it on sockets that say that they are TCP, and these do not.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as exc:
        for each in listening:
            each.close()
        reason = "the port is taken" if exc.errno == errno.EADDRINUSE else exc.strerror
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}; see --host and --port") from None
    return listening


def _is_cut_off(exc: BaseException | None) -> bool:
    """Whether a cancellation is what *exc* comes from: others may have been raised on its way out."""
    if isinstance(exc, BaseExceptionGroup):
        return any(_is_cut_off(each) for each in exc.exceptions)
    return exc is not None and (isinstance(exc, asyncio.CancelledError) or _is_cut_off(exc.__context__))


class _HTTPServer(uvicorn.Server):
    """Uvicorn raises the signal again once it has served: that would skip all that follows, and exit with an error."""

    def __init__(self, config: uvicorn.Config, path: str) -> None:
        super().__init__(config)
        self._path = path

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if sys.platform == "win32":  # its event loops take no signal handlers
            with super().capture_signals():
                yield
        else:
            with _on_signals(lambda: self.handle_exit(signal.SIGTERM, None)):
                yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        log = logging.getLogger("uvicorn.error")
        log.addFilter(self._is_worth_a_line)
        try:
            await super().serve(sockets)
            if self.server_state.tasks:  # uvicorn cancels what is left, but does not wait for it
                await asyncio.wait(self.server_state.tasks, timeout=_GRACE_SECONDS)
        finally:
            log.removeFilter(self._is_worth_a_line)

    def _is_worth_a_line(self, record: logging.LogRecord) -> bool:
        """Whether uvicorn reports more than the streams and calls that every end cuts off."""
        if not self.should_exit:
            return True
        if record.exc_info and _is_cut_off(record.exc_info[1]):
            return False
        return not str(record.msg).startswith(("ASGI callable returned without", "Cancel %s running task"))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        # For people, at every log level; stderr, as everything that is not an answer.
        print(f"manydb: listening at http://{host}:{self.config.port}{self._path}", file=sys.stderr, flush=True)  # noqa: T201
