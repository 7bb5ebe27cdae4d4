"""The fast lane: plain calls of the core tools, answered beside the transport.

FastMCP's own way costs more than a small query does. What the lane takes is checked by the protocol library's own
functions and answered by the same tools; a call that is not plainly in order, and every other message, passes on.
"""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from fastmcp import Context, FastMCP
from fastmcp.server.dependencies import without_injected_parameters
from fastmcp.server.http import StreamableHTTPASGIApp
from fastmcp.server.middleware.dereference import DereferenceRefsMiddleware
from fastmcp.tools import FunctionTool, ToolResult
from fastmcp.utilities.types import get_cached_typeadapter
from mcp.server import _streamable_http_modern as single_exchange
from mcp.server.auth.middleware.bearer_auth import RequireAuthMiddleware
from mcp.server.runner import modern_error_data
from mcp.server.streamable_http import check_accept_headers
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PARAM_HEADER_PREFIX,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundModernRoute,
    classify_inbound_request,
    find_duplicated_routing_header,
)
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CONNECTION_CLOSED,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
    CallToolRequestParams,
    CallToolResult,
    ErrorData,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from mcp_types.methods import serialize_server_result, validate_client_request
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manydb.answers import Answer
from manydb.server import Arguments, kindly
from manydb.settings import Settings
from manydb.tools import TOOLS
from manydb.tools.parameters import LongReply

Call = Callable[[], Coroutine[Any, Any, Answer]]
"""A call that was taken: awaited, it runs and is answered."""

_CALL = "tools/call"
_GROUP = "core"
"""Its tools need nothing but the caller and their arguments: they neither ask back nor report progress."""
_PARAMS = {"name", "arguments", "_meta"}
_META = {PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY, "progressToken"}
_LAST_WORD_SECONDS = 1.0
_UNATTENDED_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class _Tool:
    function: Callable[..., Awaitable[ToolResult]]
    parameters: list[str]
    arguments: TypeAdapter[dict[str, Any]]
    """Reads arguments as FastMCP does before it calls the function."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Takes calls that *server* need not see: plain ones, of *tools*, with arguments in order."""

    server: FastMCP[Any]
    tools: Mapping[str, _Tool]

    def take(self, request: JSONRPCRequest, version: str) -> Call | None:
        """The call that *request* of protocol *version* is; None where FastMCP must see it."""
        params = request.params or {}
        name = params.get("name")
        tool = self.tools.get(name) if request.method == _CALL and isinstance(name, str) else None
        if tool is None or not params.keys() <= _PARAMS or not self._is_plain(params.get("_meta", {})):
            return None
        try:
            validate_client_request(_CALL, version, params)
            given = CallToolRequestParams.model_validate(params, by_name=False).arguments or {}
            arguments = tool.arguments.validate_python(kindly(given, tool.parameters))
        except (ValueError, KeyError):  # FastMCP words the error, and logs it
            return None
        return partial(self._answer, request.id, version, tool.function, arguments)

    def _is_plain(self, meta: Any) -> bool:
        """Whether *meta* asks nothing of anybody but the tool, and nobody records spans."""
        if not isinstance(meta, dict) or not meta.keys() <= _META:
            return False
        capabilities = meta.get(CLIENT_CAPABILITIES_META_KEY)
        # The server's extensions may answer the calls of clients that speak them.
        if isinstance(capabilities, dict) and capabilities.get("extensions") and self.server._extensions:  # noqa: SLF001 - see pyproject on fastmcp's version
            return False
        return isinstance(get_tracer_provider(), ProxyTracerProvider)

    async def _answer(
        self,
        number: RequestId,
        version: str,
        function: Callable[..., Awaitable[ToolResult]],
        arguments: dict[str, Any],
    ) -> Answer:
        try:
            reply = await function(Context(self.server), **arguments)
            result = CallToolResult(
                content=reply.content, structured_content=reply.structured_content, is_error=reply.is_error
            ).model_dump(by_alias=True, mode="json", exclude_none=True)
            written = serialize_server_result(_CALL, version, result)
        except Exception as exc:  # noqa: BLE001 - the boundary: one call's failure must not end its neighbours
            return Answer.error(number, modern_error_data(exc))
        if version in MODERN_PROTOCOL_VERSIONS:
            written["_meta"] = {SERVER_INFO_META_KEY: self.server._mcp_server.server_info_stamp}  # noqa: SLF001
        if isinstance(reply, LongReply):
            return await Answer.of_pieces(number, written, reply.pieces)
        return Answer.result(number, written)


async def beside(server: FastMCP[Any], settings: Settings) -> Lane | None:
    """The lane beside *server*; None where it is switched off, or where something else has a say in every call."""
    known = (Arguments, DereferenceRefsMiddleware)
    if not settings.fast_lane or not all(isinstance(each, known) for each in server.middleware):
        return None
    names = {tool.name for tool in TOOLS if tool.group == _GROUP}
    offered = [tool for tool in await server.list_tools() if isinstance(tool, FunctionTool)]
    return Lane(server, {tool.name: _tool(tool) for tool in offered if tool.name in names})


def _tool(tool: FunctionTool) -> _Tool:
    public = without_injected_parameters(tool.fn)

    def read(**arguments: Any) -> dict[str, Any]:
        return arguments

    read.__signature__ = inspect.signature(public)  # type: ignore[attr-defined]  # pydantic reads it
    read.__annotations__ = public.__annotations__
    arguments: Any = get_cached_typeadapter(read)  # of what the function returns: the arguments
    return _Tool(tool.fn, list(tool.parameters["properties"]), arguments)


# -- streams ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Talk:
    """What one client says over a stream; the calls taken from it run until `aclose`, and *say* their answers.

    The first request decides the stream's era and is never taken, for FastMCP must see it too; in the era of the
    handshake calls are taken once that is answered.
    """

    lane: Lane
    say: Callable[[Answer], Awaitable[None]]
    _is_modern: bool | None = None
    _greeting: RequestId | None = None
    _version: str = ""
    _under_way: dict[RequestId, asyncio.Task[None]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def takes(self, message: JSONRPCMessage) -> bool:
        """Whether *message* is answered here. A notice that cancels is heeded here, and passes on as well."""
        if isinstance(message, JSONRPCRequest):
            if (call := self._take(message)) is None:
                return False
            # No task group's task, which costs three times as much as all that is done with the message.
            task = self._under_way[coerce_request_id(message.id)] = asyncio.create_task(self._answer(message.id, call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            number = cancelled_request_id_from_params(message.params)
            under_way = self._under_way.pop(coerce_request_id(number), None) if number is not None else None
            if under_way is not None:
                under_way.cancel()
        return False

    async def aclose(self) -> None:
        """Stop what is under way; whoever asked for it is told."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*tasks, return_exceptions=True)

    def answered(self, message: JSONRPCMessage) -> None:
        """FastMCP says *message*: the answer to a handshake names the version."""
        if isinstance(message, JSONRPCResponse) and message.id == self._greeting:
            self._greeting, self._version = None, str(message.result.get("protocolVersion", ""))

    def _take(self, request: JSONRPCRequest) -> Call | None:
        meta = (request.params or {}).get("_meta")
        has_envelope = isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta
        if request.method == "initialize":
            self._greeting, self._version = request.id, ""
        if self._is_modern is None:
            self._is_modern = has_envelope and request.method != "initialize"
            return None
        if not self._is_modern:
            return self.lane.take(request, self._version) if self._version and not has_envelope else None
        route = classify_inbound_request({"method": request.method, "params": request.params})
        return self.lane.take(request, route.protocol_version) if isinstance(route, InboundModernRoute) else None

    async def _answer(self, number: RequestId, call: Call) -> None:
        """Run *call*. A client that cancels it hears nothing more of it."""
        try:
            answer = await call()
        except asyncio.CancelledError:
            if self._forget(number):
                with anyio.move_on_after(_LAST_WORD_SECONDS, shield=True):
                    error = ErrorData(code=CONNECTION_CLOSED, message="Connection closed")
                    await self.say(Answer.error(number, error))
            raise
        if self._forget(number):
            await self.say(answer)

    def _forget(self, number: RequestId) -> bool:
        """Whether this task's call was still wanted."""
        key = coerce_request_id(number)
        return self._under_way.get(key) is asyncio.current_task() and bool(self._under_way.pop(key))


# -- HTTP ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An ASGI app that answers what *lane* takes of requests without a session, and leaves the rest to *app*.

    A call that takes longer than *ping_seconds* is answered as an event stream, whose pings keep it open.
    """

    lane: Lane
    app: ASGIApp
    ping_seconds: float = single_exchange._SSE_PING_INTERVAL  # noqa: SLF001 - a test holds on to the names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if not self._is_promising(request):
            return await self.app(scope, receive, send)
        read = [await receive()]
        while read[-1].get("more_body"):
            read.append(await receive())
        call = self._take(request, b"".join(each.get("body", b"") for each in read))
        if call is not None:
            return await self._answer(call, scope, receive, send)
        read.reverse()

        async def again() -> Message:
            return read.pop() if read else await receive()

        return await self.app(scope, again, send)

    def _is_promising(self, request: Request) -> bool:
        """Whether the headers are those of a call that may be taken, with a body small enough to be read here."""
        headers = request.headers
        return (
            request.method == "POST"
            and headers.get(MCP_PROTOCOL_VERSION_HEADER) in MODERN_PROTOCOL_VERSIONS
            and headers.get(MCP_METHOD_HEADER) == _CALL
            and headers.get(MCP_NAME_HEADER) in self.lane.tools
            and headers.get("content-type", "").lower().startswith("application/json")
            and check_accept_headers(request) == (True, True)
            and (size := headers.get("content-length", "")).isdecimal()
            and int(size) <= DEFAULT_MAX_REQUEST_BODY_SIZE
            and find_duplicated_routing_header(headers.items()) is None
            and not any(name.startswith(MCP_PARAM_HEADER_PREFIX.lower()) for name in headers)
        )

    def _take(self, request: Request, body: bytes) -> Call | None:
        try:
            decoded = json.loads(body)
            message = JSONRPCRequest.model_validate(decoded)
        except (ValueError, RecursionError):
            return None
        route = classify_inbound_request(decoded, headers=dict(request.headers))
        return self.lane.take(message, route.protocol_version) if isinstance(route, InboundModernRoute) else None

    async def _answer(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Run *call* as long as the client is there to hear the answer."""
        task = asyncio.create_task(call())
        try:
            # Most calls end sooner than looking after their clients would begin.
            await asyncio.wait({task}, timeout=_UNATTENDED_SECONDS)
            is_stream = not task.done() and await self._attend(task, receive, send)
        finally:
            task.cancel()
            if not task.done():
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({task})
        if task.cancelled():
            return
        answer = task.result()
        await answer.send(scope, receive, send, is_stream=is_stream)

    async def _attend(self, task: asyncio.Task[Answer], receive: Receive, send: Send) -> bool:
        """Wait for *task* with its client, until one of them ends; whether the answer has begun, as a stream."""
        is_stream = False

        async def listen() -> None:
            nonlocal is_stream
            while True:
                with anyio.move_on_after(self.ping_seconds):
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    tasks.cancel_scope.cancel()
                    return
                with anyio.CancelScope(shield=True):  # what was begun is sent whole
                    if not is_stream:
                        headers = single_exchange._SSE_HEADERS  # noqa: SLF001
                        await send({"type": "http.response.start", "status": 200, "headers": headers})
                        is_stream = True
                    await send({"type": "http.response.body", "body": b": ping\r\n\r\n", "more_body": True})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await asyncio.wait({task})
            tasks.cancel_scope.cancel()
        return is_stream


def lead_through(lane: Lane, app: Starlette) -> None:
    """Put *lane* before the MCP endpoint of *app*, behind all that guards it."""
    for route in app.routes:
        holder = route.app if isinstance(route, Route) and isinstance(route.app, RequireAuthMiddleware) else route
        if isinstance(holder, Route | RequireAuthMiddleware) and isinstance(holder.app, StreamableHTTPASGIApp):
            holder.app = Endpoint(lane, holder.app)
