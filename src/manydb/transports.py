"""How the server is reached: stdio and streamable HTTP, both of which end cleanly on SIGTERM, SIGINT and end of input."""

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import mcp_types
import uvicorn
from fastmcp import FastMCP
from fastmcp.server.context import set_transport
from mcp.shared._context_streams import ContextReceiveStream, ContextSendStream, create_context_streams
from mcp.shared.message import SessionMessage

from manydb.settings import Settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_LINE = 64 * 1024 * 1024
_GRACE_SECONDS = 1


async def serve_stdio(server: FastMCP[Any]) -> None:
    """Serve one client over standard input and output, until input ends or a signal comes."""
    if sys.platform == "win32" or stat.S_ISREG(os.fstat(0).st_mode) or stat.S_ISREG(os.fstat(1).st_mode):
        # Event loops cannot wait for files, nor for the standard handles of Windows.
        await server.run_stdio_async(show_banner=False)
    else:
        await _serve_pipes(server)


async def _serve_pipes(server: FastMCP[Any]) -> None:
    """Serve over pipes of the event loop.

    FastMCP's own transport reads in a thread, which keeps a signal from ending it, and never leaves the lifespan on
    SIGTERM; pipes of the event loop do both, and cost half as much a message.
    """
    async with _standard_pipes() as pipes, server._lifespan_manager():  # noqa: SLF001 - see pyproject on fastmcp's version
        set_transport("stdio")
        to_server, incoming = create_context_streams[SessionMessage | Exception](0)
        to_client, outgoing = create_context_streams[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                loop.add_signal_handler(number, tasks.cancel_scope.cancel)
            tasks.start_soon(_read, pipes[0], to_server)
            tasks.start_soon(_write, outgoing, pipes[1])
            low = server._mcp_server  # noqa: SLF001
            await low.run(incoming, to_client, low.create_initialization_options())
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _standard_pipes() -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """The process's input and output for us alone: what anybody else prints goes to stderr."""
    loop = asyncio.get_running_loop()
    read_end, write_end = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(write_end, "wb", 0))
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, to_server: ContextSendStream[SessionMessage | Exception]) -> None:
    async with to_server:
        while line := await reader.readline():
            try:
                parsed = mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError as exc:
                await to_server.send(exc)
            else:
                await to_server.send(SessionMessage(parsed))


async def _write(outgoing: ContextReceiveStream[SessionMessage], writer: asyncio.StreamWriter) -> None:
    async with outgoing:
        async for message in outgoing:
            writer.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await writer.drain()


async def serve_http(server: FastMCP[Any], settings: Settings) -> None:
    """Serve any number of clients over streamable HTTP, until a signal comes."""
    app = server.http_app(path=settings.path, host_origin_protection="auto")
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        lifespan="on",
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    await _HTTPServer(config).serve()


class _HTTPServer(uvicorn.Server):
    """Uvicorn raises the signal again once it has served, which would skip everything after it and exit with an error."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
