"""Servers in this process, reached as `manydb serve` is: over a stream of lines, and as an ASGI app.

`Line` and `Post` send raw messages and count those that FastMCP sees; `through` puts a client that a user has, a Desk,
behind a stream.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, Unpack

import anyio
import httpx2
import mcp_types
from fastmcp import Client, FastMCP
from fastmcp.client.transports.base import ClientTransport, SessionKwargs, TransportOptions
from fastmcp.utilities.asgi_transport import StreamingASGITransport, run_asgi_lifespan
from mcp import ClientSession
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.message import SessionMessage
from starlette.applications import Starlette
from starlette.routing import Route

from manydb import pipes, transports
from manydb.lane.http import Endpoint
from manydb.lane.sessions import Session
from manydb.server import build_server
from manydb.settings import Settings
from tests.tools import Desk

MODERN, HANDSHAKE = "2026-07-28", "2025-11-25"
PATIENCE_SECONDS = 10.0
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def a_call(tool: str, arguments: Any = None, version: str = MODERN, **more: Any) -> dict[str, Any]:
    """The parameters of a call as a client of *version* sends them."""
    params = {"name": tool, "arguments": arguments or {}, **more}
    return {"_meta": ENVELOPE, **params} if version == MODERN else params


def configured(url: str, **more: Any) -> Settings:
    """Settings of a server of the database at *url*."""
    return Settings.model_validate({"connections": {"db": {"url": url}}, **more})


class Asked(Protocol):
    """Where a message can be sent, and which calls FastMCP has seen."""

    seen: list[str]

    async def ask(self, method: str, params: Any, **envelope: Any) -> bytes:
        """The answer as it travels."""


def watched(server: FastMCP[Any]) -> list[str]:
    """The tools of the calls that FastMCP handles from now on."""
    seen: list[str] = []

    async def watch(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call":
            seen.append(str((ctx.params or {}).get("name")))
        return await call_next(ctx)

    server._mcp_server.middleware.insert(0, watch)
    return seen


# -- streams ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Line:
    """A stream of lines to a server, and what it says."""

    reader: asyncio.StreamReader
    seen: list[str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    said: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    deaf: bool = False

    async def receive(self, line: bytes) -> None:
        if self.deaf:
            raise BrokenPipeError
        self.said.put_nowait(line)

    def send(self, method: str, params: Any, **envelope: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params, **envelope}
        self.reader.feed_data(json.dumps(message).encode() + b"\n")

    async def answer(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.said.get()

    async def ask(self, method: str, params: Any, **envelope: Any) -> bytes:
        self.send(method, params, **({"id": 1} | envelope))
        return await self.answer()

    async def greet(self, version: str) -> None:
        """Whatever a client of *version* says first."""
        if version == MODERN:
            await self.ask("server/discover", {"_meta": ENVELOPE})
        else:
            hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            assert json.loads(await self.ask("initialize", hello))["result"]["protocolVersion"] == version
            self.send("notifications/initialized", {})


@asynccontextmanager
async def over_stdio(server: FastMCP[Any]) -> AsyncGenerator[Line]:
    """A line to *server*; at the end its input ends, and with it the server."""
    line = Line(asyncio.StreamReader(), watched(server))
    serving = asyncio.create_task(transports.serve_client(server, pipes.Client(line.reader, line.receive, line.stop)))
    try:
        yield line
    finally:
        line.reader.feed_eof()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await serving


@dataclass(eq=False)
class StreamTransport(ClientTransport):
    """What a client needs to speak to a server over a stream."""

    server: FastMCP[Any]

    @asynccontextmanager
    async def connect_session(
        self, *, transport_options: TransportOptions | None = None, **session_kwargs: Unpack[SessionKwargs]
    ) -> AsyncIterator[ClientSession]:
        to_client, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](100)
        outgoing, to_server = anyio.create_memory_object_stream[SessionMessage](0)
        options = transport_options or TransportOptions()

        async def hear() -> None:
            async with to_client:
                while True:
                    message = mcp_types.jsonrpc_message_adapter.validate_json(await line.said.get(), by_name=False)
                    await to_client.send(SessionMessage(message))

        async def say() -> None:
            async with to_server:
                async for each in to_server:
                    written = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                    line.reader.feed_data(written.encode() + b"\n")

        async with over_stdio(self.server) as line, anyio.create_task_group() as tasks:
            tasks.start_soon(hear)
            tasks.start_soon(say)
            async with options.session_class(incoming, outgoing, **session_kwargs) as session:
                yield session
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def through(mode: str = "auto", /, **settings: Any) -> AsyncGenerator[Desk]:
    """`tests.tools.serving`, over a stream."""
    if url := settings.pop("url", None):
        settings["connections"] = {"db": {"url": url}}
    server = build_server(Settings.model_validate(settings))
    async with Client(StreamTransport(server), mode=mode) as client:
        yield Desk(client)


# -- HTTP ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Post:
    """An ASGI app, asked without sessions, or in one once a client of the handshake era has greeted it."""

    http: httpx2.AsyncClient
    seen: list[str]
    app: Starlette = field(default_factory=Starlette)
    """Where it is of this process."""
    login: dict[str, str] = field(default_factory=dict)
    session: dict[str, str] = field(default_factory=dict)
    """The headers that a request of it bears."""

    async def ask(self, method: str, params: Any, **envelope: Any) -> bytes:
        return said(await self.post(method, params, **envelope))

    async def post(
        self, method: str, params: Any, headers: Mapping[str, str | None] | None = None, **envelope: Any
    ) -> httpx2.Response:
        """The answer to a message under the headers that fit it, except where *headers* say otherwise."""
        fitting = JSON | self.login | (self.session or {"mcp-protocol-version": MODERN, "mcp-method": method})
        if not self.session and isinstance(params, dict) and isinstance(params.get("name"), str):
            fitting["mcp-name"] = params["name"]
        sent = {name: value for name, value in (fitting | dict(headers or {})).items() if value is not None}
        message = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1, **envelope}
        return await self.send(json.dumps(message), sent)

    async def notify(self, method: str, params: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        assert (await self.send(json.dumps(message), JSON | self.login | self.session)).status_code == 202

    async def send(self, body: str, headers: Mapping[str, str]) -> httpx2.Response:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.http.post("/mcp", content=body, headers=dict(headers))

    async def greet(self, version: str) -> None:
        """Whatever a client of *version* says first."""
        if version == MODERN:
            return
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        nothing = {"mcp-protocol-version": None, "mcp-method": None}
        found = await self.post("initialize", hello, nothing)
        assert json.loads(said(found))["result"]["protocolVersion"] == version
        self.session = {"mcp-session-id": found.headers["mcp-session-id"], "mcp-protocol-version": version}
        await self.notify("notifications/initialized", {})
        await self.ask("ping", {})  # heard after the notice, which may be on its way still

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Those that the lane has met."""
        endpoints = (route.app for route in self.app.routes if isinstance(route, Route))
        (endpoint,) = (each for each in endpoints if isinstance(each, Endpoint))
        assert endpoint.sessions is not None
        return endpoint.sessions._met

    async def leave(self) -> None:
        assert (await self.http.delete("/mcp", headers=JSON | self.session)).status_code == 200


def said(response: httpx2.Response) -> bytes:
    """The message that *response* brings, as its body or as the only event of a stream."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        return response.content
    (data,) = (line for line in response.content.splitlines() if line.startswith(b"data:"))
    return data.removeprefix(b"data:").strip()


@asynccontextmanager
async def over_http(server: FastMCP[Any], settings: Settings) -> AsyncGenerator[Post]:
    app = await transports._http_app(server, settings)
    async with (
        run_asgi_lifespan(app),
        httpx2.AsyncClient(transport=StreamingASGITransport(app), base_url="http://127.0.0.1") as http,
    ):
        yield Post(http, watched(server), app)
