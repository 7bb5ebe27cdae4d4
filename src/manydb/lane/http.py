"""The lane before the MCP endpoint over HTTP: requests without a session, and those of the handshake era's sessions."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

import anyio
from fastmcp.server.http import StreamableHTTPASGIApp
from mcp.server import _streamable_http_modern as single_exchange
from mcp.server.auth.middleware.bearer_auth import RequireAuthMiddleware
from mcp.server.streamable_http import check_accept_headers
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PARAM_HEADER_PREFIX,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundModernRoute,
    classify_inbound_request,
)
from mcp_types import JSONRPCRequest, jsonrpc_message_adapter
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manydb.answers import Answer
from manydb.lane.calls import CALL, Call, Lane
from manydb.lane.sessions import Session, Sessions

_UNATTENDED_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An ASGI app that answers what *lane* takes, and leaves the rest to *app*.

    A call that takes longer than *ping_seconds* is answered as an event stream, whose pings keep it open.
    """

    lane: Lane
    app: ASGIApp
    sessions: Sessions | None = None
    """Of the handshake era; without them, all that is theirs passes on."""
    ping_seconds: float = single_exchange._SSE_PING_INTERVAL  # noqa: SLF001 - a test holds on to the names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        if scope["method"] != "POST" or not _is_readable(headers):
            return await self.app(scope, receive, send)
        session = self.sessions.of(scope, headers) if self.sessions else None
        if session is None and not self._is_promising(headers):
            return await self.app(scope, receive, send)
        with ExitStack() as presence:
            if session is not None:
                presence.enter_context(session.in_flight())
            read = [await receive()]
            while read[-1].get("more_body"):
                read.append(await receive())
            body = b"".join(each.get("body", b"") for each in read)
            call = self._take(headers, body) if session is None else _take_of(session, body)
            if call is not None:
                return await _Exchange(call, session, presence, self.ping_seconds).run(receive, send)
            read.reverse()

            async def again() -> Message:
                return read.pop() if read else await receive()

            return await self.app(scope, again, send)

    def _is_promising(self, headers: Mapping[str, str]) -> bool:
        """Whether *headers* are those of a call without a session that may be taken."""
        return (
            headers.get(MCP_PROTOCOL_VERSION_HEADER) in MODERN_PROTOCOL_VERSIONS
            and headers.get(MCP_METHOD_HEADER) == CALL
            and headers.get(MCP_NAME_HEADER) in self.lane.tools
            and not any(name.startswith(MCP_PARAM_HEADER_PREFIX.lower()) for name in headers)
        )

    def _take(self, headers: Mapping[str, str], body: bytes) -> Call | None:
        try:
            decoded = json.loads(body)
            message = JSONRPCRequest.model_validate(decoded)
        except (ValueError, RecursionError):
            return None
        route = classify_inbound_request(decoded, headers=headers)
        return self.lane.take(message, route.protocol_version) if isinstance(route, InboundModernRoute) else None


def _headers(scope: Scope) -> Mapping[str, str]:
    """Those of a request; none at all where one comes twice, for somebody else might read the other."""
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return found if len(found) == len(scope["headers"]) else {}


def _is_readable(headers: Mapping[str, str]) -> bool:
    """Whether a message comes with *headers* that is small enough to be read here, and takes either form of answer."""
    return (
        _is_json(headers.get("content-type", ""))
        and _takes_either(headers.get("accept", ""))
        and (size := headers.get("content-length", "")).isdecimal()
        and int(size) <= DEFAULT_MAX_REQUEST_BODY_SIZE
    )


@lru_cache(100)  # clients say the same all the time
def _takes_either(accept: str) -> bool:
    request = Request({"type": "http", "headers": [(b"accept", accept.encode("latin-1"))]})
    return check_accept_headers(request) == (True, True)


def _is_json(content_type: str) -> bool:
    """Whether it is the one that the protocol library asks for, letter by letter."""
    return content_type.partition(";")[0].rstrip() == "application/json"


def _take_of(session: Session, body: bytes) -> Call | None:
    try:
        message = jsonrpc_message_adapter.validate_python(from_json(body), by_name=False)
    except ValueError:
        return None
    return session.take(message)


@dataclass(slots=True)
class _Exchange:
    """A call, and the client that waits for its answer."""

    call: Call
    session: Session | None
    presence: ExitStack
    """Lasts as long as the client is known to be there."""
    ping_seconds: float
    _is_stream: bool = False
    """Whether the answer has begun, as a stream."""

    async def run(self, receive: Receive, send: Send) -> None:
        """Answer the call; without a session, as long as the client is there to hear it."""
        task = asyncio.create_task(self.call())
        try:
            # Most calls end sooner than looking after their clients would begin.
            await asyncio.wait({task}, timeout=_UNATTENDED_SECONDS)
            if not task.done():
                await self._attend(task, receive, send)
        finally:
            task.cancel()
            if not task.done():
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({task})
        if not task.cancelled():
            await task.result().send(send, self._headers, is_stream=self._is_stream)

    async def _attend(self, task: asyncio.Task[Answer], receive: Receive, send: Send) -> None:
        """Wait for *task* with its client, until one of them ends."""

        async def listen() -> None:
            while True:
                with anyio.move_on_after(self.ping_seconds):
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    # With a session, only a notice cancels, or its end: the protocol of that era has it so.
                    if self.session is None:
                        tasks.cancel_scope.cancel()
                    self.presence.close()
                    return
                with anyio.CancelScope(shield=True):  # what was begun is sent whole
                    await self._ping(send)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await asyncio.wait({task})
            tasks.cancel_scope.cancel()

    async def _ping(self, send: Send) -> None:
        if not self._is_stream:
            headers = [*single_exchange._SSE_HEADERS, *self._headers]  # noqa: SLF001
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            self._is_stream = True
        await send({"type": "http.response.body", "body": b": ping\r\n\r\n", "more_body": True})

    @property
    def _headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self.session.headers if self.session else ()


def lead_through(lane: Lane, app: Starlette) -> None:
    """Put *lane* before the MCP endpoint of *app*, behind all that guards it."""
    for route in app.routes:
        holder = route.app if isinstance(route, Route) and isinstance(route.app, RequireAuthMiddleware) else route
        if isinstance(holder, Route | RequireAuthMiddleware) and isinstance(holder.app, StreamableHTTPASGIApp):
            sessions = Sessions(lane, holder.app)
            lane.server._mcp_server.middleware.append(sessions.meet)  # noqa: SLF001 - see pyproject on fastmcp's version
            holder.app = Endpoint(lane, holder.app, sessions)
