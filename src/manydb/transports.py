"""How the server is reached: stdio and streamable HTTP, ended cleanly by SIGTERM, SIGINT and end of input."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import mcp_types
import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.server.context import set_transport
from mcp.shared._context_streams import ContextReceiveStream, ContextSendStream, create_context_streams
from mcp.shared.message import SessionMessage
from pydantic_core import from_json
from starlette.applications import Starlette

from manydb import lane, listening, relay
from manydb.answers import Answer
from manydb.lane import Lane
from manydb.lane.http import lead_through
from manydb.lane.streams import Talk
from manydb.pipes import Client, Lines, Send, on_signals
from manydb.settings import Settings
from manydb.tools import parameters

_SLICE_SECONDS = 0.05
_LAST_ANSWERS_SLICES = 15
"""How long calls may go on after input ended: the client may have piped its requests in, and read the answers."""
_GRACE_SECONDS = 0.25
"""How long HTTP calls may go on after a signal; stopping their queries comes after it, and all of it within 2 s."""


# -- stdio -----------------------------------------------------------------------------------------------------------


async def serve_client(server: FastMCP[Any], client: Client) -> None:
    """Serve one client that speaks in lines, until it has said all, or is to be served no more."""
    async with server._lifespan_manager():  # noqa: SLF001 - see pyproject on fastmcp's version
        set_transport("stdio")
        settings = parameters.gateway(Context(server)).settings
        await _converse(server, _Wire(client.lines, client.send, client.stop, await lane.beside(server, settings)))


async def _converse(server: FastMCP[Any], wire: "_Wire") -> None:
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

    reader: Lines
    send: Send
    stop: asyncio.Event
    """Set it, and serving ends."""
    lane: Lane | None
    _talk: Talk | None = None
    _waiting: set[mcp_types.RequestId] = field(default_factory=set)
    _answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, to_server: ContextSendStream[SessionMessage | Exception]) -> None:
        """Hand on every line that the lane does not take, until input ends and what was asked is answered."""
        self._talk = Talk(self.lane, self._answer) if self.lane else None
        try:
            async with to_server:
                await self._read(to_server)
        finally:
            if self._talk:
                await self._talk.aclose()

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
        body = message.model_dump_json(by_alias=True, exclude_unset=True).encode()
        if isinstance(message, mcp_types.JSONRPCResponse | mcp_types.JSONRPCError):
            await self._send(body, message.id)
        else:
            await self._send(body)

    async def _answer(self, answer: Answer) -> None:
        await self._send(answer.whole, answer.number)

    async def _send(self, body: bytes, answered: mcp_types.RequestId | None = None) -> None:
        try:
            await self.send(body + b"\n")
        except OSError:
            self.stop.set()  # nobody reads any more
        if answered is not None:
            self._waiting.discard(answered)
            self._answered.set()

    async def _all_answered(self) -> None:
        while self._waiting:
            self._answered.clear()
            await self._answered.wait()


# -- HTTP ------------------------------------------------------------------------------------------------------------


async def serve_http(server: FastMCP[Any], settings: Settings) -> None:
    """Serve any number of clients over streamable HTTP, until a signal comes. Raises SettingsError."""
    listening.require_private_address(settings)
    sockets = listening.sockets(settings.host, settings.port)
    app = await _http_app(server, settings)
    await _http_server(app, settings, lambda: listening.say(settings, sockets)).serve(sockets)


async def serve_share(
    server: FastMCP[Any],
    settings: Settings,
    sockets: Sequence[socket.socket],
    worker: int,
    paths: Sequence[str],
    ready: Callable[[], object],
    gone: int,
) -> None:
    """Serve on *sockets* as the *worker* of that number, until a signal comes or the file *gone* can be read.

    *paths* are the Unix sockets of all workers; *ready* is called when requests are answered.
    """
    app = await _http_app(server, settings)
    async with relay.ways(paths) as ways:
        relay.lead_through(app, settings.path, worker, ways)
        http = _http_server(app, settings, ready)
        loop = asyncio.get_running_loop()
        loop.add_reader(gone, http.stop)
        try:
            await http.serve([*sockets])
        finally:
            loop.remove_reader(gone)


def _http_server(app: Starlette, settings: Settings, ready: Callable[[], object]) -> "_HTTPServer":
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,  # type: ignore[arg-type]  # asyncio.wait_for takes fractions
    )
    return _HTTPServer(config, ready)


async def _http_app(server: FastMCP[Any], settings: Settings) -> Starlette:
    app = server.http_app(
        path=settings.path, host_origin_protection="auto", session_idle_timeout=settings.caller_idle_ttl
    )
    if fast := await lane.beside(server, settings):
        lead_through(fast, app)
    return app


def _is_cut_off(exc: BaseException | None) -> bool:
    """Whether a cancellation is what *exc* comes from: others may have been raised on its way out."""
    if isinstance(exc, BaseExceptionGroup):
        return any(_is_cut_off(each) for each in exc.exceptions)
    return exc is not None and (isinstance(exc, asyncio.CancelledError) or _is_cut_off(exc.__context__))


class _HTTPServer(uvicorn.Server):
    """Uvicorn raises the signal again once it has served: that would skip all that follows, and exit with an error."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    def stop(self) -> None:
        """End serving, as a signal does."""
        self.handle_exit(signal.SIGTERM, None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if sys.platform == "win32":  # its event loops take no signal handlers
            with super().capture_signals():
                yield
        else:
            with on_signals(self.stop):
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
        self._ready()
