"""The handshake era's sessions over HTTP, as far as the lane has to do with them.

A session is the protocol library's: that opens it, knows whose it is, and ends it. The lane takes calls of those that
are open from whoever opened them, and keeps what is promised to a session's calls: its notices cancel them, it is not
idle while they run, and they end with it.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import anyio
from fastmcp import Context
from fastmcp.server.dependencies import FastMCPRequestContext, fastmcp_request_ctx
from fastmcp.server.http import StreamableHTTPASGIApp
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, authorization_context
from mcp.server.connection import Connection
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, REQUEST_CANCELLED, StreamableHTTPServerTransport
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    CONNECTION_CLOSED,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    RequestId,
)
from starlette.types import Scope

from manydb.answers import Answer
from manydb.lane.calls import Call, Lane
from manydb.tools import parameters

_CANCELLED = ErrorData(code=REQUEST_CANCELLED, message="Request cancelled")
_CLOSED = ErrorData(code=CONNECTION_CLOSED, message="Connection closed")


@dataclass(eq=False)
class Session:
    """A session that is open, and those of its calls that the lane has taken."""

    lane: Lane
    transport: StreamableHTTPServerTransport
    context: FastMCPRequestContext
    """What FastMCP says of a request of this session, to the tools and to whoever asks who is calling."""
    _under_way: dict[RequestId, asyncio.Task[Any]] = field(default_factory=dict)
    _is_bound: bool = False
    _has_ended: bool = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of its answers, as the protocol library sends them."""
        return [(MCP_SESSION_ID_HEADER.encode(), (self.transport.mcp_session_id or "").encode())]

    def take(self, message: JSONRPCMessage) -> Call | None:
        """The call that *message* is; None where FastMCP must see it. A notice that cancels is heeded as well."""
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            number = cancelled_request_id_from_params(message.params)
            under_way = self._under_way.pop(coerce_request_id(number), None) if number is not None else None
            if under_way is not None:
                under_way.cancel()
        if not isinstance(message, JSONRPCRequest) or coerce_request_id(message.id) in self._under_way:
            return None
        meta = (message.params or {}).get("_meta")
        if isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta:  # of the other era
            return None
        call = self.lane.take(message, self.context.protocol_version)
        return partial(self._answer, message.id, call) if call else None

    async def _answer(self, number: RequestId, call: Call) -> Answer:
        """Run *call* as this session's. If its client cancels it, or the session ends, its answer says so."""
        key, task = coerce_request_id(number), cast("asyncio.Task[Any]", asyncio.current_task())
        self._under_way[key] = task
        fastmcp_request_ctx.set(self.context)  # in a task of its own, so for this call alone
        try:
            with _in_flight(self.transport):
                self._bind()
                return await call()
        except asyncio.CancelledError:
            if self._under_way.get(key) is task:  # the server ends, or what asked for the call
                raise
            return Answer.error(number, _CLOSED if self._has_ended else _CANCELLED)
        finally:
            if self._under_way.get(key) is task:
                del self._under_way[key]

    def _bind(self) -> None:
        """Let calls end with the session: before what the caller holds is released, for they may be making more."""
        if not self._is_bound:
            self._is_bound = True
            parameters.caller(Context(self.lane.server))  # from now on its release is on the stack
            _connection(self.context).exit_stack.push_async_callback(self._end)

    async def _end(self) -> None:
        self._has_ended = True
        tasks = [*self._under_way.values()]
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _in_flight(transport: StreamableHTTPServerTransport) -> Iterator[None]:
    """Keep a session from being idle, as its *transport* does for the requests that it sees."""
    transport._requests_in_flight += 1  # noqa: SLF001 - see pyproject on fastmcp's version
    if transport.idle_scope:
        transport.idle_scope.deadline = math.inf
    try:
        yield
    finally:
        transport._requests_in_flight -= 1  # noqa: SLF001
        idle_seconds = transport._idle_timeout  # noqa: SLF001
        if transport.idle_scope and idle_seconds and not transport._requests_in_flight:  # noqa: SLF001
            transport.idle_scope.deadline = anyio.current_time() + idle_seconds


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of *app* that FastMCP has heard of after their handshake."""

    lane: Lane
    app: StreamableHTTPASGIApp
    _met: dict[str, Session] = field(default_factory=dict)

    async def meet(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware of the protocol library: whose message *ctx* is will be known from now on."""
        connection = _connection(ctx)
        if connection.initialize_accepted and connection.session_id and connection.session_id not in self._met:
            self._introduce(connection.session_id, connection, ctx)
        return await call_next(ctx)

    def _introduce(self, name: str, connection: Connection, ctx: ServerRequestContext[Any, Any]) -> None:
        manager = self.app.session_manager
        transport = manager._server_instances.get(name) if manager else None  # noqa: SLF001
        if transport is None:
            return
        context = FastMCPRequestContext(
            session=ctx.session,
            request_id=None,
            meta=None,
            request=None,
            protocol_version=connection.protocol_version,
            close_sse_stream=None,
            lifespan_context=ctx.lifespan_context,
            _srctx=replace(ctx, params=None, request=None),
        )
        self._met[name] = Session(self.lane, transport, context)
        connection.exit_stack.callback(self._met.pop, name, None)

    def of(self, scope: Scope, headers: Mapping[str, str]) -> Session | None:
        """The session that a request with *headers* may speak for, in its version; None where FastMCP must look."""
        name = headers.get(MCP_SESSION_ID_HEADER, "")
        session, manager = self._met.get(name), self.app.session_manager
        if session is None or manager is None or manager._server_instances.get(name) is not session.transport:  # noqa: SLF001
            return None
        if headers.get(MCP_PROTOCOL_VERSION_HEADER) not in {None, session.context.protocol_version}:
            return None
        idle = session.transport.idle_scope
        if session.transport.is_terminated or (idle is not None and idle.cancel_called):
            return None
        user = scope.get("user")
        asking = authorization_context(user) if isinstance(user, AuthenticatedUser) else None
        return session if asking == manager._session_owners.get(name) else None  # noqa: SLF001


def _connection(ctx: ServerRequestContext[Any, Any] | FastMCPRequestContext) -> Connection:
    return ctx.session._connection  # noqa: SLF001
