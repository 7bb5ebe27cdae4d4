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
from mcp.server.session import ServerSession
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, REQUEST_CANCELLED, StreamableHTTPServerTransport
from mcp.shared.dispatcher import DispatchContext, coerce_request_id
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    CONNECTION_CLOSED,
    PROTOCOL_VERSION_META_KEY,
    ErrorData,
    JSONRPCMessage,
    JSONRPCRequest,
    RequestId,
)
from starlette.types import Scope

from manydb.answers import Answer
from manydb.lane.calls import Call, Lane
from manydb.tools import parameters

_CANCELLED = ErrorData(code=REQUEST_CANCELLED, message="Request cancelled")
_CLOSED = ErrorData(code=CONNECTION_CLOSED, message="Connection closed")


@dataclass(eq=False, slots=True)
class _Taken:
    """A call of a session, from the moment that it is taken; its *task* begins a moment later."""

    task: asyncio.Task[Any] | None = None
    verdict: ErrorData | None = None
    """What it is answered, if it is ended."""

    def end(self, verdict: ErrorData) -> None:
        self.verdict = verdict
        if self.task:
            self.task.cancel()


@dataclass(eq=False)
class Session:
    """A session that is open, and those of its calls that the lane has taken."""

    lane: Lane
    transport: StreamableHTTPServerTransport
    context: FastMCPRequestContext
    """What FastMCP says of a request of this session, to the tools and to whoever asks who is calling."""
    _under_way: dict[RequestId, _Taken] = field(default_factory=dict)
    _is_bound: bool = False
    _has_ended: bool = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Of its answers, as the protocol library sends them."""
        return [(MCP_SESSION_ID_HEADER.encode(), (self.transport.mcp_session_id or "").encode())]

    @property
    def is_open(self) -> bool:
        """Whether nothing has ended it yet."""
        idle = self.transport.idle_scope
        return not (self._has_ended or self.transport.is_terminated or (idle is not None and idle.cancel_called))

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Keep it from being idle while a request is served, as its transport does for those that it sees."""
        transport = self.transport
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

    def take(self, message: JSONRPCMessage) -> Call | None:
        """The call that *message* is; None where FastMCP must see it."""
        if not isinstance(message, JSONRPCRequest) or coerce_request_id(message.id) in self._under_way:
            return None
        version, meta = self.context.protocol_version, (message.params or {}).get("_meta")
        if isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta:  # of the other era
            return None
        # While the body was on its way, the session may have ended; and a client may greet again.
        if not self.is_open or _connection(self.context).protocol_version != version:
            return None
        call = self.lane.take(message, version)
        if call is None:
            return None
        taken = self._under_way[coerce_request_id(message.id)] = _Taken()  # what ends it may come before it begins
        return partial(self._answer, message.id, taken, call)

    def heed(self, params: Mapping[str, Any] | None) -> None:
        """A notice of *params* cancels a call."""
        number = cancelled_request_id_from_params(params)
        taken = self._under_way.pop(coerce_request_id(number), None) if number is not None else None
        if taken is not None:
            taken.end(_CANCELLED)

    async def _answer(self, number: RequestId, taken: _Taken, call: Call) -> Answer:
        """Run *call* as this session's. If its client cancels it, or the session ends, its answer says so."""
        taken.task = asyncio.current_task()
        fastmcp_request_ctx.set(self.context)  # in a task of its own, so for this call alone
        try:
            if taken.verdict is None and self.is_open:
                self._bind()
                return await call()
        except asyncio.CancelledError:
            if taken.verdict is None:  # the server ends, or what asked for the call
                raise
        finally:
            key = coerce_request_id(number)
            if self._under_way.get(key) is taken:
                del self._under_way[key]
        return Answer.error(number, taken.verdict or _CLOSED)

    def _bind(self) -> None:
        """Let calls end with the session: before what the caller holds is released, for they may be making more."""
        if not self._is_bound:
            self._is_bound = True
            parameters.caller(Context(self.lane.server))  # from now on its release is on the stack
            _connection(self.context).exit_stack.push_async_callback(self._end)

    async def _end(self) -> None:
        self._has_ended = True
        ended = [*self._under_way.values()]
        self._under_way.clear()
        for taken in ended:
            taken.end(_CLOSED)
        await asyncio.gather(*(taken.task for taken in ended if taken.task), return_exceptions=True)


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
        # Heeded here, for a notice may come under headers that keep it from the lane.
        session = self._met.get(connection.session_id or "")
        if session and ctx.method == "notifications/cancelled" and ctx.request_id is None:
            session.heed(ctx.params)
        return await call_next(ctx)

    def _introduce(self, name: str, connection: Connection, ctx: ServerRequestContext[Any, Any]) -> None:
        manager = self.app.session_manager
        transport = manager._server_instances.get(name) if manager else None  # noqa: SLF001
        if transport is None:
            return
        # Nothing of the message itself: it would hold on to its request, and to the credential in its headers.
        session = ServerSession(cast("DispatchContext[Any]", connection.outbound), connection)
        bare = replace(ctx, session=session, request_id=None, meta=None, params=None, request=None)
        context = FastMCPRequestContext(
            session=session,
            request_id=None,
            meta=None,
            request=None,
            protocol_version=connection.protocol_version,
            close_sse_stream=None,
            lifespan_context=ctx.lifespan_context,
            _srctx=replace(bare, close_sse_stream=None, close_standalone_sse_stream=None),
        )
        self._met[name] = Session(self.lane, transport, context)
        connection.exit_stack.callback(self._met.pop, name, None)

    def of(self, scope: Scope, headers: Mapping[str, str]) -> Session | None:
        """The session that a request with *headers* may speak for, in its version; None where FastMCP must look."""
        name = headers.get(MCP_SESSION_ID_HEADER, "")
        session, manager = self._met.get(name), self.app.session_manager
        if session is None or manager is None or manager._server_instances.get(name) is not session.transport:  # noqa: SLF001
            return None
        version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
        if not session.is_open or version not in {None, session.context.protocol_version}:
            return None
        user = scope.get("user")
        asking = authorization_context(user) if isinstance(user, AuthenticatedUser) else None
        return session if asking == manager._session_owners.get(name) else None  # noqa: SLF001


def _connection(ctx: ServerRequestContext[Any, Any] | FastMCPRequestContext) -> Connection:
    return ctx.session._connection  # noqa: SLF001
